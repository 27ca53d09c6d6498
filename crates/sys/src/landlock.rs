//! landlock (being written).
