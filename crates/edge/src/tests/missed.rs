//! An attack for each check: stopped while the check is there, through when it is gone.

use super::{
    approvals::{ask, ask_admins, page, question, shown},
    gateways::{Seen, eager, echo, mute, openclaw, web},
    openclaw::{Socket, call, connect, connected, next, opened},
    world::{Answer, START, World, bearer, id, soon},
};
use crate::{
    check::{
        Check,
        left_out::{each_is_missed, tried},
    },
    headers::{Identity, inbound, outbound},
    limits::{HELD, SEATS, STRANGERS},
    methods,
    origin::{Arrival, addressed, admissible},
    pool::Pool,
    reports::{SHARE, What},
    token::tests::{Signer, claims},
    ws::frame::{Head, Opcode, Order, Sender, parse},
};
use cofferdam_base::{
    Claims, Role, Slot, TenantId,
    ipc::edge::{Config, Feed, RuntimeKind},
};
use cofferdam_sys::{
    channel::{AsyncChannel, pair},
    netns,
};
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Method};
use rustix::net::{AddressFamily, SocketType, socket};
use serde_json::{Value, json};
use std::{
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    runtime::Builder,
    sync::mpsc,
    time,
};
use tokio_tungstenite::tungstenite::{Bytes, Message};

/// Longer than everything in this crate that has an end in time.
const LONG: Duration = Duration::from_mins(10);

fn comes(attack: impl Future<Output = bool>) -> bool {
    Builder::new_current_thread().enable_all().build().unwrap().block_on(attack)
}

/// An edge on this thread, with a web server, a WebSocket echo and an OpenClaw gateway behind it.
async fn world() -> (World, Arc<Seen>) {
    let (web, seen) = web().await;
    let (echo, _) = echo().await;
    let (claw, _) = openclaw().await;
    let rows = [
        ("acme", RuntimeKind::Command, "running", web),
        ("globex", RuntimeKind::Command, "running", web),
        ("still", RuntimeKind::Command, "stopped", web),
        ("sock", RuntimeKind::Command, "running", echo),
        ("claw", RuntimeKind::Openclaw, "running", claw),
    ];
    let world = World::here(&rows).await;
    world.sync(&rows).await;
    (world, seen)
}

/// Does a member's request with these lines reach the cell?
fn reaches(lines: &[&str]) -> bool {
    comes(async { world().await.0.get_as_member("acme", "/", lines).await.status == 200 })
}

/// Does this head, whose `HOST` and `TOKEN` are put in, get this answer?
fn answers(status: u16, head: &'static str) -> bool {
    comes(async { raw(&world().await.0, head).await.status == status })
}

async fn raw(world: &World, head: &str) -> Answer {
    let token = bearer(&world.token("acme", Role::Member));
    let head = head.replace("HOST", &world.host("acme")).replace("TOKEN", &token);
    let mut stream = world.connect().await;
    let _ = stream.write_all(format!("{head}\r\nconnection: close\r\n\r\n").as_bytes()).await;
    Answer::read(stream).await
}

/// Does this token open the tenant?
fn opens(make: impl Fn(&Signer) -> String) -> bool {
    comes(async {
        let (world, _) = world().await;
        world.get(&world.host("acme"), "/", &[bearer(&make(&world.signer))]).await.status == 200
    })
}

/// Does a token whose claims were changed like this?
fn claims_open(change: impl Fn(&mut Claims)) -> bool {
    opens(|signer| {
        let mut claims = World::claims("acme", Role::Member);
        change(&mut claims);
        signer.sign(&claims)
    })
}

fn payload() -> String {
    serde_json::to_string(&World::claims("acme", Role::Member)).unwrap()
}

/// Waits until the edge has heard of a change.
async fn learns(world: &World, before: u64) {
    while world.edge.state.epoch() == before {
        tokio::task::yield_now().await;
    }
}

