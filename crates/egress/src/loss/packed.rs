//! What is packed in a body: all of it, by its coding, or gzip that begins anywhere in it.
//!
//! The threats: bytes that unpack to far more than they are, and bytes that somebody else unpacks otherwise. What
//! breaks under the coding that a body says it has does not pass; what merely ends early was looked through as far.

use super::{
    scan::Scan,
    watch::{Found, Watch},
};
use crate::credentials::GRPC_ENCODING;
use cofferdam_base::Millis;
use flate2::{Decompress, FlushDecompress, Status};
use http::{HeaderMap, HeaderValue, header};
use memchr::memmem;
use std::sync::LazyLock;

/// What gzip begins with: the magic number and the only method.
const MAGIC: &[u8] = &[0x1f, 0x8b, 8];
static BEGIN: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(MAGIC));

/// A header of gzip that is longer is none that is looked through. A name and a comment fit; eight in each of a cell's
/// connections take a small part of what its warden may.
const HEADER: usize = 16 * 1024;
/// How many that begin in one body may be open at a time.
const OPEN: usize = 8;
/// What may come out at once, and more for each byte that went in.
const ROOM: u64 = 8 << 20;
const RATIO: u64 = 64;
/// How much is unpacked in one step.
const STEP: usize = 32 * 1024;

/// How a body is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// It is not, or in parts that say so themselves.
    None,
    Gzip,
    /// With or without the frame of zlib, as its first bytes say.
    Deflate,
}

impl Coding {
    /// By its headers; none if it cannot be unpacked here.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let plain = |value: &HeaderValue| {
            ["identity", "gzip"].iter().any(|known| value.as_bytes().eq_ignore_ascii_case(known.as_bytes()))
        };
        // Its messages say by themselves whether they are packed, and gzip is found wherever it begins.
        if !headers.get_all(GRPC_ENCODING).iter().all(plain) {
            return None;
        }
        let mut coding = Self::None;
        for value in headers.get_all(header::CONTENT_ENCODING) {
            for word in value.to_str().ok()?.split(',') {
                let next = match word.trim().to_ascii_lowercase().as_str() {
                    // Of S3: what it frames stays as it is, in chunks that are larger than any piece that counts.
                    "" | "identity" | "aws-chunked" => continue,
                    "gzip" | "x-gzip" => Self::Gzip,
                    "deflate" => Self::Deflate,
                    _ => return None,
                };
                if coding != Self::None {
                    return None;
                }
                coding = next;
            }
        }
        Some(coding)
    }
}

/// What was seen in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Nothing,
    Found(Found),
    /// It cannot be looked through.
    Unreadable,
}

/// One body.
#[derive(Debug)]
pub(super) struct Packed {
    coding: Coding,
    members: Vec<Member>,
    /// The last bytes, in which a member may have begun.
    last: Vec<u8>,
    /// How much more may come out of all of them.
    room: u64,
}

impl Packed {
    pub(super) fn new(coding: Coding) -> Self {
        let members = if coding == Coding::None { vec![] } else { vec![Member::new(coding)] };
        Self { coding, members, last: Vec::new(), room: ROOM }
    }

    /// Looks at what comes next.
    pub(super) fn push(&mut self, watch: &Watch, bytes: &[u8], now: Millis) -> Seen {
        if watch.is_empty() {
            // If there is something to look for later, its beginning is missing.
            self.coding = Coding::None;
            self.members.clear();
            return Seen::Nothing;
        }
        self.room = self.room.saturating_add(RATIO.saturating_mul(bytes.len() as u64));
        if self.coding != Coding::None {
            let Some(whole) = self.members.first_mut() else { return Seen::Nothing };
            return whole.push(watch, bytes, now, &mut self.room).unwrap_or(Seen::Unreadable);
        }
        let mut seen = self.open(watch, bytes, now);
        if seen == Seen::Nothing {
            seen = self.begin(watch, bytes, now);
        }
        self.last.extend_from_slice(&bytes[bytes.len().saturating_sub(MAGIC.len() - 1)..]);
        let over = self.last.len().saturating_sub(MAGIC.len() - 1);
        self.last.drain(..over);
        seen
    }

    /// Those that are open take it. One that breaks is none.
    fn open(&mut self, watch: &Watch, bytes: &[u8], now: Millis) -> Seen {
        let mut seen = Seen::Nothing;
        let Self { members, room, .. } = self;
        members.retain_mut(|member| match member.push(watch, bytes, now, room) {
            None => false,
            Some(Seen::Nothing) => !member.is_over(),
            Some(other) => {
                seen = other;
                false
            }
        });
        seen
    }

