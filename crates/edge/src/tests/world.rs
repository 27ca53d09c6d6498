//! The world of the edge's tests: a launcher and a control at the other ends of real wires, gateways on
//! loopback in the place of cells, and clients that write their own bytes.

use crate::{
    Edge,
    limits::Limits,
    run::{Workers, wires},
    token::tests::Signer,
};
use cofferdam_base::{
    AUDIENCE, Claims, Clock, MemberId, Millis, Role, Scope, Slot, TenantId,
    ipc::edge::{self, Config, Feed, Message, Refused, Report, RuntimeKind, SocketRequest, TenantRoute},
};
use cofferdam_sys::{
    channel::{AsyncChannel, pair},
    netns,
};
use rustix::net::{AddressFamily, SocketType, socket};
use std::{
    collections::HashMap,
    future::Future,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time,
};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::handshake::client::Request};

/// A clock that tests move.
#[derive(Debug)]
pub(super) struct Hands(AtomicU64);

impl Clock for Hands {
    fn now(&self) -> Millis {
        Millis(self.0.load(Ordering::SeqCst))
    }
}

pub(super) const START: u64 = 1_800_000_000;

pub(super) struct World {
    pub(super) edge: Arc<Edge>,
    pub(super) address: SocketAddr,
    pub(super) signer: Signer,
    pub(super) control: Arc<AsyncChannel>,
    pub(super) launcher: Arc<AsyncChannel>,
    pub(super) reports: Arc<Mutex<Vec<Report>>>,
    /// Answers that came; see [`record`].
    pub(super) answers: Arc<Mutex<Vec<edge::Answer>>>,
    hands: Arc<Hands>,
}

pub(super) fn id(text: &str) -> TenantId {
    TenantId::try_from(text).unwrap()
}

/// Something that must happen; how soon is no test's business.
pub(super) async fn soon<T>(what: impl Future<Output = T>) -> T {
    time::timeout(Duration::from_secs(20), what).await.expect("it happens")
}

/// One tenant's row: its name, runtime, state and gateway port.
pub(super) type Row = (&'static str, RuntimeKind, &'static str, u16);

impl World {
    /// An edge that serves these tenants, whose slots count from 2.
    pub(super) async fn new(rows: &[Row]) -> Self {
        let world = Self::unsynced(rows).await;
        world.sync(rows).await;
        world
    }

    /// An edge that may have so many files open.
    pub(super) async fn with_descriptors(rows: &[Row], descriptors: u64) -> Self {
        let world = Self::unsynced_with(rows, descriptors, |edge| Workers::start(edge, 2).unwrap()).await;
        world.sync(rows).await;
        world
    }

    /// An edge that control has told nothing yet.
    pub(super) async fn unsynced(rows: &[Row]) -> Self {
        Self::unsynced_with(rows, 3000, |edge| Workers::start(edge, 2).unwrap()).await
    }

    /// An edge that serves on this thread, to which control has told nothing yet.
    pub(super) async fn here(rows: &[Row]) -> Self {
        Self::unsynced_with(rows, 3000, Workers::here).await
    }

    async fn unsynced_with(rows: &[Row], descriptors: u64, workers: impl Fn(&Arc<Edge>) -> Workers) -> Self {
        let hands = Arc::new(Hands(AtomicU64::new(START * 1000)));
        let (requests, asked) = mpsc::unbounded_channel();
        let (limits, source) = (Limits::new(descriptors), Ipv4Addr::new(127, 0, 0, 5));
        let edge = Arc::new(Edge::new(Arc::clone(&hands) as _, limits, requests, source));
        let (ours, theirs) = pair().unwrap();
        let workers = workers(&edge);
        tokio::spawn(wires(Arc::clone(&edge), theirs, asked, workers));
        let launcher = Arc::new(AsyncChannel::new(ours).unwrap());
        let (control, control_theirs) = pair().unwrap();
        launcher.send(&Feed::Control {}, &[control_theirs.as_fd()]).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        launcher.send(&Feed::Listener { tenant: None, address }, &[listener.as_fd()]).await.unwrap();
        let control = Arc::new(AsyncChannel::new(control).unwrap());
        let (reports, answers) = (Arc::default(), Arc::default());
        tokio::spawn(launch(Arc::clone(&launcher), rows.iter().map(|row| (row.0, row.3)).collect()));
        tokio::spawn(record(Arc::clone(&control), Arc::clone(&reports), Arc::clone(&answers)));
        Self { edge, address, signer: Signer::new("k1"), control, launcher, reports, answers, hands }
    }

    pub(super) async fn sync(&self, rows: &[Row]) {
        self.tell(Config::Begin {}).await;
        let keys = vec![self.signer.public.clone()];
        self.tell(Config::Issuer { issuer: "test-host".into(), keys }).await;
        for (at, (name, runtime, state, _)) in rows.iter().enumerate() {
            let slot = Slot::try_from(u16::try_from(at + 2).unwrap()).unwrap();
            let (runtime, state) = (*runtime, (*state).to_owned());
            self.tell(Config::Tenant(TenantRoute { tenant: id(name), slot, state, runtime })).await;
        }
        let mut changed = self.edge.state.watch();
        self.tell(Config::Synced {}).await;
        while !self.edge.state.synced() {
            soon(changed.changed()).await.unwrap();
        }
    }

