//! An answer of which the first piece was waited for: until then another route could still be asked instead.

use bytes::Bytes;
use cofferdam_inference::Error;
use http::Response;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::timeout;

/// A body whose first piece is here already.
#[derive(Debug)]
pub(super) struct Begun<B> {
    first: Option<Frame<Bytes>>,
    rest: B,
}

impl<B> Begun<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    /// What is not waited for.
    pub(super) fn at_once(answer: Response<B>) -> Response<Self> {
        answer.map(|rest| Self { first: None, rest })
    }

    /// Waits for the first piece; an error if it does not come in time, or breaks off before it.
    pub(super) async fn within(patience: Duration, mut answer: Response<B>) -> Result<Response<Self>, Error>
    where
        B: HttpBody<Error = Error>,
    {
        let first = timeout(patience, answer.body_mut().frame()).await.map_err(|_| Error::Slow)?;
        let first = first.ok_or(Error::Empty)??;
        Ok(answer.map(|rest| Self { first: Some(first), rest }))
    }
}

impl<B> HttpBody for Begun<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.first.take() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // Of one that began, its reader learns the length from the rest's end.
        if self.first.is_none() { self.rest.size_hint() } else { SizeHint::default() }
    }
}
