//! The gateways of the tests: a web server, a WebSocket echo, and one that speaks like OpenClaw and records.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, Response};
use http_body_util::{BodyExt, Empty, Full, combinators::BoxBody};
use hyper::{
    body::{Body, Frame},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};
use tokio::{io::AsyncReadExt, net::TcpListener, sync::Notify};
use tokio_tungstenite::{
    accept_async, accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{Request, Response as Upgrade},
        protocol::frame::{
            Frame as WsFrame,
            coding::{Data, OpCode},
        },
    },
};

/// What a gateway saw.
#[derive(Default)]
pub(super) struct Seen {
    /// Connections that reached it.
    pub(super) connections: AtomicUsize,
    /// Connections that ended.
    pub(super) ended: AtomicUsize,
    /// Bytes of the endless body that were asked for.
    pub(super) produced: AtomicUsize,
    /// Lets the second half of `/sse` go.
    pub(super) go: Notify,
    /// Tells of each end.
    pub(super) end: Notify,
    /// Headers of upgrades.
    pub(super) upgrades: Mutex<Vec<HeaderMap>>,
    /// Text frames of clients.
    pub(super) frames: Mutex<Vec<Value>>,
}

impl Seen {
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(super) fn frames(&self) -> Vec<Value> {
        self.frames.lock().unwrap().clone()
    }
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

/// Two events, the second when the test says so.
struct Events(Arc<Seen>, u8, Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>);

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.1 {
            0 => {
                self.1 = 1;
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"data: one\n\n")))))
            }
            1 => {
                let seen = Arc::clone(&self.0);
                let wait = self.2.get_or_insert_with(|| Box::pin(async move { seen.go.notified().await }));
                std::task::ready!(wait.as_mut().poll(cx));
                self.1 = 2;
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"data: two\n\n")))))
            }
            _ => Poll::Ready(None),
        }
    }
}

/// Bytes without end, counted.
struct Endless(Arc<Seen>);

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.produced.fetch_add(16 * 1024, Ordering::SeqCst);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'x'; 16 * 1024])))))
    }
}

async fn answer(
    seen: Arc<Seen>,
    request: http::Request<hyper::body::Incoming>,
) -> Result<Answer, Infallible> {
    let mut response = match request.uri().path() {
        "/sse" => Response::new(Events(seen, 0, None).boxed()),
        "/endless" => Response::new(Endless(seen).boxed()),
        "/never" => std::future::pending().await,
        "/switch" => {
            let mut response = Response::new(Empty::new().boxed());
            *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
            response
        }
        path => {
            let path = path.to_owned();
            let rows: Vec<(String, String)> = request
                .headers()
                .iter()
                .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
                .collect();
            let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes);
            let body = body.map(|bytes| bytes.len()).unwrap_or_default();
            let text = json!({ "path": path, "headers": rows, "body": body }).to_string();
            Response::new(Full::new(Bytes::from(text)).boxed())
        }
    };
    for (name, value) in
        [("set-cookie", "a=b"), ("server", "cell"), ("x-cofferdam-user", "m999"), ("x-own", "1")]
    {
        response.headers_mut().append(name, value.parse().unwrap());
    }
    Ok(response)
}

/// A web server.
pub(super) async fn web() -> (u16, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::<Seen>::default();
    let gateway = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            assert_eq!(peer.ip().to_string(), "127.0.0.5", "the edge's source address");
            let seen = Arc::clone(&gateway);
            seen.connections.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let inner = Arc::clone(&seen);
                let service = service_fn(move |request| answer(Arc::clone(&inner), request));
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                seen.ended.fetch_add(1, Ordering::SeqCst);
                seen.end.notify_one();
            });
        }
    });
    (port, seen)
}

/// A WebSocket server that echoes.
pub(super) async fn echo() -> (u16, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::<Seen>::default();
    let gateway = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = Arc::clone(&gateway);
            seen.connections.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut socket = accept_async(stream).await.unwrap();
                while let Some(Ok(message)) = socket.next().await {
                    if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                        break;
                    }
                }
                seen.ended.fetch_add(1, Ordering::SeqCst);
                seen.end.notify_one();
            });
        }
    });
    (port, seen)
}

