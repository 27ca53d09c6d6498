//! A client of an OpenClaw gateway: our challenge, its `connect`, then each request against the table.
//!
//! Upstream wants the identity on the upgrade, and stock clients carry their token only in the first frame;
//! so the edge speaks first, as the gateway would, dials when the token is verified, and swallows the
//! gateway's own challenge. The threats: a role that is exceeded, two parsers that disagree, a client that
//! says nothing for ever, and a method that is control's alone.

use super::{
    Upgrade,
    approvals::Desk,
    connect::{Connect, take_apart},
    frame::{FrameError, Head, Opcode, Order, Reader, Sender, Writer, server},
    json::{self, Request},
    relay::{self, Shared, say_goodbye},
    requests::{failed, requests},
    sift::sift,
};
use crate::{
    check::{Check, keeps, within},
    connection::HEAD_TIMEOUT,
    edge::Edge,
    refusal::Refusal,
    token::Verified,
};
use bytes::Bytes;
use cofferdam_base::Secret;
use http::{Uri, header};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Mutex,
    time,
};

/// The client hung up by itself: nobody was refused.
const LEFT: &str = "client_left";
/// The most bytes of payload before a token is verified, fragments and pings together.
const FIRST: u64 = 64 * 1024;
/// How long the gateway may take to send its challenge.
const CHALLENGE: Duration = Duration::from_secs(15);

/// Serves a client from the upgrade to the end. From the first moment at which a token is known, nothing is
/// waited for without looking whether it is still good.
pub(super) async fn serve(mut upgrade: Upgrade, (mut client, read): (TcpStream, Bytes)) {
    let edge = Arc::clone(&upgrade.edge);
    let (from, to) = client.split();
    let mut from = Reader::new(from, Sender::Client, read);
    let to = Mutex::new(Writer::new(to));
    let bearer = upgrade.token.clone();
    let introduced =
        time::timeout(within(Check::ConnectTime, HEAD_TIMEOUT), introduce(&mut upgrade, &mut from, &to));
    let introduced = match &bearer {
        Some(token) => edge.while_good(token, None, introduced).await.map_err(|reason| (token, reason)),
        None => Ok(introduced.await),
    };
    let admitted = match introduced {
        Ok(Ok(Ok(admitted))) => admitted,
        Ok(Ok(Err(farewell))) => return refuse(&upgrade, &to, farewell).await,
        Ok(Err(_)) => {
            return refuse(&upgrade, &to, Farewell::bare("handshake_timeout", 1008, "handshake timeout"))
                .await;
        }
        Err((token, reason)) => return end(&edge, token, reason, &to).await,
    };
    let Admitted { token, text, connect, request } = admitted;
    let id = request.id.clone();
    let frame = connect.rebuilt(request, &token.scopes);
    let reached = match edge.while_good(&token, None, reach(&upgrade, &token)).await {
        Ok(reached) => reached,
        Err(reason) => return end(&edge, &token, reason, &to).await,
    };
    let (mut cell, mut from_cell_read, generation) = match reached {
        Ok(reached) => reached,
        Err(refusal) => return refuse(&upgrade, &to, Farewell::unavailable(id, &refusal)).await,
    };
    let (from_cell, to_cell) = cell.split();
    let mut from_cell = Reader::new(from_cell, Sender::Server, std::mem::take(&mut from_cell_read));
    let to_cell = Mutex::new(Writer::new(to_cell));
    let begun = time::timeout(within(Check::ChallengeTime, CHALLENGE), swallow(&mut from_cell));
    let begun = match edge.while_good(&token, Some(generation), begun).await {
        Ok(begun) => begun,
        Err(reason) => return end(&edge, &token, reason, &to).await,
    };
    if !matches!(begun, Ok(Ok(()))) {
        return refuse(&upgrade, &to, Farewell::unavailable(id, &Refusal::bad_gateway())).await;
    }
    let page = upgrade.headers.contains_key(header::ORIGIN);
    let desk = Desk::new(&edge, &token, text.expose(), page);
    let up = async {
        to_cell.lock().await.masked_text(&frame).await?;
        tokio::select! {
            end = requests(&mut from, &to_cell, &to, &edge, &token, &desk) => end,
            Err(error) = desk.show(&to) => Err(error),
        }
    };
    let down = sift(&mut from_cell, &to, &desk);
    relay::run(&edge, &token, generation, up, down, &to).await;
}

