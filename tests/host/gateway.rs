//! A client of a tenant's gateway, behind the edge, that speaks as stock ones do.

use super::{Host, PORT};
use serde_json::{Value, json};
use std::{
    net::{SocketAddr, TcpStream},
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
