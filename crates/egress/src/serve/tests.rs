#![allow(clippy::unwrap_used)]

mod credentials;
mod flights;
mod home;
mod inspected;
mod loss;
mod missed;
mod requests;
mod standing;
mod verdicts;

use super::*;
use crate::{
    Limits, Notice, Outlet, Row, Rules,
    dial::{Connect, LookUp},
    hello::tests::real,
    relay::BoxStream,
};
use cofferdam_base::{
    Clock, HostName, Millis, SecretName,
    ipc::warden::{Grant, GrantSpan, RecordKind},
};
use cofferdam_policy::{CheckedAddress, Guard, Policy};
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
};
use tokio::io::{DuplexStream, duplex};

#[derive(Debug, Default)]
struct Told {
    rows: Mutex<Vec<Row>>,
    uses: Mutex<Vec<(Option<u64>, SecretName)>>,
    notices: Mutex<Vec<Notice>>,
    full: AtomicBool,
}

impl Outlet for Told {
    fn record(&self, row: Row) -> Option<u64> {
        let mut rows = self.rows.lock().unwrap();
        (!self.full.load(SeqCst)).then(|| {
            rows.push(row);
            rows.len() as u64
        })
    }

    fn record_use(&self, request: Option<u64>, _: &Destination, name: &SecretName) -> bool {
        let full = self.full.load(SeqCst);
        if !full {
            self.uses.lock().unwrap().push((request, name.clone()));
        }
        !full
    }

    fn tell(&self, notice: Notice) -> bool {
        self.notices.lock().unwrap().push(notice);
        true
    }
}

struct At(Arc<AtomicU64>);

impl Clock for At {
    fn now(&self) -> Millis {
        Millis(self.0.load(SeqCst))
    }
}

/// What names resolve to, and who listens where.
#[derive(Debug, Clone, Default)]
struct World {
    names: Arc<Mutex<HashMap<String, Vec<IpAddr>>>>,
    dialled: Arc<Mutex<Vec<(IpAddr, u16)>>>,
    peers: Arc<Mutex<Vec<DuplexStream>>>,
}

impl LookUp for World {
    fn look_up<'a>(&'a self, name: &'a HostName) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        let found = self.names.lock().unwrap().get(name.as_str()).cloned();
        Box::pin(async move { found.ok_or_else(|| io::ErrorKind::NotFound.into()) })
    }
}

impl Connect for World {
    fn connect(&self, address: CheckedAddress, port: NonZeroU16) -> BoxFuture<'_, io::Result<BoxStream>> {
        let (ours, theirs) = duplex(64 * 1024);
        self.dialled.lock().unwrap().push((address.ip(), port.get()));
        self.peers.lock().unwrap().push(theirs);
        Box::pin(async move { Ok(Box::new(ours) as BoxStream) })
    }
}

#[derive(Debug)]
struct NoLocal;

impl Local for NoLocal {
    fn serves(&self, name: &HostName) -> bool {
        name.as_str() == "inference.local"
    }

    fn respond(&self, _: HostName, request: Request<http::Body>) -> BoxFuture<'static, Response<http::Body>> {
        Box::pin(async {
            let read = http_body_util::BodyExt::collect(request).await;
            Response::new(http::full(if read.is_ok() { "a model" } else { "not all of it came" }))
        })
    }
}

struct Cell {
    egress: Arc<Egress>,
    told: Arc<Told>,
    world: World,
    time: Arc<AtomicU64>,
}

const POLICY: &str = "version: 1
default: ask
rules:
  - allow: open.example
    protocol: https
  - allow: web.example
    protocol: http
  - allow: data.example
    protocol: tcp
    ports: [5432]
  - allow: rebound.example
    protocol: http
  - deny: closed.example
    reason: not this one
";

fn rules(policy: &str) -> Arc<Rules> {
    Arc::new(Rules { policy: Policy::parse(policy).unwrap(), guard: Guard::default() })
}

const LIMITS: Limits = Limits { relays: 8, holds: 2, hold: Duration::from_secs(30), names_per_second: 1000 };

fn cell() -> Cell {
    let cell = unready();
    cell.egress.gate.ready();
    cell
}

