//! The sockets: who may speak, HTTP and WebSocket on one port.
//!
//! Who a client is, is what the edge says in headers of its own, on a connection from its own address, which no process
//! in a cell can take (a rule of the cell's network resets what lacks the launcher's mark). A request without them is
//! refused.

mod channels;
mod client;
mod follow;
mod openai;
mod responses;
mod socket;
mod tools;

pub(crate) use client::Client;

use crate::{Error, gateway::Gateway, io};
use bytes::Bytes;
use cofferdam_base::Scope;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use std::{collections::BTreeSet, convert::Infallible, net::IpAddr, sync::Arc, time::Duration};
use tokio::net::TcpListener;

/// The header that names the member.
const USER: &str = "x-cofferdam-user";
/// The header that caps what it may.
const SCOPES: &str = "x-openclaw-scopes";
/// How long the head of a request may take.
const HEAD: Duration = Duration::from_secs(15);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) user: String,
    /// At most.
    pub(crate) cap: BTreeSet<Scope>,
}

/// Takes connections until the listener fails.
pub(crate) async fn accept(
    listener: TcpListener,
    edge: Option<IpAddr>,
    gateway: Arc<Gateway>,
) -> Result<(), Error> {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            // The connection was gone already, or there are no descriptors left for now.
            Err(error) if error.raw_os_error().is_some() => {
                tracing::warn!(%error, "a connection is not taken");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            Err(error) => return Err(io("the listener")(error)),
        };
        if edge.is_some_and(|edge| peer.ip() != edge) {
            continue;
        }
        // Answers are written whole.
        let _ = stream.set_nodelay(true);
        let gateway = Arc::clone(&gateway);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let gateway = Arc::clone(&gateway);
                async move { Ok::<_, Infallible>(answer(gateway, request).await) }
            });
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEAD);
            // A client that goes away is no error of ours.
            let _ = server.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
        });
    }
}

async fn answer(gateway: Arc<Gateway>, request: Request<Incoming>) -> Response<Body> {
    match request.uri().path() {
        "/health" | "/healthz" if request.method() == Method::GET => {
            return document(StatusCode::OK, &json!({ "ok": true, "status": "live" }));
        }
        "/ready" | "/readyz" if request.method() == Method::GET => {
            let uptime = gateway.now().saturating_sub(gateway.started_at);
            return document(
                StatusCode::OK,
                &json!({ "ready": true, "failing": [], "uptimeMs": uptime, "nextDueAtMs": gateway.timer.due() }),
            );
        }
        _ => {}
    }
    let Some(caller) = caller(request.headers()) else {
        return failure(StatusCode::UNAUTHORIZED, "unauthorized", "Unauthorized");
    };
    if request
        .headers()
        .get(header::UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
    {
        return socket::upgrade(gateway, caller, request);
    }
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/v1/models") => openai::models(&caller),
        (&Method::POST, "/v1/chat/completions") => openai::chat(gateway, caller, request).await,
        (&Method::POST, "/v1/responses") => responses::respond(gateway, caller, request).await,
        (&Method::POST, path) if path.starts_with("/channels/") => {
            channels::post(gateway, caller, request).await
        }
        (&Method::POST, "/tools/invoke") => tools::invoke(gateway, caller, request).await,
        _ => failure(StatusCode::NOT_FOUND, "not_found", "Not Found"),
    }
}

/// Who the edge says that it is.
fn caller(headers: &HeaderMap) -> Option<Caller> {
    let one = |name: &str| {
        let mut all = headers.get_all(name).iter();
        let first = all.next()?.to_str().ok()?;
        all.next().is_none().then_some(first)
    };
    let user = one(USER).filter(|user| !user.is_empty())?.to_owned();
    let held: Vec<&str> = one(SCOPES)?.split([',', ' ']).filter(|name| !name.is_empty()).collect();
    let cap = Scope::ALL.into_iter().filter(|scope| held.contains(&scope.as_str())).collect();
    Some(Caller { user, cap })
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

fn document(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(full(value.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn failure(status: StatusCode, kind: &str, message: &str) -> Response<Body> {
    document(status, &json!({ "error": { "message": message, "type": kind } }))
}

#[cfg(test)]
mod tests;
