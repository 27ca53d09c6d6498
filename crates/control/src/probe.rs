//! Is a tenant's runtime ready? Asked through the edge, as a client would, so that a yes proves the whole
//! wire in: listener, token, socket in the cell's namespace, gateway.
//!
//! For a command: `GET /` is answered by the runtime, and not by the edge in its stead. For OpenClaw: a
//! WebSocket handshake of protocol 4 up to `hello-ok`. The threat: whatever answers is a cell; everything
//! read is bounded in size and time, and nothing of it is believed but that it answered.

use cofferdam_base::Millis;
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest, protocol::WebSocketConfig};

/// What to expect behind the edge.
pub(crate) use cofferdam_base::ipc::edge::RuntimeKind;

/// One try takes no longer than this.
const PATIENCE: Duration = Duration::from_secs(10);
/// Whoever asks what is due does not wait longer.
const BRIEF: Duration = Duration::from_secs(2);
/// How far in the future something may be due, in milliseconds: ten years.
const FARTHEST: u64 = 10 * 366 * 24 * 3_600_000;
/// The longest message, and the longest head of an answer, that is read.
const LONGEST: usize = 4 << 20;
const LONGEST_HEAD: usize = 128 * 1024;

/// Why a runtime is not ready yet, for the log.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotReady(String);

/// Asks once. `address` is the tenant's own, `127.18.x.y:PORT`.
pub(crate) async fn ask(kind: RuntimeKind, address: SocketAddr, token: &str) -> Result<(), NotReady> {
    let answer = async {
        match kind {
            RuntimeKind::Command => command(address, token).await,
            RuntimeKind::Openclaw => openclaw(address, token).await,
        }
    };
    tokio::time::timeout(PATIENCE, answer).await.unwrap_or_else(|_| Err(NotReady("no answer".to_owned())))
}

async fn command(address: SocketAddr, token: &str) -> Result<(), NotReady> {
    let mut stream = TcpStream::connect(address).await.map_err(not_ready)?;
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(not_ready)?;
    let mut head = Vec::new();
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        if head.len() > LONGEST_HEAD {
            return Err(NotReady("the answer's head has no end".to_owned()));
        }
        if stream.read_buf(&mut head).await.map_err(not_ready)? == 0 {
            return Err(NotReady("no HTTP answer".to_owned()));
        }
    }
    judge(&head)
}

/// When a gateway will do something by itself, as its `/ready` says; none if it says nothing of it. All that is believed
/// is one number: a moment after now, and within ten years.
pub(crate) async fn due(address: SocketAddr, token: &str, now: Millis) -> Option<Millis> {
    let answer = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request = format!(
            "GET /ready HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut whole = Vec::new();
        stream.take(LONGEST_HEAD as u64).read_to_end(&mut whole).await.ok()?;
        Some(whole)
    };
    due_in(&tokio::time::timeout(BRIEF, answer).await.ok()??, now)
}

fn due_in(answer: &[u8], now: Millis) -> Option<Millis> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Ready {
        #[serde(default)]
        next_due_at_ms: Option<u64>,
    }
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    judge(&answer[..end + 4]).ok()?;
    let ready: Ready = serde_json::from_slice(&answer[end + 4..]).ok()?;
    ready.next_due_at_ms.map(Millis).filter(|at| *at > now && at.since(now) <= FARTHEST)
}

/// Judges the head of an answer.
fn judge(head: &[u8]) -> Result<(), NotReady> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 "));
    let status = status.and_then(|rest| rest.get(..3)).and_then(|digits| digits.parse::<u16>().ok());
    let headers = lines.take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(':'));
    // The edge says so when it answers in the runtime's stead, and lets no cell say it.
    let reason = headers.into_iter().find(|(name, _)| name.eq_ignore_ascii_case("cofferdam-reason"));
    match (status, reason) {
        (Some(status), Some((_, reason))) => Err(not_ready(format!("status {status}: {}", reason.trim()))),
        // The runtime's own word that it cannot serve yet.
        (Some(status @ (502..=504)), None) => Err(NotReady(format!("status {status}"))),
        (Some(_), None) => Ok(()),
        (None, _) => Err(NotReady("no HTTP answer".to_owned())),
    }
}

/// The frames that the handshake looks at; their other fields are of no interest.
#[derive(Deserialize)]
struct Frame {
    r#type: String,
    #[serde(default)]
    event: String,
    #[serde(default)]
    ok: bool,
    #[serde(default)]
    payload: serde_json::Value,
    #[serde(default)]
    error: serde_json::Value,
}

async fn openclaw(address: SocketAddr, token: &str) -> Result<(), NotReady> {
    let stream = TcpStream::connect(address).await.map_err(not_ready)?;
    let request = format!("ws://{address}/").into_client_request().map_err(not_ready)?;
    let limits = WebSocketConfig::default().max_message_size(Some(LONGEST)).max_frame_size(Some(LONGEST));
    let (mut socket, _) = tokio_tungstenite::client_async_with_config(request, stream, Some(limits))
        .await
        .map_err(not_ready)?;
    while let Some(message) = socket.next().await {
        let text = match message.map_err(not_ready)? {
            Message::Text(text) => text,
            Message::Close(frame) => return Err(NotReady(format!("closed: {frame:?}"))),
            _ => continue,
        };
        let frame: Frame = serde_json::from_str(text.as_str()).map_err(not_ready)?;
        match frame.r#type.as_str() {
            "event" if frame.event == "connect.challenge" => {
                socket.send(Message::text(connect(token))).await.map_err(not_ready)?;
            }
            "res" if frame.ok && frame.payload["type"] == "hello-ok" && frame.payload["protocol"] == 4 => {
                // Said goodbye or not, the gateway is ready.
                let _ = socket.close(None).await;
                return Ok(());
            }
            "res" => {
                let message = frame.error["message"].as_str().unwrap_or("refused");
                return Err(NotReady(message.chars().take(200).collect()));
            }
            _ => {}
        }
    }
    Err(NotReady("closed before hello-ok".to_owned()))
}