/// Does an open socket still echo after something happened?
fn outlives(what: impl AsyncFn(&World)) -> bool {
    comes(async {
        let (world, _) = world().await;
        let line = ("authorization", format!("Bearer {}", world.token("sock", Role::Member)));
        let mut socket = world.websocket("sock", &[line]).await.unwrap();
        let before = world.edge.state.epoch();
        what(&world).await;
        learns(&world, before).await;
        let _ = socket.send(Message::text("x")).await;
        matches!(soon(socket.next()).await, Some(Ok(Message::Text(_))))
    })
}

/// What a request of a member, with what was taken before it, is answered.
fn crowded(take: impl Fn(&World) -> Vec<Box<dyn std::any::Any>>) -> bool {
    comes(async {
        let (world, _) = world().await;
        let _taken = take(&world);
        world.get_as_member("acme", "/", &[]).await.status == 200
    })
}

fn boxed<T: 'static>(all: impl Iterator<Item = T>) -> Vec<Box<dyn std::any::Any>> {
    all.map(|one| Box::new(one) as Box<dyn std::any::Any>).collect()
}

fn map(rows: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in rows {
        map.append(*name, HeaderValue::from_static(value));
    }
    map
}

/// Does a header enter a cell?
fn enters(rows: &[(&'static str, &'static str)], name: &str) -> bool {
    let token = Signer::new("k1").verified(&claims("acme"));
    let host = HeaderValue::from_static("acme.localhost:8471");
    let identity = Identity { token: &token, peer: [127, 0, 0, 1].into(), host: &host };
    inbound(map(rows), &identity).contains_key(name)
}

/// Does a header leave one?
fn leaves(name: &'static str) -> bool {
    outbound(map(&[(name, "x")])).contains_key(name)
}

/// Is a request with this Host one for globex, at acme's listener or address?
fn addresses(host: &'static str, listener: Option<&str>, local: &str) -> bool {
    let arrival = Arrival { tenant: listener.map(id), local: local.parse().unwrap() };
    let by_slot = |slot: Slot| (slot == Slot::try_from(2).unwrap()).then(|| id("acme"));
    addressed(&map(&[("host", host)]), &arrival, by_slot).is_ok()
}

fn foreign(rows: &[(&'static str, &'static str)], port: u16) -> bool {
    admissible(&map(rows), &id("acme"), Slot::try_from(2).unwrap(), port).is_ok()
}

/// Is this the head of a client's frame?
fn framed(bytes: &[u8]) -> bool {
    matches!(parse(bytes, Sender::Client), Ok(Some(_)))
}

/// Does a client of an OpenClaw gateway get an answer that says yes to what it does?
fn claw_answers(role: Role, talk: impl AsyncFn(&World, &mut Socket) -> bool) -> bool {
    comes(async {
        let (world, _) = world().await;
        let mut socket = connected(&world, role).await;
        talk(&world, &mut socket).await
    })
}

/// Does the gateway say yes to this text?
async fn accepted(socket: &mut Socket, text: String) -> bool {
    let _ = socket.send(Message::text(text)).await;
    yes(socket).await
}

async fn yes(socket: &mut Socket) -> bool {
    loop {
        match soon(socket.next()).await {
            Some(Ok(Message::Text(text))) => {
                break serde_json::from_str::<Value>(&text).unwrap()["ok"] == true;
            }
            Some(Ok(Message::Pong(_))) => {}
            _ => break false,
        }
    }
}

fn request(method: &str, params: &Value) -> String {
    json!({ "type": "req", "id": "1", "method": method, "params": params }).to_string()
}

/// Does the socket stay open, in a time that flies?
async fn stays(socket: &mut Socket) -> bool {
    time::pause();
    time::timeout(LONG, socket.next()).await.is_err()
}

/// Does the client's upgrade get this far with a gateway of this kind?
fn upgraded(gateway: impl AsyncFn() -> (u16, Arc<Seen>)) -> bool {
    comes(async {
        let (port, _) = gateway().await;
        let rows = [("sock", RuntimeKind::Command, "running", port)];
        let world = World::here(&rows).await;
        world.sync(&rows).await;
        let line = ("authorization", format!("Bearer {}", world.token("sock", Role::Member)));
        world.websocket("sock", &[line]).await.is_ok()
    })
}

