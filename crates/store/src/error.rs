//! The one error of the store: what the state database and the ledger refuse with, and what mends it.
//!
//! It owns no message for a client of the API. The threat: an error that hides which file is damaged or
//! which backup is whole.

use std::path::{Path, PathBuf};

/// Why something was not stored, or could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be used.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The database refused a statement.
    #[error("the state database: {0}")]
    Sqlite(rusqlite::Error),
    /// The database ends early: it is empty or shorter than it says.
    #[error("{} is truncated; {}", path.display(), mend(path, newest_backup.as_deref()))]
    Truncated {
        /// The database.
        path: PathBuf,
        /// The newest whole backup beside it.
        newest_backup: Option<PathBuf>,
    },
    /// The database is damaged, or none at all.
    #[error("{} is damaged ({why}); {}", path.display(), mend(path, newest_backup.as_deref()))]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What was seen.
        why: String,
        /// The newest whole backup beside it.
        newest_backup: Option<PathBuf>,
    },
    /// A newer program wrote the database.
    #[error(
        "{} has schema {found}, this program knows schemas up to {known}: use the program that wrote it",
        path.display()
    )]
    NewerSchema {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// The newest that is known here.
        known: u32,
    },
    /// It cannot be done beside what is there already.
    #[error("{0}")]
    Conflict(String),
    /// There is no such thing.
    #[error("there is no {what} {name:?}")]
    NotFound {
        /// What kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A value in the database is not what this program wrote.
    #[error("the state database holds a malformed {0}")]
    Malformed(&'static str),
    /// The most that there can be are there.
    #[error("there are {most} {what} already, and no more are possible")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        most: u16,
    },
    /// A number ran out: slots of the host, or subjects of a tenant.
    #[error("there is no free {what} left")]
    Full {
        /// Which number.
        what: &'static str,
    },
    /// The disk has no room, but for what is essential.
    #[error("the disk is full: only what is refused, stopped or taken away is still recorded")]
    DiskFull,
    /// The chain of the ledger is broken.
    #[error("the ledger is broken in segment {segment}, line {line}: {why}")]
    LedgerBroken {
        /// The segment's file name.
        segment: String,
        /// The line in it, from 1.
        line: u64,
        /// What is wrong.
        why: String,
    },
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::DiskFull,
            _ => Self::Sqlite(error),
        }
    }
}

impl Error {
    /// Does it say nothing of the database itself, so that another try may help?
    pub fn may_pass(&self) -> bool {
        use rusqlite::ErrorCode::{CannotOpen, DatabaseBusy, SystemIoFailure};
        let code = if let Self::Sqlite(error) = self { error.sqlite_error_code() } else { None };
        matches!(code, Some(SystemIoFailure | CannotOpen | DatabaseBusy))
    }

    /// An I/O error with its path.
    pub(crate) fn io(path: &Path, source: impl Into<std::io::Error>) -> Self {
        Self::Io { path: path.to_owned(), source: source.into() }
    }
}

fn mend(path: &Path, backup: Option<&Path>) -> String {
    match backup {
        Some(backup) => format!(
            "the newest backup is {0}; mend it with: rm -f {1}-wal {1}-shm && cp -p {0} {1}",
            backup.display(),
            path.display()
        ),
        None => "there is no whole backup beside it".to_owned(),
    }
}
