//! WebSockets of an OpenClaw gateway: the introduction, the cap, the gate.

use super::{
    gateways::{Seen, eager, mute, openclaw},
    world::{Answer, World, bearer, soon},
};
use cofferdam_base::{
    Role,
    ipc::edge::{Config, RuntimeKind},
};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Bytes, Message,
        protocol::frame::{
            Frame,
            coding::{CloseCode, Data, OpCode},
        },
    },
};

pub(super) type Socket = WebSocketStream<TcpStream>;

async fn claw() -> (World, Arc<Seen>) {
    let (port, seen) = openclaw().await;
    let rows = [
        ("still", RuntimeKind::Openclaw, "stopped", port),
        ("empty", RuntimeKind::Openclaw, "running", 0),
        ("claw", RuntimeKind::Openclaw, "running", port),
        ("acme", RuntimeKind::Openclaw, "running", port),
    ];
    (World::new(&rows).await, seen)
}

pub(super) async fn next(socket: &mut Socket) -> Value {
    match soon(socket.next()).await {
        Some(Ok(Message::Text(text))) => serde_json::from_str(&text).unwrap(),
        other => panic!("no text but {other:?}"),
    }
}

pub(super) async fn closed(socket: &mut Socket) -> CloseCode {
    match soon(socket.next()).await {
        Some(Ok(Message::Close(Some(close)))) => close.code,
        other => panic!("no close but {other:?}"),
    }
}

pub(super) async fn call(socket: &mut Socket, method: &str, params: Value) -> Value {
    let frame = json!({ "type": "req", "id": method, "method": method, "params": params });
    socket.send(Message::text(frame.to_string())).await.unwrap();
    next(socket).await
}

pub(super) async fn opened(world: &World) -> Socket {
    opened_at(world, "claw").await
}

async fn opened_at(world: &World, tenant: &str) -> Socket {
    let mut socket = world.websocket(tenant, &[]).await.unwrap();
    let challenge = next(&mut socket).await;
    assert_eq!(challenge["event"], "connect.challenge");
    assert_eq!(challenge["payload"]["nonce"].as_str().unwrap().len(), 36);
    socket
}

pub(super) async fn connected(world: &World, role: Role) -> Socket {
    let mut socket = opened(world).await;
    let hello = call(&mut socket, "connect", connect(&world.token("claw", role))).await;
    assert_eq!(hello["payload"]["type"], "hello-ok", "{hello}");
    socket
}

pub(super) fn connect(token: &str) -> Value {
    json!({ "minProtocol": 4, "maxProtocol": 4, "client": { "id": "cli", "mode": "cli" }, "role": "operator",
        "scopes": ["operator.admin", "operator.read", "operator.write"],
        "auth": { "token": token }, "device": { "id": "d", "signature": "s" } })
}

#[tokio::test]
async fn the_gateway_sees_our_identity_and_never_the_token() {
    let (world, seen) = claw().await;
    let lines = [
        ("content-length", "0".to_owned()),
        ("content-type", "text/plain".to_owned()),
        ("x_cofferdam_user", "m999".to_owned()),
    ];
    let mut socket = world.websocket("claw", &lines).await.unwrap();
    next(&mut socket).await;
    assert_eq!(seen.connections(), 0, "nothing is dialled before the token is verified");
    let hello = call(&mut socket, "connect", connect(&world.token("claw", Role::Member))).await;
    assert_eq!(hello["id"], "connect");
    let upgrade = seen.upgrades.lock().unwrap()[0].clone();
    assert_eq!(upgrade["x-cofferdam-user"], "m007");
    assert_eq!(upgrade["x-openclaw-scopes"], "operator.read,operator.write,operator.questions");
    assert_eq!(upgrade["x-forwarded-for"], "203.0.113.1");
    assert_eq!(upgrade["host"], world.host("claw").as_str());
    for gone in
        ["sec-websocket-extensions", "authorization", "content-length", "content-type", "x_cofferdam_user"]
    {
        assert!(!upgrade.contains_key(gone), "{gone}");
    }
    assert_eq!(
        seen.frames()[0]["params"],
        json!({ "minProtocol": 4, "maxProtocol": 4, "client": { "id": "cli", "mode": "cli" },
            "role": "operator", "scopes": ["operator.read", "operator.write"] })
    );
    let answer = call(&mut socket, "chat.send", json!({ "message": "hé\n" })).await;
    assert_eq!(answer["payload"]["echo"], json!({ "message": "hé\n" }));
}

