//! A body that is counted, and that is gone when its pass is: its source is dropped at the moment of the withdrawal,
//! whether anybody reads it just then or not.

use crate::{
    Pass,
    check::{Check, keeps},
    gate::Severed,
    http::{Body, BodyError},
};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
};

/// How many bytes of bodies went each way under one pass; recorded when the last body is over.
#[derive(Debug, Default)]
pub(super) struct Counted {
    /// From the cell to the world.
    pub(super) out: AtomicU64,
    /// From the world to the cell.
    pub(super) back: AtomicU64,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let (out, back) = (*self.out.get_mut(), *self.back.get_mut());
        tracing::debug!(out, back, "a request ended");
    }
}

/// Which way a body goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Out,
    Back,
}

/// Ties a body to its pass.
pub(super) fn cut<B>(pass: &Arc<Pass>, counted: &Arc<Counted>, way: Way, body: B) -> Body
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BodyError>,
{
    let source = Arc::new(Source(Mutex::new((Some(body), None))));
    pass.severs(&source);
    let (pass, counted) = (Arc::clone(pass), Arc::clone(counted));
    BodyExt::boxed_unsync(Cut { source, way, counted, pass })
}

struct Cut<B> {
    source: Arc<Source<B>>,
    way: Way,
    counted: Arc<Counted>,
    pass: Arc<Pass>,
}

/// The body until it is severed, and who waits for more of it.
struct Source<B>(Mutex<(Option<B>, Option<Waker>)>);

impl<B> std::fmt::Debug for Source<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Source")
    }
}

impl<B> Source<B> {
    fn lock(&self) -> MutexGuard<'_, (Option<B>, Option<Waker>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Send + 'static> Severed for Source<B> {
    fn sever(self: Arc<Self>) {
        // Without a runtime no body is under way.
        if keeps(Check::WithdrawnInspected)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move {
                let (body, waiting) = std::mem::take(&mut *self.lock());
                drop(body);
                waiting.into_iter().for_each(Waker::wake);
            });
        }
    }
}

impl<B> HttpBody for Cut<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let withdrawn = || Poll::Ready(Some(Err("the permission was withdrawn".into())));
        if keeps(Check::WithdrawnInspected) && self.pass.withdrawn().is_cancelled() {
            return withdrawn();
        }
        let mut source = self.source.lock();
        let (Some(body), waiting) = &mut *source else { return withdrawn() };
        let polled = Pin::new(body).poll_frame(cx).map_err(Into::into);
        if polled.is_pending() {
            match waiting {
                Some(waker) => waker.clone_from(cx.waker()),
                None => *waiting = Some(cx.waker().clone()),
            }
        }
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            if self.way == Way::Out && !self.pass.sends(data.len()) {
                return Poll::Ready(Some(Err("the budget of the rule is used up".into())));
            }
            let count = if self.way == Way::Out { &self.counted.out } else { &self.counted.back };
            count.fetch_add(data.len() as u64, Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.source.lock().0.as_ref().is_some_and(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.source.lock().0.as_ref().map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}