    pub(super) async fn tell(&self, config: Config) {
        self.control.send(&config, &[]).await.unwrap();
    }

    /// Moves the clock.
    pub(super) fn forward(&self, seconds: u64) {
        self.hands.0.fetch_add(seconds * 1000, Ordering::SeqCst);
    }

    pub(super) fn claims(tenant: &str, role: Role) -> Claims {
        Claims {
            iss: "test-host".into(),
            aud: AUDIENCE.into(),
            sub: format!("{role}@{tenant}"),
            tid: id(tenant),
            mid: MemberId::of(7),
            role,
            scp: Scope::ALL.into(),
            jti: format!("jti-{tenant}-{role}"),
            iat: START,
            exp: START + 3600,
        }
    }

    pub(super) fn token(&self, tenant: &str, role: Role) -> String {
        self.signer.sign(&Self::claims(tenant, role))
    }

    pub(super) fn host(&self, tenant: &str) -> String {
        format!("{tenant}.localhost:{}", self.address.port())
    }

    pub(super) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends a GET with these header lines besides `Host` and reads the answer to its end.
    pub(super) async fn get(&self, host: &str, path: &str, lines: &[String]) -> Answer {
        let mut stream = self.connect().await;
        let mut head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
        for line in lines {
            head.push_str(line);
            head.push_str("\r\n");
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
        Answer::read(stream).await
    }

    /// A GET with this tenant's member token.
    pub(super) async fn get_as_member(&self, tenant: &str, path: &str, lines: &[&str]) -> Answer {
        let mut all = vec![bearer(&self.token(tenant, Role::Member))];
        all.extend(lines.iter().map(|line| (*line).to_owned()));
        self.get(&self.host(tenant), path, &all).await
    }

    pub(super) async fn websocket(
        &self,
        tenant: &str,
        lines: &[(&'static str, String)],
    ) -> Result<WebSocketStream<TcpStream>, tokio_tungstenite::tungstenite::Error> {
        let host = self.host(tenant);
        let mut request = Request::builder()
            .uri(format!("ws://{host}/any/path"))
            .header("host", host)
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("sec-websocket-extensions", "permessage-deflate");
        for (name, value) in lines {
            request = request.header(*name, value);
        }
        let stream = self.connect().await;
        Ok(client_async(request.body(()).unwrap(), stream).await?.0)
    }

    pub(super) fn reported(&self, what: &str, reason: &str) -> bool {
        self.reports.lock().unwrap().iter().any(|report| report.what == what && report.reason == reason)
    }
}

pub(super) fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}")
}

/// An answer of HTTP, read to its end.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Answer {
    pub(super) async fn read(mut stream: TcpStream) -> Self {
        let mut bytes = Vec::new();
        // A refused client may see a reset after the answer.
        let _ = soon(stream.read_to_end(&mut bytes)).await;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    /// The code that machines read.
    pub(super) fn code(&self) -> String {
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        body["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// The launcher: gives sockets of the test's own namespace.
async fn launch(wire: Arc<AsyncChannel>, ports: HashMap<&'static str, u16>) {
    let cookie = netns::current_cookie().unwrap();
    while let Ok(Some((SocketRequest { tenant, count }, _))) = wire.recv().await {
        let port = ports.get(tenant.as_str()).copied().unwrap_or_default();
        if port == 0 {
            wire.send(&Feed::NoCell { tenant }, &[]).await.unwrap();
            continue;
        }
        let sockets: Vec<OwnedFd> =
            (0..count).map(|_| socket(AddressFamily::INET, SocketType::STREAM, None).unwrap()).collect();
        let borrowed: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        let feed = Feed::Sockets { tenant, generation: 1, netns_cookie: cookie, port };
        if wire.send(&feed, &borrowed).await.is_err() {
            return;
        }
    }
}

/// Control: records every report, and takes every answer to an approval whose number is odd.
async fn record(
    wire: Arc<AsyncChannel>,
    reports: Arc<Mutex<Vec<Report>>>,
    answers: Arc<Mutex<Vec<edge::Answer>>>,
) {
    while let Ok(Some((message, _))) = wire.recv::<Message>().await {
        let sent = match message {
            Message::Report(report) => {
                let through = report.seq;
                reports.lock().unwrap().push(report);
                wire.send(&Config::Recorded { through }, &[]).await
            }
            Message::Answer(answer) => {
                let stale = || Refused { code: "approval_stale".into(), message: "it is stale".into() };
                let (op, refused) = (answer.op, (answer.approval % 2 == 0).then(stale));
                answers.lock().unwrap().push(answer);
                wire.send(&Config::Answered { op, refused }, &[]).await
            }
        };
        if sent.is_err() {
            return;
        }
    }
}
