//! A client of gateways, in the shape of a stock one: protocol 4 through the edge, with its token in `connect`.

use crate::host::{PORT, edge};
use serde_json::{Value, json};
use std::{
    net::TcpStream,
    time::{Duration, Instant},
};
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};

/// A connection after hello-ok.
pub struct Chat(WebSocket<TcpStream>);

impl Chat {
    /// Connects, or says why not. To be called in the host's namespace.
    pub fn open(tenant: &str, token: &str) -> Result<Self, String> {
        let why = |error: &dyn std::fmt::Display| error.to_string();
        let stream = TcpStream::connect(edge()).map_err(|error| why(&error))?;
        stream.set_nodelay(true).map_err(|error| why(&error))?;
        stream.set_read_timeout(Some(Duration::from_mins(1))).map_err(|error| why(&error))?;
        let url = format!("ws://{tenant}.localhost:{PORT}/");
        let (socket, _) = client(url, stream).map_err(|error| why(&error))?;
        let mut chat = Self(socket);
        let challenge = chat.read()?;
        if challenge["event"] != "connect.challenge" {
            return Err(challenge.to_string());
        }
        let connect = json!({ "type": "req", "id": "1", "method": "connect", "params": {
            "minProtocol": 4, "maxProtocol": 4,
            "client": { "id": "gateway-client", "version": "0.0.1", "platform": "linux", "mode": "backend" },
            "role": "operator", "scopes": ["operator.admin", "operator.read", "operator.write"], "caps": [],
            "auth": { "token": token },
        }});
        chat.0.send(Message::text(connect.to_string())).map_err(|error| why(&error))?;
        let hello = chat.read()?;
        if hello["ok"] == true { Ok(chat) } else { Err(hello.to_string()) }
    }

    /// Tries until it is let in; how long that took since `asked`, in milliseconds.
    pub fn first(tenant: &str, token: &str, asked: Instant, pause: Duration) -> (Self, f64) {
        loop {
            match Self::open(tenant, token) {
                Ok(chat) => return (chat, asked.elapsed().as_secs_f64() * 1e3),
                Err(why) => assert!(asked.elapsed() < Duration::from_mins(3), "{tenant}: {why}"),
            }
            std::thread::sleep(pause);
        }
    }

    /// A turn of a session, from the request to the event that it is over; milliseconds.
    pub fn turn(&mut self, session: &str, key: &str) -> f64 {
        let params = json!({ "sessionKey": session, "message": "hi", "idempotencyKey": key });
        let request =
            json!({ "type": "req", "id": key, "method": "chat.send", "params": params }).to_string();
        let begun = Instant::now();
        self.0.send(Message::text(request)).unwrap();
        loop {
            let frame = self.read().unwrap();
            assert!(frame["id"] != *key || frame["ok"] == true, "{frame}");
            let payload = &frame["payload"];
            if frame["event"] == "chat" && payload["runId"] == *key {
                assert!(payload["state"] != "error" && payload["state"] != "aborted", "{frame}");
                if payload["state"] == "final" {
                    return begun.elapsed().as_secs_f64() * 1e3;
                }
            }
        }
    }

    fn read(&mut self) -> Result<Value, String> {
        loop {
            match self.0.read().map_err(|error| error.to_string())? {
                Message::Text(text) => {
                    return serde_json::from_str(&text).map_err(|error| error.to_string());
                }
                Message::Close(frame) => return Err(format!("closed: {frame:?}")),
                _ => {}
            }
        }
    }
}
