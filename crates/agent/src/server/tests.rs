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
mod channels;
mod children;
mod compaction;
mod config;
mod conformance;
mod cron;
mod devices;
mod hooks;
mod http;
mod images;
mod questions;
mod recovery;
mod skills;
mod turns;
mod usage;

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
    /// One with a header and a body.
    Fails(u16, &'static str, &'static str),
    /// This text, and the connection is closed before its end.
    Breaks(&'static str),
    /// This text, why it ends, and how many tokens the request had.
    Ends(&'static str, &'static str, u64),
    /// This text and then a call of this tool.
    Speaks(&'static str, &'static str, Value),
}

#[derive(Default)]
struct Script {
    /// What is answered to whoever says these words, whatever the order is.
    by_words: Mutex<Vec<(&'static str, Line)>>,
    lines: Mutex<VecDeque<Line>>,
    asked: Mutex<Vec<Value>>,
    /// What the rest of the world answers, by the beginning of what it is asked; each once.
    world: Mutex<VecDeque<(String, String)>>,
    /// What it was asked: head and body.
    heard: Mutex<Vec<(String, Value)>>,
    more: Notify,
    /// Sockets that were opened.
    sockets: Mutex<Vec<WebSocketStream<TcpStream>>>,
}

impl Script {
    /// The world answers this to the next such request, now or later.
    fn tell(&self, to: &str, status: &str, body: &Value) {
        let body = body.to_string();
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        self.world.lock().unwrap().push_back((to.to_owned(), answer));
        self.more.notify_waiters();
    }

    async fn answer_of(&self, head: &str) -> String {
        loop {
            let more = self.more.notified();
            {
                let mut world = self.world.lock().unwrap();
                if let Some(at) = world.iter().position(|(to, _)| head.starts_with(to)) {
                    return world.remove(at).unwrap().1;
                }
            }
            more.await;
        }
    }

    /// The next request that begins so, of which the first `skip` are passed over.
    async fn asked_for(&self, to: &str, skip: usize) -> (String, Value) {
        for _ in 0..4000 {
            let heard =
                self.heard.lock().unwrap().iter().filter(|(head, _)| head.starts_with(to)).nth(skip).cloned();
            if let Some(heard) = heard {
                return heard;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{to} was not asked: {:?}", self.heard.lock().unwrap());
    }
}

impl Script {
    fn when(&self, lines: Vec<(&'static str, Line)>) {
        *self.by_words.lock().unwrap() = lines;
    }

    fn next(&self, asked: &Value) -> Line {
        let last = asked["messages"].as_array().unwrap().last().unwrap()["content"].to_string();
        let last: String = serde_json::from_str(&last).unwrap_or(last);
        let mut by_words = self.by_words.lock().unwrap();
        if let Some(at) = by_words.iter().position(|(words, _)| last.contains(words)) {
            return by_words.remove(at).1;
        }
        self.lines.lock().unwrap().pop_front().unwrap_or(Line::Says("that is all"))
    }
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

    /// With this configuration.
    async fn configured(config: &Value, lines: Vec<Line>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("state")).unwrap();
        std::fs::write(dir.path().join("state/config.json"), config.to_string()).unwrap();
        Self::in_dir(dir, lines).await
    }

    /// As by a kill: the state as it is on disk now, under another gateway.
    async fn killed(mut self, lines: Vec<Line>) -> Self {
        Self::in_dir(self.left(), lines).await
    }

    /// What a killed gateway leaves.
    fn left(&mut self) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("state")).unwrap();
        for entry in std::fs::read_dir(self.dir.path().join("state")).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, dir.path().join("state").join(path.file_name().unwrap())).unwrap();
        }
        self.tasks.drain(..).for_each(|task| task.abort());
        dir
    }

    async fn in_dir(dir: tempfile::TempDir, lines: Vec<Line>) -> Self {
        let script = Arc::new(Script { lines: Mutex::new(lines.into()), ..Script::default() });
        Self::with(dir, script, At).await
    }

    async fn at(dir: tempfile::TempDir, lines: Vec<Line>, clock: impl Clock + 'static) -> Self {
        let script = Arc::new(Script { lines: Mutex::new(lines.into()), ..Script::default() });
        Self::with(dir, script, clock).await
    }

    async fn with(dir: tempfile::TempDir, script: Arc<Script>, clock: impl Clock + 'static) -> Self {
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
        let gateway = tokio::spawn(async move { serve(settings, Box::new(clock)).await.unwrap() });
        while TcpStream::connect(listen).await.is_err() {
            assert!(!gateway.is_finished(), "the gateway does not start");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Self { address: listen, script, dir, tasks: vec![model, gateway] }
    }

    /// As after the end of the gateway: what is on disk, under another one.
    async fn again(mut self, lines: Vec<Line>) -> Self {
        self.tasks.drain(..).for_each(|task| task.abort());
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap());
        Self::in_dir(dir, lines).await
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

    /// How many it got.
    fn count(&self) -> usize {
        self.script.asked.lock().unwrap().len()
    }
}

