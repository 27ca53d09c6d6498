//! One WebSocket: challenge, `connect`, then requests and events until it ends.

use super::{Body, Caller, Client, failure, full};
use crate::{
    calls::{self, Answer},
    gateway::Gateway,
    ids::uuid,
    protocol::{
        Fault, MAX_PAYLOAD, Request, TICK_MS,
        connect::{Connect, Hello},
        event, response,
    },
};
use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, Response, StatusCode, header};
use hyper::{body::Incoming, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::{borrow::Cow, sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::timeout};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

/// How long a client may take to introduce itself.
const HANDSHAKE: Duration = Duration::from_secs(15);
/// The longest introduction.
const INTRODUCTION: usize = 64 * 1024;
/// How long what is left for a client is still sent when it is closed.
const FAREWELL: Duration = Duration::from_secs(1);

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Answers the upgrade, and serves the socket in a task of its own.
pub(super) fn upgrade(
    gateway: Arc<Gateway>,
    caller: Caller,
    mut request: http::Request<Incoming>,
) -> Response<Body> {
    let headers = request.headers();
    let version = headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|value| value == "13");
    let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| version) else {
        return failure(StatusCode::BAD_REQUEST, "bad_request", "this is no WebSocket handshake");
    };
    let Ok(accept) = HeaderValue::try_from(derive_accept_key(key.as_bytes())) else {
        return failure(StatusCode::BAD_REQUEST, "bad_request", "this is no WebSocket handshake");
    };
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        // A client that went away before is no error of ours.
        let Ok(upgraded) = upgraded.await else { return };
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_PAYLOAD))
            .max_frame_size(Some(MAX_PAYLOAD))
            .read_buffer_size(4096)
            .write_buffer_size(0);
        let socket =
            WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
        serve(gateway, caller, socket).await;
    });
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let out = response.headers_mut();
    out.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    out.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    out.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    response
}

async fn serve(gateway: Arc<Gateway>, caller: Caller, mut socket: Socket) {
    let introduced = timeout(HANDSHAKE, introduce(&gateway, &caller, &mut socket)).await;
    let (client, outgoing, id, token) = match introduced {
        Ok(Some(Ok(introduced))) => introduced,
        Ok(Some(Err((id, fault)))) => {
            let said = fault.message.clone();
            let answer = response(&id, &Err(fault.clone()));
            let _ = timeout(FAREWELL, socket.send(text(answer))).await;
            let mismatch = fault_code(&fault) == Some("PROTOCOL_MISMATCH");
            let code = if mismatch { CloseCode::Protocol } else { CloseCode::Policy };
            return close(&mut socket, code, &said).await;
        }
        Ok(None) => return,
        Err(_) => return close(&mut socket, CloseCode::Policy, "handshake timeout").await,
    };
    // It hears nothing before that it is in.
    let hello = hello(&gateway, &client, token);
    client.send(response(&id, &Ok(hello)));
    let client = Arc::new(client);
    let number = gateway.join(&client);
    let _gone = Gone(&gateway, number);
    run(&gateway, &client, socket, outgoing).await;
}

fn fault_code(fault: &Fault) -> Option<&str> {
    fault.details.as_ref()?["code"].as_str()
}

/// Tells the gateway, however it ends.
struct Gone<'a>(&'a Gateway, u64);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.0.leave(self.1);
    }
}

fn hello(gateway: &Arc<Gateway>, client: &Client, token: Option<String>) -> Value {
    let (mut presence, presence_version) = gateway.presence();
    if let Some(rows) = presence.as_array_mut() {
        rows.push(client.presence());
    }
    let health = calls::health(gateway).unwrap_or_else(|_| json!({}));
    let hello = Hello {
        connection: &uuid(),
        boot: &gateway.boot,
        scopes: client.scopes(),
        presence,
        health,
        presence_version: presence_version + 1,
        uptime_ms: gateway.now().saturating_sub(gateway.started_at),
        token: token.map(|token| (token, gateway.now())),
    };
    hello.payload()
}

/// A client, the frames for it, the id of its request and the token of its device.
type Introduced = (Client, mpsc::UnboundedReceiver<String>, String, Option<String>);

