#![allow(clippy::unwrap_used)]

//! A gateway on loopback, a model that follows a script, and clients as stock ones are. Whatever goes over the wire is
//! held against the schema that upstream publishes, where the test set-up has installed it.

use crate::{Settings, serve, store};
use cofferdam_base::{Clock, Millis};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

mod approvals;
mod conformance;
mod http;
mod turns;

struct At;

impl Clock for At {
    fn now(&self) -> Millis {
        // Later than every device of a test, and the same in each.
        Millis(1_795_330_345_458)
    }
}

/// What the model answers next.
enum Line {
    /// This text.
    Says(&'static str),
    /// A call of each of these tools.
    Calls(Vec<(&'static str, Value)>),
    /// This text, and no more before it is told to go on.
    Holds(&'static str, Arc<Notify>),
    /// An HTTP error.
    Refuses(u16),
}

#[derive(Default)]
struct Script {
    lines: Mutex<VecDeque<Line>>,
    asked: Mutex<Vec<Value>>,
}

/// A gateway with its model.
struct World {
    address: SocketAddr,
    script: Arc<Script>,
    dir: tempfile::TempDir,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl World {
    async fn new(lines: Vec<Line>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::in_dir(dir, lines).await
    }

    async fn in_dir(dir: tempfile::TempDir, lines: Vec<Line>) -> Self {
        let script = Arc::new(Script { lines: Mutex::new(lines.into()), asked: Mutex::default() });
        let model = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = model.local_addr().unwrap();
        let told = Arc::clone(&script);
        let model = tokio::spawn(async move {
            loop {
                let (stream, _) = model.accept().await.unwrap();
                tokio::spawn(answer(stream, Arc::clone(&told)));
            }
        });
        // Another test may take the port in between; then this one does not start, and says so.
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listen = free.local_addr().unwrap();
        drop(free);
        let (state, workspace) = (dir.path().join("state/agent.db"), dir.path().join("workspace"));
        let config = dir.path().join("state/config.json");
        let settings = Settings { listen, edge: None, proxy, state, config, workspace };
        let gateway = tokio::spawn(async move { serve(settings, Box::new(At)).await.unwrap() });
        while TcpStream::connect(listen).await.is_err() {
            assert!(!gateway.is_finished(), "the gateway does not start");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Self { address: listen, script, dir, tasks: vec![model, gateway] }
    }

    async fn client(&self, scopes: &str) -> Socket {
        Socket::open(self.address, scopes).await.connect(&scopes.split(',').collect::<Vec<_>>()).await
    }

    fn store(&self) -> store::Store {
        store::Store::open(&self.dir.path().join("state/agent.db")).unwrap()
    }

    /// The last request that the model got.
    fn asked(&self) -> Value {
        self.script.asked.lock().unwrap().last().unwrap().clone()
    }
}

async fn answer(mut stream: TcpStream, script: Arc<Script>) {
    let (from, mut to) = stream.split();
    let mut from = BufReader::new(from);
    let (mut line, mut length) = (String::new(), 0);
    loop {
        line.clear();
        if from.read_line(&mut line).await.unwrap() == 0 {
            return;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body).await.unwrap();
    script.asked.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
    let next = script.lines.lock().unwrap().pop_front().unwrap_or(Line::Says("that is all"));
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
    let chunk = |delta: Value, stop: Option<&str>| {
        let chunk =
            json!({ "model": "double", "choices": [{ "index": 0, "delta": delta, "finish_reason": stop }] });
        format!("data: {chunk}\n\n")
    };
    let usage =
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3}}\n\ndata: [DONE]\n\n";
    let mut out = String::from(head);
    match next {
        Line::Refuses(status) => {
            let body = r#"{"error":{"message":"not now"}}"#;
            out = format!(
                "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
        }
        Line::Says(text) => {
            // Two pieces.
            let half = text.floor_char_boundary(text.len() / 2);
            out += &chunk(json!({ "content": &text[..half] }), None);
            out += &chunk(json!({ "content": &text[half..] }), None);
            out += &(chunk(json!({}), Some("stop")) + usage);
        }
        Line::Holds(text, go) => {
            out += &chunk(json!({ "content": text }), None);
            let _ = to.write_all(out.as_bytes()).await;
            go.notified().await;
            out = chunk(json!({}), Some("stop")) + usage;
        }
        Line::Calls(calls) => {
            for (index, (name, arguments)) in calls.into_iter().enumerate() {
                let function = json!({ "name": name, "arguments": arguments.to_string() });
                let call = json!({ "index": index, "id": format!("call_{index}"), "function": function });
                out += &chunk(json!({ "tool_calls": [call] }), None);
            }
            out += &(chunk(json!({}), Some("tool_calls")) + usage);
        }
    }
    // Whoever asked may have left.
    let _ = to.write_all(out.as_bytes()).await;
}

/// A client's socket.
struct Socket {
    stream: WebSocketStream<TcpStream>,
    last: u64,
    /// Events that came while an answer was waited for.
    events: VecDeque<(String, Value)>,
    /// The number of the last event.
    seq: u64,
}

impl Socket {
    async fn open(address: SocketAddr, scopes: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let request = ::http::Request::get(format!("ws://{address}/"))
            .header("host", address.to_string())
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("x-cofferdam-user", "m001")
            .header("x-openclaw-scopes", scopes)
            .body(())
            .unwrap();
        let (stream, _) = client_async(request, stream).await.unwrap();
        Self { stream, last: 0, events: VecDeque::new(), seq: 0 }
    }

    /// Introduces itself as a stock client does behind the edge.
    async fn connect(mut self, scopes: &[&str]) -> Self {
        let (event, challenge) = self.event().await;
        assert_eq!(event, "connect.challenge");
        assert!(challenge["nonce"].is_string() && challenge["ts"].is_u64());
        let hello = self
            .call(
                "connect",
                json!({
                    "minProtocol": 4, "maxProtocol": 4, "role": "operator", "scopes": scopes, "caps": ["tool-events"],
                    "client": { "id": "cli", "version": "1", "platform": "linux", "mode": "cli" },
                }),
            )
            .await
            .unwrap();
        assert_eq!(hello["type"], "hello-ok");
        assert!(self.events.is_empty(), "nothing comes before it: {:?}", self.events);
        assert!(!hello["snapshot"]["presence"].as_array().unwrap().is_empty());
        self
    }

    async fn say(&mut self, method: &str, params: Value) -> String {
        self.last += 1;
        let id = self.last.to_string();
        let frame = json!({ "type": "req", "id": id, "method": method, "params": params });
        conformance::sent(method, &frame);
        self.stream.send(Message::Text(frame.to_string().into())).await.unwrap();
        id
    }

    async fn frame(&mut self) -> Value {
        loop {
            let next = tokio::time::timeout(Duration::from_secs(20), self.stream.next())
                .await
                .expect("no frame comes");
            match next.unwrap().unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Close(frame) => panic!("closed: {frame:?}"),
                _ => {}
            }
        }
    }

    fn heard(&mut self, frame: &Value) -> (String, Value) {
        conformance::event(frame);
        if let Some(seq) = frame["seq"].as_u64() {
            assert_eq!(seq, self.seq + 1, "events of a connection have no gaps");
            self.seq = seq;
        }
        (frame["event"].as_str().unwrap().to_owned(), frame["payload"].clone())
    }

    /// The answer of this request; events that come before are kept.
    async fn answer(&mut self, method: &str, id: &str) -> Result<Value, Value> {
        loop {
            let frame = self.frame().await;
            if frame["type"] == "event" {
                let event = self.heard(&frame);
                self.events.push_back(event);
            } else if frame["id"] == id {
                conformance::answered(method, &frame);
                return if frame["ok"] == true {
                    Ok(frame["payload"].clone())
                } else {
                    Err(frame["error"].clone())
                };
            }
        }
    }

    async fn call(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        let id = self.say(method, params).await;
        self.answer(method, &id).await
    }

    async fn event(&mut self) -> (String, Value) {
        if let Some(event) = self.events.pop_front() {
            return event;
        }
        loop {
            let frame = self.frame().await;
            if frame["type"] == "event" {
                return self.heard(&frame);
            }
        }
    }

    /// The next `chat` event of this state.
    async fn chat(&mut self, state: &str) -> Value {
        loop {
            let (name, payload) = self.event().await;
            if name == "chat" && payload["state"] == state {
                return payload;
            }
            assert!(!(name == "chat" && payload["state"] == "error" && state != "error"), "{payload}");
        }
    }
}

const ALL: &str = "operator.admin,operator.read,operator.write";

fn message(text: &str, id: &str) -> Value {
    json!({ "sessionKey": "main", "message": text, "idempotencyKey": id })
}
