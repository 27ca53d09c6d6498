//! One exchange with a provider: the rebuilt request goes out over a connection that somebody else dialled
//! and checked; the answer streams back unchanged, as fast as the cell takes it, and is metered on the way.

use crate::{ChatRequest, Error, Format, Meter, Route, Tokens};
use bytes::Bytes;
use cofferdam_base::Secret;
use http::{HeaderMap, HeaderName, Response, header};
use http_body_util::Full;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper_util::rt::TokioIo;
use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite};

/// A connected stream to a provider: dialled to a checked address, TLS done.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A connection on its way.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send + 'a>>;

/// Who dials. Resolving, checking, the guard and TLS are its.
pub trait Connect: Send + Sync {
    /// A fresh connection to the route's provider.
    fn connect<'a>(&'a self, route: &'a Route) -> Connecting<'a>;
}

/// Sends a request and gives back the provider's answer. `done` is called exactly once, when the answer
/// ended or was dropped, with what was used and the provider's status.
pub async fn relay(
    request: &ChatRequest,
    headers: &HeaderMap,
    route: &Route,
    key: Option<&Secret<Vec<u8>>>,
    connect: &dyn Connect,
    done: impl FnOnce(Tokens, u16) + Send + 'static,
) -> Result<Response<Body>, Error> {
    let mut report = Report { done: Some(Box::new(done)), meter: None, status: 0 };
    let key = key.map(|key| key.expose().as_slice());
    let outgoing = request.rebuild(headers, route, key)?.map(|body| Full::new(Bytes::from(body)));
    let stream = connect.connect(route).await.map_err(Error::Connect)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(Error::Upstream)?;
    let driver = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the provider's connection ended");
        }
    });
    let driver = Driver(driver);
    let (parts, incoming) = sender.send_request(outgoing).await.map_err(Error::Upstream)?.into_parts();
    let events = parts.headers.get(header::CONTENT_TYPE).is_some_and(|kind| {
        kind.as_bytes().get(..17).is_some_and(|kind| kind.eq_ignore_ascii_case(b"text/event-stream"))
    });
    report.meter = Some(Meter::new(if events { Format::Events } else { Format::Json }));
    report.status = parts.status.as_u16();
    let mut answer = Response::new(Body { incoming, report, _driver: driver });
    *answer.status_mut() = parts.status;
    for name in &PASSED {
        if let Some(value) = parts.headers.get(name) {
            answer.headers_mut().insert(name.clone(), value.clone());
        }
    }
    Ok(answer)
}

/// What of a provider's headers travels on: what describes the body and tells when to come back.
const PASSED: [HeaderName; 5] = [
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CACHE_CONTROL,
    header::RETRY_AFTER,
    HeaderName::from_static("x-request-id"),
];

/// A provider's answer on its way.
pub struct Body {
    incoming: Incoming,
    report: Report,
    _driver: Driver,
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(data), Some(meter)) = (frame.data_ref(), &mut self.report.meter) {
                    meter.feed(data);
                }
            }
            Poll::Ready(_) => self.report.end(),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").finish_non_exhaustive()
    }
}

/// Reports once, however the exchange ends.
struct Report {
    done: Option<Box<dyn FnOnce(Tokens, u16) + Send>>,
    meter: Option<Meter>,
    status: u16,
}

impl Report {
    fn end(&mut self) {
        if let Some(done) = self.done.take() {
            done(self.meter.take().map(Meter::finish).unwrap_or_default(), self.status);
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        self.end();
    }
}

/// The task that drives the connection; it ends with the answer.
struct Driver(tokio::task::JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}
