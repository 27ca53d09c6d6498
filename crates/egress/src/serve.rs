//! One cell's way out: what happens to a connection from the moment it is accepted.

use crate::{
    ACCESS_DENIED, Error, Foresight, Gate, Inspector, Pass, Refusal, Stream,
    check::{Check, at_most, keeps, within},
    credentials::{Credentials, oauth::Mint},
    dial::{Dialler, Reached},
    hello::ClientHello,
    http::{self, HTTP_PORT, HTTPS_PORT, Local, Mode, OWN_NAME},
    loss::{Overheard, Watch, Watched},
    pace::Pace,
    place::Placed,
    proxy::Proxied,
    relay::{BoxStream, Metered, relay},
    sniff::{MOST, Rewound, Spoken, classify, sniff},
};
use ::http::{Request, Response};
use bytes::BytesMut;
use cofferdam_base::{Destination, Host, Protocol};
use cofferdam_policy::Reason;
use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::{
    io,
    net::SocketAddr,
    num::NonZeroU16,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Semaphore,
    time::error::Elapsed,
};

/// How long a client may stay silent before it counts as one whose server speaks first.
const PATIENCE: Duration = Duration::from_secs(4);
/// The same where a `tcp` rule lets it through anyway.
const SHORT_PATIENCE: Duration = Duration::from_millis(500);
/// How long a DNS client may keep its TCP connection without a question.
const DNS_IDLE: Duration = Duration::from_secs(10);
/// Connections of one cell in any phase at one time. More are closed at once.
const CONNECTIONS: usize = 1024;
/// Bodies of one cell that are read to be judged at one time.
const READS: usize = 16;

/// How a connection came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Captured on its way: its own address is where it wanted to go.
    Captured(SocketAddr),
    /// To the explicit proxy.
    Proxy,
    /// To the resolver, over TCP.
    Dns,
}

/// Everything that one cell's connections need.
#[derive(Debug)]
pub struct Egress {
    /// What decides.
    pub gate: Arc<Gate>,
    /// What is served instead of being dialled.
    pub local: Arc<dyn Local>,
    /// What ends TLS where a rule speaks of what is inside.
    pub inspector: Inspector,
    dialler: RwLock<Option<Arc<Dialler>>>,
    pub(crate) proxied: RwLock<Proxied>,
    pub(crate) mint: RwLock<Option<Arc<dyn Mint>>>,
    credentials: RwLock<Arc<Credentials>>,
    pub(crate) watched: Watched,
    places: Arc<Semaphore>,
    pace: Pace,
    /// Bodies that are read to be judged.
    reading: Semaphore,
}

