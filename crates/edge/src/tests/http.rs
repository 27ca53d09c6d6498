//! HTTP: who gets in, what reaches the cell, what comes back.

use super::{
    gateways::{Seen, web},
    world::{Answer, START, World, bearer, id, soon},
};
use cofferdam_base::{
    Role,
    ipc::edge::{Config, Feed, RuntimeKind},
};
use serde_json::Value;
use std::sync::{Arc, atomic::Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn two() -> (World, Arc<Seen>, Arc<Seen>) {
    let (acme, acme_seen) = web().await;
    let (globex, globex_seen) = web().await;
    let world = World::new(&[
        ("acme", RuntimeKind::Command, "running", acme),
        ("globex", RuntimeKind::Command, "running", globex),
        ("still", RuntimeKind::Command, "stopped", acme),
        ("empty", RuntimeKind::Command, "running", 0),
    ])
    .await;
    (world, acme_seen, globex_seen)
}

#[tokio::test]
async fn a_token_opens_its_own_tenant_and_no_other() {
    let (world, acme, globex) = two().await;
    let token = world.token("acme", Role::Member);
    let own = world.get(&world.host("acme"), "/x?y=1", &[bearer(&token)]).await;
    assert_eq!(own.status, 200, "{own:?}");
    let other = world.get(&world.host("globex"), "/x", &[bearer(&token)]).await;
    assert_eq!((other.status, other.code().as_str()), (401, "token_other_tenant"));
    assert!(other.head.contains("www-authenticate: bearer"), "{}", other.head);
    assert_eq!((acme.connections(), globex.connections()), (1, 0));
    assert_eq!(world.get_as_member("globex", "/", &[]).await.status, 200);
}

#[tokio::test]
async fn what_is_no_good_token_reaches_no_cell() {
    let (world, acme, _) = two().await;
    let good = World::claims("acme", Role::Member);
    let sign = |change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
        let mut value = serde_json::to_value(&good).unwrap();
        change(value.as_object_mut().unwrap());
        world.signer.sign(&value)
    };
    let cases = [
        (vec![], "token_missing"),
        (vec!["authorization: Basic YTpi".to_owned()], "token_missing"),
        (vec!["cookie: token=x".to_owned()], "token_missing"),
        (vec![bearer(&sign(&|claims| drop(claims.remove("exp"))))], "token_claims"),
        (vec![bearer(&sign(&|claims| claims["aud"] = "x".into()))], "token_audience"),
        (vec![bearer(&sign(&|claims| claims["exp"] = START.into()))], "token_not_yet"),
        (
            vec![bearer(&sign(&|claims| {
                claims["iat"] = (START - 9).into();
                claims["exp"] = START.into();
            }))],
            "token_expired",
        ),
        (vec![bearer("eyJhbGciOiJub25lIn0.e30.")], "token_algorithm"),
        (vec![bearer("x")], "token_malformed"),
    ];
    for (lines, code) in cases {
        let answer = world.get(&world.host("acme"), "/", &lines).await;
        assert_eq!((answer.status, answer.code().as_str()), (401, code));
    }
    assert_eq!(acme.connections(), 0);
    assert_eq!(world.get_as_member("acme", "/", &[]).await.status, 200);
    assert_eq!(acme.connections(), 1);
    while !world.reported("connect", "") {
        tokio::task::yield_now().await;
    }
    assert!(world.reported("refused", "token_audience"));
}

#[tokio::test]
async fn foreign_pages_and_foreign_hosts_are_refused() {
    let (world, acme, _) = two().await;
    let own = format!("origin: http://{}", world.host("acme"));
    let foreign = format!("origin: http://{}", world.host("globex"));
    assert_eq!(world.get_as_member("acme", "/", &[&own, "sec-fetch-site: same-origin"]).await.status, 200);
    for (line, code) in [
        (foreign.as_str(), "foreign_origin"),
        ("origin: null", "foreign_origin"),
        ("sec-fetch-site: same-site", "cross_site"),
        ("sec-fetch-site: cross-site", "cross_site"),
        ("service-worker: script", "service_worker"),
    ] {
        let answer = world.get_as_member("acme", "/", &[line]).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, code));
    }
    let token = bearer(&world.token("acme", Role::Member));
    for host in ["evil.com", "localhost", "127.0.0.1", "acme.localhost:1", "nobody.localhost"] {
        let answer = world.get(host, "/", std::slice::from_ref(&token)).await;
        assert_eq!((answer.status, answer.code().as_str()), (421, "misdirected"), "{host}");
    }
    assert_eq!(acme.connections(), 1);
}

