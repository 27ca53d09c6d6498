//! The runtime `command` of `demo`: a small HTTP and WebSocket server that shows what reached the cell.
//!
//! `GET /` answers with the request's headers as JSON, `/page` with the same kibibyte each time, `/echo` gives
//! the body back as it comes, `/sse?n=N` sends N events, `/ws` echoes WebSocket messages, and `/words?ms=N` writes to
//! the log as fast as it can for so long, at most two seconds. It runs inside a cell and holds nothing.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use std::{
    convert::Infallible,
    io::Write as _,
    process::ExitCode,
    time::{Duration, Instant},
};
use tokio::net::TcpListener;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role},
};

/// Where it listens in the cell.
pub(crate) const PORT: u16 = 8080;

const PAGE: [u8; 1024] = [b'.'; 1024];

type Body = BoxBody<Bytes, hyper::Error>;

/// Serves until it is killed.
pub(crate) fn main() -> ExitCode {
    match crate::cli::block_on(serve()) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            eprintln!("echo: {error}");
            ExitCode::FAILURE
        }
        Err(failure) => failure.report(false),
    }
}

async fn serve() -> std::io::Result<()> {
    // Benches run it on the host under another port.
    let port = std::env::args().nth(2).and_then(|port| port.parse().ok()).unwrap_or(PORT);
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let service = service_fn(|request| async { Ok::<_, Infallible>(answer(request)) });
            // A client that goes away is no error of ours.
            let _ =
                http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
        });
    }
}

fn answer(request: Request<Incoming>) -> Response<Body> {
    match request.uri().path() {
        "/echo" => Response::new(request.into_body().boxed()),
        "/sse" => events(&request),
        "/ws" => websocket(request),
        "/words" => words(&request),
        "/" => document(&shown(&request)),
        // Costs the same whoever asks, with whatever headers: benches compare what is in front of it.
        "/page" => Response::new(full(&PAGE[..])),
        _ => {
            let mut response = document(&json!({ "error": "not found" }));
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    }
}

fn shown(request: &Request<Incoming>) -> Value {
    let headers: Map<String, Value> = request
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
        .collect();
    json!({ "ok": true, "method": request.method().as_str(), "path": request.uri().path(), "headers": headers })
}

fn document(value: &Value) -> Response<Body> {
    let mut response = Response::new(full(format!("{value}\n")));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

fn events(request: &Request<Incoming>) -> Response<Body> {
    let count = number(request, "n=").unwrap_or(3);
    let stream = futures_util::stream::iter(1..=count).then(|number| async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        Ok(Frame::data(Bytes::from(format!("data: {number}\n\n"))))
    });
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(stream)));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/event-stream"));
    response
}

/// The number that a query is.
fn number(request: &Request<Incoming>, name: &str) -> Option<u32> {
    request.uri().query()?.strip_prefix(name)?.parse().ok()
}

/// What a proof floods the log with. It is answered at once.
fn words(request: &Request<Incoming>) -> Response<Body> {
    let lasts = Duration::from_millis(number(request, "ms=").unwrap_or(0).min(2000).into());
    std::thread::spawn(move || {
        let (begun, line) = (Instant::now(), "words ".repeat(1000));
        let mut out = std::io::stdout().lock();
        while begun.elapsed() < lasts && writeln!(out, "{line}").is_ok() {}
    });
    document(&json!({ "ok": true }))
}

fn websocket(mut request: Request<Incoming>) -> Response<Body> {
    let Some(key) =
        request.headers().get(header::SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()))
    else {
        let mut response = document(&json!({ "error": "not a WebSocket request" }));
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return response;
    };
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(&mut request).await else { return };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            let data = message.is_text() || message.is_binary();
            if data && socket.send(message).await.is_err() {
                return;
            }
        }
    });
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
    if let Ok(value) = header::HeaderValue::from_str(&key) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, value);
    }
    response
}