    /// Those that begin here.
    fn begin(&mut self, watch: &Watch, bytes: &[u8], now: Millis) -> Seen {
        let kept = self.last.len();
        let mut seam = self.last.clone();
        seam.extend_from_slice(&bytes[..bytes.len().min(MAGIC.len() - 1)]);
        let before = BEGIN.find(&seam).filter(|at| *at < kept);
        let begun = before.map(|at| self.last[at..].to_vec());
        let here = BEGIN.find_iter(bytes).map(|at| (vec![], &bytes[at..]));
        let all: Vec<_> = begun.map(|first| (first, bytes)).into_iter().chain(here).collect();
        for (first, rest) in all {
            let mut member = Member::new(Coding::Gzip);
            let _ = member.push(watch, &first, now, &mut self.room);
            match member.push(watch, rest, now, &mut self.room) {
                Some(Seen::Nothing) if member.is_over() => {}
                Some(Seen::Nothing) if self.members.len() < OPEN => self.members.push(member),
                Some(Seen::Nothing) => return Seen::Unreadable,
                Some(other) => return other,
                None => {}
            }
        }
        Seen::Nothing
    }
}

/// Something packed that is unpacked as it comes.
#[derive(Debug)]
struct Member {
    state: State,
    text: Scan,
}

#[derive(Debug)]
enum State {
    /// Of gzip, as far as it came.
    Header(Vec<u8>),
    /// Of deflate.
    First,
    Data(Decompress, bool),
    /// So many bytes of gzip's sums are to come.
    Sums(usize),
    /// Nothing may follow.
    Over,
}

impl Member {
    fn new(coding: Coding) -> Self {
        let state = if coding == Coding::Deflate { State::First } else { State::Header(vec![]) };
        Self { state, text: Scan::default() }
    }

    fn is_over(&self) -> bool {
        match &self.state {
            State::Over => true,
            // After a whole member of gzip another may follow, and need not.
            State::Header(begun) => begun.is_empty(),
            _ => false,
        }
    }

    /// Takes what comes next; none if it is not what it began as.
    fn push(&mut self, watch: &Watch, bytes: &[u8], now: Millis, room: &mut u64) -> Option<Seen> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match &mut self.state {
                State::Header(begun) => {
                    let had = begun.len();
                    begun.extend_from_slice(&rest[..rest.len().min(HEADER)]);
                    match header(begun)? {
                        Some(length) => {
                            rest = &rest[length - had..];
                            self.state = State::Data(Decompress::new(false), true);
                        }
                        None if begun.len() >= HEADER => return Some(Seen::Unreadable),
                        None => rest = &[],
                    }
                }
                State::First => {
                    // The first byte of zlib's frame; deflate by itself hardly begins so, and breaks if it does.
                    let framed = rest[0] & 0x0f == 8 && rest[0] >> 4 < 8;
                    self.state = State::Data(Decompress::new(framed), false);
                }
                State::Data(..) => match self.unpack(watch, &mut rest, now, room)? {
                    Seen::Nothing => {}
                    other => return Some(other),
                },
                State::Sums(left) => {
                    let taken = rest.len().min(*left);
                    rest = &rest[taken..];
                    *left -= taken;
                    if *left == 0 {
                        self.state = State::Header(vec![]);
                    }
                }
                State::Over => return None,
            }
        }
        Some(Seen::Nothing)
    }

    /// Unpacks some of it.
    fn unpack(&mut self, watch: &Watch, rest: &mut &[u8], now: Millis, room: &mut u64) -> Option<Seen> {
        let State::Data(stream, gzip) = &mut self.state else { return None };
        let mut text = zeroize::Zeroizing::new(vec![0; STEP]);
        loop {
            let (taken, made) = (stream.total_in(), stream.total_out());
            let status = stream.decompress(rest, &mut text, FlushDecompress::None);
            let taken = usize::try_from(stream.total_in() - taken).ok()?;
            let made = usize::try_from(stream.total_out() - made).ok()?;
            *rest = &rest[taken..];
            let Some(left) = room.checked_sub(made as u64) else { return Some(Seen::Unreadable) };
            *room = left;
            if let Some(found) = self.text.push(watch, &text[..made], now) {
                return Some(Seen::Found(found));
            }
            // What came out before it broke was looked at: others may read as far.
            let status = status.ok()?;
            if status == Status::StreamEnd {
                self.state = if *gzip { State::Sums(8) } else { State::Over };
                return Some(Seen::Nothing);
            }
            // Nothing more comes out of what is there.
            if rest.is_empty() && made < STEP {
                return Some(Seen::Nothing);
            }
            if (taken, made) == (0, 0) {
                return None;
            }
        }
    }
}

/// The length of the header of gzip (RFC 1952 §2.3) that is here; the outer none if it is none.
#[allow(clippy::option_option)]
fn header(bytes: &[u8]) -> Option<Option<usize>> {
    let begins = bytes.iter().zip(MAGIC).all(|(a, b)| a == b);
    // Reserved flags are left: there is software that unpacks it all the same.
    if !begins {
        return None;
    }
    Some(header_length(bytes))
}

fn header_length(bytes: &[u8]) -> Option<usize> {
    let flags = *bytes.get(3)?;
    let mut at = 10;
    if flags & 4 != 0 {
        let length = bytes.get(at..at + 2)?;
        at += 2 + usize::from(u16::from_le_bytes([length[0], length[1]]));
    }
    for flag in [8, 16] {
        if flags & flag != 0 {
            at += bytes.get(at..)?.iter().position(|byte| *byte == 0)? + 1;
        }
    }
    if flags & 2 != 0 {
        at += 2;
    }
    (bytes.len() >= at).then_some(at)
}