#[tokio::test]
async fn the_cell_learns_who_asks_from_us_alone_and_sets_no_cookie() {
    let (world, ..) = two().await;
    let answer = world
        .get_as_member(
            "acme",
            "/a/b?c=d",
            &[
                "x-cofferdam-user: m999",
                "x-openclaw-scopes: operator.admin",
                "x-forwarded-for: 10.0.0.1",
                "forwarded: for=10.0.0.1",
                "cookie: a=b",
                "x-kept: yes",
            ],
        )
        .await;
    let seen: Value = serde_json::from_str(&answer.body).unwrap();
    let value = |name: &str| -> Vec<&str> {
        let rows = seen["headers"].as_array().unwrap();
        rows.iter().filter(|row| row[0] == name).filter_map(|row| row[1].as_str()).collect()
    };
    assert_eq!(value("x-cofferdam-user"), ["m007"]);
    assert_eq!(value("x-openclaw-scopes"), ["operator.read,operator.write,operator.questions"]);
    assert_eq!(value("x-forwarded-for"), ["203.0.113.1"]);
    assert_eq!(value("host"), [world.host("acme").as_str()]);
    assert_eq!(value("x-kept"), ["yes"]);
    for gone in ["authorization", "cookie", "forwarded", "connection"] {
        assert!(value(gone).is_empty(), "{gone}");
    }
    assert!(answer.head.contains("x-own: 1"), "{}", answer.head);
    for gone in ["set-cookie", "server:", "x-cofferdam-user"] {
        assert!(!answer.head.contains(gone), "{gone}");
    }
}

#[tokio::test]
async fn an_event_passes_before_the_stream_ends() {
    let (world, acme, _) = two().await;
    let mut stream = world.connect().await;
    let token = bearer(&world.token("acme", Role::Member));
    let head = format!("GET /sse HTTP/1.1\r\nhost: {}\r\n{token}\r\n\r\n", world.host("acme"));
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    let mut piece = [0; 4096];
    while !text.contains("data: one") {
        let count = soon(stream.read(&mut piece)).await.unwrap();
        assert!(count > 0, "{text}");
        text.push_str(std::str::from_utf8(&piece[..count]).unwrap());
    }
    assert!(!text.contains("data: two"));
    acme.go.notify_one();
    while !text.contains("data: two") {
        let count = soon(stream.read(&mut piece)).await.unwrap();
        text.push_str(std::str::from_utf8(&piece[..count]).unwrap());
    }
    // The same connection goes on, over the same connection into the cell.
    stream.write_all(head.replace("/sse", "/again").as_bytes()).await.unwrap();
    while !text.contains("/again") {
        let count = soon(stream.read(&mut piece)).await.unwrap();
        text.push_str(std::str::from_utf8(&piece[..count]).unwrap());
    }
    assert_eq!(acme.connections(), 1);
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_cell_and_one_that_leaves_ends_the_run() {
    let (world, acme, _) = two().await;
    let token = bearer(&world.token("acme", Role::Member));
    let mut stream = world.connect().await;
    let head = format!("GET /endless HTTP/1.1\r\nhost: {}\r\n{token}\r\n\r\n", world.host("acme"));
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.readable().await.unwrap();
    // Once nothing moves any more, what was produced sits in bounded buffers.
    let mut before = 0;
    loop {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let produced = acme.produced.load(Ordering::SeqCst);
        if produced == before {
            break;
        }
        before = produced;
    }
    assert!(before < 64 << 20, "{before} bytes are buffered somewhere");
    let mut some = vec![0; 1 << 20];
    soon(stream.read_exact(&mut some)).await.unwrap();
    drop(stream);
    soon(acme.end.notified()).await;
    let mut waiting = world.connect().await;
    waiting.write_all(head.replace("/endless", "/never").as_bytes()).await.unwrap();
    while acme.connections() < 2 {
        tokio::task::yield_now().await;
    }
    drop(waiting);
    soon(acme.end.notified()).await;
}

#[tokio::test]
async fn a_tenant_that_does_not_serve_says_so_to_its_members_only() {
    let (world, ..) = two().await;
    let answer = world.get_as_member("still", "/", &[]).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "tenant_not_running"));
    assert!(answer.body.contains("stopped"), "{}", answer.body);
    assert_eq!(world.get(&world.host("still"), "/", &[]).await.status, 401);
    let answer = world.get_as_member("empty", "/", &[]).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "no_cell"));
    assert_eq!(world.get_as_member("acme", "/", &[]).await.status, 200);
}

