//! The opening of the database, which refuses whatever is not whole.
//!
//! It owns the files' names and modes, and mends nothing by itself. The threat: a disk that lost the end of
//! a file, and a start that takes what is left for a new host.

use super::{State, backup, migrate};
use crate::{Error, ledger::reserve::allocate};
use cofferdam_base::Millis;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::Read,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

/// Where everything is.
#[derive(Debug)]
pub(super) struct Files {
    /// `state.db`.
    pub(super) database: PathBuf,
    /// `backups/`.
    pub(super) backups: PathBuf,
    /// `ledger/`, which is not empty once a host lived.
    ledger: PathBuf,
}

impl State {
    /// Opens `state.db` in this directory, or makes it if the directory is that of a new host; one that was
    /// there is backed up once a day. Starts no thread.
    pub fn open(directory: &Path, now: Millis) -> Result<Self, Error> {
        Self::open_with(directory, now, migrate::ALL)
    }

    /// Likewise, with these schemas.
    pub(super) fn open_with(directory: &Path, now: Millis, schemas: &[&str]) -> Result<Self, Error> {
        let files = Files {
            database: directory.join("state.db"),
            backups: directory.join("backups"),
            ledger: directory.join("ledger"),
        };
        match DirBuilder::new().mode(0o700).create(&files.backups) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Error::io(&files.backups, error));
            }
            _ => {}
        }
        files.precheck()?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags(&files.database, flags);
        let mut connection = opened.map_err(|e| files.judge(e.into()))?;
        prepare(&connection, &files).map_err(|e| files.judge(e))?;
        let lived = migrate::run(&mut connection, &files, schemas, now).map_err(|e| files.judge(e))?;
        let mut state = Self { connection, files, unkept: None, flushes: true };
        state.reserve();
        if lived {
            // A disk without room for a copy still has to stop cells: that is told, and no reason to end.
            state.unkept = state.keep_backup(now).err();
        }
        Ok(state)
    }
}

impl State {
    /// Sees to the room for a full disk, and makes the day's backup if there is none yet; whether it did.
    pub fn keep_backup(&self, now: Millis) -> Result<bool, Error> {
        self.reserve();
        backup::if_due(&self.connection, &self.files, now)
    }

    /// Keeps room for changes on a full disk: free pages in the database, to which the log can then be copied
    /// without making the file longer, and the blocks that the log needs until it is. What the disk does not
    /// give now it may give the next time.
    pub(super) fn reserve(&self) {
        let free = self.connection.query_row("PRAGMA freelist_count", [], |row| row.get::<_, i64>(0));
        if free.is_ok_and(|pages| pages < FREE_PAGES) {
            let room = format!(
                "BEGIN IMMEDIATE; CREATE TABLE room (a BLOB); INSERT INTO room VALUES (zeroblob({}));
                 DROP TABLE room; COMMIT;",
                2 * FREE_PAGES * 4096
            );
            if self.connection.execute_batch(&room).is_err() && !self.connection.is_autocommit() {
                let _ = self.connection.execute_batch("ROLLBACK");
            }
        }
        let _ = self.connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()));
        if let Ok(log) = OpenOptions::new().write(true).open(self.files.beside("-wal")) {
            let _ = allocate(&log, 0, LOG);
        }
    }

    /// Lets nothing that was deleted lie on in the log: the database itself wipes what it deletes. Backups keep
    /// it until they go. What fails here is done by the next change that fills the log.
    pub fn scrub(&self) {
        let _ = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        self.reserve();
    }

    /// Why the opening made no backup, if it should have and could not.
    pub fn without_backup(&self) -> Option<&Error> {
        self.unkept.as_ref()
    }
}