async fn answer(mut stream: TcpStream, script: Arc<Script>) {
    let (from, mut to) = stream.split();
    let mut from = BufReader::new(from);
    let (mut line, mut length, mut head) = (String::new(), 0, String::new());
    loop {
        line.clear();
        if from.read_line(&mut line).await.unwrap() == 0 {
            return;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        head.push_str(&line);
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body).await.unwrap();
    if !head.starts_with("POST http://inference.local/") {
        script.heard.lock().unwrap().push((head.clone(), serde_json::from_slice(&body).unwrap_or_default()));
        if let Some(key) = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")) {
            let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
            let answer = format!(
                "HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
            );
            to.write_all(answer.as_bytes()).await.unwrap();
            let role = tokio_tungstenite::tungstenite::protocol::Role::Server;
            let socket = WebSocketStream::from_raw_socket(stream, role, None).await;
            script.sockets.lock().unwrap().push(socket);
            return;
        }
        let answer = script.answer_of(&head).await;
        let _ = to.write_all(answer.as_bytes()).await;
        return;
    }
    let asked: Value = serde_json::from_slice(&body).unwrap();
    let next = script.next(&asked);
    script.asked.lock().unwrap().push(asked);
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
    let chunk = |delta: Value, stop: Option<&str>| {
        let chunk =
            json!({ "model": "double", "choices": [{ "index": 0, "delta": delta, "finish_reason": stop }] });
        format!("data: {chunk}\n\n")
    };
    let usage =
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3}}\n\ndata: [DONE]\n\n";
    let mut out = String::from(head);
    let refusal = |status: u16, header: &str, body: &str| {
        let length = body.len();
        format!(
            "HTTP/1.1 {status} X\r\n{header}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
    };
    match next {
        Line::Refuses(status) => out = refusal(status, "X-A: b", r#"{"error":{"message":"not now"}}"#),
        Line::Fails(status, header, body) => out = refusal(status, header, body),
        Line::Breaks("") => out.clear(),
        Line::Breaks(text) => out += &chunk(json!({ "content": text }), None),
        Line::Ends(text, stop, tokens) => {
            out += &chunk(json!({ "content": text }), None);
            out += &(chunk(json!({}), Some(stop)) + &usage.replace('7', &tokens.to_string()));
        }
        Line::Speaks(text, name, arguments) => {
            out += &chunk(json!({ "content": text }), None);
            let function = json!({ "name": name, "arguments": arguments.to_string() });
            let call = json!({ "index": 0, "id": "call_0", "function": function });
            out += &(chunk(json!({ "tool_calls": [call] }), Some("tool_calls")) + usage);
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

const ALL: &str = "operator.admin,operator.read,operator.write,operator.questions,operator.pairing";

fn message(text: &str, id: &str) -> Value {
    json!({ "sessionKey": "main", "message": text, "idempotencyKey": id })
}