/// Is a client's request for an upgrade granted, where a part of it is put otherwise?
fn upgrades(part: &'static str, otherwise: &'static str) -> bool {
    comes(async {
        let (world, _) = world().await;
        let head = format!(
            "GET / HTTP/1.1\r\nhost: {}\r\n{}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            world.host("sock"),
            bearer(&world.token("sock", Role::Member))
        );
        assert!(head.contains(part));
        let mut stream = world.connect().await;
        stream.write_all(head.replacen(part, otherwise, 1).as_bytes()).await.unwrap();
        let mut line = [0; 12];
        soon(stream.read_exact(&mut line)).await.unwrap();
        line.ends_with(b"101")
    })
}

/// Is a socket out of this stock?
fn stocked(stock: impl Fn(&Pool, &TenantId, u64, Vec<OwnedFd>)) -> bool {
    comes(async {
        let (requests, _asked) = mpsc::unbounded_channel();
        let (pool, acme) = (Pool::new(requests, 100), id("acme"));
        let fresh = vec![socket(AddressFamily::INET, SocketType::STREAM, None).unwrap()];
        stock(&pool, &acme, netns::current_cookie().unwrap(), fresh);
        let (taken, ()) = tokio::join!(pool.take(&acme), async { pool.absent(&acme) });
        taken.is_ok()
    })
}