/// Challenges a client and reads its `connect`; none: it left.
async fn introduce(
    gateway: &Gateway,
    caller: &Caller,
    socket: &mut Socket,
) -> Option<Result<Introduced, (String, Fault)>> {
    let nonce = uuid();
    let challenge = json!({ "nonce": nonce, "ts": gateway.now() });
    socket.send(text(event("connect.challenge", &challenge, None))).await.ok()?;
    let first = loop {
        match socket.next().await?.ok()? {
            Message::Text(first) => break first,
            Message::Ping(_) | Message::Pong(_) => {}
            _ => return None,
        }
    };
    if first.len() > INTRODUCTION {
        return Some(Err(("connect".to_owned(), Fault::invalid("the first frame is too long"))));
    }
    let request = match Request::parse(&first) {
        Ok(request) if request.method == "connect" => request,
        Ok(request) => {
            return Some(Err((
                request.id,
                Fault::invalid("invalid handshake: first request must be connect"),
            )));
        }
        Err(error) => {
            return Some(Err((
                "connect".to_owned(),
                Fault::invalid(format!("invalid request frame: {error}")),
            )));
        }
    };
    let params = request.params.as_deref().map_or("{}", serde_json::value::RawValue::get);
    let connect = match Connect::parse(params) {
        Ok(connect) => connect,
        Err(fault) => return Some(Err((request.id, fault))),
    };
    let (device, token) = match gateway.admit(caller, &connect, &nonce) {
        Ok(admitted) => admitted,
        Err(fault) => return Some(Err((request.id, fault))),
    };
    let scopes = connect.allowed(&caller.cap);
    tracing::info!(user = caller.user, client = connect.client.id, "a client is in");
    let (client, outgoing) = Client::new(&connect, scopes, device, &caller.user, gateway.now());
    Some(Ok((client, outgoing, request.id, token)))
}

/// Requests and events, until somebody ends it.
async fn run(
    gateway: &Arc<Gateway>,
    client: &Arc<Client>,
    socket: Socket,
    mut outgoing: mpsc::UnboundedReceiver<String>,
) {
    let (mut to, mut from) = socket.split();
    let mut tick = tokio::time::interval(Duration::from_millis(TICK_MS));
    tick.tick().await;
    let why: (CloseCode, Cow<'_, str>) = loop {
        tokio::select! {
            () = client.over.cancelled() => break (CloseCode::Policy, client.why().into()),
            Some(frame) = outgoing.recv() => {
                let length = frame.len();
                let sending = to.send(text(frame));
                tokio::select! {
                    () = client.over.cancelled() => break (CloseCode::Policy, client.why().into()),
                    sent = sending => if sent.is_err() { return },
                }
                client.sent(length);
            }
            _ = tick.tick() => {
                let payload = json!({ "ts": gateway.now() });
                client.event(|seq| event("tick", &payload, Some(seq)));
            }
            frame = from.next() => match frame {
                Some(Ok(Message::Text(frame))) => match Request::parse(&frame) {
                    Ok(request) => take(gateway, client, request),
                    Err(error) => break (CloseCode::Policy, format!("invalid request frame: {error}").into()),
                },
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Binary(_))) => break (CloseCode::Unsupported, "frames are text".into()),
                Some(Ok(Message::Close(_))) => {
                    // The answer to it was queued when it was read.
                    let _ = timeout(FAREWELL, to.flush()).await;
                    return;
                }
                Some(Ok(Message::Frame(_)) | Err(_)) | None => return,
            },
        }
    };
    if let Ok(mut socket) = to.reunite(from) {
        close(&mut socket, why.0, &why.1).await;
    }
}

/// Serves one request; what takes long, beside the others.
fn take(gateway: &Arc<Gateway>, client: &Arc<Client>, request: Request) {
    let id = request.id.clone();
    let later = match calls::call(gateway, client, &request) {
        Answer::Now(answer) => return client.send(response(&id, &answer)),
        Answer::Later(later) => later,
        Answer::Twice(first, later) => {
            client.send(response(&id, &Ok(first)));
            later
        }
    };
    let client = Arc::clone(client);
    tokio::spawn(async move { client.send(response(&id, &later.await)) });
}

fn text(frame: String) -> Message {
    Message::Text(frame.into())
}

async fn close(socket: &mut Socket, code: CloseCode, why: &str) {
    // The reason of a close frame has at most 123 bytes.
    let reason = why[..why.floor_char_boundary(120)].to_owned().into();
    let _ = timeout(FAREWELL, socket.close(Some(CloseFrame { code, reason }))).await;
}
