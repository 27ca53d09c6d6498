//! Plain HTTP/1: every request is judged by itself, and what goes on is built anew from its parsed parts.
//!
//! It owns heads, bodies streamed both ways and the upgrade to WebSocket. The threats: two parsers that read
//! one request differently (nothing raw is forwarded, ambiguous framing is refused), a second host on a kept
//! connection, and a Host that is not the captured name.

mod forward;
pub(crate) mod head;
pub(crate) mod judged;
pub(crate) mod lines;
mod passing;
mod placeholders;

pub(crate) use forward::Flight;
pub use passing::{passing, sending};
pub(crate) use placeholders::{elsewhere, unreadable};

use crate::{
    Egress, Error, Refusal, Stream,
    check::{Check, keeps, within},
    loss::{Alarm, Overheard},
    relay::{Metered, relay},
};
use bytes::Bytes;
use cofferdam_base::{Destination, Host, HostName, Protocol};
use cofferdam_policy::Reason;
use futures_util::future::BoxFuture;
use head::{Authority, Target};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use lines::{Lined, Switched};
use std::{convert::Infallible, num::NonZeroU16, sync::Arc, time::Duration};

/// What a body may fail with.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// A streamed body.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// The name at which the warden itself answers.
pub const OWN_NAME: &str = "cofferdam.local";
/// The port at which names served by the warden answer.
pub const HTTP_PORT: NonZeroU16 = NonZeroU16::new(80).unwrap();
/// The port at which they do so over TLS, under the authority of inspection.
pub(crate) const HTTPS_PORT: NonZeroU16 = NonZeroU16::new(443).unwrap();

/// Names that are served here instead of being dialled: on port 80 by plain HTTP, on port 443 over TLS.
pub trait Local: Send + Sync + std::fmt::Debug {
    /// Is it one of them?
    fn serves(&self, name: &HostName) -> bool;
    /// Answers a request for it.
    fn respond(&self, name: HostName, request: Request<Body>) -> BoxFuture<'static, Response<Body>>;
}

/// Whose requests these are.
#[derive(Clone, Debug)]
pub(crate) enum Mode {
    /// Captured on the way to this host, or in a tunnel to it.
    Fixed(Host, NonZeroU16),
    /// Sent to the explicit proxy.
    Proxy,
}

/// How long a client may take for the head of its next request.
const HEAD: Duration = Duration::from_mins(1);

/// Serves one client connection.
pub(crate) async fn serve<S: Stream>(egress: Arc<Egress>, stream: S, mode: Mode) -> Result<(), Error> {
    let upstream = Arc::new(forward::Upstream::default());
    let switched = Switched::default();
    let lined = Lined::new(stream, switched.clone());
    let service = hyper::service::service_fn(move |request| {
        let (egress, mode, upstream) = (Arc::clone(&egress), mode.clone(), Arc::clone(&upstream));
        let switched = switched.clone();
        async move {
            let response = answer(egress, mode, &upstream, request).await;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                switched.now();
            }
            Ok::<_, Infallible>(response)
        }
    });
    reader().serve_connection(TokioIo::new(lined), service).with_upgrades().await?;
    Ok(())
}

/// How we read the HTTP of cells.
pub(crate) fn reader() -> hyper::server::conn::http1::Builder {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(within(Check::HeadTime, HEAD))
        .max_buf_size(64 * 1024);
    builder
}

