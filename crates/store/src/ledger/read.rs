//! Reading the ledger: its end, what came after a row, and whether it is whole.
//!
//! A reader knows how far the ledger was written when it was made, and reads the files no further: so it may
//! read on any thread while the ledger is written. Reading rows does not check the chain; `verify` does, from
//! the files and not from memory.

use super::{
    Ledger, Mark,
    row::{StoredRow, Verified},
    segment::{self, Chain, Segment, follow, split, work},
};
use crate::Error;
use cofferdam_base::{Digest, TenantId};
use std::{
    fs::File,
    io::{BufRead, BufReader, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::PathBuf,
};

/// The ledger as it stood at one moment.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    segments: Vec<Segment>,
    marks: Vec<Mark>,
    /// Bytes of the last segment.
    len: u64,
    head: [u8; 32],
    rows: u64,
}

impl Ledger {
    /// What reads the ledger as it is now, on any thread.
    pub fn reader(&self) -> Reader {
        Reader {
            dir: self.dir.clone(),
            segments: self.segments.clone(),
            marks: self.marks.clone(),
            len: self.len,
            head: self.head,
            rows: self.rows,
        }
    }

    /// [`Reader::tail`] of now.
    pub fn tail(&self, count: u32, tenant: Option<&TenantId>) -> Result<Vec<StoredRow>, Error> {
        self.reader().tail(count, tenant)
    }

    /// [`Reader::after`] of now.
    pub fn after(&self, seq: u64, tenant: Option<&TenantId>, most: usize) -> Result<Vec<StoredRow>, Error> {
        Ok(self.reader().after(seq, tenant, most)?.0)
    }

    /// [`Reader::verify`] of now, and that nothing stands behind the end.
    pub fn verify(&self) -> Result<Verified, Error> {
        let found = self.reader().verify()?;
        Ok(if found.whole { self.end(found)? } else { found })
    }

    /// What a reader found whole, unless something stands behind the end that nobody wrote. A reader cannot
    /// tell that from what is being written.
    pub fn end(&self, found: Verified) -> Result<Verified, Error> {
        let len = self.file.metadata().map_err(|e| self.io(e))?.len();
        if len == self.len && segment::list(&self.dir)?.len() == self.segments.len() {
            return Ok(found);
        }
        let problem = format!("the files go on after row {}, the last that was written", self.rows);
        Ok(Verified { whole: false, problem, ..found })
    }
}

impl Reader {
    /// How many rows there are.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The last `count` rows, oldest first; those of one tenant, if one is given.
    pub fn tail(&self, count: u32, tenant: Option<&TenantId>) -> Result<Vec<StoredRow>, Error> {
        let wanted = usize::try_from(count).unwrap_or(usize::MAX);
        let (mut rows, mut seq) = (Vec::new(), self.rows);
        for segment in self.segments.iter().rev() {
            let file = File::open(&segment.path).map_err(work(&segment.path))?;
            let mut start = self.length(segment, &file)?;
            // The bytes from `start` on that are not yet a row: the end of a line that begins before it.
            let mut rest = Vec::new();
            while start > 0 {
                let size = start.min(CHUNK);
                start -= size;
                let mut chunk = vec![0; usize::try_from(size).unwrap_or_default()];
                file.read_exact_at(&mut chunk, start).map_err(work(&segment.path))?;
                chunk.append(&mut rest);
                let mut end = chunk.len();
                while end > 0 && rows.len() < wanted {
                    let newline = chunk[..end - 1].iter().rposition(|byte| *byte == b'\n');
                    let begin = match newline {
                        Some(newline) => newline + 1,
                        None if start == 0 => 0,
                        None => break,
                    };
                    let row = parse(segment, &chunk[begin..end], seq)?;
                    if tenant.is_none_or(|t| row.tenant.as_ref() == Some(t)) {
                        rows.push(row);
                    }
                    (end, seq) = (begin, seq.saturating_sub(1));
                }
                if rows.len() >= wanted {
                    rows.reverse();
                    return Ok(rows);
                }
                chunk.truncate(end);
                rest = chunk;
            }
        }
        rows.reverse();
        Ok(rows)
    }

