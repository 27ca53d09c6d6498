//! The world's side of a relay: what is written there is looked through first, as it is or as the frames of a
//! WebSocket say it.

use super::{Alarm, Found, frames::Frames, scan::Scan};
use crate::check::{Check, keeps};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream to the world, which breaks before a known value is out.
#[derive(Debug)]
pub(crate) struct Overheard<S> {
    stream: S,
    alarm: Alarm,
    scan: Scan,
    frames: Option<Frames>,
    /// So many bytes of what is offered next were looked at already: the stream did not take them.
    seen: usize,
}

impl<S> Overheard<S> {
    /// Bytes as they are.
    pub(crate) fn new(stream: S, alarm: Alarm) -> Self {
        Self { stream, alarm, scan: Scan::default(), frames: None, seen: 0 }
    }

    /// The frames of a client of WebSocket.
    pub(crate) fn frames(stream: S, alarm: Alarm) -> Self {
        Self { frames: Some(Frames::default()), ..Self::new(stream, alarm) }
    }

    fn look(&mut self, bytes: &[u8]) -> Option<Found> {
        let (watch, now) = (&*self.alarm.watch(), self.alarm.now());
        let Some(frames) = &mut self.frames else {
            return self.scan.push(watch, bytes, now).filter(|_| keeps(Check::LossInRelay));
        };
        // Read also while nothing is looked for: where the next one begins follows from those before.
        let mut found = None;
        let scan = &mut self.scan;
        frames.read(bytes, |text| found = found.take().or_else(|| scan.push(watch, text, now)));
        found.filter(|_| keeps(Check::LossInFrame))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Overheard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Overheard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if let Some(new) = bytes.get(this.seen..).filter(|new| !new.is_empty()) {
            if let Some(found) = this.look(new) {
                this.alarm.broken(&found);
                return Poll::Ready(Err(io::ErrorKind::PermissionDenied.into()));
            }
            this.seen = bytes.len();
        }
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, bytes))?;
        this.seen = this.seen.saturating_sub(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
