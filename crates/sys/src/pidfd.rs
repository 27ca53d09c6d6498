//! pidfd (being written).
