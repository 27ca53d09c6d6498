//! Requests into a cell and answers out of it: one connection into the cell for each of a client's.
//!
//! It owns the pinned connection and the streaming of bodies, which pass piece by piece and are never
//! gathered. When the client leaves, everything here is dropped, the cell sees its connection close, and the
//! run that it was doing ends.

use crate::{
    check::{Check, keeps},
    edge::Edge,
    headers::{Identity, inbound, outbound},
    refusal::Refusal,
};
use bytes::Bytes;
use cofferdam_base::TenantId;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header, request::Parts,
};
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::http1::{Builder, SendRequest},
};
use hyper_util::rt::TokioIo;
use std::{
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum Reply {
    /// Ours.
    Own(Option<Bytes>),
    /// The cell's, as it comes.
    Cell(Incoming),
}

impl Reply {
    pub(crate) fn text(bytes: Bytes) -> Self {
        Self::Own(Some(bytes))
    }

    pub(crate) const fn empty() -> Self {
        Self::Own(None)
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Cell(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_none(),
            Self::Cell(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Cell(body) => body.size_hint(),
        }
    }
}

/// A kept connection into a cell. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct Upstream {
    sender: SendRequest<Incoming>,
    pub(crate) generation: u64,
    used: Instant,
    _task: AbortOnDrop,
}

#[derive(Debug)]
pub(crate) struct AbortOnDrop(pub(crate) JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Gateways close what was idle for some seconds; a request sent at that moment would be lost.
const IDLE: Duration = Duration::from_secs(2);

/// Room for the pieces of a body, each way.
pub(crate) const BUFFER: usize = 64 * 1024;

impl Upstream {
    async fn connect(edge: &Edge, tenant: &TenantId) -> Result<Self, Refusal> {
        let line = edge.dial(tenant).await?;
        let (sender, connection) =
            builder().handshake(TokioIo::new(line.stream)).await.map_err(|_| Refusal::bad_gateway())?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection into a cell broke");
            }
        });
        Ok(Self { sender, generation: line.generation, used: Instant::now(), _task: AbortOnDrop(task) })
    }
}

/// The kept connection, if it can still be used.
async fn usable(kept: Option<Upstream>, edge: &Edge, tenant: &TenantId) -> Option<Upstream> {
    let mut kept = kept?;
    let fresh = kept.used.elapsed() < IDLE && !kept.sender.is_closed();
    let good = fresh && edge.pool.alive(tenant, kept.generation) && kept.sender.ready().await.is_ok();
    good.then_some(kept)
}

/// How we speak HTTP to gateways: strictly, with bounded heads and buffers. Copying what is small into one piece
/// costs less than a call with several.
pub(crate) fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.max_buf_size(BUFFER).max_headers(128).writev(false);
    builder
}

/// Sends a request into the cell over the kept connection, or a new one, and gives its answer.
pub(crate) async fn forward(
    edge: &Edge,
    request: Request<Incoming>,
    identity: &Identity<'_>,
    kept: Option<Upstream>,
) -> Result<(Response<Reply>, Upstream), Refusal> {
    let tenant = &identity.token.claims.tid;
    let (parts, body) = request.into_parts();
    let mut request = inside(parts, identity)?.map(|()| body);
    let mut upstream = match usable(kept, edge, tenant).await {
        Some(kept) => kept,
        None => Box::pin(Upstream::connect(edge, tenant)).await?,
    };
    let mut again = true;
    let answer = loop {
        match upstream.sender.try_send_request(request).await {
            Ok(answer) => break answer,
            Err(mut error) => match error.take_message() {
                // The gateway closed the kept connection before a byte of the request was sent.
                Some(unsent) if again => {
                    again = false;
                    request = unsent;
                    upstream = Box::pin(Upstream::connect(edge, tenant)).await?;
                }
                _ => return Err(Refusal::bad_gateway()),
            },
        }
    };
    let (mut parts, body) = answer.into_parts();
    if keeps(Check::NoSwitch) && parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Refusal::bad_gateway());
    }
    parts.headers = outbound(parts.headers);
    parts.version = Version::HTTP_11;
    upstream.used = Instant::now();
    Ok((Response::from_parts(parts, Reply::Cell(body)), upstream))
}

/// The head of a request as it goes into a cell.
pub(crate) fn inside(parts: Parts, identity: &Identity<'_>) -> Result<Request<()>, Refusal> {
    let chunked = parts.headers.contains_key(header::TRANSFER_ENCODING);
    let mut request = rebuilt(parts.method, &parts.uri, inbound(parts.headers, identity), ())?;
    if chunked {
        // Unasked, the client that writes it sends a GET without its body.
        request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    Ok(request)
}

/// A request made anew from its parts; its target is a path and nothing else.
pub(crate) fn rebuilt<B>(
    method: Method,
    uri: &Uri,
    headers: HeaderMap,
    body: B,
) -> Result<Request<B>, Refusal> {
    let path = uri.path_and_query().filter(|path| path.as_str().starts_with('/'));
    let (true, Some(path)) = (uri.authority().is_none() || !keeps(Check::PathOnly), path) else {
        return Err(Refusal::bad_request("the request's target is not a path"));
    };
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from(path.clone());
    *request.headers_mut() = headers;
    Ok(request)
}
