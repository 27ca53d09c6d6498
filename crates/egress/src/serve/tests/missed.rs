//! An attack for each check: stopped while the check is there, through when it is gone.

use super::{
    inspected::{H1, SEEN, connect, inspecting, served},
    *,
};
use crate::proxy::{Proxy, Reach};
use crate::{
    check::{
        Check,
        left_out::{each_is_missed, tried},
    },
    hello::tests::{made, sni},
    http::head,
    names::{ADDRESSES, REST_MS},
};
use cofferdam_base::ipc::{asked::RequestShown, proxy::UpstreamProxy};
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{DNSClass, Name, RecordType},
};
use tokio::{runtime::Builder, sync::Notify, time::timeout};

const MIXED: &str = "version: 1
default: ask
rules:
  - allow: data.example
    protocol: tcp
    ports: [443]
  - deny: data.example
    protocol: https
  - allow: web.example
    protocol: http
  - allow: open.example
    protocol: http
";
/// Rules about requests to the web, and about its calls.
const REQUESTS: &str = "version: 2
default: deny
rules:
  - allow: web.example
    protocol: http
    path: /pub/**
  - deny: web.example
    path: /mcp
    mcp: {tool: delete}
  - allow: web.example
    protocol: http
    path: /mcp
  - allow: open.example
    method: GET
";
const DELETE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"delete"}}"#;
const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
const DENY: &str = "version: 1\ndefault: deny\n";
const OPEN: &str = "GET /open HTTP/1.1\r\nHost: open.example\r\n\r\n";
const GET: &str = "GET / HTTP/1.1\r\nHost: web.example\r\n\r\n";

/// Longer than everything in this crate that has an end in time.
const LONG: Duration = Duration::from_mins(10);

/// Does it come true, in a time that flies when nothing else happens? What never ends does not.
fn comes(attack: impl Future<Output = bool>) -> bool {
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async { timeout(Duration::from_hours(1), attack).await.unwrap_or(false) })
}

/// Does anything reach the world?
async fn arrives(cell: &Cell) -> bool {
    reached(cell).await.is_some()
}

async fn reached(cell: &Cell) -> Option<DuplexStream> {
    for _ in 0..LONG.as_secs() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if let Some(peer) = cell.world.peers.lock().unwrap().pop() {
            return Some(peer);
        }
    }
    None
}

/// Does a byte come out here, before the stream ends?
async fn heard(stream: &mut DuplexStream) -> bool {
    matches!(timeout(LONG, stream.read_u8()).await, Ok(Ok(_)))
}

/// Is the stream still open after a long time?
async fn stays(stream: &mut DuplexStream) -> bool {
    timeout(LONG, all(stream)).await.is_err()
}

fn asks(cell: &Cell) -> usize {
    cell.told.notices.lock().unwrap().iter().filter(|notice| matches!(notice, Notice::Ask { .. })).count()
}

/// Does this reach the world, sent by a client that connects to `name`?
async fn passes(cell: &Cell, name: &str, port: u16, bytes: &[u8]) -> bool {
    let mut client = cell.captured(name, port);
    client.write_all(bytes).await.unwrap();
    arrives(cell).await
}

/// Does a ClientHello pass to `open.example`?
fn hello_passes(hello: &[u8]) -> bool {
    comes(async { passes(&cell(), "open.example", 443, hello).await })
}

fn grant_new(cell: &Cell, protocol: Protocol, port: u16, span: GrantSpan) -> Destination {
    let destination = of(&Host::Name("new.example".parse().unwrap()), port.try_into().unwrap(), protocol);
    cell.egress.gate.grant(grant(&destination, span));
    destination
}

/// A tunnel under a grant, after something happened to what allowed it: does the server still get through?
fn outlives(what: impl Fn(&Cell)) -> bool {
    comes(async {
        let cell = cell();
        grant_new(&cell, Protocol::Https, 443, GrantSpan::Until(Millis(2000)));
        let mut client = cell.captured("new.example", 443);
        client.write_all(&real("new.example")).await.unwrap();
        let mut server = cell.server().await;
        say(&mut server, "x").await;
        assert_eq!(client.read_u8().await.unwrap(), b'x');
        what(&cell);
        // To a relay that ended this is an error.
        let _ = server.write_all(b"y").await;
        heard(&mut client).await
    })
}

/// Does this leave TLS that is inspected?
fn inside(head: &str) -> bool {
    comes(async {
        let cell = inspecting();
        let mut client = connect(&cell, "open.example", H1).await.unwrap();
        say(&mut client, head).await;
        arrives(&cell).await
    })
}

/// A permission that goes in the middle of an answer that is inspected.
fn inspected_outlives() -> bool {
    comes(async {
        let cell = inspecting();
        let mut client = connect(&cell, "open.example", H1).await.unwrap();
        say(&mut client, OPEN).await;
        let mut server = served(&cell, H1).await;
        message(&mut server).await;
        say(&mut server, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        message(&mut client).await;
        cell.egress.gate.configure(rules(DENY), LIMITS);
        tokio::time::sleep(Duration::from_secs(1)).await;
        // To a connection that ended this is an error.
        let _ = server.write_all(b"2\r\nhi\r\n").await;
        let _ = server.flush().await;
        matches!(timeout(LONG, client.read_u8()).await, Ok(Ok(_)))
    })
}

/// A connection that was kept, once its address is the host's.
fn pooled_is_used() -> bool {
    comes(async {
        let cell = inspecting();
        let mut client = connect(&cell, "open.example", H1).await.unwrap();
        say(&mut client, OPEN).await;
        let mut server = served(&cell, H1).await;
        message(&mut server).await;
        say(&mut server, OK).await;
        message(&mut client).await;
        let guard = Guard { host_addresses: vec!["93.184.216.34".parse().unwrap()], ..Guard::default() };
        let rules = Rules { policy: Policy::parse(SEEN).unwrap(), guard };
        cell.egress.gate.configure(Arc::new(rules), LIMITS);
        say(&mut client, OPEN).await;
        matches!(timeout(LONG, server.read_u8()).await, Ok(Ok(_)))
    })
}

/// Connects once it is let.
#[derive(Debug)]
struct Slow(World, Arc<Notify>);

impl Connect for Slow {
    fn connect(&self, address: CheckedAddress, port: NonZeroU16) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async move {
            self.1.notified().await;
            self.0.connect(address, port).await
        })
    }
}

/// A proxy as part of the world.
impl Reach for World {
    fn reach(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>> {
        self.dialled.lock().unwrap().push((address.ip(), address.port()));
        let (ours, theirs) = duplex(64 * 1024);
        self.peers.lock().unwrap().push(theirs);
        Box::pin(async move { Ok(Box::new(ours) as BoxStream) })
    }
}

/// A name that leads home, behind a proxy that would go there.
fn proxy_is_told_a_name() -> bool {
    comes(async {
        let cell = cell();
        let address = "10.2.0.9:3128".parse().unwrap();
        let told = UpstreamProxy { address, no_proxy: Vec::new(), resolves_names: false };
        cell.egress.set_proxy(Some(Proxy::new(&told, Box::new(cell.world.clone())).unwrap()));
        cell.resolves("web.example", &["10.0.0.1"]);
        let mut client = cell.captured("web.example", 80);
        say(&mut client, GET).await;
        let Some(mut proxy) = reached(&cell).await else { return false };
        message(&mut proxy).await.starts_with("CONNECT web.example:80")
    })
}

/// A permission that goes while its connection is being made.
fn dial_outlives() -> bool {
    comes(async {
        let cell = cell();
        let go = Arc::new(Notify::new());
        let connect = Box::new(Slow(cell.world.clone(), Arc::clone(&go)));
        cell.egress.set_dialler(Dialler { names: Box::new(cell.world.clone()), connect });
        let mut client = cell.captured("open.example", 443);
        client.write_all(&real("open.example")).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        cell.egress.gate.configure(rules(DENY), LIMITS);
        go.notify_one();
        match reached(&cell).await {
            Some(mut server) => heard(&mut server).await,
            None => false,
        }
    })
}

/// A permission that goes before the answer, or in the middle of it.
fn answer_outlives(begun: bool) -> bool {
    comes(async {
        let cell = cell();
        let mut client = cell.captured("web.example", 80);
        say(&mut client, GET).await;
        let mut server = cell.server().await;
        message(&mut server).await;
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n";
        if begun {
            say(&mut server, head).await;
            while client.read_u8().await.unwrap() != b'\n' {}
        }
        cell.egress.gate.configure(rules(DENY), LIMITS);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let _ = server
            .write_all(if begun { "~~" } else { "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n~~" }.as_bytes())
            .await;
        loop {
            match timeout(LONG, client.read_u8()).await {
                Ok(Ok(b'~')) => break true,
                Ok(Ok(_)) => {}
                Ok(Err(_)) | Err(_) => break false,
            }
        }
    })
}

/// What the server gets of a request with this head.
async fn sent(cell: &Cell, head: &str) -> Option<String> {
    let mut client = cell.captured("web.example", 80);
    say(&mut client, head).await;
    let mut server = reached(cell).await?;
    Some(message(&mut server).await.to_ascii_lowercase())
}

/// Does a request with these lines reach the server of the name?
fn request_passes(lines: &str) -> bool {
    comes(async {
        let cell = cell();
        passes(&cell, "web.example", 80, format!("POST / HTTP/1.1\r\n{lines}\r\n\r\n").as_bytes()).await
    })
}

/// Are all of these requests answered under such a budget?
fn spends(budget: &str, requests: &[&str]) -> bool {
    comes(async {
        let cell = cell();
        let text = format!(
            "version: 2\ndefault: deny\nrules:\n  - allow: web.example\n    protocol: http\n    budget: {{{budget}}}\n"
        );
        cell.egress.gate.configure(rules(&text), LIMITS);
        for request in requests {
            let mut client = cell.captured("web.example", 80);
            say(&mut client, request).await;
            let Some(mut server) = reached(&cell).await else { return false };
            let _ = timeout(LONG, message(&mut server)).await;
            let _ = server.write_all(OK.as_bytes()).await;
            if !message(&mut client).await.starts_with("HTTP/1.1 200") {
                return false;
            }
        }
        true
    })
}

/// Does this request reach the server, where requests are judged?
fn judged_passes(line: &str, headers: &str, body: &str) -> Option<String> {
    let text = format!(
        "{line} HTTP/1.1\r\nHost: web.example\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut arrived = None;
    comes(async {
        let cell = cell();
        cell.egress.gate.configure(rules(REQUESTS), LIMITS);
        let mut client = cell.captured("web.example", 80);
        let sent = tokio::spawn(async move {
            // A client that is refused in the middle of its body has an error.
            let _ = client.write_all(text.as_bytes()).await;
            client
        });
        if let Some(mut server) = reached(&cell).await {
            arrived = Some(message(&mut server).await);
        }
        drop(sent);
        true
    });
    arrived
}

/// Does a request to the explicit proxy reach anybody?
fn proxied_passes(uri: &str, host: &str) -> bool {
    comes(async {
        let cell = cell();
        let mut client = cell.peer(Peer::Proxy);
        say(&mut client, &format!("GET {uri} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        arrives(&cell).await
    })
}

/// Does a DNS packet get an answer, of as many records?
fn answered(records: usize, make: impl Fn() -> (Message, DNSClass)) -> bool {
    comes(async {
        let (mut packet, class) = make();
        let mut query = Query::query(Name::from_ascii("a.example.").unwrap(), RecordType::A);
        query.set_query_class(class);
        packet.add_query(query);
        let reply = cell().egress.gate.dns(&packet.to_vec().unwrap());
        reply.is_some_and(|reply| Message::from_vec(&reply).unwrap().answers.len() >= records)
    })
}

/// Takes every address of the resolver's but the one that is taken.
fn fill(cell: &Cell) {
    let limits = Limits { names_per_second: 1 << 17, ..LIMITS };
    cell.egress.gate.configure(rules(POLICY), limits);
    cell.time.fetch_add(1000, SeqCst);
    let mut taken = 0;
    while taken + 1 < ADDRESSES
        && cell.egress.gate.named(&format!("n{taken}.example").parse().unwrap()).is_ok()
    {
        taken += 1;
    }
}

fn attack(check: Check) -> Result<(), String> {
    let alone = |attack: &dyn Fn() -> bool| tried(&[check], attack);
    match check {
        Check::Ready => {
            alone(&|| comes(async { passes(&unready(), "web.example", 80, GET.as_bytes()).await }))
        }
        Check::GuardFirst => alone(&|| {
            comes(async {
                let cell = cell();
                let mut client = cell.to("169.254.169.254:80".parse().unwrap());
                say(&mut client, "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n").await;
                tokio::time::sleep(LONG).await;
                asks(&cell) > 0
            })
        }),
        Check::Inspected => alone(&|| {
            comes(async {
                let cell = cell();
                cell.egress.gate.configure(rules(REQUESTS), LIMITS);
                // As if the rules had changed after it was found that there is nothing to look into.
                let host = Host::Name("open.example".parse().unwrap());
                let unseen = of(&host, 443.try_into().unwrap(), Protocol::Https);
                cell.egress.gate.admit(&unseen).await.is_ok()
            })
        }),
        Check::RulesExpire => alone(&|| {
            comes(async {
                let cell = cell();
                let text =
                    "version: 2\ndefault: deny\nrules:\n  - allow: open.example\n    expires: 2026-01-01\n";
                cell.egress.gate.configure(rules(text), LIMITS);
                cell.time.store(1_767_225_600_000, SeqCst);
                passes(&cell, "open.example", 443, &real("open.example")).await
            })
        }),
        Check::BudgetRequests => alone(&|| spends("requests_per_minute: 2", &[GET, GET, GET])),
        Check::BudgetBytes => {
            let upload = "PUT / HTTP/1.1\r\nHost: web.example\r\nContent-Length: 90\r\n\r\n";
            let upload = format!("{upload}{}", "x".repeat(90));
            alone(&|| spends("bytes_per_hour: 250", &[&upload, &upload, &upload]))
        }
        Check::BudgetUrls => {
            let other = GET.replace("/ ", "/other ");
            alone(&|| spends("urls_per_hour: 1", &[GET, &other]))
        }
        Check::BudgetPlaces => alone(&|| {
            comes(async {
                // Of its own budget one destination must not use up another's.
                let cell = cell();
                let text = "version: 2\ndefault: deny\nrules:\n  - allow: '*.deep.example'\n    protocol: http\n    budget: {requests_per_minute: 1, per: destination}\n";
                cell.egress.gate.configure(rules(text), LIMITS);
                let mut refused = 0;
                for name in ["a.deep.example", "b.deep.example"] {
                    let facts = cofferdam_policy::RequestFacts {
                        destination: of(
                            &Host::Name(name.parse().unwrap()),
                            80.try_into().unwrap(),
                            Protocol::Http,
                        ),
                        method: "GET".into(),
                        target: "/".into(),
                        headers: Vec::new(),
                        websocket: false,
                        grpc: false,
                        body: cofferdam_policy::Body::None,
                    };
                    let asked = Request::get("/").body(()).unwrap();
                    let shown = head::shows(&asked)(&facts);
                    refused +=
                        usize::from(cell.egress.gate.admit_request(facts, |_| shown.clone()).await.is_err());
                }
                refused > 0
            })
        }),
        Check::RequestJudged => alone(&|| judged_passes("POST /private", "", "").is_some()),
        Check::RequestRebuilt => alone(&|| {
            judged_passes("GET /private/../pub/a", "", "").is_some_and(|text| text.contains("private"))
        }),
        Check::BodyRead => alone(&|| judged_passes("POST /mcp", "", DELETE).is_some()),
        Check::BodyLength => alone(&|| {
            let long = PING.replace("ping", &"p".repeat(2 << 20));
            judged_passes("POST /mcp", "", &long).is_some()
        }),
        Check::BodyCoding => {
            alone(&|| judged_passes("POST /mcp", "Content-Encoding: gzip\r\n", PING).is_some())
        }
        Check::AddressRules => alone(&|| {
            comes(async {
                let cell = cell();
                let policy = format!("{POLICY}  - deny: 93.184.216.34\n");
                cell.egress.gate.configure(rules(&policy), LIMITS);
                passes(&cell, "web.example", 80, GET.as_bytes()).await
            })
        }),
        Check::GrantsPlace => alone(&|| {
            comes(async {
                let cell = cell();
                grant_new(&cell, Protocol::Http, 8080, GrantSpan::Always);
                passes(&cell, "new.example", 443, &real("new.example")).await
            })
        }),
        Check::GrantsRequest => alone(&|| {
            comes(async {
                let cell = cell();
                let destination =
                    of(&Host::Name("new.example".parse().unwrap()), 80.try_into().unwrap(), Protocol::Http);
                let asked = Request::get("/asked").body(()).unwrap();
                let facts = cofferdam_policy::RequestFacts {
                    destination: destination.clone(),
                    method: "GET".into(),
                    target: "/asked".into(),
                    headers: Vec::new(),
                    websocket: false,
                    grpc: false,
                    body: cofferdam_policy::Body::None,
                };
                let request = Some(head::shows(&asked)(&facts));
                let span = GrantSpan::Once { until: Millis(2000) };
                cell.egress.gate.grant(Grant { request, ..grant(&destination, span) });
                let mut client = cell.captured("new.example", 80);
                say(&mut client, "POST /other HTTP/1.1\r\nHost: new.example\r\n\r\n").await;
                tokio::time::sleep(LONG).await;
                cell.told.notices.lock().unwrap().contains(&Notice::Spend(7))
            })
        }),
        Check::GrantsCell => alone(&|| {
            comes(async {
                let cell = cell();
                cell.egress.gate.begin_cell(1);
                grant_new(&cell, Protocol::Https, 443, GrantSpan::Cell { generation: 1 });
                cell.egress.gate.begin_cell(2);
                passes(&cell, "new.example", 443, &real("new.example")).await
            })
        }),
        Check::GrantExpires => alone(&|| {
            comes(async {
                let cell = cell();
                grant_new(&cell, Protocol::Https, 443, GrantSpan::Until(Millis(1000)));
                passes(&cell, "new.example", 443, &real("new.example")).await
            })
        }),
        // Whoever answers says yes each time, as control would not.
        Check::OnceIsOnce => alone(&|| {
            comes(async {
                let cell = cell();
                grant_new(&cell, Protocol::Https, 443, GrantSpan::Once { until: Millis(2000) });
                let (gate, told) = (Arc::clone(&cell.egress.gate), Arc::clone(&cell.told));
                let yes = tokio::spawn(async move {
                    loop {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        if told.notices.lock().unwrap().contains(&Notice::Spend(7)) {
                            gate.spent(7, true);
                        }
                    }
                });
                assert!(passes(&cell, "new.example", 443, &real("new.example")).await);
                let again = passes(&cell, "new.example", 443, &real("new.example")).await;
                yes.abort();
                again
            })
        }),
        Check::SpentIsJudged => alone(&|| {
            comes(async {
                let cell = cell();
                grant_new(&cell, Protocol::Https, 443, GrantSpan::Once { until: Millis(2000) });
                let mut client = cell.captured("new.example", 443);
                client.write_all(&real("new.example")).await.unwrap();
                while !cell.told.notices.lock().unwrap().contains(&Notice::Spend(7)) {
                    tokio::task::yield_now().await;
                }
                cell.egress.gate.configure(rules(DENY), LIMITS);
                cell.egress.gate.spent(7, true);
                arrives(&cell).await
            })
        }),
        Check::Holds => alone(&|| {
            comes(async {
                let cell = cell();
                let mut held = Vec::new();
                for n in 0..=LIMITS.holds {
                    let mut client = cell.captured(&format!("n{n}.example"), 80);
                    say(&mut client, &format!("GET / HTTP/1.1\r\nHost: n{n}.example\r\n\r\n")).await;
                    held.push(client);
                }
                tokio::time::sleep(LONG).await;
                asks(&cell) > LIMITS.holds
            })
        }),
        Check::Questions => alone(&|| {
            comes(async {
                let cell = cell();
                for _ in 0..10 {
                    let mut client = cell.captured("new.example", 443);
                    client.write_all(&real("new.example")).await.unwrap();
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    drop(client);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                asks(&cell) >= 10
            })
        }),
        Check::Relays => alone(&|| {
            comes(async {
                let cell = cell();
                cell.egress.gate.configure(rules(POLICY), Limits { relays: 1, ..LIMITS });
                let _first = cell.captured("data.example", 5432);
                let _server = cell.server().await;
                let _second = cell.captured("data.example", 5432);
                arrives(&cell).await
            })
        }),
        Check::Recorded => alone(&|| {
            comes(async {
                let cell = cell();
                cell.told.full.store(true, SeqCst);
                passes(&cell, "web.example", 80, GET.as_bytes()).await
            })
        }),
        Check::RulesWithdraw | Check::WithdrawnRelay => {
            alone(&|| outlives(|cell| cell.egress.gate.configure(rules(DENY), LIMITS)))
        }
        Check::RevocationWithdraws => alone(&|| outlives(|cell| cell.egress.gate.revoke(7))),
        Check::Snapshot => alone(&|| {
            outlives(|cell| {
                cell.egress.gate.begin_snapshot();
                cell.egress.gate.ready();
            })
        }),
        Check::OpenExpires => alone(&|| {
            outlives(|cell| {
                cell.time.store(2000, SeqCst);
                cell.egress.gate.tick();
            })
        }),
        Check::OpenKeepsName => alone(&|| {
            comes(async {
                let cell = cell();
                let address = cell.look_up("open.example");
                let mut client = cell.captured("open.example", 443);
                client.write_all(&real("open.example")).await.unwrap();
                let _server = cell.server().await;
                fill(&cell);
                for _ in 0..2 {
                    cell.time.fetch_add(REST_MS, SeqCst);
                    cell.egress.gate.tick();
                }
                cell.look_up("evil.example") == address
            })
        }),
        Check::NamesRest => alone(&|| {
            comes(async {
                let cell = cell();
                let address = cell.look_up("open.example");
                fill(&cell);
                cell.look_up("evil.example") == address
            })
        }),
        // Without it the guard answers: these addresses are for no use on the Internet.
        Check::HandedOut => alone(&|| {
            comes(async {
                let cell = cell();
                let mut client = cell.to("198.18.77.7:80".parse().unwrap());
                say(&mut client, "GET / HTTP/1.1\r\nHost: 198.18.77.7\r\n\r\n").await;
                tokio::time::sleep(LONG).await;
                cell.reasons() != ["never_handed_out"]
            })
        }),
        Check::NewNames => alone(&|| {
            comes(async {
                let cell = cell();
                (0..2000).all(|n| cell.look_up(&format!("n{n}.example")).is_some())
            })
        }),
        Check::ProxyNames => alone(&|| {
            comes(async {
                let cell = cell();
                let there = (0..2000).filter(|n| cell.look_up(&format!("n{n}.example")).is_some());
                assert!(there.count() < 2000);
                let mut client = cell.peer(Peer::Proxy);
                say(&mut client, "GET http://secret.example/ HTTP/1.1\r\nHost: secret.example\r\n\r\n").await;
                !message(&mut client).await.contains("too_many_names")
            })
        }),
        Check::Questioned => alone(&|| answered(0, || (Message::response(7, OpCode::Query), DNSClass::IN))),
        Check::LookUps => {
            alone(&|| answered(1, || (Message::new(7, MessageType::Query, OpCode::Notify), DNSClass::IN)))
        }
        Check::Internet => alone(&|| answered(1, || (Message::query(), DNSClass::CH))),
        Check::DnsIdle => alone(&|| comes(async { stays(&mut cell().peer(Peer::Dns)).await })),
        Check::Fold => alone(&|| {
            comes(async {
                let cell = cell();
                for _ in 0..10 {
                    let mut client = cell.captured("closed.example", 80);
                    say(&mut client, "GET / HTTP/1.1\r\nHost: closed.example\r\n\r\n").await;
                    message(&mut client).await;
                }
                cell.reasons().len() >= 10
            })
        }),
        Check::FoldKinds => alone(&|| {
            comes(async {
                let cell = cell();
                let host = Host::Name("closed.example".parse().unwrap());
                for port in 1..=2000 {
                    let destination = of(&host, port.try_into().unwrap(), Protocol::Tcp);
                    cell.egress.gate.refuse(Some(&destination), Refusal::new(Reason::NoRule, "default"));
                }
                cell.reasons().len() >= 2000
            })
        }),
        Check::HelloSound => alone(&|| hello_passes(&[22, 3, 1, 0, 4, 2, 0, 0, 0])),
        Check::HelloWhole => alone(&|| {
            comes(async {
                let cell = cell();
                cell.egress.gate.configure(rules(MIXED), LIMITS);
                passes(&cell, "data.example", 443, &real("data.example")[..40]).await
            })
        }),
        Check::HelloLength => alone(&|| {
            let whole = made(&[(0, &sni("open.example")), (21, &vec![0; 20_000])]);
            let records = whole[5..].chunks(10_000).flat_map(|part| {
                [&[22, 3, 1][..], &u16::try_from(part.len()).unwrap().to_be_bytes(), part].concat()
            });
            hello_passes(&records.collect::<Vec<_>>())
        }),
        Check::HelloFirst => alone(&|| {
            let mut other = made(&[(0, &sni("open.example"))]);
            other[5] = 2;
            hello_passes(&other)
        }),
        Check::HelloOneExtension => {
            alone(&|| hello_passes(&made(&[(0, &sni("evil.example")), (0, &sni("open.example"))])))
        }
        Check::HelloOneName => alone(&|| {
            let names = [&sni("open.example")[2..], &sni("evil.example")[2..]].concat();
            let list = [&u16::try_from(names.len()).unwrap().to_be_bytes()[..], &names].concat();
            hello_passes(&made(&[(0, &list)]))
        }),
        Check::HelloInClear => alone(&|| hello_passes(&made(&[(0, &sni("open.example")), (0xfe0d, &[0])]))),
        Check::HelloNames => alone(&|| hello_passes(&made(&[]))),
        Check::HelloNamesSame => alone(&|| hello_passes(&real("evil.example"))),
        Check::OwnNames => alone(&|| {
            comes(async {
                let cell = cell();
                let mut client = cell.captured("inference.local", 8443);
                client.write_all(&real("inference.local")).await.unwrap();
                tokio::time::sleep(LONG).await;
                asks(&cell) > 0
            })
        }),
        Check::OwnQuestions => alone(&|| {
            comes(async {
                let host = Host::Name("open.example".parse().unwrap());
                let open = Destination { host, port: 443.try_into().unwrap(), protocol: Protocol::Https };
                let shown = RequestShown {
                    method: "POST".to_owned(),
                    url: "https://open.example/".to_owned(),
                    tool: None,
                    arguments: None,
                    size: None,
                    whole: None,
                };
                cell().egress.gate.ask(&open, "past a limit".to_owned(), shown).await.is_ok()
            })
        }),
        Check::LateSpeech => alone(&|| {
            comes(async {
                let cell = cell();
                cell.egress.gate.configure(rules(MIXED), LIMITS);
                let mut client = cell.captured("data.example", 443);
                let Some(mut server) = reached(&cell).await else { return false };
                client.write_all(&real("data.example")).await.unwrap();
                heard(&mut server).await
            })
        }),
        Check::TunnelSpeaks => alone(&|| {
            comes(async {
                let cell = cell();
                let mut client = cell.peer(Peer::Proxy);
                say(&mut client, "CONNECT open.example:443 HTTP/1.1\r\nHost: open.example:443\r\n\r\n").await;
                message(&mut client).await;
                say(&mut client, "GET / HTTP/1.1\r\nHost: open.example:443\r\n\r\n").await;
                heard(&mut cell.server().await).await
            })
        }),
        Check::Places => alone(&|| {
            // Real sockets, and so real time.
            Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                let cell = cell();
                cell.egress.places.forget_permits(CONNECTIONS);
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = listener.local_addr().unwrap();
                tokio::spawn(Arc::clone(&cell.egress).accept(listener, |_| Ok(Peer::Proxy)));
                let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
                let _ = client.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
                client.read_u8().await.is_ok()
            })
        }),
        Check::SignatureScope => alone(&|| comes(credentials::signs_elsewhere())),
        Check::ProxyIsTold => alone(&proxy_is_told_a_name),
        Check::WithdrawnDial | Check::DialledStands => {
            let layers = [Check::WithdrawnDial, Check::DialledStands, Check::WithdrawnRelay];
            tried(&layers, &dial_outlives)
        }
        Check::WithdrawnBody => {
            tried(&[Check::WithdrawnBody, Check::WithdrawnDrive], &|| answer_outlives(true))
        }
        Check::WithdrawnRequest | Check::WithdrawnDrive => {
            let layers = [Check::WithdrawnRequest, Check::WithdrawnDrive, Check::WithdrawnBody];
            tried(&layers, &|| answer_outlives(false))
        }
        Check::KeptPlace => alone(&|| {
            comes(async {
                let cell = cell();
                cell.egress.gate.configure(rules(MIXED), LIMITS);
                let mut client = cell.peer(Peer::Proxy);
                say(&mut client, "GET http://web.example/ HTTP/1.1\r\nHost: web.example\r\n\r\n").await;
                let mut server = cell.server().await;
                message(&mut server).await;
                say(&mut server, OK).await;
                message(&mut client).await;
                say(&mut client, "GET http://open.example/ HTTP/1.1\r\nHost: open.example\r\n\r\n").await;
                heard(&mut server).await
            })
        }),
        Check::KeptStands => alone(&|| {
            comes(async {
                let cell = cell();
                let mut client = cell.captured("web.example", 80);
                say(&mut client, GET).await;
                let mut server = cell.server().await;
                message(&mut server).await;
                say(&mut server, OK).await;
                message(&mut client).await;
                let guard =
                    Guard { host_addresses: vec!["93.184.216.34".parse().unwrap()], ..Guard::default() };
                let rules = Rules { policy: Policy::parse(POLICY).unwrap(), guard };
                cell.egress.gate.configure(Arc::new(rules), LIMITS);
                say(&mut client, GET).await;
                heard(&mut server).await
            })
        }),
        Check::HeadTime => alone(&|| {
            comes(async {
                let mut client = cell().captured("web.example", 80);
                say(&mut client, "GET / HTTP/1.1\r\n").await;
                stays(&mut client).await
            })
        }),
        // The library that reads HTTP takes no other version and folds equal lengths into one, so these two are
        // asked without it.
        Check::HttpVersion => alone(&|| {
            let request = Request::builder().version(::http::Version::HTTP_2).header("host", "web.example");
            head::target(&request.body(()).unwrap()).is_ok()
        }),
        Check::OneLength => alone(&|| {
            let request = Request::builder().header("content-length", "1").header("content-length", "2");
            head::target(&request.header("host", "web.example").body(()).unwrap()).is_ok()
        }),
        Check::OneCoding => {
            alone(&|| request_passes("Host: web.example\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0"))
        }
        Check::LineFeeds => alone(&|| request_passes("Host: web.example\nA: b")),
        Check::OneHost => alone(&|| request_passes("Host: web.example\r\nHost: web.example")),
        Check::HttpScheme => alone(&|| proxied_passes("ftp://web.example/", "web.example")),
        Check::NeverInClear => alone(&|| {
            comes(async {
                let cell = inspecting();
                cell.egress.gate.configure(rules(inspected::NEVER), LIMITS);
                let mut client = cell.peer(Peer::Proxy);
                say(&mut client, "GET https://open.example/ HTTP/1.1\r\nHost: open.example\r\n\r\n").await;
                arrives(&cell).await
            })
        }),
        Check::HostIsCaptured => alone(&|| request_passes("Host: open.example")),
        Check::HostIsTarget => alone(&|| proxied_passes("http://web.example/", "open.example")),
        Check::HostIsShown => alone(&|| inside("GET /open HTTP/1.1\r\nHost: web.example\r\n\r\n")),
        Check::OnlyWebSocket => alone(&|| {
            inside("GET /open HTTP/1.1\r\nHost: open.example\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        }),
        Check::WebSocketAgreed => alone(&|| {
            comes(async { inspected::answered_with(&inspecting(), inspected::SWITCHED).await == 200 })
        }),
        Check::WithdrawnInspected => {
            tried(&[Check::WithdrawnInspected, Check::WithdrawnDrive], &inspected_outlives)
        }
        Check::PooledStands => alone(&pooled_is_used),
        Check::HopByHop => alone(&|| {
            comes(async {
                let head = "GET / HTTP/1.1\r\nHost: web.example\r\nProxy-Authorization: mine\r\n\r\n";
                sent(&cell(), head).await.is_some_and(|text| text.contains("proxy-authorization"))
            })
        }),
        Check::NamedByConnection => alone(&|| {
            comes(async {
                let head = "GET / HTTP/1.1\r\nHost: web.example\r\nConnection: X-Mine\r\nX-Mine: 1\r\n\r\n";
                sent(&cell(), head).await.is_some_and(|text| text.contains("x-mine"))
            })
        }),
        Check::OurHeaders => alone(&|| {
            comes(async {
                let cell = cell();
                let mut client = cell.captured("web.example", 80);
                say(&mut client, GET).await;
                say(
                    &mut cell.server().await,
                    "HTTP/1.1 200 OK\r\nCofferdam-Reason: metadata\r\ncontent-length: 0\r\n\r\n",
                )
                .await;
                message(&mut client).await.contains("metadata")
            })
        }),
        Check::SecretBound
        | Check::PlaceholderStays
        | Check::BodyBound
        | Check::BodySearched
        | Check::AnswerReadable
        | Check::SecretCovered
        | Check::SecretHeld
        | Check::SearchedWhereBound => alone(&|| comes(credentials::happens(check))),
        Check::LossInHead
        | Check::LossInBody
        | Check::LossPacked
        | Check::LossReadable
        | Check::LossInName
        | Check::LossInRelay
        | Check::LossInFrame
        | Check::CanaryTrips => alone(&|| comes(loss::happens(check))),
    }
}

#[test]
fn every_check_on_the_way_out_is_missed_when_it_is_gone() {
    each_is_missed("egress", attack);
}

/// `Connection` may name it, and the other side still learns where the body ends.
#[tokio::test(start_paused = true)]
async fn the_length_of_a_body_is_not_taken_away() {
    for method in ["GET", "POST"] {
        let head = format!(
            "{method} / HTTP/1.1\r\nHost: web.example\r\nContent-Length: 4\r\nConnection: content-length, host\r\n\r\nbody"
        );
        let text = sent(&cell(), &head).await.unwrap();
        assert!(text.contains("content-length: 4") && text.contains("host: web.example"), "{text}");
        assert!(text.ends_with("body"), "{text}");
    }
}
