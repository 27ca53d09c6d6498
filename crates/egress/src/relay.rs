//! Bytes both ways between a cell's connection and the world.
//!
//! It owns the copying. The buffer belongs to the thread, not to the relay: an idle tunnel holds no memory,
//! and a busy one moves up to 256 KiB a system call. Bytes that the other side does not take at once wait
//! with their relay, and nothing more is read until they are gone.

use crate::{
    Pass,
    check::{Check, keeps},
};
use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

/// How much one read takes at most.
const BUFFER: usize = 256 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Anything that can be relayed.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for T {}

/// A stream of some kind.
pub type BoxStream = Box<dyn Stream>;

/// The world's side of a connection: what is written there counts against the budget of its pass.
pub(crate) struct Metered<'a, S> {
    stream: S,
    pass: &'a Pass,
    /// Counted already and not yet taken by the stream.
    counted: usize,
}

impl<'a, S> Metered<'a, S> {
    pub(crate) fn new(stream: S, pass: &'a Pass) -> Self {
        Self { stream, pass, counted: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let more = bytes.len().saturating_sub(self.counted);
        if more > 0 && !self.pass.sends(more) {
            return Poll::Ready(Err(io::ErrorKind::QuotaExceeded.into()));
        }
        self.counted = self.counted.max(bytes.len());
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.counted = self.counted.saturating_sub(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// How many bytes went each way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// From the cell to the world.
    pub out: u64,
    /// From the world to the cell.
    pub back: u64,
}

/// How a relay ended.
#[derive(Debug)]
pub enum End {
    /// Both sides were done.
    Finished,
    /// What allowed it is gone.
    Withdrawn,
    /// A side broke.
    Broken(io::Error),
}

/// Copies until both sides are done, one breaks, or the token is cancelled. Half-closes are passed on.
pub async fn relay<A, B>(cell: &mut A, world: &mut B, withdrawn: &CancellationToken) -> (Moved, End)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut out, mut back) = (Way::default(), Way::default());
    let copy = std::future::poll_fn(|cx| {
        let first = out.poll(cx, cell, world)?;
        let second = back.poll(cx, world, cell)?;
        if first.is_ready() && second.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    });
    let end = tokio::select! {
        biased;
        () = withdrawn.cancelled(), if keeps(Check::WithdrawnRelay) => End::Withdrawn,
        result = copy => match result {
            Ok(()) => End::Finished,
            Err(error) => End::Broken(error),
        },
    };
    (Moved { out: out.moved, back: back.moved }, end)
}

/// One direction.
#[derive(Default)]
struct Way {
    /// What was read and is not yet written, from `written` on.
    waiting: Vec<u8>,
    written: usize,
    moved: u64,
    state: WayState,
}

#[derive(Default, Clone, Copy)]
enum WayState {
    #[default]
    Open,
    Flushing,
    Closing,
    Closed,
}

impl Way {
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            match self.state {
                WayState::Open => {
                    ready!(self.drain(cx, to))?;
                    match self.read(cx, from, to) {
                        Poll::Ready(Ok(true)) => {}
                        Poll::Ready(Ok(false)) => self.state = WayState::Closing,
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                        Poll::Pending => {
                            // Nothing to read: let a buffering writer pass on what it has.
                            let _ = Pin::new(&mut *to).poll_flush(cx)?;
                            return Poll::Pending;
                        }
                    }
                }
                WayState::Closing => {
                    ready!(self.drain(cx, to))?;
                    self.state = WayState::Flushing;
                }
                WayState::Flushing => {
                    match ready!(Pin::new(&mut *to).poll_shutdown(cx)) {
                        Ok(()) => {}
                        // The other side closed for good already.
                        Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
                        Err(error) => return Poll::Ready(Err(error)),
                    }
                    self.waiting = Vec::new();
                    self.state = WayState::Closed;
                }
                WayState::Closed => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Writes what waits.
    fn drain<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<io::Result<()>> {
        while self.written < self.waiting.len() {
            let count = ready!(Pin::new(&mut *to).poll_write(cx, &self.waiting[self.written..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
        }
        self.waiting.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Reads once and writes what can be written at once; false at the end.
    fn read<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<bool>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize(BUFFER, 0);
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(from).poll_read(cx, &mut buffer))?;
            let mut rest = buffer.filled();
            if rest.is_empty() {
                return Poll::Ready(Ok(false));
            }
            self.moved += rest.len() as u64;
            while !rest.is_empty() {
                match Pin::new(&mut *to).poll_write(cx, rest) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(count)) => rest = &rest[count..],
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {
                        self.waiting.extend_from_slice(rest);
                        break;
                    }
                }
            }
            Poll::Ready(Ok(true))
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test]
    async fn bytes_and_half_closes_go_both_ways_and_are_counted() {
        let (mut client, mut cell) = duplex(1000);
        let (mut server, mut world) = duplex(333);
        let relayed =
            tokio::spawn(async move { relay(&mut cell, &mut world, &CancellationToken::new()).await });
        let sent: Vec<u8> = (0..1_000_000u32).map(|n| n.to_le_bytes()[0]).collect();
        let expected = sent.clone();
        let served = tokio::spawn(async move {
            let mut got = Vec::new();
            server.read_to_end(&mut got).await.unwrap();
            server.write_all(b"after your end").await.unwrap();
            got
        });
        client.write_all(&sent).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "after your end");
        assert!(served.await.unwrap() == expected);
        let (moved, end) = relayed.await.unwrap();
        assert_eq!(moved, Moved { out: 1_000_000, back: 14 });
        assert!(matches!(end, End::Finished), "{end:?}");
    }

    #[tokio::test]
    async fn a_withdrawn_relay_ends_though_nobody_moves() {
        let (_client, mut cell) = duplex(64);
        let (_server, mut world) = duplex(64);
        let token = CancellationToken::new();
        let relayed = {
            let token = token.clone();
            tokio::spawn(async move { relay(&mut cell, &mut world, &token).await })
        };
        token.cancel();
        assert!(matches!(relayed.await.unwrap().1, End::Withdrawn));
    }
}
