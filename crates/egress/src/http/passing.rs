//! A body that goes on as long as its pass is good, and keeps the pass as long as it goes on.

use super::{Body, BodyError};
use crate::{
    Pass,
    check::{Check, keeps},
};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio_util::sync::WaitForCancellationFutureOwned;

/// Ties an answer's body to a pass: a withdrawal breaks it off.
pub fn passing<B>(pass: Arc<Pass>, body: B) -> Body
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BodyError>,
{
    let gone = Box::pin(pass.withdrawn().clone().cancelled_owned());
    BodyExt::boxed_unsync(Passing { gone, pass, body, counted: false })
}

/// The same for a request's body, which counts against the budget of its rule.
pub fn sending<B>(pass: Arc<Pass>, body: B) -> Body
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BodyError>,
{
    let gone = Box::pin(pass.withdrawn().clone().cancelled_owned());
    BodyExt::boxed_unsync(Passing { gone, pass, body, counted: true })
}

struct Passing<B> {
    gone: Pin<Box<WaitForCancellationFutureOwned>>,
    pass: Arc<Pass>,
    body: B,
    counted: bool,
}

impl<B> HttpBody for Passing<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if keeps(Check::WithdrawnBody) && Future::poll(self.gone.as_mut(), cx).is_ready() {
            return Poll::Ready(Some(Err("the permission was withdrawn".into())));
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx).map_err(Into::into);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && self.counted
            && !self.pass.sends(frame.data_ref().map_or(0, Bytes::len))
        {
            return Poll::Ready(Some(Err("the budget of the rule is used up".into())));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