    /// At most `most` rows after row `seq`, oldest first; those of one tenant, if one is given. And the row
    /// up to which it looked.
    pub fn after(
        &self,
        seq: u64,
        tenant: Option<&TenantId>,
        most: usize,
    ) -> Result<(Vec<StoredRow>, u64), Error> {
        let mut rows = Vec::new();
        if seq >= self.rows {
            return Ok((rows, seq));
        }
        let known = self.marks.partition_point(|mark| mark.seq <= seq + 1).checked_sub(1);
        let Some(mark) = known.map(|i| self.marks[i]) else { return Ok((rows, seq)) };
        let (mut offset, mut next) = (mark.offset, mark.seq);
        for segment in &self.segments[mark.segment..] {
            let mut reader = BufReader::new(File::open(&segment.path).map_err(work(&segment.path))?);
            reader.seek(SeekFrom::Start(offset)).map_err(work(&segment.path))?;
            offset = 0;
            let mut line = Vec::new();
            while next <= self.rows
                && rows.len() < most
                && reader.read_until(b'\n', &mut line).map_err(work(&segment.path))? > 0
            {
                if next > seq {
                    let row = parse(segment, &line, next)?;
                    if tenant.is_none_or(|t| row.tenant.as_ref() == Some(t)) {
                        rows.push(row);
                    }
                }
                next += 1;
                line.clear();
            }
        }
        Ok((rows, seq.max(next - 1)))
    }

    /// How far a segment was written.
    fn length(&self, segment: &Segment, file: &File) -> Result<u64, Error> {
        let there = file.metadata().map_err(work(&segment.path))?.len();
        let last = self.segments.last().is_some_and(|last| last.path == segment.path);
        Ok(if last { there.min(self.len) } else { there })
    }

    /// Follows the whole chain through the files, hashing the bytes as they stand. The reader knows how far
    /// the ledger wrote, so rows that are missing at the end are seen too, as long as it was not opened since.
    pub fn verify(&self) -> Result<Verified, Error> {
        let mut chain = Chain::default();
        let mut problem = match segment::list(&self.dir) {
            Ok(paths) => self.follow_all(&paths, &mut chain)?,
            Err(broken @ Error::LedgerBroken { .. }) => Some(broken),
            Err(error) => return Err(error),
        }
        .map(|error| error.to_string())
        .unwrap_or_default();
        if problem.is_empty() && (chain.rows, chain.head) != (self.rows, self.head) {
            problem = format!("the files end with row {}, row {} was written", chain.rows, self.rows);
        }
        let (rows, head) = (chain.rows, Digest::from_bytes(chain.head));
        Ok(Verified { whole: problem.is_empty(), rows, head, problem })
    }

    /// Follows the chain through these files; what broke it, if something did. Segments that were begun since
    /// are not looked at, nor is what was added to the last.
    fn follow_all(&self, paths: &[PathBuf], chain: &mut Chain) -> Result<Option<Error>, Error> {
        for (number, path) in (1..).zip(paths.iter().take(self.segments.len())) {
            let most = if number == self.segments.len() { self.len } else { u64::MAX };
            if let Err(broken) = follow(path, most, chain, |_, _, _| {})? {
                let segment = Segment { path: path.clone(), first: 0 };
                let why = format!("{}, after row {}", broken.why, chain.rows);
                return Ok(Some(segment.broken(broken.line, why)));
            }
        }
        Ok(None)
    }
}

fn parse(segment: &Segment, line: &[u8], seq: u64) -> Result<StoredRow, Error> {
    let broken = |why: String| segment.broken((seq + 1).saturating_sub(segment.first), why);
    let (json, _) = split(line).ok_or_else(|| broken("it is no whole line".to_owned()))?;
    let row: StoredRow = serde_json::from_slice(json).map_err(|e| broken(format!("it is no row: {e}")))?;
    if row.seq == seq {
        Ok(row)
    } else {
        Err(broken(format!("it is row {} where row {seq} belongs", row.seq)))
    }
}

const CHUNK: u64 = 64 * 1024;
