//! A request's body that breaks off before a known value is out.

use super::{
    Alarm,
    packed::{Coding, Packed, Seen},
    scan::Scan,
};
use crate::{
    Refusal,
    check::{Check, keeps},
    http::BodyError,
};
use bytes::Bytes;
use cofferdam_policy::Reason;
use hyper::body::{Body, Frame, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

/// It goes on byte by byte as it came.
#[derive(Debug)]
pub(crate) struct Scanned<B> {
    body: B,
    alarm: Alarm,
    scan: Scan,
    packed: Packed,
}

impl<B> Scanned<B> {
    pub(super) fn new(body: B, alarm: Alarm, coding: Coding) -> Self {
        Self { body, alarm, scan: Scan::default(), packed: Packed::new(coding) }
    }

    /// Looks at a piece of it; an error is why it breaks off.
    fn look(&mut self, frame: &Frame<Bytes>) -> Result<(), Refusal> {
        let now = self.alarm.now();
        let watch = &*self.alarm.watch();
        if let Some(data) = frame.data_ref() {
            let found = self.scan.push(watch, data, now).filter(|_| keeps(Check::LossInBody));
            self.alarm.judge(found)?;
            let seen = self.packed.push(watch, data, now);
            return self.unpacked(seen);
        }
        let mut text = Vec::new();
        for (name, value) in frame.trailers_ref().into_iter().flatten() {
            super::line(&mut text, name.as_str().as_bytes());
            super::line(&mut text, value.as_bytes());
        }
        let found = self.scan.push(watch, &text, now).filter(|_| keeps(Check::LossInBody));
        self.alarm.judge(found)
    }

    fn unpacked(&self, seen: Seen) -> Result<(), Refusal> {
        match seen {
            Seen::Found(found) if keeps(Check::LossPacked) => self.alarm.judge(Some(found)),
            Seen::Unreadable if keeps(Check::LossReadable) => {
                Err(Refusal::new(Reason::LossUnreadable, "loss prevention"))
            }
            _ => Ok(()),
        }
    }
}

impl<B> Body for Scanned<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx)).transpose().map_err(Into::into)?;
        let Some(frame) = frame else { return Poll::Ready(None) };
        Poll::Ready(Some(match this.look(&frame) {
            Ok(()) => Ok(frame),
            Err(refusal) => Err(this.alarm.raise(refusal)),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
