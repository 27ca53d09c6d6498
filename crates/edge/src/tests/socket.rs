//! WebSockets of a `command` runtime, and frames against an independent implementation.

use super::{
    gateways::{eager, echo},
    world::{World, soon},
};
use cofferdam_base::{
    Role,
    ipc::edge::{Config, RuntimeKind},
};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message, protocol::frame::coding::CloseCode};

#[tokio::test]
async fn frames_of_every_size_pass_and_the_token_is_on_the_upgrade() {
    let (port, seen) = echo().await;
    let world = World::new(&[("sock", RuntimeKind::Command, "running", port)]).await;
    let refused = world.websocket("sock", &[]).await;
    assert!(matches!(refused, Err(Error::Http(answer)) if answer.status() == 401));
    assert_eq!(seen.connections(), 0);
    let token = format!("Bearer {}", world.token("sock", Role::Viewer));
    let mut socket = world.websocket("sock", &[("authorization", token)]).await.unwrap();
    for size in [0, 1, 125, 126, 16 * 1024, 65_535, 65_536, 3 << 20] {
        let sent = Message::Binary(Bytes::from(vec![7; size]));
        socket.send(sent.clone()).await.unwrap();
        assert_eq!(soon(socket.next()).await.unwrap().unwrap(), sent, "{size}");
    }
    socket.send(Message::text("héllo")).await.unwrap();
    assert_eq!(soon(socket.next()).await.unwrap().unwrap(), Message::text("héllo"));
    socket.send(Message::Ping(Bytes::from_static(b"p"))).await.unwrap();
    assert_eq!(soon(socket.next()).await.unwrap().unwrap(), Message::Pong(Bytes::from_static(b"p")));
    socket.close(None).await.unwrap();
    while soon(socket.next()).await.is_some_and(|message| message.is_ok()) {}
    soon(seen.end.notified()).await;
}

#[tokio::test]
async fn a_socket_closes_when_its_token_is_revoked() {
    let (port, seen) = echo().await;
    let world = World::new(&[("sock", RuntimeKind::Command, "running", port)]).await;
    let token = format!("Bearer {}", world.token("sock", Role::Member));
    let mut socket = world.websocket("sock", &[("authorization", token.clone())]).await.unwrap();
    let jti = World::claims("sock", Role::Member).jti;
    world.tell(Config::Revoked { jti, expires: u64::MAX }).await;
    let Some(Ok(Message::Close(Some(close)))) = soon(socket.next()).await else { panic!("no close") };
    assert_eq!((close.code, close.reason.as_str()), (CloseCode::Policy, "token_revoked"));
    soon(seen.end.notified()).await;
    assert!(world.websocket("sock", &[("authorization", token)]).await.is_err());
}

#[tokio::test]
async fn no_extension_and_no_subprotocol_is_spoken_on_either_side() {
    for (name, value, status) in [
        ("sec-websocket-protocol", "chat", 502),
        ("sec-websocket-extensions", "permessage-deflate", 502),
        ("x-other", "1", 101),
    ] {
        let (port, seen) = eager(name, value).await;
        let world = World::new(&[("sock", RuntimeKind::Command, "running", port)]).await;
        let mut stream = world.connect().await;
        let head = format!(
            "GET / HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\nconnection: upgrade\r\n\
             upgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: chat\r\n\
             sec-websocket-extensions: permessage-deflate\r\n\r\n",
            world.host("sock"),
            world.token("sock", Role::Member)
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.windows(4).any(|four| four == b"\r\n\r\n") {
            assert!(soon(stream.read_buf(&mut answer)).await.unwrap() > 0);
        }
        let answer = String::from_utf8_lossy(&answer).to_ascii_lowercase();
        assert!(answer.starts_with(&format!("http/1.1 {status}")), "{name} {answer}");
        assert!(
            !answer.contains("sec-websocket-protocol") && !answer.contains("sec-websocket-ext"),
            "{answer}"
        );
        let upgrades = seen.upgrades.lock().unwrap().clone();
        assert_eq!(upgrades.len(), 1);
        assert!(!upgrades[0].contains_key("sec-websocket-protocol"));
        assert!(!upgrades[0].contains_key("sec-websocket-extensions"));
    }
}
