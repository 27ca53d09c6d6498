//! Lines of HTTP/1 as they come in from a cell: each ends with CR LF.
//!
//! It owns no parser: it only follows where heads, chunk sizes and trailers are. The threat is a line feed alone,
//! which our parser takes for the end of a line and another one for a part of it (RFC 9112 §2.2). In a head it
//! becomes a NUL, which no parser takes, so the request is refused as malformed; in the line of a chunk's size it stays,
//! as the parser takes a NUL there and no line feed. All that follows becomes NULs, so that nothing of it is read as HTTP
//! whatever the parser makes of the first. Where this loses its way it does nothing, and the parser decides.

use crate::check::{Check, keeps};
use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Has the connection become another protocol's?
#[derive(Clone, Debug, Default)]
pub(crate) struct Switched(Arc<AtomicBool>);

impl Switched {
    /// From now on nothing that comes is HTTP.
    pub(crate) fn now(&self) {
        self.0.store(true, Relaxed);
    }
}

/// A stream of which the lines are watched.
#[derive(Debug)]
pub(crate) struct Lined<S> {
    stream: S,
    lines: Lines,
    switched: Switched,
}

impl<S> Lined<S> {
    /// Watches a connection from its beginning.
    pub(crate) fn new(stream: S, switched: Switched) -> Self {
        Self { stream, lines: Lines::default(), switched }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lined<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if keeps(Check::LineFeeds) && !self.switched.0.load(Relaxed) {
            self.lines.watch(&mut buffer.filled_mut()[before..]);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lined<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Where in a message the next byte is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// In a head.
    #[default]
    Head,
    /// In a body of so many more bytes; `chunked`: a size follows, else a head.
    Body { left: u64, chunked: bool },
    /// In the line of a chunk's size.
    Size,
    /// In what follows the last chunk.
    Trailers,
    /// In what is no HTTP, or no longer known.
    Elsewhere,
    /// Behind a line feed that was alone.
    Broken,
}

/// What a head says of what follows it.
#[derive(Clone, Copy, Debug, Default)]
struct Follows {
    begun: bool,
    length: u64,
    chunked: bool,
    tunnel: bool,
}

#[derive(Debug, Default)]
struct Lines {
    at: At,
    line: Vec<u8>,
    follows: Follows,
}

/// A longer line is left to the parser, which refuses it.
const LONGEST: usize = 128 * 1024;

impl Lines {
    fn watch(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let passed = match self.at {
                At::Elsewhere => return,
                At::Broken => return bytes.fill(0),
                At::Body { left, chunked } => {
                    let passed = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    self.at = match left - passed as u64 {
                        0 if chunked => At::Size,
                        0 => At::Head,
                        left => At::Body { left, chunked },
                    };
                    passed
                }
                At::Head | At::Size | At::Trailers => match memchr::memchr(b'\n', bytes) {
                    None => {
                        self.line.extend_from_slice(bytes);
                        bytes.len()
                    }
                    Some(end) => {
                        let mut begun = std::mem::take(&mut self.line);
                        let line = if begun.is_empty() {
                            &bytes[..end]
                        } else {
                            begun.extend_from_slice(&bytes[..end]);
                            &begun
                        };
                        let Some(line) = line.strip_suffix(b"\r") else {
                            let refused = usize::from(self.at == At::Size);
                            self.at = At::Broken;
                            return bytes[end + refused..].fill(0);
                        };
                        self.ended(line);
                        end + 1
                    }
                },
            };
            if self.line.len() > LONGEST {
                self.at = At::Elsewhere;
            }
            bytes = &mut bytes[passed..];
        }
    }

    /// A line of HTTP is over.
    fn ended(&mut self, line: &[u8]) {
        self.at = match self.at {
            // Empty lines before a request are nothing.
            At::Head if line.is_empty() && !self.follows.begun => At::Head,
            At::Head if line.is_empty() => {
                let Follows { begun: _, length, chunked, tunnel } = std::mem::take(&mut self.follows);
                match (tunnel, chunked, length) {
                    (true, ..) => At::Elsewhere,
                    (_, true, _) => At::Size,
                    (_, _, 0) => At::Head,
                    (_, _, left) => At::Body { left, chunked: false },
                }
            }
            At::Head => self.header(line),
            At::Size => {
                let digits = line.split(|byte| !byte.is_ascii_hexdigit()).next().unwrap_or_default();
                match std::str::from_utf8(digits).ok().and_then(|text| u64::from_str_radix(text, 16).ok()) {
                    Some(0) => At::Trailers,
                    Some(size) => At::Body { left: size.saturating_add(2), chunked: true },
                    None => At::Elsewhere,
                }
            }
            At::Trailers if line.is_empty() => At::Head,
            at => at,
        };
    }

    fn header(&mut self, line: &[u8]) -> At {
        let follows = &mut self.follows;
        if !follows.begun {
            follows.begun = true;
            follows.tunnel = line.starts_with(b"CONNECT ");
            return At::Head;
        }
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (name, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or_default().trim_ascii();
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            follows.chunked = true;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            // One that is no number is refused by the parser, or ignored beside chunks: then the lines go on.
            if let Some(length) = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()) {
                follows.length = length;
            }
        }
        At::Head
    }
}