/// Ends a socket whose token or cell is gone.
async fn end<W: AsyncWrite + Unpin>(edge: &Edge, token: &Verified, reason: &'static str, to: &Shared<W>) {
    let (code, reason) = relay::doomed(edge, token, reason);
    say_goodbye(to, code, reason).await;
}

/// A client that has shown a good token.
struct Admitted {
    token: Arc<Verified>,
    /// As it was shown: control checks it again when its holder approves something.
    text: Secret<String>,
    connect: Connect,
    request: Request,
}

/// What a refused client is told before it is closed.
struct Farewell {
    reason: &'static str,
    frame: Option<Value>,
    code: u16,
    text: &'static str,
}

impl Farewell {
    fn bare(reason: &'static str, code: u16, text: &'static str) -> Self {
        Self { reason, frame: None, code, text }
    }

    fn unavailable(id: String, refusal: &Refusal) -> Self {
        let message = format!("{} {}", refusal.message, refusal.mend);
        let details = json!({ "code": refusal.code });
        let frame = failed(&id, "UNAVAILABLE", message.trim_end(), details);
        Self { reason: refusal.code, frame: Some(frame), code: 1013, text: "try again later" }
    }

    /// As the gateway itself refuses a token; stock clients show the message and stop.
    fn unauthorised(id: &str, reason: &'static str, message: &str) -> Self {
        let missing = reason == "token_missing";
        let details = json!({
            "code": if missing { "AUTH_TOKEN_MISSING" } else { "AUTH_TOKEN_MISMATCH" },
            "authReason": if missing { "token_missing" } else { "token_mismatch" },
            "canRetryWithDeviceToken": false,
            "recommendedNextStep": "update_auth_credentials",
            "cofferdamReason": reason,
        });
        let frame = failed(id, "INVALID_REQUEST", &format!("unauthorized: {message}"), details);
        Self { reason, frame: Some(frame), code: 1008, text: "unauthorized" }
    }
}

impl From<FrameError> for Farewell {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Protocol(why) => Self::bare("websocket_protocol", 1002, why),
            FrameError::TooLong => Self::bare("connect_too_long", 1009, "the first frame is too long"),
            FrameError::Slow => Self::bare("handshake_timeout", 1008, "handshake timeout"),
            FrameError::Crowded => Self::bare("messages_crowded", 1013, "try again later"),
            FrameError::Io(_) => Self::bare(LEFT, 1001, ""),
        }
    }
}

async fn refuse<W: AsyncWrite + Unpin>(upgrade: &Upgrade, to: &Shared<W>, farewell: Farewell) {
    if farewell.reason == LEFT {
        return;
    }
    upgrade.edge.report_refused(Some(upgrade.route.tenant.clone()), farewell.reason);
    if let Some(frame) = farewell.frame {
        let mut writer = to.lock().await;
        let told = time::timeout(Duration::from_millis(500), writer.text(frame.to_string().as_bytes())).await;
        if !matches!(told, Ok(Ok(()))) {
            return;
        }
    }
    say_goodbye(to, farewell.code, farewell.text).await;
}

/// Sends our challenge, reads the client's `connect` and verifies its token. Nothing is dialled.
async fn introduce<R, W>(
    upgrade: &mut Upgrade,
    from: &mut Reader<R>,
    to: &Shared<W>,
) -> Result<Admitted, Farewell>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let nonce = nonce().ok_or_else(|| Farewell::bare("no_randomness", 1011, "internal error"))?;
    let challenge = json!({ "type": "event", "event": "connect.challenge", "payload": {
        "nonce": nonce, "ts": upgrade.edge.state.now().0, "capabilities": ["model-catalog-snapshot"] } });
    to.lock().await.text(challenge.to_string().as_bytes()).await.map_err(FrameError::from)?;
    let text = first(from, to).await?;
    let invalid = || Farewell::bare("connect_invalid", 1008, "the first frame is no connect request");
    let request = json::request(&text).map_err(|_| invalid())?;
    if keeps(Check::ConnectFirst) && request.method != "connect" {
        return Err(invalid());
    }
    let connect = take_apart(&request).map_err(|_| invalid())?;
    if keeps(Check::Operators) && connect.role.as_deref().is_some_and(|role| role != "operator") {
        let details = json!({ "code": "ROLE_NOT_ALLOWED" });
        let frame = failed(&request.id, "FORBIDDEN", "only operators connect here", details);
        return Err(Farewell {
            reason: "role_not_allowed",
            frame: Some(frame),
            code: 1008,
            text: "only operators connect here",
        });
    }
    let bearer = upgrade.headers.get(header::AUTHORIZATION).and_then(|line| line.to_str().ok());
    let bearer = bearer.and_then(|line| line.split_once(' ')).map(|(_, token)| token.trim());
    let text = match (&upgrade.token, &connect.token) {
        (Some(_), _) => bearer.unwrap_or_default().to_owned(),
        (None, shown) => shown.clone().unwrap_or_default(),
    };
    let token = match (&upgrade.token, &connect.token) {
        (Some(token), _) => Arc::clone(token),
        (None, Some(text)) => {
            let tenant = &upgrade.route.tenant;
            let unauthorised = |error: crate::token::TokenError| {
                Farewell::unauthorised(&request.id, error.code(), &error.to_string())
            };
            let token = upgrade.edge.state.verify(text.as_bytes(), tenant).map_err(unauthorised)?;
            let seated = upgrade.connection.seat(tenant).and_then(|seat| {
                upgrade.connection.record(&token)?;
                Ok(seat)
            });
            let unavailable = |refusal| Farewell::unavailable(request.id.clone(), &refusal);
            upgrade.seat = Some(seated.map_err(unavailable)?);
            token
        }
        (None, None) => {
            let message = "gateway token missing (`cofferdam token issue` makes one)";
            return Err(Farewell::unauthorised(&request.id, "token_missing", message));
        }
    };
    upgrade.stranger = None;
    Ok(Admitted { token, text: Secret::new(text), connect, request })
}

