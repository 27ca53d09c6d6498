//! WebSocket frames (RFC 6455 §5): heads parsed and made anew, payloads streamed.
//!
//! Our own and not a library's, because the relay must see frames without gathering messages: a frame of
//! 25 MiB passes in pieces, and the one before a token is verified must be counted fragment by fragment.
//! It refuses extensions, reserved bits and opcodes, long or fragmented control frames, lengths that are not
//! written in the shortest way, and masks where they do not belong. It owns no meaning of any payload.

use crate::check::{Check, keeps};
use bytes::{Buf, Bytes, BytesMut};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// More of a message.
    Continuation = 0,
    /// Text, or its first part.
    Text = 1,
    /// Bytes, or their first part.
    Binary = 2,
    /// The last frame of this side.
    Close = 8,
    /// Asks for a pong.
    Ping = 9,
    /// Answers a ping.
    Pong = 10,
}

impl Opcode {
    /// Close, ping or pong: may come between the fragments of a message.
    #[must_use]
    pub const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The last frame of its message.
    pub last: bool,
    /// What it is.
    pub opcode: Opcode,
    /// The key with which a client masks its payload.
    pub mask: Option<[u8; 4]>,
    /// Bytes of payload.
    pub length: u64,
}

/// Who sent a frame: clients mask, servers do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The side that dialled.
    Client,
    /// The side that was dialled.
    Server,
}

/// Why a stream of frames ends.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Against RFC 6455, or against what we agreed to.
    #[error("{0}")]
    Protocol(&'static str),
    /// A message is longer than it may be.
    #[error("the message is too long")]
    TooLong,
    /// A message was begun and not finished in time.
    #[error("the message was not finished in time")]
    Slow,
    /// So many bytes of messages are on their way that there is no room for more.
    #[error("too many long messages at a time")]
    Crowded,
    /// The connection broke, or ended inside a frame.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
}

/// Reads a head from the front of a buffer: it and its size, or nothing if more bytes are needed.
pub fn parse(bytes: &[u8], sender: Sender) -> Result<Option<(Head, usize)>, FrameError> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    if keeps(Check::FrameBits) && first & 0x70 != 0 {
        return Err(FrameError::Protocol("reserved bits are set"));
    }
    let opcode = match first & 0x0f {
        0 => Opcode::Continuation,
        1 => Opcode::Text,
        2 => Opcode::Binary,
        8 => Opcode::Close,
        9 => Opcode::Ping,
        10 => Opcode::Pong,
        _ => return Err(FrameError::Protocol("unknown opcode")),
    };
    let last = first & 0x80 != 0;
    let masked = second & 0x80 != 0;
    if keeps(Check::FrameMask) && masked != (sender == Sender::Client) {
        return Err(FrameError::Protocol("clients mask their frames, servers do not"));
    }
    let (length, rest, size) = match second & 0x7f {
        126 => {
            let Some((number, rest)) = rest.split_first_chunk::<2>() else { return Ok(None) };
            (u64::from(u16::from_be_bytes(*number)), rest, 4)
        }
        127 => {
            let Some((number, rest)) = rest.split_first_chunk::<8>() else { return Ok(None) };
            (u64::from_be_bytes(*number), rest, 10)
        }
        short => (u64::from(short), rest, 2),
    };
    let shortest = match length {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => 10,
    };
    if keeps(Check::FrameLength) && (size != shortest || length > u64::MAX >> 1) {
        return Err(FrameError::Protocol("the length is not written in the shortest way"));
    }
    if keeps(Check::FrameControl) && opcode.is_control() && (!last || length > 125) {
        return Err(FrameError::Protocol("a control frame is fragmented or too long"));
    }
    if !masked {
        return Ok(Some((Head { last, opcode, mask: None, length }, size)));
    }
    let Some(mask) = rest.first_chunk::<4>() else { return Ok(None) };
    Ok(Some((Head { last, opcode, mask: Some(*mask), length }, size + 4)))
}

/// Appends a head.
pub fn write_head(head: &Head, out: &mut Vec<u8>) {
    let masked = if head.mask.is_some() { 0x80 } else { 0 };
    out.push(head.opcode as u8 | if head.last { 0x80 } else { 0 });
    match (u8::try_from(head.length), u16::try_from(head.length)) {
        (Ok(short @ 0..=125), _) => out.push(short | masked),
        (_, Ok(middle)) => {
            out.push(0x7e | masked);
            out.extend_from_slice(&middle.to_be_bytes());
        }
        _ => {
            out.push(0x7f | masked);
            out.extend_from_slice(&head.length.to_be_bytes());
        }
    }
    if let Some(mask) = head.mask {
        out.extend_from_slice(&mask);
    }
}

