//! openat (being written).