/// One to which control has not said everything.
fn unready() -> Cell {
    let told = Arc::new(Told::default());
    let time = Arc::new(AtomicU64::new(1000));
    let gate = Gate::new(told.clone(), Arc::new(At(Arc::clone(&time))));
    gate.configure(rules(POLICY), LIMITS);
    let egress = Egress::new(gate, Arc::new(NoLocal), inspected::inspector());
    let world = World::default();
    for name in ["open.example", "web.example", "data.example", "new.example", "closed.example"] {
        world.names.lock().unwrap().insert(name.into(), vec!["93.184.216.34".parse().unwrap()]);
    }
    egress.set_dialler(Dialler { names: Box::new(world.clone()), connect: Box::new(world.clone()) });
    Cell { egress, told, world, time }
}

impl Cell {
    /// A captured connection to this name.
    fn captured(&self, name: &str, port: u16) -> DuplexStream {
        self.to(SocketAddr::new(self.look_up(name).expect("an address"), port))
    }

    /// What the resolver answers.
    fn look_up(&self, name: &str) -> Option<IpAddr> {
        let mut names = hickory_proto::op::Message::query();
        let query = hickory_proto::rr::Name::from_ascii(format!("{name}.")).unwrap();
        names.add_query(hickory_proto::op::Query::query(query, hickory_proto::rr::RecordType::A));
        let reply = self.egress.gate.dns(&names.to_vec().unwrap()).unwrap();
        let reply = hickory_proto::op::Message::from_vec(&reply).unwrap();
        reply.answers.first().map(|answer| answer.data.ip_addr().unwrap())
    }

    fn resolves(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.world.names.lock().unwrap().insert(name.into(), addresses);
    }

    fn to(&self, address: SocketAddr) -> DuplexStream {
        self.peer(Peer::Captured(address))
    }

    fn peer(&self, peer: Peer) -> DuplexStream {
        let (client, server) = duplex(64 * 1024);
        let egress = Arc::clone(&self.egress);
        tokio::spawn(async move {
            let _ = egress.serve(server, peer).await;
        });
        client
    }

    async fn server(&self) -> DuplexStream {
        for _ in 0..10_000 {
            if let Some(peer) = self.world.peers.lock().unwrap().pop() {
                return peer;
            }
            tokio::task::yield_now().await;
        }
        panic!("nothing was dialled; refused so far: {:?}", self.reasons());
    }

