//! mount (being written).