fn attack(check: Check) -> Result<(), String> {
    let alone = |attack: &dyn Fn() -> bool| tried(&[check], attack);
    match check {
        Check::TokenLength => alone(&|| {
            opens(|signer| {
                let header = r#"{"alg":"EdDSA","typ":"JWT","kid":"k1"}"#;
                signer.sign_raw(header, &format!("{}{}", payload(), " ".repeat(7000)))
            })
        }),
        Check::TokenAlgorithm => alone(&|| {
            opens(|signer| signer.sign_raw(r#"{"alg":"HS256","typ":"JWT","kid":"k1"}"#, &payload()))
        }),
        Check::TokenType => alone(&|| {
            opens(|signer| signer.sign_raw(r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k1"}"#, &payload()))
        }),
        Check::TokenSignature => {
            alone(&|| opens(|_| Signer::new("k1").sign(&World::claims("acme", Role::Admin))))
        }
        // Another name is looked at again after the token was verified.
        Check::TokenIssuer => {
            tried(&[check, Check::TokenKey], &|| claims_open(|claims| claims.iss = "another".into()))
        }
        Check::TokenAudience => alone(&|| claims_open(|claims| claims.aud = "another".into())),
        Check::TokenBegun => alone(&|| claims_open(|claims| claims.iat = START + 1800)),
        Check::TokenSpan => {
            alone(&|| claims_open(|claims| (claims.iat, claims.exp) = (START + 30, START + 20)))
        }
        Check::TokenPlain => alone(&|| claims_open(|claims| claims.sub = "a\nb".into())),
        Check::TokenExpiry => alone(&|| claims_open(|claims| (claims.iat, claims.exp) = (START - 9, START))),
        Check::TokenTenant => alone(&|| claims_open(|claims| claims.tid = id("globex"))),
        Check::TokenRevoked => alone(&|| {
            outlives(async |world| {
                let jti = World::claims("sock", Role::Member).jti;
                world.tell(Config::Revoked { jti, expires: u64::MAX }).await;
            })
        }),
        Check::TokenKey => alone(&|| {
            outlives(async |world| {
                let keys = vec![Signer::new("k2").public];
                world.tell(Config::Issuer { issuer: "test-host".into(), keys }).await;
            })
        }),
        Check::TenantKnown => tried(&[check, Check::CellAlive], &|| {
            outlives(async |world| world.tell(Config::TenantGone { tenant: id("sock") }).await)
        }),
        Check::CellAlive => alone(&|| {
            outlives(async |world| {
                let gone = Feed::CellGone { tenant: id("sock"), generation: 1 };
                world.launcher.send(&gone, &[]).await.unwrap();
            })
        }),
        // Without it nobody is known yet, so nobody is reached; but the client is told that it is at fault.
        Check::Synced => alone(&|| {
            comes(async {
                let world = World::here(&[("acme", RuntimeKind::Command, "running", 1)]).await;
                world.get_as_member("acme", "/", &[]).await.code() != "not_synced"
            })
        }),
        Check::OnlyOnce => {
            alone(&|| answers(200, "GET / HTTP/1.1\r\nhost: HOST\r\nhost: globex.localhost\r\nTOKEN"))
        }
        Check::HostPort => alone(&|| answers(200, "GET / HTTP/1.1\r\nhost: acme.localhost:1\r\nTOKEN")),
        Check::HostIsDialled => alone(&|| addresses("127.18.0.3:80", None, "127.18.0.2:80")),
        Check::HostIsListeners => alone(&|| addresses("globex.localhost", Some("acme"), "127.0.0.1:80")),
        Check::HostIsAddresses => alone(&|| addresses("globex.localhost", None, "127.18.0.2:80")),
        Check::Origin => alone(&|| reaches(&["origin: http://globex.localhost"])),
        Check::OriginSpelling => alone(&|| foreign(&[("origin", "http://acme.localhost:80")], 80)),
        Check::FetchSite => alone(&|| reaches(&["sec-fetch-site: same-site"])),
        Check::ServiceWorker => alone(&|| reaches(&["service-worker: script"])),
        Check::OneTenant => alone(&|| {
            comes(async {
                let (world, _) = world().await;
                assert_eq!(world.get_as_member("globex", "/", &[]).await.status, 200);
                let mut stream = world.connect().await;
                let [first, second] = ["acme", "globex"].map(|tenant| {
                    let token = bearer(&world.token(tenant, Role::Member));
                    format!("GET / HTTP/1.1\r\nhost: {}\r\n{token}\r\n", world.host(tenant))
                });
                let both = format!("{first}\r\n{second}connection: close\r\n\r\n");
                stream.write_all(both.as_bytes()).await.unwrap();
                let mut text = Vec::new();
                let _ = soon(stream.read_to_end(&mut text)).await;
                String::from_utf8_lossy(&text).matches("HTTP/1.1 200").count() == 2
            })
        }),
        Check::LedgerRoom => alone(&|| {
            comes(async {
                let (world, _) = world().await;
                // A control that records nothing takes the place of the one that does.
                let (deaf, theirs) = pair().unwrap();
                let (deaf, before) = (AsyncChannel::new(deaf).unwrap(), world.edge.state.epoch());
                world.launcher.send(&Feed::Control {}, &[theirs.as_fd()]).await.unwrap();
                deaf.send(&Config::Revoked { jti: "other".into(), expires: u64::MAX }, &[]).await.unwrap();
                learns(&world, before).await;
                for n in 0..SHARE {
                    let (tenant, subject) = (Some(id("acme")), String::new());
                    let what = What { kind: "closed", tenant, subject, jti: n.to_string(), reason: "" };
                    world.edge.reports.push(what, world.edge.state.now());
                }
                world.get_as_member("acme", "/", &[]).await.status == 200
            })
        }),
        Check::HeadTime => alone(&|| {
            comes(async {
                let (world, _) = world().await;
                let mut stream = world.connect().await;
                stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
                while world.edge.limits.strangers() < 1 {
                    tokio::task::yield_now().await;
                }
                time::pause();
                time::timeout(LONG, stream.read_to_end(&mut Vec::new())).await.is_err()
            })
        }),
        // The gateway has a limit of its own, so what counts is that it was asked.
        Check::HeadHeaders => alone(&|| {
            comes(async {
                let (world, seen) = world().await;
                let many: Vec<String> = (0..200).map(|at| format!("x-{at}: 1")).collect();
                let many: Vec<&str> = many.iter().map(String::as_str).collect();
                world.get_as_member("acme", "/", &many).await;
                seen.connections() > 0
            })
        }),
        Check::HeadBytes => alone(&|| reaches(&[&format!("x-long: {}", "a".repeat(20_000))])),
        Check::PathOnly => {
            alone(&|| answers(200, "GET http://evil.example/ HTTP/1.1\r\nhost: HOST\r\nTOKEN"))
        }
        Check::NoSwitch => alone(&|| answers(101, "GET /switch HTTP/1.1\r\nhost: HOST\r\nTOKEN")),
        Check::Serving => {
            alone(&|| comes(async { world().await.0.get_as_member("still", "/", &[]).await.status == 200 }))
        }
        Check::Sockets => alone(&|| crowded(|world| boxed((0..1000).map(|_| world.edge.limits.socket())))),
        Check::TurnedAway => alone(&|| {
            comes(async {
                let (world, _) = world().await;
                let here = [127, 0, 0, 1].into();
                let _strangers: Vec<_> =
                    (0..STRANGERS).map(|_| world.edge.limits.stranger(None, here)).collect();
                let _told: Vec<_> = (0..64).map(|_| world.edge.limits.turned_away()).collect();
                world.get_as_member("acme", "/", &[]).await.status == 429
            })
        }),
        Check::Strangers => alone(&|| {
            let here = [127, 0, 0, 1].into();
            crowded(|world| {
                boxed(
                    (0..STRANGERS)
                        .map(move |_| world.edge.limits.stranger(None, here))
                        .collect::<Vec<_>>()
                        .into_iter(),
                )
            })
        }),
        Check::StrangersInAll => alone(&|| {
            crowded(|world| {
                let peer = |n: u32| IpAddr::from((u32::from_be_bytes([10, 0, 0, 0]) + n).to_be_bytes());
                boxed(
                    (0..500)
                        .map(|n| world.edge.limits.stranger(None, peer(n)))
                        .collect::<Vec<_>>()
                        .into_iter(),
                )
            })
        }),
        Check::Seats => alone(&|| {
            crowded(|world| {
                boxed((0..SEATS).map(|_| world.edge.limits.seat(&id("acme"))).collect::<Vec<_>>().into_iter())
            })
        }),
        Check::Held | Check::HeldForAll => alone(&|| {
            claw_answers(Role::Member, async |world, socket| {
                let others: &[&str] = if check == Check::Held { &["claw"] } else { &["a", "b", "c", "d"] };
                let mut held: Vec<_> =
                    others.iter().map(|other| world.edge.limits.held(&id(other))).collect();
                assert!(held.iter_mut().all(|held| held.cover(HELD)));
                accepted(socket, request("chat.send", &json!({ "m": "x".repeat(200_000) }))).await
            })
        }),
        Check::FreshSockets => {
            alone(&|| stocked(|pool, acme, cookie, fresh| pool.stock(acme, 1, cookie + 1, 80, fresh)))
        }
        Check::StartOfCell => alone(&|| {
            stocked(|pool, acme, cookie, fresh| {
                pool.gone(acme, 4);
                pool.stock(acme, 4, cookie, 80, fresh);
            })
        }),
        Check::HopByHop => alone(&|| enters(&[("proxy-authorization", "x")], "proxy-authorization")),
        Check::NamedByConnection => alone(&|| enters(&[("connection", "x-mine"), ("x-mine", "1")], "x-mine")),
        Check::Identity => alone(&|| enters(&[("tailscale-user-login", "root")], "tailscale-user-login")),
        Check::Credentials => alone(&|| enters(&[("authorization", "Bearer x")], "authorization")),
        Check::HttpProxy => alone(&|| enters(&[("proxy", "http://evil")], "proxy")),
        Check::Underscores => alone(&|| enters(&[("x_cofferdam_user", "m999")], "x_cofferdam_user")),
        Check::AnswersCredentials => alone(&|| leaves("set-cookie")),
        Check::AnswersRules => alone(&|| leaves("clear-site-data")),
        Check::AnswersCors => alone(&|| leaves("access-control-allow-origin")),
        Check::ControlsMethods | Check::Scopes | Check::Methods => {
            let (role, method) = match check {
                Check::ControlsMethods => (Role::Admin, "gateway.suspend.prepare"),
                Check::Scopes => (Role::Viewer, "chat.send"),
                _ => (Role::Admin, "no.such.method"),
            };
            alone(&|| {
                claw_answers(role, async |_, socket| accepted(socket, request(method, &json!({}))).await)
            })
        }
        Check::AdminPaths => alone(&|| {
            let all = Role::Admin.ceiling();
            methods::http::gate(&Method::POST, "/api/v1/%61dmin/rpc", &all) == methods::Gate::Open
        }),
        Check::WhoWrites => alone(&|| {
            let viewer = Role::Viewer.ceiling();
            methods::http::gate(&Method::POST, "/v1/responses", &viewer) == methods::Gate::Open
        }),
        Check::UpgradeAsked => alone(&|| upgrades("GET /", "PUT /")),
        Check::UpgradeVersion => alone(&|| upgrades("version: 13", "version: 8")),
        Check::UpgradeKey => alone(&|| upgrades("key: dGhlIHNhbXBsZSBub25jZQ==", "key: short")),
        Check::UpgradeBody => {
            alone(&|| upgrades("connection: upgrade", "connection: upgrade\r\ncontent-length: 4"))
        }
        Check::UpgradeAccepted => alone(&|| upgraded(async || eager("sec-websocket-accept", "x").await)),
        Check::NoExtension => {
            alone(&|| upgraded(async || eager("sec-websocket-extensions", "permessage-deflate").await))
        }
        Check::NoSubprotocol => alone(&|| upgraded(async || eager("sec-websocket-protocol", "chat").await)),
        Check::FrameBits => alone(&|| framed(&[0xc1, 0x80, 0, 0, 0, 0])),
        Check::FrameMask => alone(&|| framed(&[0x81, 0x00])),
        Check::FrameLength => alone(&|| framed(&[0x81, 0xfe, 0, 125, 0, 0, 0, 0])),
        Check::FrameControl => alone(&|| framed(&[0x89, 0xfe, 0, 126, 0, 0, 0, 0])),
        Check::MessageLength => alone(&|| {
            let head = Head { last: true, opcode: Opcode::Text, mask: None, length: 26 << 20 };
            Order::default().next(&head, 25 << 20).is_ok()
        }),
        Check::ReadersLength => alone(&|| {
            claw_answers(Role::Viewer, async |_, socket| {
                let long = request("health", &json!({})) + &" ".repeat(300_000);
                accepted(socket, long).await
            })
        }),
        Check::MessageTime => alone(&|| {
            claw_answers(Role::Member, async |_, socket| {
                socket.get_mut().write_all(&[0x81, 0x85, 0, 0, 0, 0, b'{']).await.unwrap();
                stays(socket).await
            })
        }),
        Check::KeysOnce => alone(&|| {
            claw_answers(Role::Member, async |_, socket| {
                let text = r#"{"type":"req","id":"1","method":"health","params":{"a":1,"a":2}}"#;
                accepted(socket, text.to_owned()).await
            })
        }),
        Check::Keys => alone(&|| {
            claw_answers(Role::Member, async |_, socket| {
                let keys: serde_json::Map<_, _> = (0..5000).map(|at| (at.to_string(), json!(0))).collect();
                accepted(socket, request("health", &Value::Object(keys))).await
            })
        }),
        Check::ConnectTime => alone(&|| {
            comes(async {
                let (world, _) = world().await;
                stays(&mut opened(&world).await).await
            })
        }),
        Check::ConnectBytes => alone(&|| {
            comes(async {
                let (world, _) = world().await;
                let mut socket = opened(&world).await;
                for _ in 0..600 {
                    let _ = socket.send(Message::Ping(Bytes::from_static(&[0; 125]))).await;
                }
                accepted(&mut socket, request("connect", &connect(&world.token("claw", Role::Viewer)))).await
            })
        }),
        Check::ConnectFirst => alone(&|| {
            comes(async {
                let (world, _) = world().await;
                let mut socket = opened(&world).await;
                accepted(&mut socket, request("health", &connect(&world.token("claw", Role::Viewer)))).await
            })
        }),
        Check::Operators => alone(&|| {
            comes(async {
                let (world, _) = world().await;
                let mut socket = opened(&world).await;
                let mut params = connect(&world.token("claw", Role::Viewer));
                params["role"] = "node".into();
                call(&mut socket, "connect", params).await["ok"] == true
            })
        }),
        Check::ChallengeTime => alone(&|| {
            comes(async {
                let (port, seen) = mute(true).await;
                let rows = [("claw", RuntimeKind::Openclaw, "running", port)];
                let world = World::here(&rows).await;
                world.sync(&rows).await;
                let line = ("authorization", format!("Bearer {}", world.token("claw", Role::Member)));
                let mut socket = world.websocket("claw", &[line]).await.unwrap();
                next(&mut socket).await;
                socket.send(Message::text(request("connect", &json!({})))).await.unwrap();
                while seen.connections() < 1 {
                    tokio::task::yield_now().await;
                }
                stays(&mut socket).await
            })
        }),
        Check::Forged => alone(&|| {
            claw_answers(Role::Approver, async |_, socket| {
                let say = r#"{"type":"event","event":"plugin.approval.requested","payload":{"id":"@1"}}"#;
                call(socket, "chat.send", json!({ "say": say })).await["type"] == "event"
            })
        }),
        Check::OurIds => alone(&|| {
            claw_answers(Role::Approver, async |world, socket| {
                ask(world, question(7)).await;
                let (id, _) = shown(socket).await;
                // The gateway's echo of it would be dropped on its way back.
                let sent = request("chat.send", &json!({ "message": id }));
                socket.send(Message::text(sent)).await.unwrap();
                call(socket, "health", json!({})).await["id"] == "health"
            })
        }),
        Check::Approvers => alone(&|| {
            claw_answers(Role::Member, async |world, socket| {
                ask(world, question(7)).await;
                while world.edge.state.asked(&id("claw")).is_empty() {
                    tokio::task::yield_now().await;
                }
                for _ in 0..20 {
                    if call(socket, "health", json!({})).await["type"] == "event" {
                        return true;
                    }
                }
                false
            })
        }),
        Check::CardsToken => alone(&|| {
            claw_answers(Role::Admin, async |world, socket| {
                ask(world, question(7)).await;
                let (id, _) = shown(socket).await;
                let mut other = connected(world, Role::Approver).await;
                shown(&mut other).await;
                let answer = json!({ "id": id, "decision": "allow-once" });
                call(&mut other, "plugin.approval.resolve", answer).await["ok"] == true
            })
        }),
        Check::Decisions => alone(&|| {
            claw_answers(Role::Approver, async |world, socket| {
                ask_admins(world, question(7)).await;
                let (_, request) = shown(socket).await;
                request["allowedDecisions"].to_string().contains("allow")
            })
        }),
        Check::Pages => alone(&|| {
            claw_answers(Role::Member, async |world, _| {
                ask(world, question(7)).await;
                let mut socket = page(world).await;
                let (id, _) = shown(&mut socket).await;
                let answer = json!({ "id": id, "decision": "allow-once" });
                call(&mut socket, "plugin.approval.resolve", answer).await["ok"] == true
            })
        }),
    }
}

#[test]
fn every_check_of_the_edge_is_missed_when_it_is_gone() {
    each_is_missed("edge", attack);
}
