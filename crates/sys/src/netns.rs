//! netns (being written).