impl Egress {
    /// A way out that dials nothing before [`Self::set_dialler`].
    pub fn new(gate: Arc<Gate>, local: Arc<dyn Local>, inspector: Inspector) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(at_most(Check::Places, CONNECTIONS)));
        Arc::new(Self {
            gate,
            local,
            inspector,
            dialler: RwLock::new(None),
            proxied: RwLock::default(),
            mint: RwLock::default(),
            credentials: RwLock::default(),
            watched: Watched::default(),
            places,
            pace: Pace::new(),
            reading: Semaphore::new(READS),
        })
    }

    /// Sets what placeholders stand for from now on.
    pub fn set_credentials(&self, credentials: Credentials) {
        *self.credentials.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(credentials);
    }

    /// What placeholders stand for.
    pub fn credentials(&self) -> Arc<Credentials> {
        Arc::clone(&self.credentials.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sets what must not leave from now on.
    pub fn set_watch(&self, watch: Watch) {
        self.watched.set(watch);
    }

    /// Sets what new connections are dialled with.
    pub fn set_dialler(&self, dialler: Dialler) {
        *self.dialler.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(dialler));
    }

    /// Reads something to be judged, when there is a place for it; an error if that takes too long.
    pub(crate) async fn reads<T>(&self, read: impl Future<Output = T>) -> Result<T, Elapsed> {
        let placed = async {
            let _place = self.reading.acquire().await;
            read.await
        };
        tokio::time::timeout(http::judged::READING, placed).await
    }

    /// Dials what a pass was given for, as long as the pass is good.
    pub async fn dial(&self, pass: &Pass) -> Result<(Reached, BoxStream), Refusal> {
        let dialler = self.dialler.read().unwrap_or_else(PoisonError::into_inner).clone();
        let (Some(rules), Some(dialler)) = (self.gate.rules(), dialler) else {
            return Err(Refusal::new(Reason::NotReady, "warden"));
        };
        self.alarm(pass.destination()).name()?;
        let dialling = self.dialled(&dialler, pass, &rules);
        let (reached, stream) = tokio::select! {
            biased;
            () = pass.withdrawn().cancelled(), if keeps(Check::WithdrawnDial) => {
                return Err(Refusal::new(Reason::Revoked, "policy"));
            }
            dialled = dialling => dialled?,
        };
        if keeps(Check::DialledStands) {
            pass.dialled(reached)?;
        }
        Ok((reached, stream))
    }

    /// Accepts connections until the listener breaks. `peer` says how a connection came.
    pub async fn accept(
        self: Arc<Self>,
        listener: tokio::net::TcpListener,
        peer: impl Fn(&tokio::net::TcpStream) -> io::Result<Peer>,
    ) -> io::Error {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => match error.kind() {
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => continue,
                    io::ErrorKind::InvalidInput => return error,
                    // Out of descriptors or memory: let some connections end first.
                    _ => {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
            };
            self.pace.keep(self.places.available_permits() < CONNECTIONS / 2).await;
            // Refused at once where there is no place, or where the kernel cannot say whence it came.
            let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { continue };
            let (Ok(peer), Ok(())) = (peer(&stream), stream.set_nodelay(true)) else { continue };
            let egress = Arc::clone(&self);
            let stream = Placed { stream, _place: place };
            tokio::spawn(async move {
                if let Err(error) = egress.serve(stream, peer).await {
                    tracing::debug!(%error, "a connection ended");
                }
            });
        }
    }

    /// Serves one connection to its end.
    pub async fn serve<S: Stream>(self: Arc<Self>, mut stream: S, peer: Peer) -> Result<(), Error> {
        match peer {
            Peer::Dns => Ok(self.dns(stream).await?),
            Peer::Captured(to) if to.port() == 53 => Ok(self.dns(stream).await?),
            Peer::Proxy => http::serve(self, stream, Mode::Proxy).await,
            Peer::Captured(to) => {
                let Some(port) = NonZeroU16::new(to.port()) else { return Ok(()) };
                match self.gate.meaning(to.ip()) {
                    Ok(host) => self.tunnelled(stream, host, port).await,
                    Err(refusal) => {
                        let host = Host::Address(to.ip().to_canonical());
                        let destination = Destination { host, port, protocol: Protocol::Tcp };
                        let refusal = self.gate.refuse(Some(&destination), refusal);
                        let mut first = BytesMut::new();
                        let spoken = sniff(&mut stream, &mut first, PATIENCE).await?;
                        self.turn_away(stream, &spoken, &destination, refusal).await
                    }
                }
            }
        }
    }

    async fn dns<S: Stream>(&self, stream: S) -> io::Result<()> {
        crate::dns::serve_tcp(stream, within(Check::DnsIdle, DNS_IDLE), |packet| self.gate.dns(packet)).await
    }

    /// A connection whose destination is known, by capture or by CONNECT.
    async fn tunnelled<S: Stream>(
        self: Arc<Self>,
        mut stream: S,
        host: Host,
        port: NonZeroU16,
    ) -> Result<(), Error> {
        let mut first = BytesMut::new();
        if !self.is_local(&host) && self.only_opaque(&host, port) {
            return self.passage(stream, first, of(&host, port, Protocol::Tcp), false).await;
        }
        let opaque = self.foresee(&of(&host, port, Protocol::Tcp)) == Foresight::Allowed;
        let patience = if opaque { SHORT_PATIENCE } else { PATIENCE };
        let spoken = sniff(&mut stream, &mut first, patience).await?;
        self.sniffed(stream, first, spoken, host, port).await
    }

    async fn sniffed<S: Stream>(
        self: Arc<Self>,
        stream: S,
        first: BytesMut,
        spoken: Spoken,
        host: Host,
        port: NonZeroU16,
    ) -> Result<(), Error> {
        if spoken == Spoken::Http {
            let stream = Rewound::new(first.freeze(), stream);
            return http::serve(self, stream, Mode::Fixed(host, port)).await;
        }
        let tls = spoken != Spoken::Opaque;
        let destination = of(&host, port, if tls { Protocol::Https } else { Protocol::Tcp });
        let home = self.is_local(&host) && tls && port == HTTPS_PORT;
        let checked = if keeps(Check::OwnNames) && self.is_local(&host) && !home {
            Err(Refusal::new(Reason::ProtocolMismatch, "warden")
                .said("use plain HTTP on port 80, or TLS on port 443, for this name"))
        } else {
            same_name(&spoken, &host)
        };
        match checked {
            Ok(()) if tls && (home || self.foresee(&destination) == Foresight::Inspected) => {
                self.inspect(stream, first, destination).await
            }
            Ok(()) => self.passage(stream, first, destination, tls).await,
            Err(refusal) => {
                let refusal = self.gate.refuse(Some(&destination), refusal);
                self.turn_away(stream, &spoken, &destination, refusal).await
            }
        }
    }

    /// Admits, dials and relays.
    async fn passage<S: Stream>(
        self: Arc<Self>,
        mut stream: S,
        mut first: BytesMut,
        destination: Destination,
        tls: bool,
    ) -> Result<(), Error> {
        let pass = match self.admit_while_there(&mut stream, &mut first, &destination, tls).await {
            Ok(pass) => pass,
            Err(Error::Refused(refusal)) => return self.away(stream, tls, &destination, refusal).await,
            Err(error) => return Err(error),
        };
        // Silence let it through as tcp: if it then speaks what something else is said of, that counts.
        let Destination { host, port, protocol } = &destination;
        let listens = keeps(Check::LateSpeech)
            && *protocol == Protocol::Tcp
            && [Protocol::Https, Protocol::Http].iter().any(|it| self.speaks_of(host, *port, *it));
        if listens && let Some(spoken) = classify(&first).filter(|spoken| *spoken != Spoken::Opaque) {
            drop(pass);
            return self.anew(stream, first, spoken, destination).await;
        }
        let mut world = match self.dial(&pass).await {
            Ok((_, world)) => world,
            Err(refusal) => {
                drop(pass);
                let refusal = self.gate.refuse(Some(&destination), refusal);
                return self.away(stream, tls, &destination, refusal).await;
            }
        };
        if listens {
            let spoken = tokio::select! {
                biased;
                () = pass.withdrawn().cancelled() => return Ok(()),
                spoken = overhear(&mut stream, &mut first, &mut world) => spoken?,
            };
            if spoken != Spoken::Opaque {
                drop((pass, world));
                return self.anew(stream, first, spoken, destination).await;
            }
        }
        self.carry(stream, first, world, &pass).await;
        Ok(())
    }

    /// Relays, beginning with what was read already.
    async fn carry<S: Stream>(&self, cell: S, first: BytesMut, world: BoxStream, pass: &Pass) {
        let mut cell = Rewound::new(first.freeze(), cell);
        let (moved, end) = if pass.destination().protocol == Protocol::Tcp {
            let mut world = Metered::new(Overheard::new(world, self.alarm(pass.destination())), pass);
            relay(&mut cell, &mut world, pass.withdrawn()).await
        } else {
            relay(&mut cell, &mut Metered::new(world, pass), pass.withdrawn()).await
        };
        tracing::debug!(?moved, ?end, "a relay ended");
    }

    /// Judges a connection as what it turned out to be. Boxed, because it may lead here again.
    fn anew<S: Stream>(
        self: Arc<Self>,
        stream: S,
        first: BytesMut,
        spoken: Spoken,
        destination: Destination,
    ) -> BoxFuture<'static, Result<(), Error>> {
        Box::pin(self.sniffed(stream, first, spoken, destination.host, destination.port))
    }

    /// Waits for admission, but not longer than the client does.
    async fn admit_while_there<S: Stream>(
        &self,
        stream: &mut S,
        first: &mut BytesMut,
        destination: &Destination,
        tls: bool,
    ) -> Result<Pass, Error> {
        let admitted = self.gate.admit(destination);
        tokio::pin!(admitted);
        let mut watching = true;
        loop {
            tokio::select! {
                biased;
                pass = &mut admitted => return pass.map_err(Error::Refused),
                read = stream.read_buf(first), if watching && first.len() < MOST => match read {
                    // No TLS client ends its half before the handshake; others may.
                    Ok(0) if tls => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                    Ok(0) => watching = false,
                    Ok(_) => {}
                    Err(error) => return Err(error.into()),
                },
            }
        }
    }

    async fn away<S: Stream>(
        &self,
        stream: S,
        tls: bool,
        destination: &Destination,
        refusal: Refusal,
    ) -> Result<(), Error> {
        let spoken = if tls { Spoken::BadTls } else { Spoken::Opaque };
        self.turn_away(stream, &spoken, destination, refusal).await
    }

    /// Tells a client, in what it speaks, that it is refused. The refusal is recorded already.
    async fn turn_away<S: Stream>(
        &self,
        mut stream: S,
        spoken: &Spoken,
        destination: &Destination,
        refusal: Refusal,
    ) -> Result<(), Error> {
        let words = match spoken {
            Spoken::Tls(_) | Spoken::BadTls => ACCESS_DENIED.to_vec(),
            Spoken::Http => http::refused_raw(Some(destination), &refusal),
            Spoken::Opaque => Vec::new(),
        };
        let told = async {
            stream.write_all(&words).await?;
            stream.shutdown().await?;
            // What is still unread would turn our last words into a reset.
            let mut rest = [0; 4096];
            while stream.read(&mut rest).await? > 0 {}
            io::Result::Ok(())
        };
        // A client that does not listen is not waited for.
        let _ = tokio::time::timeout(Duration::from_secs(1), told).await;
        Err(Error::Refused(refusal))
    }

    /// CONNECT: judged before it is answered as far as that can be, and sniffed like a captured one after.
    pub(crate) async fn connect(self: &Arc<Self>, mut request: Request<Incoming>) -> Response<http::Body> {
        let authority = request.uri().authority().and_then(|text| http::authority(text.as_str()));
        let Some((host, port)) = authority else {
            let refusal = Refusal::new(Reason::BadRequest, "proxy").said("CONNECT takes HOST:PORT");
            return self.told(None, refusal);
        };
        let host = match self.named(&host) {
            Ok(host) => host,
            Err(refusal) => return self.told(Some(&of(&host, port, Protocol::Tcp)), refusal),
        };
        let https = of(&host, port, Protocol::Https);
        if !self.is_local(&host) {
            if self.only_opaque(&host, port) {
                return self.connect_now(request, of(&host, port, Protocol::Tcp)).await;
            }
            let foreseen = [Protocol::Https, Protocol::Http, Protocol::Tcp]
                .map(|protocol| self.foresee(&of(&host, port, protocol)));
            if let [Foresight::Refused(refusal), Foresight::Refused(_), Foresight::Refused(_)] = &foreseen {
                return self.told(Some(&https), refusal.clone());
            }
            // What is inspected is dialled once its requests are known.
            if port.get() == 443 && !matches!(foreseen[0], Foresight::Refused(_) | Foresight::Inspected) {
                return self.connect_now(request, https).await;
            }
        } else if port != HTTP_PORT && port != HTTPS_PORT {
            let refusal =
                Refusal::new(Reason::ProtocolMismatch, "warden").said("it answers on ports 80 and 443");
            return self.told(Some(&https), refusal);
        }
        let upgrade = hyper::upgrade::on(&mut request);
        let egress = Arc::clone(self);
        tokio::spawn(egress.after_connect(Tunnel { upgrade, host, port, dialled: None }));
        Response::new(http::full(""))
    }

    /// Admits and dials before CONNECT is answered, so that its client learns of a refusal at once.
    async fn connect_now(
        self: &Arc<Self>,
        mut request: Request<Incoming>,
        destination: Destination,
    ) -> Response<http::Body> {
        let pass = match self.gate.admit(&destination).await {
            Ok(pass) => pass,
            Err(refusal) => return http::refused(Some(&destination), &refusal),
        };
        let world = match self.dial(&pass).await {
            Ok((_, world)) => world,
            Err(refusal) => return self.told(Some(&destination), refusal),
        };
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(Arc::clone(self).after_connect(Tunnel {
            upgrade,
            host: destination.host,
            port: destination.port,
            dialled: Some((destination.protocol, pass, world)),
        }));
        Response::new(http::full(""))
    }

    /// A tunnel once its client has its answer. Boxed, because a tunnel may hold a proxied request that holds
    /// a tunnel.
    fn after_connect(self: Arc<Self>, tunnel: Tunnel) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            if let Err(error) = self.tunnel(tunnel).await {
                tracing::debug!(%error, "a tunnel ended");
            }
        })
    }

    async fn tunnel(self: Arc<Self>, tunnel: Tunnel) -> Result<(), Error> {
        let Tunnel { upgrade, host, port, dialled } = tunnel;
        let mut stream = TokioIo::new(upgrade.await?);
        let Some((protocol, pass, world)) = dialled else {
            return self.tunnelled(stream, host, port).await;
        };
        let mut first = BytesMut::new();
        if protocol == Protocol::Tcp {
            self.carry(stream, first, world, &pass).await;
            return Ok(());
        }
        let spoken = sniff(&mut stream, &mut first, PATIENCE).await?;
        let tls = matches!(spoken, Spoken::Tls(_)) || !keeps(Check::TunnelSpeaks);
        if tls && same_name(&spoken, &host).is_ok() {
            self.carry(stream, first, world, &pass).await;
            return Ok(());
        }
        // Not what was admitted: it is judged as what it is.
        drop((pass, world));
        self.sniffed(stream, first, spoken, host, port).await
    }

    /// Records a refusal and makes it an answer.
    pub(crate) fn told(&self, destination: Option<&Destination>, refusal: Refusal) -> Response<http::Body> {
        http::refused(destination, &self.gate.refuse(destination, refusal))
    }

    /// Is it served here?
    pub(crate) fn is_local(&self, host: &Host) -> bool {
        matches!(host, Host::Name(name) if name.as_str() == OWN_NAME || self.local.serves(name))
    }

    /// What a host in a proxy request means: a synthetic address stands for its name.
    pub(crate) fn named(&self, host: &Host) -> Result<Host, Refusal> {
        match host {
            Host::Address(address) => self.gate.meaning(*address),
            Host::Name(_) if self.is_local(host) || !keeps(Check::ProxyNames) => Ok(host.clone()),
            Host::Name(name) => self.gate.named(name).map(|()| host.clone()),
        }
    }

    /// What a destination has to expect. Where a secret is bound its TLS is inspected too, unless a rule says never:
    /// only there can a placeholder be exchanged.
    fn foresee(&self, destination: &Destination) -> Foresight {
        let foreseen = self.gate.foresee(destination);
        let could = matches!(foreseen, Foresight::Allowed | Foresight::Asked { .. });
        let bound = could && self.credentials().is_bound(destination);
        let never = || self.gate.rules().is_none_or(|rules| rules.never_inspects(destination));
        if bound && !never() { Foresight::Inspected } else { foreseen }
    }

    /// Is this place open to whatever is spoken, and not to TLS and HTTP in particular? Then there is nothing
    /// to find out, and no client that waits for its server is kept waiting. A rule that denies one of them or
    /// asks about it still wants to see it.
    fn only_opaque(&self, host: &Host, port: NonZeroU16) -> bool {
        self.foresee(&of(host, port, Protocol::Tcp)) == Foresight::Allowed
            && !self.speaks_of(host, port, Protocol::Https)
            && !self.speaks_of(host, port, Protocol::Http)
    }

    /// Is anything said of this protocol there, by more than the default?
    fn speaks_of(&self, host: &Host, port: NonZeroU16, protocol: Protocol) -> bool {
        match self.foresee(&of(host, port, protocol)) {
            Foresight::Allowed | Foresight::Inspected => true,
            Foresight::Asked { by_rule } => by_rule,
            Foresight::Refused(refusal) => refusal.reason != Reason::NoRule,
        }
    }
}

