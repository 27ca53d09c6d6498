//! peer (being written).
