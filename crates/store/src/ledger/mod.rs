//! The ledger: rows that are never changed, each chained to the one before by its hash.
//!
//! Owns the files of its directory, their chain, the tenants' daily budget of it and the room kept back for
//! a full disk. Refuses to know what a row means, apart from the kinds that a full disk still takes. The
//! threats: a row changed or taken out unseen, a crash or a full disk that leaves half a row, a tenant that
//! fills the disk. Not answered: somebody who may write the files can cut rows off the end while nobody has
//! the ledger open, or write a chain of their own; keep the head that `verify` tells elsewhere.
//!
//! # After a crash
//!
//! A last line that is cut off or whose hash does not fit is what a crash leaves of a row that nobody was
//! told is durable: it is cut off, and a row `recovered` says how many bytes. Anything else that does not
//! fit is damage, and the ledger does not open. Of a batch, a crash may keep the first rows.

mod budget;
mod kind;
mod read;
pub(crate) mod reserve;
mod row;
mod segment;
#[cfg(test)]
mod tests;

pub use kind::Kind;
pub use read::Reader;
pub use row::{Body, Class, NewRow, StoredRow, Verified};

use crate::Error;
use budget::{Admission, Budget};
use cofferdam_base::{Millis, TenantId};
use reserve::{Reserve, is_full};
use segment::{Chain, FRAME, Segment, follow, join, link, sync_directory, work};
use serde::Serialize;
use serde_json::json;
use std::{
    collections::BTreeMap,
    fs::{DirBuilder, File, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// An open ledger; there is one for a directory at a time.
#[derive(Debug)]
pub struct Ledger {
    dir: PathBuf,
    limits: Limits,
    segments: Vec<Segment>,
    marks: Vec<Mark>,
    told: Told,
    file: File,
    len: u64,
    head: [u8; 32],
    rows: u64,
    budget: Budget,
    reserve: Reserve,
    /// What is on disk is not known: a write failed, and so did taking it back.
    lost: bool,
    opened: (Millis, Instant),
    _lock: File,
}

/// By tenant: the start of its warden (`boot`) and the number of a record (`seq`).
pub type Told = BTreeMap<TenantId, (u64, u64)>;

#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Bytes of a segment.
    segment: u64,
    /// Bytes of class B a tenant and day.
    budget: u64,
    /// Rows over the budget that are told of at once.
    counted: u64,
}

/// Where a row begins: of every 1,024th, so that following the ledger does not read it all.
#[derive(Debug, Clone, Copy)]
struct Mark {
    seq: u64,
    segment: usize,
    offset: u64,
}

impl Ledger {
    /// Opens the ledger of a directory, made if missing: follows the whole chain, and cuts off what a crash
    /// left half written. `LedgerBroken` if anything else does not fit.
    pub fn open(dir: &Path, now: Millis) -> Result<Self, Error> {
        Self::open_with(dir, now, LIMITS)
    }

    fn open_with(dir: &Path, now: Millis, limits: Limits) -> Result<Self, Error> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(work(dir))?;
        let lock = lock(&dir.join("lock"))?;
        let mut paths = segment::list(dir)?;
        if paths.is_empty() {
            paths.push(segment::name(dir, 1));
            create(dir, &paths[0])?;
        }
        let mut budget = Budget::new(now, limits.budget, limits.counted);
        let (mut chain, mut segments, mut marks) = (Chain::default(), Vec::new(), Vec::new());
        let (mut len, mut torn, mut told) = (0, None, Told::new());
        for (index, path) in paths.iter().enumerate() {
            let segment = Segment { path: path.clone(), first: chain.rows + 1 };
            let end = follow(path, u64::MAX, &mut chain, |row, offset, bytes| {
                mark(&mut marks, row.seq, index, offset);
                budget.replay(row, bytes);
                told.extend(row.record());
            })?;
            len = match end {
                Ok(end) => end,
                Err(broken) if broken.torn && index + 1 == paths.len() => {
                    torn = Some(broken.offset);
                    broken.offset
                }
                Err(broken) => return Err(segment.broken(broken.line, broken.why)),
            };
            segments.push(segment);
        }
        // The list has at least one path.
        let path = &paths[paths.len() - 1];
        let file = File::options().write(true).open(path).map_err(work(path))?;
        let mut reserve = Reserve::default();
        if torn.is_none() {
            // Without room the ledger begins as on a full disk.
            reserve.keep(&file, len, 0).map_err(work(path))?;
        }
        let Chain { head, rows } = chain;
        let (dir, opened) = (dir.to_owned(), (now, Instant::now()));
        let mut ledger = Self {
            dir,
            limits,
            segments,
            marks,
            told,
            file,
            len,
            head,
            rows,
            budget,
            reserve,
            lost: false,
            opened,
            _lock: lock,
        };
        if let Some(end) = torn {
            let bytes = ledger.file.metadata().map_err(work(path))?.len() - end;
            ledger.file.set_len(end).and_then(|()| ledger.file.sync_all()).map_err(work(path))?;
            let body = json!({ "bytes": bytes });
            ledger.append(&NewRow {
                at: now,
                class: Class::A,
                tenant: None,
                kind: Kind::Recovered.as_str().to_owned(),
                body: body.into(),
            })?;
        }
        Ok(ledger)
    }

    /// How many rows there are.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The last record of each tenant's warden when the ledger was opened: which start of the warden it was,
    /// and the record's number.
    pub fn told(&self) -> &Told {
        &self.told
    }

    /// Writes a row; it is on disk when this returns. The number of the last row.
    pub fn append(&mut self, row: &NewRow) -> Result<u64, Error> {
        self.append_all(std::slice::from_ref(row))
    }

    /// Writes rows in order, all or none; they are on disk when this returns. The number of the last row.
    ///
    /// Rows of class B of a tenant over its daily budget are only counted. `DiskFull` if the disk is full
    /// and not every row is essential: then give the essential ones alone.
    pub fn append_all(&mut self, rows: &[NewRow]) -> Result<u64, Error> {
        let now = self.now();
        if self.lost {
            return Err(self.io(io::Error::other("an earlier write was lost; open the ledger again")));
        }
        let mut batch = Batch {
            head: self.head,
            rows: self.rows,
            bytes: Vec::new(),
            starts: Vec::new(),
            essential: true,
            class_a: rows.iter().all(|row| row.class == Class::A),
        };
        let (mut plan, told) = self.budget.begin(now);
        for row in &told {
            let json = batch.encode(row).map_err(|e| self.io(e))?;
            batch.push(row, &json);
        }
        for row in rows {
            let json = batch.encode(row).map_err(|e| self.io(e))?;
            match self.budget.admit(&mut plan, row, json.len() as u64 + FRAME, now) {
                Admission::Keep => batch.push(row, &json),
                Admission::Counted(None) => {}
                Admission::Counted(Some(row)) => {
                    let json = batch.encode(&row).map_err(|e| self.io(e))?;
                    batch.push(&row, &json);
                }
            }
        }
        if !batch.bytes.is_empty() {
            self.put(&batch)?;
        }
        self.budget.commit(plan);
        Ok(self.rows)
    }

    /// Writes a batch, on a full disk into the room kept back if all of it is essential.
    fn put(&mut self, batch: &Batch) -> Result<(), Error> {
        let bytes = batch.bytes.len() as u64;
        if self.len > 0 && self.len + bytes > self.limits.segment {
            self.rotate(bytes)?;
        }
        let room = self.reserve.keep(&self.file, self.len, bytes).map_err(|e| self.io(e))?;
        let admitted = batch.essential && (batch.class_a || self.reserve.has(self.len, bytes));
        if !room && !admitted {
            return Err(Error::DiskFull);
        }
        match self.write(batch) {
            Err(Error::Io { source, .. }) if is_full(&source) => Err(Error::DiskFull),
            done => done,
        }
    }

    fn write(&mut self, batch: &Batch) -> Result<(), Error> {
        let written = self.file.write_all_at(&batch.bytes, self.len).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            let back = self.file.set_len(self.len).and_then(|()| self.file.sync_data());
            self.lost = back.is_err();
            self.reserve.lost();
            return Err(self.io(error));
        }
        for (seq, offset) in &batch.starts {
            mark(&mut self.marks, *seq, self.segments.len() - 1, self.len + offset);
        }
        self.len += batch.bytes.len() as u64;
        (self.head, self.rows) = (batch.head, batch.rows);
        Ok(())
    }

    /// Begins a new segment, if the disk has room for one; else the last one grows past its size.
    fn rotate(&mut self, bytes: u64) -> Result<(), Error> {
        let path = segment::name(&self.dir, self.segments.len() as u64 + 1);
        let file = match create(&self.dir, &path) {
            Err(Error::Io { source, .. }) if is_full(&source) => return Ok(()),
            made => made?,
        };
        let mut reserve = Reserve::default();
        if !reserve.keep(&file, 0, bytes).map_err(work(&path))? {
            std::fs::remove_file(&path).map_err(work(&path))?;
            return sync_directory(&self.dir);
        }
        // What was kept behind the old one is given back.
        self.file.set_len(self.len).map_err(|e| self.io(e))?;
        (self.file, self.reserve, self.len) = (file, reserve, 0);
        self.segments.push(Segment { path, first: self.rows + 1 });
        Ok(())
    }

    /// The time, as it went on since the ledger was opened.
    fn now(&self) -> Millis {
        let (at, started) = self.opened;
        at.plus(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn io(&self, source: impl Into<io::Error>) -> Error {
        let path = self.segments.last().map_or(&self.dir, |segment| &segment.path);
        Error::io(path, source)
    }
}

/// Rows that are about to be written.
#[derive(Debug)]
struct Batch {
    head: [u8; 32],
    rows: u64,
    bytes: Vec<u8>,
    /// The number of each row, and where it begins in `bytes`.
    starts: Vec<(u64, u64)>,
    essential: bool,
    /// All that was given is of class A.
    class_a: bool,
}

impl Batch {
    /// The JSON of a row, as the next one.
    fn encode(&self, row: &NewRow) -> Result<Vec<u8>, serde_json::Error> {
        let NewRow { at, class, tenant, kind, body } = row;
        serde_json::to_vec(&Line {
            seq: self.rows + 1,
            at: *at,
            class: *class,
            tenant: tenant.as_ref(),
            kind,
            body,
        })
    }

    fn push(&mut self, row: &NewRow, json: &[u8]) {
        self.rows += 1;
        self.starts.push((self.rows, self.bytes.len() as u64));
        self.head = link(&self.head, json);
        self.essential &= Kind::of(&row.kind).is_some_and(Kind::is_essential);
        join(&mut self.bytes, json, self.head);
    }
}

/// [`StoredRow`], borrowed.
#[derive(Serialize)]
struct Line<'a> {
    seq: u64,
    at: Millis,
    class: Class,
    tenant: Option<&'a TenantId>,
    kind: &'a str,
    body: &'a Body,
}

fn mark(marks: &mut Vec<Mark>, seq: u64, segment: usize, offset: u64) {
    if seq % 1024 == 1 {
        marks.push(Mark { seq, segment, offset });
    }
}

/// Makes a segment; it is in its directory when this returns, or not at all.
fn create(dir: &Path, path: &Path) -> Result<File, Error> {
    let file = File::options().write(true).create_new(true).mode(0o600).open(path).map_err(work(path))?;
    if let Err(error) = sync_directory(dir) {
        std::fs::remove_file(path).map_err(work(path))?;
        return Err(error);
    }
    Ok(file)
}

/// Two writers would break the chain.
fn lock(path: &Path) -> Result<File, Error> {
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(work(path))?;
    let mut tries = 0;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // A program that this process is just starting has what we let go of until it is its own.
            Err(TryLockError::WouldBlock) if tries < 100 => tries += 1,
            Err(error) => return Err(work(path)(error.into())),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

const LIMITS: Limits = Limits { segment: 64 * 1024 * 1024, budget: 64 * 1024 * 1024, counted: 10_000 };
