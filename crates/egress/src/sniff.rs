//! What a client speaks, told by its first bytes, which are kept and passed on.
//!
//! At most 16 KiB are read and a client that stays silent is taken for one whose server speaks first. The
//! threat: a client that names an allowed destination and speaks something else there, so nothing here is
//! a guess: what is neither a whole ClientHello nor an HTTP/1 request line is opaque.

use crate::{
    check::{Check, keeps},
    hello::{self, ClientHello, Hello},
};
use bytes::{Buf, Bytes, BytesMut};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// The most that is read to find out.
pub const MOST: usize = 16 * 1024;

/// What is spoken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// TLS, and what its client says.
    Tls(ClientHello),
    /// A TLS record whose ClientHello is malformed or longer than 16 KiB.
    BadTls,
    /// HTTP/1.
    Http,
    /// Anything else, silence included.
    Opaque,
}

/// What the bytes so far show; none if more are needed.
pub fn classify(bytes: &[u8]) -> Option<Spoken> {
    match bytes.first()? {
        // A TLS handshake record: no text begins like this.
        22 if bytes.get(1).is_none_or(|major| *major == 3) => match hello::read(bytes) {
            Ok(Hello::Complete(said)) => Some(Spoken::Tls(said)),
            Ok(Hello::Partial) if bytes.len() < MOST || !keeps(Check::HelloLength) => None,
            Ok(Hello::Partial) | Err(_) => Some(Spoken::BadTls),
        },
        b'A'..=b'Z' => {
            let Some(end) = bytes.iter().position(|b| *b == b'\n') else {
                let text = bytes.iter().all(|b| matches!(b, b'!'..=b'~' | b' ' | b'\r'));
                return if text && bytes.len() < MOST { None } else { Some(Spoken::Opaque) };
            };
            let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
            let http = line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0");
            Some(if http { Spoken::Http } else { Spoken::Opaque })
        }
        _ => Some(Spoken::Opaque),
    }
}

/// Reads until it is clear what is spoken, or `patience` is over, or the client is done.
pub async fn sniff<S: AsyncRead + Unpin>(
    stream: &mut S,
    first: &mut BytesMut,
    patience: Duration,
) -> io::Result<Spoken> {
    let deadline = tokio::time::Instant::now() + patience;
    loop {
        if let Some(spoken) = classify(first) {
            return Ok(spoken);
        }
        first.reserve(4096);
        match tokio::time::timeout_at(deadline, stream.read_buf(first)).await {
            Ok(Ok(0)) if first.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(Ok(0)) | Err(_) => {
                // An unfinished ClientHello is no reason to fall back to an opaque tunnel.
                let hello = keeps(Check::HelloWhole) && first.first() == Some(&22);
                return Ok(if hello { Spoken::BadTls } else { Spoken::Opaque });
            }
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
        }
    }
}

/// A stream that first gives back what was read from it.
#[derive(Debug)]
pub struct Rewound<S> {
    first: Bytes,
    stream: S,
}

impl<S> Rewound<S> {
    /// Puts these bytes in front of the stream.
    pub const fn new(first: Bytes, stream: S) -> Self {
        Self { first, stream }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let count = self.first.len().min(buffer.remaining());
        buffer.put_slice(&self.first[..count]);
        self.first.advance(count);
        if self.first.is_empty() {
            self.first = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    #[test]
    fn tls_http_and_the_rest_are_told_apart() {
        assert!(matches!(classify(&hello::tests::real("a.example")), Some(Spoken::Tls(_))));
        assert_eq!(classify(b"GET / HTTP/1.1\r\n"), Some(Spoken::Http));
        assert_eq!(classify(b"GET / HTTP/1."), None);
        for opaque in [
            b"SSH-2.0-x\r\n".as_slice(),
            b"PRI * HTTP/2.0\r\n",
            b"EHLO a\r\n",
            b"\0\0\0\x08",
            b"GE\x01T",
            b"*1",
        ] {
            assert_eq!(classify(opaque), Some(Spoken::Opaque), "{opaque:?}");
        }
        assert_eq!(classify(&[22, 3, 1, 0, 0]), Some(Spoken::BadTls));
        assert_eq!(classify(&[b'A'; MOST]), Some(Spoken::Opaque));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_opaque_and_half_a_hello_is_not() {
        let (mut client, mut server) = tokio::io::duplex(64);
        let mut first = BytesMut::new();
        let spoken = sniff(&mut server, &mut first, Duration::from_secs(3)).await.unwrap();
        assert_eq!(spoken, Spoken::Opaque);
        client.write_all(&[22, 3, 1, 0, 99, 1]).await.unwrap();
        let spoken = sniff(&mut server, &mut first, Duration::from_secs(3)).await.unwrap();
        assert_eq!(spoken, Spoken::BadTls);
        assert_eq!(first.len(), 6);
    }

    #[tokio::test]
    async fn what_was_read_is_read_again_first() {
        let mut stream = Rewound::new(Bytes::from_static(b"hel"), b"lo".as_slice());
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = classify(&bytes);
        }
    }
}
