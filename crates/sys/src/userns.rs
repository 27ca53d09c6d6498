//! userns (being written).