#[tokio::test]
async fn nobody_is_served_before_control_has_told_everything() {
    let (port, _) = web().await;
    let rows = [("acme", RuntimeKind::Command, "running", port)];
    let world = World::unsynced(&rows).await;
    let early = world.get_as_member("acme", "/", &[]).await;
    assert_eq!((early.status, early.code().as_str()), (503, "not_synced"));
    world.sync(&rows).await;
    assert_eq!(world.get_as_member("acme", "/", &[]).await.status, 200);
}

#[tokio::test]
async fn a_stream_ends_when_its_token_is_revoked_or_expires_or_its_cell_is_gone() {
    for way in ["revoked", "expired", "gone"] {
        let (world, acme, _) = two().await;
        let token = bearer(&world.token("acme", Role::Member));
        let mut stream = world.connect().await;
        let head = format!("GET /sse HTTP/1.1\r\nhost: {}\r\n{token}\r\n\r\n", world.host("acme"));
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut piece = [0; 4096];
        assert!(soon(stream.read(&mut piece)).await.unwrap() > 0);
        let jti = World::claims("acme", Role::Member).jti;
        let mut rest = Vec::new();
        match way {
            "revoked" => {
                // Another token's revocation ends nothing.
                world.tell(Config::Revoked { jti: "other".into(), expires: START + 9999 }).await;
                acme.go.notify_one();
                let mut text = String::new();
                while !text.contains("two") {
                    let count = soon(stream.read(&mut piece)).await.unwrap();
                    assert!(count > 0);
                    text.push_str(&String::from_utf8_lossy(&piece[..count]));
                }
                world.tell(Config::Revoked { jti, expires: START + 9999 }).await;
            }
            "expired" => world.forward(3600),
            _ => {
                world
                    .launcher
                    .send(&Feed::CellGone { tenant: id("acme"), generation: 1 }, &[])
                    .await
                    .unwrap();
            }
        }
        soon(stream.read_to_end(&mut rest)).await.ok();
        soon(acme.end.notified()).await;
        if way != "gone" {
            assert_eq!(world.get_as_member("acme", "/", &[]).await.status, 401, "{way}");
        }
    }
}