async fn answer(
    egress: Arc<Egress>,
    mode: Mode,
    upstream: &forward::Upstream,
    request: Request<Incoming>,
) -> Response<Body> {
    if request.method() == Method::CONNECT {
        return match mode {
            Mode::Proxy => {
                let mut answer = egress.connect(request).await;
                if !answer.status().is_success() {
                    // Its lines are watched no more: what follows could be a tunnel's.
                    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                answer
            }
            Mode::Fixed(..) => egress.told(None, Refusal::new(Reason::BadRequest, "http")),
        };
    }
    if matches!(mode, Mode::Proxy) && request.uri().scheme_str() == Some("https") {
        return egress.in_clear(request).await;
    }
    let target = match head::target(&request) {
        Ok(target) => target,
        Err(said) => return egress.told(None, Refusal::new(Reason::BadRequest, "http").said(said)),
    };
    let destination = match place(&egress, &mode, &target) {
        Ok(destination) => destination,
        Err((destination, refusal)) => return egress.told(destination.as_ref(), refusal),
    };
    if let Host::Name(name) = &destination.host
        && egress.is_local(&destination.host)
    {
        if destination.port != HTTP_PORT {
            let refusal = Refusal::new(Reason::ProtocolMismatch, "warden").said("it answers on port 80");
            return egress.told(Some(&destination), refusal);
        }
        return served(&egress, name, &destination, request).await;
    }
    let (request, facts, alarm) = match judged::known(&egress, &destination, request).await {
        Ok(known) => known,
        Err(refusal) => return egress.told(Some(&destination), refusal),
    };
    match forward::forward(&egress, upstream, facts, request, &alarm).await {
        Ok(response) => response,
        Err(refusal) => refused(Some(&destination), &refusal),
    }
}

/// Where the request goes, if it may name that place at all.
fn place(
    egress: &Egress,
    mode: &Mode,
    target: &Target,
) -> Result<Destination, (Option<Destination>, Refusal)> {
    let http = |host, port| Destination { host, port, protocol: Protocol::Http };
    match mode {
        Mode::Fixed(host, port) => {
            let captured = http(host.clone(), *port);
            let meant = Authority { host: host.clone(), port: *port };
            if target.authorities().all(|authority| *authority == meant) || !keeps(Check::HostIsCaptured) {
                Ok(captured)
            } else {
                Err((Some(captured), Refusal::new(Reason::HostMismatch, "http")))
            }
        }
        Mode::Proxy => {
            let Some(absolute) = &target.absolute else {
                let refusal = Refusal::new(Reason::BadRequest, "proxy").said("a proxy takes absolute URIs");
                return Err((None, refusal));
            };
            if keeps(Check::HostIsTarget) && *absolute != target.host {
                let wanted = http(absolute.host.clone(), absolute.port);
                return Err((Some(wanted), Refusal::new(Reason::HostMismatch, "http")));
            }
            let destination = http(absolute.host.clone(), absolute.port);
            match egress.named(&absolute.host) {
                Ok(host) => Ok(http(host, absolute.port)),
                Err(refusal) => Err((Some(destination), refusal)),
            }
        }
    }
}

/// A request for a name that is served here, over whichever protocol it came. What it says may go on to others: a
/// model's provider.
pub(crate) async fn served<B>(
    egress: &Egress,
    name: &HostName,
    destination: &Destination,
    request: Request<B>,
) -> Response<Body>
where
    B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BodyError>,
{
    if name.as_str() == OWN_NAME {
        return own(egress, &request);
    }
    let alarm = egress.alarm(destination);
    let (parts, body) = request.into_parts();
    let head = Request::from_parts(parts, ());
    let watched = alarm.head(&head).and_then(|()| alarm.body(&head, body));
    let body = match watched {
        Ok(body) => body.boxed_unsync(),
        Err(refusal) => return egress.told(Some(destination), refusal),
    };
    let response = egress.local.respond(name.clone(), head.map(|()| body)).await;
    // Recorded when it was found.
    alarm.take().map_or(response, |refusal| refused(Some(destination), &refusal))
}

/// `http://cofferdam.local`.
fn own<B>(egress: &Egress, request: &Request<B>) -> Response<Body> {
    let known = request.uri().path() == "/denied";
    if !known || !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = Response::new(full("this host answers GET /denied\n"));
        *response.status_mut() = if known { StatusCode::METHOD_NOT_ALLOWED } else { StatusCode::NOT_FOUND };
        return response;
    }
    // Strings and numbers only: there is nothing that JSON cannot say.
    let rows = serde_json::to_vec(&egress.gate.denied()).unwrap_or_default();
    let mut response = Response::new(full(rows));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// What an HTTP client is told: 403 (or what fits better), the header and the body.
pub fn refused(destination: Option<&Destination>, refusal: &Refusal) -> Response<Body> {
    let (status, close) = match refusal.reason {
        Reason::HostMismatch => (StatusCode::MISDIRECTED_REQUEST, true),
        Reason::BadRequest | Reason::AmbiguousRequest => (StatusCode::BAD_REQUEST, true),
        Reason::BodyTooLong => (StatusCode::PAYLOAD_TOO_LARGE, true),
        Reason::ResolveFailed
        | Reason::ConnectFailed
        | Reason::CertificateInvalid
        | Reason::UpstreamProxyFailed
        | Reason::SecretUnusable => (StatusCode::BAD_GATEWAY, false),
        Reason::TooManyRelays
        | Reason::TooManyHolds
        | Reason::TooManyWaiting
        | Reason::TooManyNames
        | Reason::TooManyChats
        | Reason::BudgetSpent => (StatusCode::TOO_MANY_REQUESTS, false),
        _ => (StatusCode::FORBIDDEN, false),
    };
    let mut response = Response::new(full(refusal.denial(destination).to_json()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert("cofferdam-reason", HeaderValue::from_static(refusal.reason.code()));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if close {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The same for a client whose bytes no server of ours reads.
pub(crate) fn refused_raw(destination: Option<&Destination>, refusal: &Refusal) -> Vec<u8> {
    let body = refusal.denial(destination).to_json();
    format!(
        "HTTP/1.1 403 Forbidden\r\nCofferdam-Reason: {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        refusal.reason.code(),
        body.len()
    )
    .into_bytes()
}

/// A body that is there as a whole.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A tunnel between two upgraded connections, as long as the pass is good.
pub(crate) async fn tunnel(
    cell: hyper::upgrade::Upgraded,
    world: hyper::upgrade::Upgraded,
    pass: &crate::Pass,
    alarm: Alarm,
) {
    let world = Overheard::frames(TokioIo::new(world), alarm);
    let (mut cell, mut world) = (TokioIo::new(cell), Metered::new(world, pass));
    let (moved, end) = relay(&mut cell, &mut world, pass.withdrawn()).await;
    tracing::debug!(?moved, ?end, "a tunnel ended");
}

/// The host and port of a CONNECT.
pub(crate) fn authority(text: &str) -> Option<(Host, NonZeroU16)> {
    Authority::parse(text, None).map(|authority| (authority.host, authority.port))
}
