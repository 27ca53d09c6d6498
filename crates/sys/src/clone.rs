//! clone (being written).