/// A CONNECT that was answered with 200.
struct Tunnel {
    upgrade: hyper::upgrade::OnUpgrade,
    host: Host,
    port: NonZeroU16,
    /// What was admitted and dialled before the answer.
    dialled: Option<(Protocol, Pass, BoxStream)>,
}

fn of(host: &Host, port: NonZeroU16, protocol: Protocol) -> Destination {
    Destination { host: host.clone(), port, protocol }
}

/// The name in the ClientHello must be the one that was looked up; where an address was dialled that no
/// look-up gave, there must be none, since nothing vouches for it.
fn same_name(spoken: &Spoken, host: &Host) -> Result<(), Refusal> {
    let no = |said: &str| Err(Refusal::new(Reason::NameMismatch, "sniff").said(said));
    if keeps(Check::HelloSound) && *spoken == Spoken::BadTls {
        return no("the TLS handshake is malformed");
    }
    let Spoken::Tls(ClientHello { name: said, encrypted }) = spoken else { return Ok(()) };
    let meant = if let Host::Name(meant) = host { Some(meant) } else { None };
    if keeps(Check::HelloInClear) && *encrypted {
        return no("Encrypted Client Hello hides the name");
    }
    if keeps(Check::HelloNames) && said.is_none() && meant.is_some() {
        return no("the TLS client sends no name");
    }
    if keeps(Check::HelloNamesSame) && said.is_some() && said.as_ref() != meant {
        return no("the TLS client names another host");
    }
    Ok(())
}

/// Passes on what the world says until the cell has shown what it speaks.
async fn overhear<S: Stream>(
    cell: &mut S,
    first: &mut BytesMut,
    world: &mut BoxStream,
) -> io::Result<Spoken> {
    let mut buffer = vec![0; 16 * 1024];
    let mut open = true;
    loop {
        if let Some(spoken) = classify(first) {
            return Ok(spoken);
        }
        first.reserve(4096);
        tokio::select! {
            read = cell.read_buf(first) => if read? == 0 {
                // Half a request line is no request; half a ClientHello is nothing that may pass.
                let hello = first.first() == Some(&22);
                return Ok(if hello { Spoken::BadTls } else { Spoken::Opaque });
            },
            read = world.read(&mut buffer), if open => match read? {
                0 => {
                    open = false;
                    cell.shutdown().await?;
                }
                count => cell.write_all(&buffer[..count]).await?,
            },
        }
    }
}

#[cfg(test)]
mod tests;
