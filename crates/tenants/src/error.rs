//! What can go wrong on the host's side of tenants, one variant for each thing that a caller may act on.

use std::{io, path::PathBuf};

/// Why a host does not start or a file of it is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `cofferdam.toml` is wrong.
    #[error("{path}:{line}:{column}: {message}{text}")]
    Config {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// What is wrong there.
        message: String,
        /// The line itself after a line break and an indent, or nothing.
        text: String,
    },
    /// A file or directory could not be used.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory belongs to somebody else, or others may write to it.
    #[error("{path} {what}; mend it with: {mend}")]
    Unsafe {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// The command that mends it.
        mend: String,
    },
    /// Another launcher works on this data directory.
    #[error("another cofferdam serves {0}; stop it first, or give another --data-dir")]
    Conflict(PathBuf),
    /// A number or name in the configuration leads nowhere.
    #[error("{0}")]
    Refused(String),
    /// A part of the host could not be started.
    #[error("{what} could not be started: {why}")]
    Start {
        /// Which part.
        what: String,
        /// Why.
        why: String,
    },
    /// The poll loop itself failed.
    #[error("the launcher's loop: {0}")]
    Loop(io::Error),
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