/// Takes a mask off (or puts it on).
pub fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    for chunk in payload.chunks_mut(4) {
        for (byte, key) in chunk.iter_mut().zip(mask) {
            *byte ^= key;
        }
    }
}

/// The order of a side's frames: a message's fragments follow each other, with control frames between.
#[derive(Debug, Default)]
pub struct Order {
    open: Option<Opcode>,
    length: u64,
}

impl Order {
    /// Is a message begun and not ended?
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Takes the next head. For a frame of a message: the message's opcode.
    pub fn next(&mut self, head: &Head, limit: u64) -> Result<Option<Opcode>, FrameError> {
        if head.opcode.is_control() {
            return Ok(None);
        }
        let message = match (self.open, head.opcode) {
            (Some(first), Opcode::Continuation) => first,
            (None, Opcode::Text | Opcode::Binary) => {
                self.length = 0;
                head.opcode
            }
            _ => return Err(FrameError::Protocol("the fragments of a message are out of order")),
        };
        self.length = self.length.saturating_add(head.length);
        if keeps(Check::MessageLength) && self.length > limit {
            return Err(FrameError::TooLong);
        }
        self.open = (!head.last).then_some(message);
        Ok(Some(message))
    }
}

/// Reads frames.
#[derive(Debug)]
pub struct Reader<R> {
    io: R,
    buffer: BytesMut,
    sender: Sender,
}

/// The smallest and the largest piece that is read at once.
const PIECE: usize = 16 * 1024;
const PIECE_LIMIT: usize = 256 * 1024;

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Reads the frames of this side, of which some bytes may have been read already.
    pub fn new(io: R, sender: Sender, read: Bytes) -> Self {
        Self { io, buffer: BytesMut::from(read), sender }
    }

    /// The next head; none if the stream ended between two frames.
    pub async fn head(&mut self) -> Result<Option<Head>, FrameError> {
        loop {
            if let Some((head, size)) = parse(&self.buffer, self.sender)? {
                self.buffer.advance(size);
                return Ok(Some(head));
            }
            let empty = self.buffer.is_empty();
            if self.fill().await? == 0 {
                return if empty { Ok(None) } else { Err(ended()) };
            }
        }
    }

    /// At least one byte of the payload, and what more of it is there.
    pub async fn piece(&mut self, remaining: u64) -> Result<BytesMut, FrameError> {
        if self.buffer.is_empty() && self.fill().await? == 0 {
            return Err(ended());
        }
        let there = usize::try_from(remaining).unwrap_or(usize::MAX).min(self.buffer.len());
        Ok(self.buffer.split_to(there))
    }

    /// Appends the frame's whole payload, unmasked. The caller knows that it is short.
    pub async fn append(&mut self, head: &Head, to: &mut Vec<u8>) -> Result<(), FrameError> {
        self.append_while(head, to, |_| true).await
    }

    /// Appends the frame's whole payload, unmasked, while there is room for so many bytes of memory.
    pub async fn append_while(
        &mut self,
        head: &Head,
        to: &mut Vec<u8>,
        mut room: impl FnMut(usize) -> bool,
    ) -> Result<(), FrameError> {
        let start = to.len();
        let mut remaining = head.length;
        while remaining > 0 {
            let piece = self.piece(remaining).await?;
            to.extend_from_slice(&piece);
            if !room(to.capacity()) {
                return Err(FrameError::Crowded);
            }
            remaining -= piece.len() as u64;
        }
        if let Some(mask) = head.mask {
            unmask(&mut to[start..], mask);
        }
        Ok(())
    }

    async fn fill(&mut self) -> io::Result<usize> {
        // A side that fills what it is given gets more of it.
        let more = if self.buffer.capacity() == 0 { PIECE } else { PIECE.max(self.buffer.len()) };
        self.buffer.reserve(more.min(PIECE_LIMIT));
        self.io.read_buf(&mut self.buffer).await
    }
}

fn ended() -> FrameError {
    FrameError::Io(io::ErrorKind::UnexpectedEof.into())
}

/// Writes frames.
#[derive(Debug)]
pub struct Writer<W> {
    io: W,
    scratch: Vec<u8>,
    inside: bool,
}