    async fn asked(&self) -> Destination {
        for _ in 0..10_000 {
            for notice in self.told.notices.lock().unwrap().iter() {
                if let Notice::Ask { destination, .. } = notice {
                    return destination.clone();
                }
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("nobody was asked; refused so far: {:?}", self.reasons());
    }

    fn reasons(&self) -> Vec<String> {
        let rows = self.told.rows.lock().unwrap();
        rows.iter().filter(|row| row.what == RecordKind::Deny).map(|row| row.reason.clone()).collect()
    }

    fn dialled(&self) -> usize {
        self.world.dialled.lock().unwrap().len()
    }
}

async fn say(stream: &mut (impl AsyncWriteExt + Unpin), text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

/// Everything until the other side is done.
async fn all(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    bytes
}

/// The head of an HTTP message and what follows by its Content-Length.
async fn message(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut text = String::new();
    loop {
        let mut byte = [0];
        if stream.read(&mut byte).await.unwrap() == 0 {
            return text;
        }
        text.push(char::from(byte[0]));
        if text.ends_with("\r\n\r\n") {
            break;
        }
    }
    let lower = text.to_ascii_lowercase();
    let length = lower.split("content-length: ").nth(1).and_then(|it| it.split("\r\n").next()?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.unwrap();
    text + &String::from_utf8(body).unwrap()
}

fn grant(destination: &Destination, span: GrantSpan) -> Grant {
    Grant { id: 7, destination: destination.clone(), span, request: None }
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
const ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

#[tokio::test(start_paused = true)]
async fn a_tls_client_passes_under_the_name_it_looked_up_and_under_no_other() {
    let cell = cell();
    let mut client = cell.captured("open.example", 443);
    let hello = real("open.example");
    client.write_all(&hello).await.unwrap();
    let mut server = cell.server().await;
    let mut got = vec![0; hello.len()];
    server.read_exact(&mut got).await.unwrap();
    assert_eq!(got, hello);
    say(&mut server, "pong").await;
    drop(server);
    assert_eq!(all(&mut client).await, b"pong");

    for hello in [real("other.example"), vec![22, 3, 1, 0, 4, 2, 0, 0, 0], vec![22, 3, 1, 0, 9]] {
        let mut client = cell.captured("open.example", 443);
        client.write_all(&hello).await.unwrap();
        assert_eq!(all(&mut client).await, ALERT);
    }
    assert_eq!(cell.dialled(), 1);
    assert_eq!(cell.reasons()[0], "name_mismatch");
}

#[tokio::test(start_paused = true)]
async fn a_held_connection_goes_on_once_it_is_granted_without_a_retry() {
    let cell = cell();
    let mut client = cell.captured("new.example", 80);
    say(&mut client, "GET /a HTTP/1.1\r\nHost: new.example\r\n\r\n").await;
    let destination = cell.asked().await;
    assert_eq!(destination.to_string(), "http://new.example:80");
    assert_eq!(cell.dialled(), 0);
    cell.egress.gate.grant(grant(&destination, GrantSpan::Once { until: Millis(9000) }));
    loop {
        tokio::task::yield_now().await;
        if cell.told.notices.lock().unwrap().contains(&Notice::Spend(7)) {
            break;
        }
    }
    // Nothing is dialled before the grant is spent.
    assert_eq!(cell.dialled(), 0);
    cell.egress.gate.spent(7, true);
    let mut server = cell.server().await;
    assert!(message(&mut server).await.starts_with("GET /a HTTP/1.1\r\n"));
    say(&mut server, OK).await;
    assert!(message(&mut client).await.ends_with("hi"));
    // Once is once: the next request is asked about again, and refused when nobody answers.
    say(&mut client, "GET /b HTTP/1.1\r\nHost: new.example\r\n\r\n").await;
    let refused = message(&mut client).await;
    assert!(
        refused.starts_with("HTTP/1.1 403") && refused.contains("cofferdam-reason: no_answer"),
        "{refused}"
    );
    assert!(cell.told.notices.lock().unwrap().contains(&Notice::HoldEnded(destination.clone())));
    // Granted afterwards, the same request passes.
    cell.egress.gate.grant(Grant { id: 8, ..grant(&destination, GrantSpan::Until(Millis(9000))) });
    say(&mut client, "GET /b HTTP/1.1\r\nHost: new.example\r\n\r\n").await;
    let mut server = tokio::select! { server = cell.server() => server, text = message(&mut server) => { assert!(text.starts_with("GET /b")); server } };
    say(&mut server, OK).await;
    assert!(message(&mut client).await.ends_with("hi"));
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_is_gone_or_cannot_be_spent_opens_nothing() {
    let cell = cell();
    let mut client = cell.captured("new.example", 443);
    client.write_all(&real("new.example")).await.unwrap();
    let destination = cell.asked().await;
    cell.egress.gate.grant(grant(&destination, GrantSpan::Once { until: Millis(9000) }));
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    cell.egress.gate.wire_lost();
    assert_eq!(all(&mut client).await, ALERT);
    assert_eq!(cell.dialled(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_is_refused_learns_the_reason_in_what_it_speaks() {
    let cell = cell();
    let mut http = cell.captured("closed.example", 80);
    say(&mut http, "GET / HTTP/1.1\r\nHost: closed.example\r\n\r\n").await;
    let text = message(&mut http).await;
    assert!(text.starts_with("HTTP/1.1 403") && text.contains("cofferdam-reason: denied_by_rule"), "{text}");
    assert!(text.contains("not this one"), "{text}");

    let mut tls = cell.captured("closed.example", 443);
    tls.write_all(&real("closed.example")).await.unwrap();
    assert_eq!(all(&mut tls).await, ALERT);

    let mut proxy = cell.peer(Peer::Proxy);
    say(&mut proxy, "CONNECT closed.example:443 HTTP/1.1\r\nHost: closed.example:443\r\n\r\n").await;
    let text = message(&mut proxy).await;
    assert!(text.starts_with("HTTP/1.1 403") && text.contains("cofferdam-reason: denied_by_rule"), "{text}");

    let mut page = cell.captured("cofferdam.local", 80);
    say(&mut page, "GET /denied HTTP/1.1\r\nHost: cofferdam.local\r\n\r\n").await;
    let text = message(&mut page).await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert_eq!(text.matches("denied_by_rule").count(), 3, "{text}");
}

#[tokio::test(start_paused = true)]
async fn an_approver_who_says_no_is_heard_at_once() {
    let cell = cell();
    let mut client = cell.captured("new.example", 80);
    say(&mut client, "GET / HTTP/1.1\r\nHost: new.example\r\n\r\n").await;
    let destination = cell.asked().await;
    let refusal = Refusal::new(Reason::DeniedByPerson, "approval 3").said("too risky");
    cell.egress.gate.refuse_held(&destination, refusal);
    let text = message(&mut client).await;
    assert!(text.contains("denied_by_person") && text.contains("too risky"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn every_request_of_a_kept_connection_is_judged_by_its_host() {
    let cell = cell();
    let mut client = cell.captured("web.example", 80);
    for path in ["/1", "/2"] {
        say(&mut client, &format!("GET {path} HTTP/1.1\r\nHost: WEB.example\r\nProxy-Foo: a\r\n\r\n")).await;
        if path == "/1" {
            let mut server = cell.server().await;
            assert!(message(&mut server).await.contains("host: web.example"));
            say(&mut server, OK).await;
            cell.world.peers.lock().unwrap().push(server);
        } else {
            let mut server = cell.server().await;
            assert!(message(&mut server).await.starts_with("GET /2 "));
            say(&mut server, OK).await;
            cell.world.peers.lock().unwrap().push(server);
        }
        assert!(message(&mut client).await.ends_with("hi"));
    }
    assert_eq!(cell.dialled(), 1);
    say(&mut client, "GET /3 HTTP/1.1\r\nHost: open.example\r\n\r\n").await;
    assert!(message(&mut client).await.starts_with("HTTP/1.1 421"));
    assert!(all(&mut client).await.is_empty());
    assert_eq!(cell.reasons(), ["host_mismatch"]);
}

#[tokio::test(start_paused = true)]
async fn requests_that_two_parsers_could_read_differently_are_refused() {
    let cell = cell();
    for head in [
        "POST / HTTP/1.1\r\nHost: web.example\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "POST / HTTP/1.1\r\nHost: web.example\r\nTransfer-Encoding: gzip\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: web.example\r\nHost: web.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: web.example\r\n folded: 1\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: user@web.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: web.example\0\r\n\r\n",
        "CONNECT other.example:443 HTTP/1.1\r\nHost: other.example:443\r\n\r\n",
    ] {
        let mut client = cell.captured("web.example", 80);
        say(&mut client, head).await;
        let text = message(&mut client).await;
        assert!(text.starts_with("HTTP/1.1 400"), "{head:?}: {text:?}");
    }
    assert_eq!(cell.dialled(), 0);
}

/// The parser takes the chunks and drops the length, as RFC 9112 allows; what matters is that the other side
/// is never left to choose.
#[tokio::test(start_paused = true)]
async fn a_body_with_two_lengths_leaves_with_one() {
    for lengths in
        ["Content-Length: 4\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 4"]
    {
        let cell = cell();
        let mut client = cell.captured("web.example", 80);
        say(&mut client, &format!("POST / HTTP/1.1\r\nHost: web.example\r\n{lengths}\r\n\r\n0\r\n\r\n"))
            .await;
        let head = message(&mut cell.server().await).await.to_ascii_lowercase();
        assert!(head.contains("transfer-encoding: chunked") != head.contains("content-length"), "{head}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_that_leads_home_is_refused_however_often_it_is_asked() {
    let cell = cell();
    let answer = |address: &str| {
        let mut names = cell.world.names.lock().unwrap();
        names.insert("rebound.example".into(), vec![address.parse().unwrap()]);
    };
    for home in ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::ffff:127.0.0.1"] {
        answer(home);
        let mut client = cell.captured("rebound.example", 80);
        say(&mut client, "GET / HTTP/1.1\r\nHost: rebound.example\r\n\r\n").await;
        let text = message(&mut client).await;
        assert!(text.starts_with("HTTP/1.1 403"), "{home}: {text}");
    }
    assert_eq!(cell.dialled(), 0);
    answer("93.184.216.34");
    let mut client = cell.captured("rebound.example", 80);
    say(&mut client, "GET / HTTP/1.1\r\nHost: rebound.example\r\n\r\n").await;
    say(&mut cell.server().await, OK).await;
    assert!(message(&mut client).await.ends_with("hi"));
}

#[tokio::test(start_paused = true)]
async fn an_address_never_handed_out_and_a_metadata_address_are_refused_unasked() {
    let cell = cell();
    for (address, reason) in [
        ("198.18.77.7:80", "never_handed_out"),
        ("169.254.169.254:80", "metadata"),
        ("127.0.0.1:80", "host_address"),
    ] {
        let mut client = cell.to(address.parse().unwrap());
        let host = address.strip_suffix(":80").unwrap();
        say(&mut client, &format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        let text = message(&mut client).await.to_ascii_lowercase();
        assert!(text.contains(&format!("cofferdam-reason: {reason}")), "{text}");
    }
    assert!(cell.told.notices.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_allowed_that_cannot_be_recorded() {
    let cell = cell();
    cell.told.full.store(true, SeqCst);
    let mut client = cell.captured("web.example", 80);
    say(&mut client, "GET / HTTP/1.1\r\nHost: web.example\r\n\r\n").await;
    assert!(message(&mut client).await.contains("ledger_unavailable"));
    cell.told.full.store(false, SeqCst);
    say(&mut client, "GET / HTTP/1.1\r\nHost: web.example\r\n\r\n").await;
    say(&mut cell.server().await, OK).await;
    assert!(message(&mut client).await.ends_with("hi"));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_speaks_first_is_not_kept_waiting_where_a_tcp_rule_says_so() {
    let cell = cell();
    let mut client = cell.captured("data.example", 5432);
    say(&mut cell.server().await, "220 hello").await;
    let mut greeting = [0; 9];
    client.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"220 hello");
    // Where no rule says so, silence is asked about as tcp.
    let _silent = cell.captured("new.example", 25);
    assert_eq!(cell.asked().await.to_string(), "tcp://new.example:25");
}

#[tokio::test(start_paused = true)]
async fn what_policy_no_longer_allows_is_closed_and_the_rest_goes_on() {
    let cell = cell();
    let mut kept = cell.captured("open.example", 443);
    kept.write_all(&real("open.example")).await.unwrap();
    let mut kept_server = cell.server().await;
    let mut lost = cell.captured("data.example", 5432);
    let _lost_server = cell.server().await;
    let policy = POLICY.replace("  - allow: data.example\n    protocol: tcp\n    ports: [5432]\n", "");
    cell.egress.gate.configure(rules(&policy), LIMITS);
    assert!(all(&mut lost).await.is_empty());
    say(&mut kept_server, "x").await;
    assert_eq!(kept.read_u8().await.unwrap(), b'x');
}

#[tokio::test(start_paused = true)]
async fn a_revoked_grant_closes_what_it_opened() {
    let cell = cell();
    let destination =
        of(&Host::Name("new.example".parse().unwrap()), 443.try_into().unwrap(), Protocol::Https);
    cell.egress.gate.grant(grant(&destination, GrantSpan::Always));
    let mut client = cell.captured("new.example", 443);
    client.write_all(&real("new.example")).await.unwrap();
    let mut server = cell.server().await;
    say(&mut server, "x").await;
    assert_eq!(client.read_u8().await.unwrap(), b'x');
    cell.egress.gate.revoke(7);
    assert!(all(&mut client).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn holds_and_relays_have_their_limits() {
    let cell = cell();
    let mut held = Vec::new();
    for n in 0..2 {
        let mut client = cell.captured(&format!("n{n}.example"), 80);
        say(&mut client, &format!("GET / HTTP/1.1\r\nHost: n{n}.example\r\n\r\n")).await;
        held.push(client);
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let mut third = cell.captured("n2.example", 80);
    say(&mut third, "GET / HTTP/1.1\r\nHost: n2.example\r\n\r\n").await;
    let text = message(&mut third).await;
    assert!(text.starts_with("HTTP/1.1 429") && text.contains("too_many_holds"), "{text}");
    // A client that leaves gives its place back.
    held.pop();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let mut fourth = cell.captured("n3.example", 80);
    say(&mut fourth, "GET / HTTP/1.1\r\nHost: n3.example\r\n\r\n").await;
    assert!(message(&mut fourth).await.contains("no_answer"));
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_through_the_proxy_is_sniffed_like_a_captured_connection() {
    let cell = cell();
    let connect = |to: &'static str| {
        let mut client = cell.peer(Peer::Proxy);
        async move {
            say(&mut client, &format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n")).await;
            (message(&mut client).await, client)
        }
    };
    let (text, mut client) = connect("open.example:443").await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    client.write_all(&real("open.example")).await.unwrap();
    let mut server = cell.server().await;
    say(&mut server, "pong").await;
    let mut pong = [0; 4];
    client.read_exact(&mut pong).await.unwrap();

    let (text, mut client) = connect("open.example:443").await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    client.write_all(&real("other.example")).await.unwrap();
    assert_eq!(all(&mut client).await, ALERT);

    let (text, mut client) = connect("inference.local:80").await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    say(&mut client, "GET /v1/models HTTP/1.1\r\nHost: inference.local\r\n\r\n").await;
    assert!(message(&mut client).await.ends_with("a model"));

    for (to, status) in [
        ("127.0.0.1:3128", "403"),
        ("0.0.0.0:80", "403"),
        ("[::]:80", "403"),
        ("localhost:22", "403"),
        ("169.254.169.254:80", "403"),
        ("198.18.200.1:443", "403"),
        ("inference.local:8443", "403"),
        ("open.example:0", "400"),
    ] {
        let (text, _) = connect(to).await;
        assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{to}: {text}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_proxy_takes_absolute_uris_and_judges_each() {
    let cell = cell();
    let mut client = cell.peer(Peer::Proxy);
    say(&mut client, "GET http://web.example/x?y HTTP/1.1\r\nHost: web.example\r\n\r\n").await;
    let mut server = cell.server().await;
    let text = message(&mut server).await;
    assert!(text.starts_with("GET /x?y HTTP/1.1\r\n"), "{text}");
    say(&mut server, OK).await;
    assert!(message(&mut client).await.ends_with("hi"));
    say(&mut client, "GET http://closed.example/ HTTP/1.1\r\nHost: closed.example\r\n\r\n").await;
    assert!(message(&mut client).await.contains("denied_by_rule"));
    say(&mut client, "GET http://web.example/ HTTP/1.1\r\nHost: closed.example\r\n\r\n").await;
    assert!(message(&mut client).await.starts_with("HTTP/1.1 421"));
}

#[tokio::test(start_paused = true)]
async fn a_websocket_passes_both_ways_after_its_upgrade() {
    let cell = cell();
    let mut client = cell.captured("web.example", 80);
    say(&mut client, "GET /ws HTTP/1.1\r\nHost: web.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n").await;
    let mut server = cell.server().await;
    let head = message(&mut server).await.to_ascii_lowercase();
    assert!(head.contains("upgrade: websocket") && head.contains("sec-websocket-version: 13"), "{head}");
    say(
        &mut server,
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst",
    )
    .await;
    let text = message(&mut client).await;
    assert!(text.starts_with("HTTP/1.1 101"), "{text}");
    let mut frame = [0; 5];
    client.read_exact(&mut frame).await.unwrap();
    assert_eq!(&frame, b"first");
    say(&mut client, "frame").await;
    server.read_exact(&mut frame).await.unwrap();
    assert_eq!(&frame, b"frame");
}
