//! A stream that is looked through: as it comes, and as whoever undoes its escapes would read it.
//!
//! The second reading undoes `%41`, `\u0041`, `\x41` and the other escapes of JSON once, in whatever mixture, and
//! leaves line ends out. Where there is nothing to undo it costs nothing.

use super::watch::{Found, Watch};
use cofferdam_base::Millis;
use memchr::{memchr, memchr3};
use zeroize::Zeroizing;

/// One stream.
#[derive(Debug, Default)]
pub struct Scan {
    plain: Tail,
    /// Once the second reading differs, and as long as it may matter.
    read: Option<Tail>,
    /// So many bytes since it differed last.
    alike: usize,
    escapes: Escapes,
}

impl Scan {
    /// Looks at what comes next, before it goes on.
    pub fn push(&mut self, watch: &Watch, bytes: &[u8], now: Millis) -> Option<Found> {
        if watch.is_empty() || bytes.is_empty() {
            return None;
        }
        let differs = self.escapes.is_open()
            || memchr3(b'%', b'\\', b'\n', bytes).is_some()
            || memchr(b'\r', bytes).is_some();
        let second = self.read(watch, bytes, differs, now);
        self.plain.push(watch, bytes, now).or(second)
    }

    /// The second reading.
    fn read(&mut self, watch: &Watch, bytes: &[u8], differs: bool, now: Millis) -> Option<Found> {
        if differs {
            let mut text = Zeroizing::new(Vec::with_capacity(bytes.len()));
            self.escapes.undo(bytes, &mut text);
            self.alike = 0;
            // Up to here both readings were the same.
            return self.read.get_or_insert_with(|| self.plain.clone()).push(watch, &text, now);
        }
        let tail = self.read.as_mut()?;
        let found = tail.push(watch, bytes, now);
        self.alike = self.alike.saturating_add(bytes.len());
        if self.alike >= watch.longest() {
            self.read = None;
        }
        found
    }
}

/// The end of what was seen: something may have begun there.
#[derive(Clone, Debug, Default)]
struct Tail(Zeroizing<Vec<u8>>);

impl Tail {
    fn push(&mut self, watch: &Watch, bytes: &[u8], now: Millis) -> Option<Found> {
        let keep = watch.longest().saturating_sub(1);
        if self.0.is_empty() {
            self.0.extend_from_slice(&bytes[bytes.len().saturating_sub(keep)..]);
            return watch.look(bytes, now);
        }
        let (first, long) = (bytes.len().min(keep), bytes.len() > keep);
        self.0.extend_from_slice(&bytes[..first]);
        let mut found = watch.look(&self.0, now);
        if long {
            found = found.or_else(|| watch.look(bytes, now));
            self.0.clear();
            self.0.extend_from_slice(&bytes[bytes.len() - keep..]);
        } else {
            let over = self.0.len().saturating_sub(keep);
            self.0.drain(..over);
        }
        found
    }
}

/// Escapes that are undone as they come.
#[derive(Debug, Default)]
struct Escapes {
    /// One that has begun: at most five bytes.
    begun: Vec<u8>,
}

/// What an escape turned out to be.
enum Escape {
    /// So many bytes are this character, or nothing.
    Is(usize, Option<char>),
    /// So many bytes are this one.
    Byte(usize, u8),
    /// More must come.
    Begun,
}

impl Escapes {
    fn is_open(&self) -> bool {
        !self.begun.is_empty()
    }

    fn undo(&mut self, bytes: &[u8], text: &mut Vec<u8>) {
        let mut joined = std::mem::take(&mut self.begun);
        let mut rest = if joined.is_empty() {
            bytes
        } else {
            joined.extend_from_slice(bytes);
            &joined
        };
        while let Some(at) = rest.iter().position(|byte| matches!(byte, b'%' | b'\\' | b'\n' | b'\r')) {
            text.extend_from_slice(&rest[..at]);
            rest = &rest[at..];
            let (length, byte) = match escape(rest) {
                Escape::Is(length, None) => (length, None),
                Escape::Is(length, Some(character)) => {
                    text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                    (length, None)
                }
                Escape::Byte(length, byte) => (length, Some(byte)),
                Escape::Begun => {
                    self.begun = rest.to_vec();
                    return;
                }
            };
            text.extend(byte.filter(|byte| !b"\r\n".contains(byte)));
            rest = &rest[length..];
        }
        text.extend_from_slice(rest);
    }
}

/// Reads what begins with one of the bytes with which escapes and line ends begin.
fn escape(bytes: &[u8]) -> Escape {
    let hex = |range: std::ops::Range<usize>| {
        let digits = bytes.get(range)?;
        digits.iter().try_fold(0u32, |all, digit| Some(all << 4 | char::from(*digit).to_digit(16)?))
    };
    let byte = |value: u32| value.to_le_bytes()[0];
    match (bytes[0], bytes.get(1)) {
        (b'\r' | b'\n', _) => Escape::Is(1, None),
        (_, None) => Escape::Begun,
        (b'%', _) => match hex(1..3) {
            Some(value) => Escape::Byte(3, byte(value)),
            None if bytes.len() < 3 => Escape::Begun,
            None => Escape::Byte(1, b'%'),
        },
        (_, Some(b'u')) => match hex(2..6) {
            Some(10 | 13) => Escape::Is(6, None),
            Some(value) => Escape::Is(6, char::from_u32(value)),
            None if bytes.len() < 6 => Escape::Begun,
            None => Escape::Byte(1, b'\\'),
        },
        (_, Some(b'x')) => match hex(2..4) {
            Some(value) => Escape::Byte(4, byte(value)),
            None if bytes.len() < 4 => Escape::Begun,
            None => Escape::Byte(1, b'\\'),
        },
        (_, Some(b'n' | b'r')) => Escape::Is(2, None),
        (_, Some(b't')) => Escape::Byte(2, b'\t'),
        (_, Some(other @ (b'/' | b'"' | b'\\' | b'\''))) => Escape::Byte(2, *other),
        _ => Escape::Byte(1, b'\\'),
    }
}
