//! The format on disk: segment files, lines and the chain of hashes.
//!
//! A segment is `NNNNNNNN.log`, numbered from 1. A line is the JSON of a row, a space, 64 hex digits and a
//! newline. The digits are SHA-256 over the 32 bytes of the line before and the bytes of the JSON as they
//! stand; the first line of all follows 32 zero bytes. Nothing is ever serialised again to be checked.

use super::{kind::Kind, row::Class};
use crate::Error;
use aws_lc_rs::digest::{Context, SHA256};
use cofferdam_base::{Digest, Millis, TenantId};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

/// One file of the ledger.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    /// The number of the first row in it, or of the next row if it is empty.
    pub(super) first: u64,
}

impl Segment {
    pub(super) fn broken(&self, line: u64, why: impl Into<String>) -> Error {
        let segment = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Error::LedgerBroken { segment, line, why: why.into() }
    }
}

/// How far the chain fits.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Chain {
    pub(super) head: [u8; 32],
    pub(super) rows: u64,
}

/// The parts of a row that the ledger itself needs.
#[derive(Debug, Deserialize)]
pub(super) struct Head {
    pub(super) seq: u64,
    pub(super) at: Millis,
    pub(super) class: Class,
    pub(super) tenant: Option<TenantId>,
    pub(super) kind: String,
    body: Numbers,
}

impl Head {
    /// Whose warden recorded it, in which start and under which number, if a warden did.
    pub(super) fn record(&self) -> Option<(TenantId, (u64, u64))> {
        let numbers = (self.body.boot?, self.body.seq?);
        let recorded = Kind::of(&self.kind).is_some_and(Kind::is_record);
        Some((self.tenant.clone().filter(|_| recorded)?, numbers))
    }
}

/// The numbers that a warden gave its record; whatever else a body is, it has none.
#[derive(Debug, Default)]
struct Numbers {
    boot: Option<u64>,
    seq: Option<u64>,
}

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Numbers::default())
    }
}

impl<'de> Visitor<'de> for Numbers {
    type Value = Self;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a body")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self, A::Error> {
        while let Some(key) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            match key.as_ref() {
                "boot" => self.boot = map.next_value::<serde_json::Value>()?.as_u64(),
                "seq" => self.seq = map.next_value::<serde_json::Value>()?.as_u64(),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }
}

/// Where a segment stopped to fit.
#[derive(Debug)]
pub(super) struct Break {
    pub(super) line: u64,
    /// Where the line begins.
    pub(super) offset: u64,
    pub(super) why: String,
    /// A crash in the middle of a write can explain it: it is the last line, and its hash does not fit.
    pub(super) torn: bool,
}

/// Follows the chain through so many bytes of a file from its beginning; each row that fits is shown with the offset and the
/// length of its line.
pub(super) fn follow(
    path: &Path,
    most: u64,
    chain: &mut Chain,
    mut row: impl FnMut(&Head, u64, u64),
) -> Result<Result<u64, Break>, Error> {
    let mut reader = BufReader::with_capacity(256 * 1024, File::open(path).map_err(work(path))?.take(most));
    let (mut buffer, mut offset, mut line) = (Vec::new(), 0, 0);
    loop {
        buffer.clear();
        let read = reader.read_until(b'\n', &mut buffer).map_err(work(path))? as u64;
        if read == 0 {
            return Ok(Ok(offset));
        }
        line += 1;
        match check(&buffer, chain) {
            Ok((head, hash)) => {
                *chain = Chain { head: hash, rows: head.seq };
                row(&head, offset, read);
            }
            Err((why, fits)) => {
                let last = reader.fill_buf().map_err(work(path))?.is_empty();
                return Ok(Err(Break { line, offset, why, torn: last && !fits }));
            }
        }
        offset += read;
    }
}

/// The row and hash of a line that continues the chain; else why not, and whether the hash does fit.
fn check(line: &[u8], chain: &Chain) -> Result<(Head, [u8; 32]), (String, bool)> {
    let (json, hash) = split(line).ok_or_else(|| ("it is no whole line".to_owned(), false))?;
    if link(&chain.head, json) != *hash.as_bytes() {
        return Err(("its hash does not fit".to_owned(), false));
    }
    let head: Head = serde_json::from_slice(json).map_err(|e| (format!("it is no row: {e}"), true))?;
    if head.seq != chain.rows + 1 {
        return Err((format!("it is row {} where row {} belongs", head.seq, chain.rows + 1), true));
    }
    Ok((head, *hash.as_bytes()))
}

/// The JSON and the hash of a line that ends with a newline.
pub(super) fn split(line: &[u8]) -> Option<(&[u8], Digest)> {
    let line = line.strip_suffix(b"\n")?;
    let (json, hash) = line.split_at_checked(line.len().checked_sub(64)?)?;
    let hash = Digest::try_from(str::from_utf8(hash).ok()?).ok()?;
    Some((json.strip_suffix(b" ")?, hash))
}

/// Adds a line to a batch.
pub(super) fn join(batch: &mut Vec<u8>, json: &[u8], hash: [u8; 32]) {
    batch.extend_from_slice(json);
    batch.push(b' ');
    batch.extend_from_slice(Digest::from_bytes(hash).to_string().as_bytes());
    batch.push(b'\n');
}

/// The hash of a row after another.
pub(super) fn link(previous: &[u8; 32], json: &[u8]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(previous);
    context.update(json);
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// How many bytes a line has beyond its JSON.
pub(super) const FRAME: u64 = 1 + 64 + 1;

/// The segments of a directory, in order. A number that is missing is a broken chain.
pub(super) fn list(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(work(dir))? {
        let path = entry.map_err(work(dir))?.path();
        if path.extension().is_some_and(|e| e == "log") {
            paths.push(path);
        }
    }
    paths.sort();
    for (number, path) in (1..).zip(&paths) {
        if *path != name(dir, number) {
            let segment = Segment { path: name(dir, number), first: 0 };
            return Err(segment.broken(1, format!("the segment is missing; {} is there", path.display())));
        }
    }
    Ok(paths)
}

/// The path of a segment.
pub(super) fn name(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.log"))
}

/// What was made in or removed from the directory stays so.
pub(super) fn sync_directory(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(work(dir))
}

/// An error with its path.
pub(super) fn work(path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::io(&path, source)
}
