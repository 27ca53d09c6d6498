//! The stream from the reader to the tenant's cell: a report, then files and conversations, then its end.
//!
//! Each frame is a kind, a length and that many bytes. The threat: a stream that was cut off and looks whole. Only
//! one that ends with [`Kind::End`] counts.

use crate::{Error, Report, io};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::io::{Read, Write};

/// The longest frame: a message of the longest kind, as JSON.
const LONGEST: usize = 12 << 20;
/// Content of files goes in pieces of this size.
pub(crate) const PIECE: usize = 256 << 10;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A [`Report`]: the first frame, for whoever asked.
    Report = b'R',
    /// A [`FileHead`]; its content follows.
    File = b'F',
    /// Content of the file.
    Data = b'D',
    /// A [`Conversation`]; its messages follow.
    Session = b'S',
    /// A [`Said`].
    Message = b'M',
    /// There is no more.
    End = b'E',
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        [Self::Report, Self::File, Self::Data, Self::Session, Self::Message, Self::End]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// A file that is to be there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileHead {
    /// Below `/sandbox`.
    pub(crate) path: String,
    pub(crate) size: u64,
    /// May it be run?
    pub(crate) runs: bool,
}

/// A conversation that is to be there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Conversation {
    pub(crate) key: String,
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) updated: u64,
    pub(crate) label: Option<String>,
}

/// A message of the conversation before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Said {
    pub(crate) role: String,
    pub(crate) body: Value,
    pub(crate) at: u64,
}

/// What came into the tenant's home, as the unpacker counted it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Imported {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Conversations.
    pub sessions: u64,
    /// Their messages.
    pub messages: u64,
}

pub(crate) fn write(out: &mut impl Write, kind: Kind, payload: &[u8]) -> Result<(), Error> {
    let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= LONGEST);
    let length = length.ok_or_else(|| Error::Stream("a frame would be too long".to_owned()))?;
    let mut head = [kind as u8, 0, 0, 0, 0];
    head[1..].copy_from_slice(&length.to_be_bytes());
    out.write_all(&head).and_then(|()| out.write_all(payload)).map_err(io("the stream"))
}

pub(crate) fn write_json(out: &mut impl Write, kind: Kind, value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_vec(value).map_err(|why| Error::Stream(why.to_string()))?;
    write(out, kind, &text)
}

/// The next frame. A stream that ends before its end is damaged.
pub(crate) fn read(from: &mut impl Read) -> Result<(Kind, Vec<u8>), Error> {
    let mut head = [0; 5];
    from.read_exact(&mut head).map_err(|_| Error::Stream("it has no end".to_owned()))?;
    let kind = Kind::of(head[0]).ok_or_else(|| Error::Stream("a frame of no kind".to_owned()))?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if length > LONGEST {
        return Err(Error::Stream("a frame is too long".to_owned()));
    }
    let mut payload = Vec::new();
    from.take(length as u64).read_to_end(&mut payload).map_err(io("the stream"))?;
    if payload.len() < length {
        return Err(Error::Stream("it has no end".to_owned()));
    }
    Ok((kind, payload))
}

pub(crate) fn parse<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(payload).map_err(|why| Error::Stream(why.to_string()))
}

/// The report at the beginning of a stream; the rest of it is for the cell.
pub fn first_report(from: &mut impl Read) -> Result<Report, Error> {
    match read(from)? {
        (Kind::Report, payload) => parse(&payload).map(Report::printable),
        _ => Err(Error::Stream("it does not begin with a report".to_owned())),
    }
}
