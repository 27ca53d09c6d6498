//! Whole copies of the database: one before each new schema, one a day, and which of them is to be put back.
//!
//! It owns the directory `backups/`. A copy counts only once it was read through, synced and renamed. The
//! threats: a disk that damages the one file that says who may do what, and a backup that turns out to be
//! none on the day it is needed.

use super::{
    migrate::applied,
    open::{self, Files},
};
use crate::Error;
use cofferdam_base::Millis;
use rusqlite::{Connection, OpenFlags, backup::Backup};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

/// A backup is followed by another after so long, in milliseconds.
const EVERY: u64 = 86_400_000;
/// So many are kept.
const KEPT: usize = 7;

/// Makes a backup unless there is a fresh one; whether it did.
pub(super) fn if_due(connection: &Connection, files: &Files, now: Millis) -> Result<bool, Error> {
    let fresh = |(at, _): &(u64, PathBuf)| at.abs_diff(now.0) < EVERY;
    if all(files)?.iter().any(fresh) {
        return Ok(false);
    }
    let schema = applied(connection)?.len();
    make(connection, files, schema, now)?;
    Ok(true)
}

/// Copies the database of this schema, and reads the copy before it counts as a backup; the oldest beyond
/// the number that is kept go.
pub(super) fn make(connection: &Connection, files: &Files, schema: usize, now: Millis) -> Result<(), Error> {
    let target = files.backups.join(format!("state-{schema}-{}.db", now.0));
    let part = files.backups.join("part.tmp");
    // A journal that a crash left would be played back into the new copy.
    for left in ["part.tmp", "part.tmp-journal", "part.tmp-wal", "part.tmp-shm"] {
        remove(&files.backups.join(left))?;
    }
    open::create(&part)?;
    let mut copy = Connection::open_with_flags(&part, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    Backup::new(connection, &mut copy)?.run_to_completion(256, Duration::ZERO, None)?;
    // One file, without a log beside it.
    copy.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))?;
    open::check(&copy, files)?;
    if applied(&copy)? != applied(connection)? {
        return Err(files.corrupt("its copy is not the same"));
    }
    copy.close().map_err(|(_, error)| error)?;
    sync(&part)?;
    fs::rename(&part, &target).map_err(|e| Error::io(&target, e))?;
    for (_, old) in all(files)?.iter().rev().skip(KEPT) {
        remove(old)?;
    }
    sync(&files.backups)
}

/// The newest that opens and is whole; one that does not is no help to anybody.
pub(super) fn newest(files: &Files) -> Option<PathBuf> {
    let backups = all(files).ok()?;
    backups.into_iter().rev().map(|(_, path)| path).find(|path| is_whole(path))
}

/// All of them by their time, the newest last.
pub(super) fn all(files: &Files) -> Result<Vec<(u64, PathBuf)>, Error> {
    let time = |path: &Path| -> Option<u64> {
        let name = path.file_name()?.to_str()?.strip_prefix("state-")?.strip_suffix(".db")?;
        name.split_once('-')?.1.parse().ok()
    };
    let work = |e| Error::io(&files.backups, e);
    let mut all = Vec::new();
    for entry in fs::read_dir(&files.backups).map_err(work)? {
        let path = entry.map_err(work)?.path();
        all.extend(time(&path).map(|at| (at, path)));
    }
    all.sort();
    Ok(all)
}

fn is_whole(path: &Path) -> bool {
    let whole = || -> Result<bool, rusqlite::Error> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let copy = Connection::open_with_flags(path, flags)?;
        let said: String = copy.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        let schemas: i64 = copy.query_row("SELECT count(*) FROM schema", [], |row| row.get(0))?;
        Ok(said == "ok" && schemas > 0)
    };
    // Why it is not whole does not matter: the next one is looked at.
    whole().unwrap_or(false)
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, error)),
        _ => Ok(()),
    }
}

fn sync(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|e| Error::io(path, e))
}