#[tokio::test]
async fn a_password_and_a_bearer_on_the_upgrade_do_as_well() {
    let (world, _) = claw().await;
    let token = world.token("claw", Role::Viewer);
    let mut socket = opened(&world).await;
    let hello = call(&mut socket, "connect", json!({ "auth": { "password": token } })).await;
    assert_eq!(hello["ok"], true);
    let line = ("authorization", format!("Bearer {token}"));
    let mut socket = world.websocket("claw", &[line]).await.unwrap();
    next(&mut socket).await;
    assert_eq!(call(&mut socket, "connect", json!({})).await["ok"], true);
}

#[tokio::test]
async fn no_token_or_a_foreign_one_reaches_no_gateway() {
    let (world, seen) = claw().await;
    for params in [json!({}), connect(&world.token("acme", Role::Admin)), connect("garbage")] {
        let mut socket = opened(&world).await;
        let answer = call(&mut socket, "connect", params).await;
        assert_eq!(answer["ok"], false);
        assert_eq!(answer["error"]["code"], "INVALID_REQUEST");
        assert!(answer["error"]["details"]["code"].as_str().unwrap().starts_with("AUTH_TOKEN_MIS"));
        assert_eq!(closed(&mut socket).await, CloseCode::Policy);
    }
    let wrong = ("authorization", format!("Bearer {}", world.token("acme", Role::Admin)));
    assert!(world.websocket("claw", &[wrong]).await.is_err());
    assert_eq!(seen.connections(), 0);
    connected(&world, Role::Viewer).await;
    assert_eq!(seen.connections(), 1);
}

#[tokio::test]
async fn a_member_learns_why_no_gateway_answers() {
    let (world, seen) = claw().await;
    for (tenant, code) in [("still", "tenant_not_running"), ("empty", "no_cell")] {
        let mut socket = opened_at(&world, tenant).await;
        let answer = call(&mut socket, "connect", connect(&world.token(tenant, Role::Member))).await;
        assert_eq!(answer["error"]["code"], "UNAVAILABLE");
        assert_eq!(answer["error"]["details"]["code"], code);
        assert_eq!(closed(&mut socket).await, CloseCode::Again);
    }
    assert_eq!(seen.connections(), 0);
}

#[tokio::test]
async fn a_long_request_in_many_fragments_passes_whole() {
    let (world, seen) = claw().await;
    let mut socket = connected(&world, Role::Member).await;
    let text = "é".repeat(1 << 20);
    let frame = json!({ "type": "req", "id": "1", "method": "chat.send", "params": { "message": text } });
    let frame = frame.to_string().into_bytes();
    let pieces: Vec<&[u8]> = frame.chunks(100_001).collect();
    for (at, piece) in pieces.iter().enumerate() {
        let data = if at == 0 { Data::Text } else { Data::Continue };
        let bytes = Bytes::copy_from_slice(piece);
        let frame = Frame::message(bytes, OpCode::Data(data), at + 1 == pieces.len());
        socket.send(Message::Frame(frame)).await.unwrap();
    }
    let answer = next(&mut socket).await;
    assert_eq!(answer["payload"]["echo"]["message"], text);
    assert_eq!(seen.frames().len(), 2);
}

#[tokio::test]
async fn a_viewer_reads_and_does_not_send() {
    let (world, seen) = claw().await;
    let mut viewer = connected(&world, Role::Viewer).await;
    let refused = call(&mut viewer, "chat.send", json!({ "message": "hello" })).await;
    assert_eq!(refused["error"]["code"], "FORBIDDEN");
    assert_eq!(refused["error"]["message"], "missing scope: operator.write");
    assert_eq!(refused["error"]["details"]["code"], "MISSING_SCOPE");
    assert_eq!(call(&mut viewer, "chat.history", json!({})).await["ok"], true, "the socket stays");
    let mut member = connected(&world, Role::Member).await;
    assert_eq!(call(&mut member, "chat.send", json!({ "message": "hello" })).await["ok"], true);
    let sent = seen.frames().iter().filter(|frame| frame["method"] == "chat.send").count();
    assert_eq!(sent, 1);
}