/// Payloads up to here are copied behind their head and leave in one system call.
const TOGETHER: usize = 16 * 1024;

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Writes frames here.
    pub fn new(io: W) -> Self {
        Self { io, scratch: Vec::new(), inside: false }
    }

    /// Was the last frame left unfinished? Then nothing more may be written.
    pub fn is_inside_a_frame(&self) -> bool {
        self.inside
    }

    /// A whole frame; the payload is sent as it is, so it must fit the head's mask.
    pub async fn frame(&mut self, head: &Head, payload: &[u8]) -> io::Result<()> {
        self.begin(head, payload).await?;
        self.inside = false;
        Ok(())
    }

    /// A head and the first piece of its payload.
    pub async fn begin(&mut self, head: &Head, piece: &[u8]) -> io::Result<()> {
        self.inside = true;
        self.scratch.clear();
        write_head(head, &mut self.scratch);
        if piece.len() <= TOGETHER {
            self.scratch.extend_from_slice(piece);
            self.io.write_all(&self.scratch).await?;
        } else {
            self.io.write_all(&self.scratch).await?;
            self.io.write_all(piece).await?;
        }
        Ok(())
    }

    /// More of the payload.
    pub async fn more(&mut self, piece: &[u8]) -> io::Result<()> {
        self.io.write_all(piece).await
    }

    /// The payload is complete.
    pub fn done(&mut self) {
        self.inside = false;
    }

    /// A text message of a server.
    pub async fn text(&mut self, text: &[u8]) -> io::Result<()> {
        self.frame(&server(Opcode::Text, text.len()), text).await
    }

    /// A text message of a client. Its mask is zero: a mask confuses intermediaries that a script in a
    /// browser might attack, and between the edge and a cell there are neither scripts nor intermediaries.
    pub async fn masked_text(&mut self, text: &[u8]) -> io::Result<()> {
        let head = Head { mask: Some([0; 4]), ..server(Opcode::Text, text.len()) };
        self.frame(&head, text).await
    }

    /// Says why and that nothing follows.
    pub async fn close(&mut self, code: u16, reason: &str) -> io::Result<()> {
        let mut payload = code.to_be_bytes().to_vec();
        payload.extend_from_slice(&reason.as_bytes()[..reason.len().min(123)]);
        self.frame(&server(Opcode::Close, payload.len()), &payload).await
    }
}

/// The head of a whole frame from a server.
#[must_use]
pub fn server(opcode: Opcode, length: usize) -> Head {
    Head { last: true, opcode, mask: None, length: length as u64 }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_breaks_the_rules_is_refused() {
        assert!(matches!(parse(&[0x81, 0x80, 0, 0, 0, 0], Sender::Client), Ok(Some(_))));
        for (bytes, why) in [
            (&[0xc1, 0x80, 0, 0, 0, 0][..], "a reserved bit"),
            (&[0x83, 0x80, 0, 0, 0, 0], "a reserved opcode"),
            (&[0x81, 0x00], "no mask from a client"),
            (&[0x09, 0x80, 0, 0, 0, 0], "a fragmented ping"),
            (&[0x89, 0xfe, 0, 126, 0, 0, 0, 0], "a long ping"),
            (&[0x81, 0xfe, 0, 125, 0, 0, 0, 0], "a length of two bytes that fits one"),
            (&[0x81, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0], "eight bytes that fit two"),
            (&[0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "more than 63 bits"),
        ] {
            assert!(parse(bytes, Sender::Client).is_err(), "{why}");
        }
        assert!(parse(&[0x81, 0x80, 0, 0, 0, 0], Sender::Server).is_err(), "a mask from a server");
    }

    #[test]
    fn fragments_are_counted_together() {
        let head = |last, opcode, length| Head { last, opcode, mask: None, length };
        let mut order = Order::default();
        assert!(matches!(order.next(&head(false, Opcode::Text, 10), 25), Ok(Some(Opcode::Text))));
        assert!(matches!(order.next(&head(true, Opcode::Ping, 5), 25), Ok(None)));
        assert!(matches!(order.next(&head(false, Opcode::Continuation, 10), 25), Ok(Some(Opcode::Text))));
        assert!(matches!(order.next(&head(true, Opcode::Continuation, 10), 25), Err(FrameError::TooLong)));
        assert!(Order::default().next(&head(true, Opcode::Continuation, 1), 25).is_err());
        let mut twice = Order::default();
        twice.next(&head(false, Opcode::Text, 1), 25).unwrap();
        assert!(twice.next(&head(false, Opcode::Text, 1), 25).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_a_parsed_head_is_written_back_the_same(
            bytes in prop::collection::vec(any::<u8>(), 0..20)
        ) {
            for sender in [Sender::Client, Sender::Server] {
                if let Ok(Some((head, size))) = parse(&bytes, sender) {
                    let mut out = Vec::new();
                    write_head(&head, &mut out);
                    prop_assert_eq!(&out, &bytes[..size]);
                }
            }
        }
    }
}