#[tokio::test]
async fn the_thirty_third_socket_without_a_token_is_turned_away() {
    let (world, ..) = two().await;
    let mut idle = Vec::new();
    for _ in 0..32 {
        let mut stream = world.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        idle.push(stream);
    }
    // A connection is counted once its task runs, which may be after the next one's.
    while world.edge.limits.strangers() < 32 {
        tokio::task::yield_now().await;
    }
    let answer = world.get_as_member("acme", "/", &[]).await;
    assert_eq!((answer.status, answer.code().as_str()), (429, "too_many_strangers"));
    // One that leaves makes room; and those who have shown a token do not count.
    idle.pop();
    loop {
        let answer = world.get_as_member("acme", "/", &[]).await;
        if answer.status == 200 {
            break;
        }
        assert_eq!(answer.status, 429);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_is_too_big_or_ambiguous_or_no_path_is_refused() {
    let (world, acme, _) = two().await;
    let token = bearer(&world.token("acme", Role::Member));
    let host = world.host("acme");
    let long = format!("x-long: {}", "a".repeat(17 * 1024));
    assert_eq!(world.get_as_member("acme", "/", &[&long]).await.status, 431);
    let many: Vec<String> = (0..100).map(|at| format!("x-{at}: 1")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(world.get_as_member("acme", "/", &many).await.status, 431);
    for request in [
        format!("GET http://evil.com/ HTTP/1.1\r\nhost: {host}\r\n{token}\r\n\r\n"),
        format!("OPTIONS * HTTP/1.1\r\nhost: {host}\r\n{token}\r\n\r\n"),
        format!("CONNECT evil.com:443 HTTP/1.1\r\nhost: {host}\r\n{token}\r\n\r\n"),
        format!(
            "POST / HTTP/1.1\r\nhost: {host}\r\n{token}\r\ntransfer-encoding: chunked, x\r\n\r\n0\r\n\r\n"
        ),
        format!(
            "POST / HTTP/1.1\r\nhost: {host}\r\n{token}\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab"
        ),
        format!("GET / HTTP/1.1\r\nhost: {host}\r\nhost: {host}\r\n{token}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nhost: {host}\r\n{token}\r\n{token}\r\n\r\n"),
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        "\u{0}\u{1}garbage".repeat(1000),
    ] {
        let mut stream = world.connect().await;
        // The edge may close before it has read all of the garbage.
        let _ = stream.write_all(request.as_bytes()).await;
        let answer = Answer::read(stream).await;
        assert!([400, 401, 421, 0].contains(&answer.status), "{request:.60} {answer:?}");
    }
    assert_eq!(acme.connections(), 0);
    let answer = world.get_as_member("acme", "/switch", &[]).await;
    assert_eq!(answer.status, 502, "an upgrade that nobody asked for");
    let mut stream = world.connect().await;
    let body = "b".repeat(300_000);
    let post = format!(
        "POST / HTTP/1.1\r\nhost: {host}\r\n{token}\r\nconnection: close\r\ncontent-length: 300000\r\n\r\n{body}"
    );
    stream.write_all(post.as_bytes()).await.unwrap();
    let answer = Answer::read(stream).await;
    assert!(answer.body.contains("\"body\":300000"), "{answer:?}");
}

#[tokio::test]
async fn a_body_with_two_lengths_reaches_the_cell_with_one_and_ends_the_connection() {
    let (world, ..) = two().await;
    let token = bearer(&world.token("acme", Role::Member));
    let mut stream = world.connect().await;
    let head = format!("POST / HTTP/1.1\r\nhost: {}\r\n{token}\r\n", world.host("acme"));
    let lengths = "content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    stream.write_all(format!("{head}{lengths}GET /smuggled HTTP/1.1\r\n").as_bytes()).await.unwrap();
    let answer = Answer::read(stream).await;
    let seen: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(seen["body"], 3);
    assert!(!answer.body.contains("content-length") && answer.head.contains("connection: close"));
}

#[tokio::test]
async fn a_gateways_admin_rpc_is_nobodys_and_a_viewer_sends_nothing() {
    let (port, seen) = web().await;
    let world = World::new(&[
        ("claw", RuntimeKind::Openclaw, "running", port),
        ("plain", RuntimeKind::Command, "running", port),
    ])
    .await;
    let ask = async |tenant: &str, role, method: &str, path: &str| {
        let mut stream = world.connect().await;
        let (host, token) = (world.host(tenant), bearer(&world.token(tenant, role)));
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n{token}\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = Answer::read(stream).await;
        (answer.status, answer.code())
    };
    for path in ["/api/v1/admin/rpc", "/api//v1/%61dmin", "/x/../api/v1/admin/rpc?a=b"] {
        assert_eq!(ask("claw", Role::Admin, "POST", path).await, (403, "control_only".into()), "{path}");
    }
    let missing = (403, "missing_scope".to_owned());
    assert_eq!(ask("claw", Role::Viewer, "POST", "/v1/responses").await, missing);
    assert_eq!(ask("claw", Role::Viewer, "DELETE", "/v1/responses").await, missing);
    assert_eq!(seen.connections(), 0);
    assert_eq!(ask("claw", Role::Viewer, "GET", "/v1/models").await.0, 200);
    assert_eq!(ask("claw", Role::Member, "POST", "/v1/responses").await.0, 200);
    assert_eq!(
        ask("plain", Role::Viewer, "POST", "/api/v1/admin/rpc").await.0,
        200,
        "a command has no roles"
    );
}