/// Like an OpenClaw gateway: challenges, answers `connect` with a hello and every request with `ok`.
pub(super) async fn openclaw() -> (u16, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::<Seen>::default();
    let gateway = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = Arc::clone(&gateway);
            seen.connections.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let upgrades = Arc::clone(&seen);
                #[expect(clippy::result_large_err, reason = "the signature is tungstenite's")]
                let note = move |request: &Request, response: Upgrade| {
                    upgrades.upgrades.lock().unwrap().push(request.headers().clone());
                    Ok(response)
                };
                let mut socket = accept_hdr_async(stream, note).await.unwrap();
                let challenge = json!({ "type": "event", "event": "connect.challenge",
                    "payload": { "nonce": "the-gateways-own", "ts": 1 } });
                socket.send(Message::text(challenge.to_string())).await.unwrap();
                while let Some(Ok(message)) = socket.next().await {
                    let Message::Text(text) = message else { continue };
                    let frame: Value = serde_json::from_str(&text).unwrap();
                    seen.frames.lock().unwrap().push(frame.clone());
                    // What a hostile one says besides, in one frame or in two.
                    let forged =
                        |key: &str| Some(frame["params"][key].as_str()?.replace('@', "plugin:cofferdam-"));
                    if let Some(forged) = forged("say") {
                        socket.send(Message::text(forged)).await.unwrap();
                    }
                    if let Some(forged) = forged("part") {
                        let bytes = forged.into_bytes();
                        for (at, half) in bytes.chunks(bytes.len().div_ceil(2)).enumerate() {
                            let data = if at == 0 { Data::Text } else { Data::Continue };
                            let part = Bytes::copy_from_slice(half);
                            let part = WsFrame::message(part, OpCode::Data(data), at == 1);
                            if socket.send(Message::Frame(part)).await.is_err() {
                                break;
                            }
                        }
                    }
                    let payload = if frame["method"] == "connect" {
                        json!({ "type": "hello-ok", "protocol": 4 })
                    } else if frame["method"] == "plugin.approval.list" {
                        json!([{ "id": "plugin:theirs" }])
                    } else {
                        json!({ "echo": frame["params"] })
                    };
                    let answer = json!({ "type": "res", "id": frame["id"], "ok": true, "payload": payload });
                    if socket.send(Message::text(answer.to_string())).await.is_err() {
                        break;
                    }
                }
                seen.ended.fetch_add(1, Ordering::SeqCst);
                seen.end.notify_one();
            });
        }
    });
    (port, seen)
}

/// A gateway that accepts and says nothing: not even the upgrade's answer, or nothing after it. It notes what
/// it reads.
pub(super) async fn mute(upgrades: bool) -> (u16, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::<Seen>::default();
    let gateway = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let seen = Arc::clone(&gateway);
            tokio::spawn(async move {
                if upgrades {
                    stream = accept_async(stream).await.unwrap().into_inner();
                }
                seen.connections.fetch_add(1, Ordering::SeqCst);
                // The request for an upgrade that is not answered is nothing to note.
                let mut piece = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut piece).await {
                    if upgrades {
                        seen.frames.lock().unwrap().push(count.into());
                    }
                }
                seen.ended.fetch_add(1, Ordering::SeqCst);
                seen.end.notify_one();
            });
        }
    });
    (port, seen)
}

/// A gateway that challenges, and agrees to something nobody asked for: this header is on its upgrades.
pub(super) async fn eager(name: &'static str, value: &'static str) -> (u16, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::<Seen>::default();
    let gateway = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = Arc::clone(&gateway);
            tokio::spawn(async move {
                let upgrades = Arc::clone(&seen);
                #[expect(clippy::result_large_err, reason = "the signature is tungstenite's")]
                let agree = move |request: &Request, mut response: Upgrade| {
                    upgrades.upgrades.lock().unwrap().push(request.headers().clone());
                    response.headers_mut().insert(name, http::HeaderValue::from_static(value));
                    Ok(response)
                };
                let mut socket = accept_hdr_async(stream, agree).await.unwrap();
                let challenge = json!({ "type": "event", "event": "connect.challenge" });
                let _ = socket.send(Message::text(challenge.to_string())).await;
                while let Some(Ok(message)) = socket.next().await {
                    seen.frames.lock().unwrap().push(message.to_string().into());
                }
                seen.end.notify_one();
            });
        }
    });
    (port, seen)
}