#[tokio::test]
async fn control_keeps_its_methods_and_unknown_ones_are_refused() {
    let (world, seen) = claw().await;
    let mut admin = connected(&world, Role::Admin).await;
    for method in ["gateway.suspend.prepare", "users.setRole", "plugin.approval.request", "connect"] {
        let refused = call(&mut admin, method, json!({})).await;
        assert_eq!(refused["error"]["details"]["code"], "CONTROL_ONLY", "{method}");
    }
    let unknown = call(&mut admin, "no.such.method", json!({})).await;
    assert_eq!(unknown["error"]["message"], "unknown method: no.such.method");
    assert_eq!(call(&mut admin, "config.get", json!({})).await["ok"], true);
    assert_eq!(seen.frames().len(), 2);
}

#[tokio::test]
async fn ambiguous_frames_end_the_connection_before_and_after_the_token() {
    let (world, seen) = claw().await;
    let token = world.token("claw", Role::Admin);
    for first in [
        format!(
            r#"{{"type":"req","id":"1","method":"connect","params":{{"auth":{{"token":"{token}","token":"{token}"}}}}}}"#
        ),
        format!(
            r#"{{"type":"req","id":"1","method":"connect","method":"health","params":{{"auth":{{"token":"{token}"}}}}}}"#
        ),
        r#"{"type":"req","id":"1","method":"health"}"#.to_owned(),
        "garbage".to_owned(),
    ] {
        let mut socket = opened(&world).await;
        socket.send(Message::text(first)).await.unwrap();
        assert_eq!(closed(&mut socket).await, CloseCode::Policy);
    }
    assert_eq!(seen.connections(), 0);
    for later in [
        Message::text(r#"{"type":"req","id":"1","method":"health","params":{"a":1,"a":2}}"#),
        Message::text(r#"{"type":"res","id":"1","ok":true}"#),
        Message::Binary(Bytes::from_static(b"{}")),
    ] {
        let mut socket = connected(&world, Role::Admin).await;
        socket.send(later).await.unwrap();
        assert_eq!(closed(&mut socket).await, CloseCode::Protocol);
    }
    assert!(seen.frames().iter().all(|frame| frame["method"] == "connect"));
}

#[tokio::test]
async fn the_first_frame_is_counted_over_its_fragments() {
    let (world, seen) = claw().await;
    let part = |opcode, last, text: String| {
        Message::Frame(Frame::message(Bytes::from(text), OpCode::Data(opcode), last))
    };
    let mut socket = opened(&world).await;
    socket.send(part(Data::Text, false, " ".repeat(40 * 1024))).await.unwrap();
    socket.send(part(Data::Continue, true, " ".repeat(40 * 1024))).await.unwrap();
    assert_eq!(closed(&mut socket).await, CloseCode::Size);
    let mut socket = opened(&world).await;
    socket.send(Message::Binary(Bytes::from_static(b"x"))).await.unwrap();
    assert_eq!(closed(&mut socket).await, CloseCode::Protocol);
    assert_eq!(seen.connections(), 0);
    let mut socket = opened(&world).await;
    let frame = json!({ "type": "req", "id": "1", "method": "connect",
        "params": connect(&world.token("claw", Role::Viewer)) })
    .to_string();
    let (one, two) = frame.split_at(frame.len() / 2);
    socket.send(part(Data::Text, false, one.into())).await.unwrap();
    socket.send(Message::Ping(Bytes::from_static(b"p"))).await.unwrap();
    socket.send(part(Data::Continue, true, two.into())).await.unwrap();
    assert!(matches!(soon(socket.next()).await, Some(Ok(Message::Pong(_)))));
    assert_eq!(next(&mut socket).await["ok"], true);
}

#[tokio::test]
async fn a_client_that_says_nothing_is_closed() {
    let (world, seen) = claw().await;
    let mut silent = opened(&world).await;
    let code = tokio::time::timeout(std::time::Duration::from_mins(1), closed_slowly(&mut silent)).await;
    assert_eq!(code.unwrap(), CloseCode::Policy);
    assert_eq!(seen.connections(), 0);
}

async fn closed_slowly(socket: &mut Socket) -> CloseCode {
    match socket.next().await {
        Some(Ok(Message::Close(Some(close)))) => close.code,
        other => panic!("no close but {other:?}"),
    }
}

#[tokio::test]
async fn a_socket_closes_at_revocation_and_at_the_end_of_its_token() {
    for revoked in [true, false] {
        let (world, seen) = claw().await;
        let mut socket = connected(&world, Role::Member).await;
        if revoked {
            world
                .tell(Config::Revoked { jti: World::claims("claw", Role::Member).jti, expires: u64::MAX })
                .await;
        } else {
            world.forward(3600);
        }
        assert_eq!(closed(&mut socket).await, CloseCode::Policy);
        soon(seen.end.notified()).await;
    }
}

async fn revoke(world: &World, role: Role) {
    world.tell(Config::Revoked { jti: World::claims("claw", role).jti, expires: u64::MAX }).await;
}

/// The socket closes, and because of this.
async fn closed_as_revoked(socket: &mut Socket) {
    match soon(socket.next()).await {
        Some(Ok(Message::Close(Some(close)))) => {
            assert_eq!((close.code, close.reason.as_str()), (CloseCode::Policy, "token_revoked"));
        }
        other => panic!("no close but {other:?}"),
    }
}

async fn sees(seen: &Seen, connections: usize) {
    while seen.connections() < connections {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_token_revoked_before_the_connect_frame_dials_nobody() {
    let (world, seen) = claw().await;
    let line = ("authorization", format!("Bearer {}", world.token("claw", Role::Member)));
    let mut socket = world.websocket("claw", &[line]).await.unwrap();
    next(&mut socket).await;
    revoke(&world, Role::Member).await;
    closed_as_revoked(&mut socket).await;
    assert_eq!(seen.connections(), 0);
    connected(&world, Role::Viewer).await;
    assert_eq!(seen.connections(), 1, "another's token is still good");
}

#[tokio::test]
async fn a_token_revoked_while_its_gateway_is_reached_forwards_no_connect() {
    for upgrades in [false, true] {
        let (port, seen) = mute(upgrades).await;
        let world = World::new(&[("claw", RuntimeKind::Openclaw, "running", port)]).await;
        let mut socket = opened(&world).await;
        let params = connect(&world.token("claw", Role::Member));
        let frame = json!({ "type": "req", "id": "1", "method": "connect", "params": params });
        socket.send(Message::text(frame.to_string())).await.unwrap();
        soon(sees(&seen, 1)).await;
        revoke(&world, Role::Member).await;
        closed_as_revoked(&mut socket).await;
        soon(seen.end.notified()).await;
        assert!(seen.frames().is_empty());
    }
}

#[tokio::test]
async fn a_token_revoked_between_a_close_and_its_answer_ends_the_socket() {
    let (port, seen) = mute(true).await;
    let world = World::new(&[("sock", RuntimeKind::Command, "running", port)]).await;
    let line = ("authorization", format!("Bearer {}", world.token("sock", Role::Member)));
    let mut socket = world.websocket("sock", &[line]).await.unwrap();
    socket.send(Message::Close(None)).await.unwrap();
    let passed_on = async {
        while seen.frames().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    soon(passed_on).await;
    world.tell(Config::Revoked { jti: World::claims("sock", Role::Member).jti, expires: u64::MAX }).await;
    closed_as_revoked(&mut socket).await;
    soon(seen.end.notified()).await;
}

#[tokio::test]
async fn an_upgrade_with_a_body_is_refused() {
    let (world, seen) = claw().await;
    for (length, status) in [("4", 400), ("0", 101)] {
        let mut stream = world.connect().await;
        let head = format!(
            "GET / HTTP/1.1\r\nhost: {}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             content-length: {length}\r\n\r\nbody",
            world.host("claw")
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut line = [0; 12];
        soon(stream.read_exact(&mut line)).await.unwrap();
        assert_eq!(line[9..], *status.to_string().as_bytes());
    }
    assert_eq!(seen.connections(), 0);
}

#[tokio::test]
async fn a_gateway_that_agrees_to_an_extension_or_subprotocol_gets_no_connect() {
    for (name, value) in
        [("sec-websocket-protocol", "chat"), ("sec-websocket-extensions", "permessage-deflate")]
    {
        let (port, seen) = eager(name, value).await;
        let world = World::new(&[("claw", RuntimeKind::Openclaw, "running", port)]).await;
        let line = ("sec-websocket-protocol", "chat".to_owned());
        // The client's library takes an answer without its subprotocol for a refusal, so it is not asked.
        assert!(world.websocket("claw", &[line]).await.is_err(), "no subprotocol is agreed to");
        let mut socket = opened(&world).await;
        let answer = call(&mut socket, "connect", connect(&world.token("claw", Role::Member))).await;
        assert_eq!(answer["error"]["details"]["code"], "gateway_broke", "{name}");
        assert_eq!(closed(&mut socket).await, CloseCode::Again);
        soon(seen.end.notified()).await;
        assert!(seen.frames().is_empty());
    }
}

#[tokio::test]
async fn pings_and_empty_fragments_before_the_token_are_counted() {
    let (world, seen) = claw().await;
    // As many as are read, so that none is left whose loss would take the answer along.
    let mut pings = Vec::new();
    for _ in 0..525 {
        pings.extend_from_slice(&[0x89, 0xfd, 0, 0, 0, 0]);
        pings.resize(pings.len() + 125, 0);
    }
    let mut fragments = vec![0x01, 0x80, 0, 0, 0, 0];
    for _ in 0..65_536 {
        fragments.extend_from_slice(&[0x00, 0x80, 0, 0, 0, 0]);
    }
    for flood in [&pings, &fragments] {
        let mut socket = opened(&world).await;
        socket.get_mut().write_all(flood).await.unwrap();
        let code = loop {
            match soon(socket.next()).await {
                Some(Ok(Message::Pong(_))) => {}
                Some(Ok(Message::Close(Some(close)))) => break close.code,
                other => panic!("no close but {other:?}"),
            }
        };
        assert_eq!(code, CloseCode::Size);
    }
    assert_eq!(seen.connections(), 0);
    // A few of either do no harm.
    let mut socket = opened(&world).await;
    socket.get_mut().write_all(&pings[..131 * 10]).await.unwrap();
    let frame = json!({ "type": "req", "id": "1", "method": "connect",
        "params": connect(&world.token("claw", Role::Viewer)) });
    socket.get_mut().write_all(&fragments[..60]).await.unwrap();
    let last = Frame::message(Bytes::from(frame.to_string()), OpCode::Data(Data::Continue), true);
    socket.send(Message::Frame(last)).await.unwrap();
    loop {
        match soon(socket.next()).await {
            Some(Ok(Message::Pong(_))) => {}
            Some(Ok(Message::Text(hello))) => break assert!(hello.contains("hello-ok"), "{hello}"),
            other => panic!("no hello but {other:?}"),
        }
    }
}

#[tokio::test]
async fn upgraded_sockets_without_a_token_count_as_strangers() {
    let (world, seen) = claw().await;
    let mut waiting = Vec::new();
    for _ in 0..32 {
        waiting.push(opened(&world).await);
    }
    let token = [bearer(&world.token("claw", Role::Member))];
    let host = world.host("claw");
    let answer: Answer = world.get(&host, "/", &token).await;
    assert_eq!((answer.status, answer.code().as_str()), (429, "too_many_strangers"));
    assert_eq!(seen.connections(), 0);
    // One that shows a token is a stranger no more.
    let mut first = waiting.swap_remove(0);
    let hello = call(&mut first, "connect", connect(&world.token("claw", Role::Member))).await;
    assert_eq!(hello["ok"], true);
    opened(&world).await;
}
