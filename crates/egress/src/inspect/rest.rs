//! A request's body that nobody reads to its end: because the request is refused, or was answered before. A connection
//! of HTTP/1 ends with it.
//!
//! A stream of HTTP/2 would be reset behind the answer while its client still sends, and clients that people have (curl
//! 7.88, Node 20) then lose the answer, or wait for ever. So what is left is read and dropped, as much as [`MOST`] and as
//! long as [`PATIENCE`]; the stream counts among those of its connection until then.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::runtime::Handle;

/// How much of one body is read for nothing.
const MOST: usize = 16 << 20;
/// How long.
const PATIENCE: Duration = Duration::from_secs(10);

/// A body, of which in HTTP/2 the rest is read once nobody wants it.
#[derive(Debug)]
pub(super) struct Rest {
    body: Option<Incoming>,
    two: bool,
}

impl Rest {
    pub(super) fn new(body: Incoming, two: bool) -> Self {
        Self { body: Some(body), two }
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        let left = self.body.take().filter(|body| self.two && !body.is_end_stream());
        // While the runtime ends there is none, and no client.
        if let (Some(body), Ok(runtime)) = (left, Handle::try_current()) {
            runtime.spawn(tokio::time::timeout(PATIENCE, dropped(body)));
        }
    }
}

async fn dropped(mut body: Incoming) {
    let mut left = MOST;
    while let Some(Ok(frame)) = body.frame().await {
        match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
            Some(less) => left = less,
            None => return,
        }
    }
}

impl Body for Rest {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.body.as_mut().map_or(Poll::Ready(None), |body| Pin::new(body).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}