impl Files {
    /// Looks at the file before SQLite does, which would take an empty one for a new database.
    fn precheck(&self) -> Result<(), Error> {
        let metadata = match fs::symlink_metadata(&self.database) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if self.lived()? {
                    return Err(self.corrupt("it is missing"));
                }
                return create(&self.database);
            }
            Err(error) => return Err(Error::io(&self.database, error)),
        };
        if !metadata.is_file() {
            return Err(self.corrupt("it is not a file"));
        }
        let path = &self.database;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(|e| Error::io(path, e))?;
        // A log beside the file holds what the file does not yet: the full check decides then.
        let log = fs::metadata(self.beside("-wal")).is_ok_and(|log| log.len() > 0);
        if metadata.len() == 0 {
            // A first start that was cut off has written neither backup nor ledger.
            return if self.lived()? { Err(self.truncated()) } else { Ok(()) };
        }
        let mut header = [0_u8; 100];
        let mut file = File::open(path).map_err(|e| Error::io(path, e))?;
        if metadata.len() < 100 {
            return Err(self.truncated());
        }
        file.read_exact(&mut header).map_err(|e| Error::io(path, e))?;
        if !header.starts_with(b"SQLite format 3\0") {
            return Err(self.corrupt("its header is not that of a database"));
        }
        // Bytes 16 and 28 of the file format: the page's size (1 means 65,536) and the number of pages.
        let page = match u16::from_be_bytes([header[16], header[17]]) {
            1 => 65_536,
            size => u64::from(size),
        };
        let pages = u32::from_be_bytes([header[28], header[29], header[30], header[31]]);
        if !log && metadata.len() < page * u64::from(pages) {
            return Err(self.truncated());
        }
        Ok(())
    }

    /// Was there ever more than an empty database?
    fn lived(&self) -> Result<bool, Error> {
        let log = fs::metadata(self.beside("-wal")).is_ok_and(|log| log.len() > 0);
        let ledger = match fs::read_dir(&self.ledger) {
            Ok(mut entries) => entries.next().is_some(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
            Err(error) => return Err(Error::io(&self.ledger, error)),
        };
        Ok(ledger || log || !backup::all(self)?.is_empty())
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.database.clone().into_os_string();
        name.push(suffix);
        PathBuf::from(name)
    }

    fn truncated(&self) -> Error {
        Error::Truncated { path: self.database.clone(), newest_backup: backup::newest(self) }
    }

    /// The database is damaged, and why.
    pub(super) fn corrupt(&self, why: &str) -> Error {
        Error::Corrupt {
            path: self.database.clone(),
            why: why.to_owned(),
            newest_backup: backup::newest(self),
        }
    }

    /// What SQLite calls damaged is told as such, with the backup.
    fn judge(&self, error: Error) -> Error {
        match error {
            Error::Sqlite(error)
                if matches!(
                    error.sqlite_error_code(),
                    Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
                ) =>
            {
                self.corrupt(&error.to_string())
            }
            other => other,
        }
    }
}

/// What the log takes until SQLite copies it into the database: 1,000 pages, and the pages of one change.
const LOG: u64 = 4608 * 1024;

/// With fewer free pages than these the database gets as many again.
const FREE_PAGES: i64 = 64;

/// A new, empty file for its owner alone.
pub(super) fn create(path: &Path) -> Result<(), Error> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|file| file.sync_all()).map_err(|e| Error::io(path, e))?;
    match path.parent() {
        Some(parent) => File::open(parent).and_then(|file| file.sync_all()).map_err(|e| Error::io(parent, e)),
        None => Ok(()),
    }
}

/// Reads the structure of every page.
pub(super) fn check(connection: &Connection, files: &Files) -> Result<(), Error> {
    let said: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if said == "ok" { Ok(()) } else { Err(files.corrupt(&said)) }
}

fn prepare(connection: &Connection, files: &Files) -> Result<(), Error> {
    connection.busy_timeout(Duration::from_secs(5))?;
    check(connection, files)?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(files.corrupt("it cannot keep a log"));
    }
    connection.execute_batch(
        "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF;
             PRAGMA temp_store = MEMORY; PRAGMA secure_delete = ON;",
    )?;
    Ok(())
}