/// The `connect` of a client that only wants to know whether somebody is there (source: protocol 4 of
/// `@openclaw/gateway-protocol`: `openclaw-probe` and `probe` are of its closed sets).
fn connect(token: &str) -> String {
    serde_json::json!({
        "type": "req", "id": "1", "method": "connect",
        "params": {
            "minProtocol": 4, "maxProtocol": 4,
            "client": {
                "id": "openclaw-probe", "version": env!("CARGO_PKG_VERSION"), "platform": "linux",
                "mode": "probe",
            },
            "auth": { "token": token }, "role": "operator", "scopes": ["operator.read"],
        }
    })
    .to_string()
}

fn not_ready(error: impl std::fmt::Display) -> NotReady {
    NotReady(error.to_string().chars().take(300).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn an_answer_of_the_edge_in_the_runtimes_stead_is_no_readiness() {
        for status in [200, 301, 400, 401, 403, 404, 426, 429, 500] {
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n");
            assert!(judge(format!("{head}\r\n").as_bytes()).is_ok(), "{status} is the runtime's own");
            let behind = format!("{head}\r\ncofferdam-reason: x\r\n");
            assert!(judge(behind.as_bytes()).is_ok(), "what is in the body is no header");
            let edges = format!("{head}Cofferdam-Reason: too_many_strangers\r\n\r\n");
            let error = judge(edges.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), format!("status {status}: too_many_strangers"));
        }
        for bad in [
            "HTTP/1.1 502 X\r\n\r\n",
            "HTTP/1.1 503 X\r\n\r\n",
            "SSH-2.0-Open\r\n\r\n",
            "HTTP/1.1 \r\n\r\n",
            "",
        ] {
            assert!(judge(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn of_what_a_gateway_says_one_number_is_believed() {
        let (now, ok) = (Millis(1000), "HTTP/1.1 200 OK\r\nx: y\r\n\r\n");
        let due = |head: &str, body: &str| due_in(format!("{head}{body}").as_bytes(), now);
        assert_eq!(due(ok, r#"{"ready":true,"nextDueAtMs":1001}"#), Some(Millis(1001)));
        for (head, body) in [
            (ok, "{}"),
            (ok, r#"{"nextDueAtMs":null}"#),
            (ok, r#"{"nextDueAtMs":1000}"#),
            (ok, r#"{"nextDueAtMs":-5}"#),
            (ok, r#"{"nextDueAtMs":"2000"}"#),
            (ok, r#"{"nextDueAtMs":18446744073709551615}"#),
            (ok, r#"{"nextDueAtMs":2000} and more"#),
            (ok, ""),
            ("HTTP/1.1 200 OK\r\ncofferdam-reason: no_cell\r\n\r\n", r#"{"nextDueAtMs":2000}"#),
            ("HTTP/1.1 503 X\r\n\r\n", r#"{"nextDueAtMs":2000}"#),
            ("HTTP/1.1 200 OK\r\n", r#"{"nextDueAtMs":2000}"#),
        ] {
            assert_eq!(due(head, body), None, "{head}{body}");
        }
    }

    /// Answers one connection with these bytes, in two pieces, and hangs up.
    async fn web(answer: String) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_u8().await.unwrap();
            for piece in [&answer[..answer.len() / 2], &answer[answer.len() / 2..]] {
                if stream.write_all(piece.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
        address
    }

    #[tokio::test]
    async fn only_a_whole_head_of_a_runtime_is_ready() {
        let ok = "HTTP/1.1 200 OK\r\nx: y\r\n";
        for (answer, ready) in [
            (format!("{ok}\r\nbody"), true),
            (format!("{ok}cofferdam-reason: no_cell\r\n\r\n"), false),
            (ok.to_owned(), false),
            (format!("{ok}x: {}\r\n\r\n", "y".repeat(2 * LONGEST_HEAD)), false),
        ] {
            let asked = ask(RuntimeKind::Command, web(answer).await, "secret").await;
            assert_eq!(asked.is_ok(), ready, "{asked:?}");
        }
    }

    async fn gateway(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
            let challenge = r#"{"type":"event","event":"connect.challenge","payload":{"nonce":"n"}}"#;
            socket.send(Message::text(challenge)).await.unwrap();
            let connect = socket.next().await.unwrap().unwrap().into_text().unwrap();
            let connect: serde_json::Value = serde_json::from_str(connect.as_str()).unwrap();
            assert_eq!(connect["params"]["auth"]["token"], "secret");
            socket.send(Message::text(answer)).await.unwrap();
            let _ = socket.next().await;
        });
        address
    }

    #[tokio::test]
    async fn only_a_hello_ok_of_protocol_4_is_ready() {
        let good = r#"{"type":"res","id":"1","ok":true,"payload":{"type":"hello-ok","protocol":4}}"#;
        let other = r#"{"type":"res","id":"1","ok":true,"payload":{"type":"hello-ok","protocol":5}}"#;
        let refused = r#"{"type":"res","id":"1","ok":false,"error":{"code":"X","message":"not yet"}}"#;
        assert!(ask(RuntimeKind::Openclaw, gateway(good).await, "secret").await.is_ok());
        assert!(ask(RuntimeKind::Openclaw, gateway(other).await, "secret").await.is_err());
        let error = ask(RuntimeKind::Openclaw, gateway(refused).await, "secret").await.unwrap_err();
        assert_eq!(error.to_string(), "not yet");
    }
}