/// A random UUID, version 4.
fn nonce() -> Option<String> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    let bits = u128::from_be_bytes(bytes) & !(0xf000 << 64) & !(0xc000 << 48) | 0x4000 << 64 | 0x8000 << 48;
    let hex = format!("{bits:032x}");
    Some(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

/// The client's first message. Pings are answered and count.
async fn first<R, W>(from: &mut Reader<R>, to: &Shared<W>) -> Result<Vec<u8>, FrameError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut order = Order::default();
    let mut message = Vec::new();
    let mut counted: u64 = 0;
    loop {
        let head = next(from).await?;
        // A frame counts at least one byte, or empty ones could go on for ever.
        counted = counted.saturating_add(head.length.max(1));
        if keeps(Check::ConnectBytes) && counted > FIRST {
            return Err(FrameError::TooLong);
        }
        match order.next(&head, FIRST)? {
            Some(Opcode::Text) => from.append(&head, &mut message).await?,
            Some(_) => return Err(FrameError::Protocol("only text is spoken here")),
            None => {
                let mut payload = Vec::new();
                from.append(&head, &mut payload).await?;
                match head.opcode {
                    Opcode::Ping => {
                        to.lock().await.frame(&server(Opcode::Pong, payload.len()), &payload).await?;
                    }
                    Opcode::Close => return Err(FrameError::Io(std::io::ErrorKind::UnexpectedEof.into())),
                    _ => {}
                }
                continue;
            }
        }
        if head.last {
            return Ok(message);
        }
    }
}

async fn next<R: AsyncRead + Unpin>(from: &mut Reader<R>) -> Result<Head, FrameError> {
    from.head().await?.ok_or_else(|| FrameError::Io(std::io::ErrorKind::UnexpectedEof.into()))
}

/// Dials the gateway; whatever path the client used, the protocol is at the root.
async fn reach(upgrade: &Upgrade, token: &Verified) -> Result<(TcpStream, Bytes, u64), Refusal> {
    Edge::serving(&upgrade.route)?;
    upgrade.dial(token, &Uri::from_static("/")).await
}

/// The gateway's challenge was answered by nobody: ours was.
async fn swallow<R: AsyncRead + Unpin>(from: &mut Reader<R>) -> Result<(), FrameError> {
    let mut order = Order::default();
    let mut message = Vec::new();
    loop {
        let head = next(from).await?;
        if head.length > FIRST {
            return Err(FrameError::TooLong);
        }
        let part = order.next(&head, FIRST)?;
        let mut payload = Vec::new();
        from.append(&head, &mut payload).await?;
        match (part, head.opcode) {
            (Some(Opcode::Text), _) => message.extend_from_slice(&payload),
            (Some(_), _) | (None, Opcode::Close) => {
                return Err(FrameError::Protocol("the gateway sent no challenge"));
            }
            (None, _) => continue,
        }
        if head.last {
            break;
        }
    }
    let frame: Value =
        serde_json::from_slice(&message).map_err(|_| FrameError::Protocol("the gateway sent no JSON"))?;
    if frame["event"] == "connect.challenge" {
        Ok(())
    } else {
        Err(FrameError::Protocol("the gateway sent no challenge"))
    }
}