/// What comes of these bytes in pieces of this length, and how many heads were followed to their end; none if
/// something else than HTTP began.
#[cfg(feature = "fuzzing")]
pub(crate) fn watched(bytes: &[u8], length: usize) -> (Vec<u8>, Option<usize>) {
    let (mut lines, mut bytes, mut heads, mut tunnel) = (Lines::default(), bytes.to_vec(), 0, false);
    for piece in bytes.chunks_mut(length.max(1)) {
        let (begun, tunnels) = (lines.follows.begun, lines.follows.tunnel);
        lines.watch(piece);
        heads += usize::from(begun && !lines.follows.begun);
        tunnel |= tunnels;
    }
    (bytes, (!tunnel).then_some(heads))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What comes of these bytes, handed over in pieces.
    fn watched(bytes: &[u8], cuts: &[usize]) -> Vec<u8> {
        let (mut lines, mut bytes, mut at) = (Lines::default(), bytes.to_vec(), 0_usize);
        for cut in cuts.iter().chain([&usize::MAX]) {
            let end = bytes.len().min(at.saturating_add(*cut));
            lines.watch(&mut bytes[at..end]);
            at = end;
        }
        bytes
    }

    #[test]
    fn a_line_feed_alone_is_found_wherever_lines_are_and_nowhere_else() {
        for whole in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\n\r\n",
            "\r\nPOST / HTTP/1.1\r\nContent-Length: 4\r\n\r\na\nb\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=1\r\n\n\n\n\r\n0\r\nT: 1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\n\r\n\x16\n\x03\n",
        ] {
            assert_eq!(watched(whole.as_bytes(), &[1; 40]), whole.as_bytes(), "{whole:?}");
        }
        for broken in [
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\n",
            "\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n\n\nGET / HTTP/1.1\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n\n\r\n0\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nT: 1\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: x\r\n\r\n0\r\n\r\nGET / HTTP/1.1\n\n",
        ] {
            assert!(watched(broken.as_bytes(), &[3; 30]).contains(&0), "{broken:?}");
        }
    }

    /// The parser takes a NUL for a part of a chunk's extension, and a line feed there for an error.
    #[test]
    fn nothing_behind_a_line_feed_that_is_alone_is_read_as_http() {
        let size = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;";
        let bytes = format!("{size}\n1\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\nHost: a\n\n");
        let wanted = [format!("{size}\n").as_bytes(), &vec![0; bytes.len() - size.len() - 1]].concat();
        assert_eq!(watched(bytes.as_bytes(), &[]), wanted);
        assert_eq!(watched(bytes.as_bytes(), &[1; 200]), wanted);
    }

    proptest! {
        #[test]
        fn pieces_are_the_whole(bytes in "[\r\na0: ]{0,80}", cuts in prop::collection::vec(0..9usize, 0..20)) {
            let head = format!("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n\n\n\nGET / HTTP/1.1\r\n{bytes}");
            prop_assert_eq!(watched(head.as_bytes(), &cuts), watched(head.as_bytes(), &[]));
        }
    }
}
