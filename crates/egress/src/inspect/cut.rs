//! A body that is counted, and that is gone when its pass is: its source is dropped at the moment of the withdrawal,
//! whether anybody reads it just then or not.

use crate::{
    Pass,
    check::{Check, keeps},
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
    task::{Context, Poll},
};
use tokio_util::sync::WaitForCancellationFutureOwned;

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
    let source = Arc::new(Mutex::new(Some(body)));
    let watched = Arc::downgrade(&source);
    let withdrawn = pass.withdrawn().clone();
    let watch = tokio::spawn(async move {
        withdrawn.cancelled().await;
        if keeps(Check::WithdrawnInspected)
            && let Some(source) = watched.upgrade()
        {
            lock(&source).take();
        }
    });
    let gone = Box::pin(pass.withdrawn().clone().cancelled_owned());
    let (pass, counted) = (Arc::clone(pass), Arc::clone(counted));
    BodyExt::boxed_unsync(Cut { source, gone, watch, way, counted, pass })
}

struct Cut<B> {
    source: Arc<Mutex<Option<B>>>,
    gone: Pin<Box<WaitForCancellationFutureOwned>>,
    watch: tokio::task::JoinHandle<()>,
    way: Way,
    counted: Arc<Counted>,
    pass: Arc<Pass>,
}

impl<B> Drop for Cut<B> {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

fn lock<B>(source: &Mutex<Option<B>>) -> MutexGuard<'_, Option<B>> {
    source.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<B> HttpBody for Cut<B>
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
        let withdrawn = || Poll::Ready(Some(Err("the permission was withdrawn".into())));
        if keeps(Check::WithdrawnInspected) && Future::poll(self.gone.as_mut(), cx).is_ready() {
            return withdrawn();
        }
        let this = &mut *self;
        let mut source = lock(&this.source);
        let Some(body) = source.as_mut() else { return withdrawn() };
        let polled = Pin::new(body).poll_frame(cx).map_err(Into::into);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            if this.way == Way::Out && !this.pass.sends(data.len()) {
                return Poll::Ready(Some(Err("the budget of the rule is used up".into())));
            }
            let count = if this.way == Way::Out { &this.counted.out } else { &this.counted.back };
            count.fetch_add(data.len() as u64, Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.source).as_ref().is_some_and(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.source).as_ref().map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}
