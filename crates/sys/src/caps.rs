//! caps (being written).
