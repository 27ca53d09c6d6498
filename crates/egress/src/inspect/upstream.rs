//! Connections to the world for requests that were inspected: TLS whose certificate is checked against the name,
//! HTTP/2 shared and HTTP/1.1 kept, for all of one tenant's clients and for nobody else's.
//!
//! The threats: a kept connection that is used though its address or its destination is no longer allowed (each use
//! is judged anew), and a certificate that is not the name's (no answer of such a server is passed on).

use super::{
    cut::{Counted, Way, cut},
    head::{self, Asks},
};
use crate::{
    BoxStream, Egress, Pass, Refusal,
    check::{Check, keeps},
    dial::Reached,
    http::{Body, Flight},
};
use cofferdam_base::{Destination, Host};
use cofferdam_policy::Reason;
use http::{Request, Response, request::Parts};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, RootCertStore, client::Resumption, pki_types::ServerName};
use std::{
    collections::HashMap,
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// How long TLS to a server may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a connection is kept without a use.
const IDLE: Duration = Duration::from_mins(1);
/// HTTP/1.1 connections that are kept for one destination, and for all.
const KEPT_FOR_ONE: usize = 8;
const KEPT: usize = 128;
/// Sessions that can be taken up again.
const SESSIONS: usize = 256;
/// How often a shared connection with requests under way is asked whether it is still there.
const PING: Duration = Duration::from_secs(20);
/// What one stream of a shared connection, and all of them together, may have under way.
const STREAM_WINDOW: u32 = 1 << 20;
const WINDOW: u32 = 8 << 20;

/// One tenant's connections.
pub(super) struct Pool {
    /// For servers that may choose, and for requests that only HTTP/1.1 can carry.
    configs: [Arc<ClientConfig>; 2],
    kept: Mutex<HashMap<Destination, Kept>>,
}

/// What is kept for one destination.
#[derive(Default)]
struct Kept {
    shared: Option<Shared>,
    idle: Vec<Single>,
}

/// An HTTP/2 connection.
#[derive(Clone)]
struct Shared {
    sender: http2::SendRequest<Body>,
    address: Reached,
    used: Instant,
}

/// An HTTP/1.1 connection.
struct Single {
    sender: http1::SendRequest<Body>,
    address: Reached,
    flight: Flight,
    used: Instant,
}

enum Connection {
    Shared(Shared),
    Single(Single),
}

/// A request on its way, which is written for whatever connection takes it.
pub(super) struct Onward<'a> {
    pub(super) pass: &'a Arc<Pass>,
    pub(super) counted: &'a Arc<Counted>,
    pub(super) parts: &'a Parts,
    pub(super) asks: Asks,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("kept", &self.lock().len()).finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool that trusts these roots.
    pub(super) fn new(roots: Arc<RootCertStore>) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut either = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        either.resumption = Resumption::in_memory_sessions(SESSIONS);
        either.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let mut one = either.clone();
        one.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { configs: [Arc::new(either), Arc::new(one)], kept: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Destination, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of every connection that no request uses, at once.
    pub(super) fn forget(&self) {
        self.lock().clear();
    }

    /// Sends a request: on a kept connection if one is there and may still be used, else on a new one.
    pub(super) async fn send(
        &self,
        egress: &Egress,
        onward: &Onward<'_>,
        body: Body,
    ) -> Result<Response<Incoming>, Refusal> {
        let Onward { pass, counted, parts, asks: _ } = onward;
        let head: usize = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        let line = parts.uri.path_and_query().map_or(1, |target| target.as_str().len());
        if !pass.sends(head + line) {
            return Err(Refusal::new(Reason::BudgetSpent, "policy"));
        }
        let mut body = cut(pass, counted, Way::Out, body);
        while let Some(kept) = self.take(pass, onward.asks) {
            match self.exchange(kept, onward, body).await? {
                Ok(response) => return Ok(response),
                // The server closed the kept connection before anything was sent. A shared one is let go.
                Err(unsent) => {
                    body = unsent;
                    if let Some(kept) = self.lock().get_mut(pass.destination()) {
                        kept.shared = None;
                    }
                }
            }
        }
        let connection = self.connect(egress, pass, onward.asks).await?;
        let broke = || Refusal::new(Reason::ConnectFailed, "https").said("it broke the connection");
        self.exchange(connection, onward, body).await?.map_err(|_| broke())
    }

    /// A kept connection that leads there and would still be let through. Whatever is over is dropped.
    fn take(&self, pass: &Pass, asks: Asks) -> Option<Connection> {
        let mut all = self.lock();
        let kept = all.get_mut(pass.destination())?;
        let stands = |address| !keeps(Check::PooledStands) || pass.dialled(address).is_ok();
        if asks == Asks::Answer
            && let Some(shared) = kept.shared.as_mut()
        {
            if !shared.sender.is_closed() && shared.used.elapsed() < IDLE && stands(shared.address) {
                shared.used = Instant::now();
                return Some(Connection::Shared(shared.clone()));
            }
            kept.shared = None;
        }
        kept.idle.retain(|single| !single.sender.is_closed() && single.used.elapsed() < IDLE);
        while let Some(at) = kept.idle.iter().position(|single| single.sender.is_ready()) {
            let single = kept.idle.swap_remove(at);
            if stands(single.address) {
                return Some(Connection::Single(single));
            }
        }
        None
    }

    fn keep(&self, to: &Destination, connection: Connection) {
        let mut all = self.lock();
        if all.values().map(|kept| kept.idle.len() + 1).sum::<usize>() >= KEPT {
            all.retain(|_, kept| {
                kept.idle.retain(|single| !single.sender.is_closed() && single.used.elapsed() < IDLE);
                let shared = |it: &Shared| !it.sender.is_closed() && it.used.elapsed() < IDLE;
                kept.shared = kept.shared.take().filter(shared);
                kept.shared.is_some() || !kept.idle.is_empty()
            });
        }
        if all.values().map(|kept| kept.idle.len() + 1).sum::<usize>() >= KEPT {
            return;
        }
        let kept = all.entry(to.clone()).or_default();
        match connection {
            Connection::Shared(shared) => kept.shared = Some(shared),
            Connection::Single(single) if kept.idle.len() < KEPT_FOR_ONE => kept.idle.push(single),
            Connection::Single(_) => {}
        }
    }

    /// Drops what was not used for long. To be called now and then, unless it says that there is nothing.
    pub(super) fn tick(&self) -> bool {
        let mut all = self.lock();
        all.retain(|_, kept| {
            kept.idle.retain(|single| !single.sender.is_closed() && single.used.elapsed() < IDLE);
            let shared = |it: &Shared| !it.sender.is_closed() && it.used.elapsed() < IDLE;
            kept.shared = kept.shared.take().filter(shared);
            kept.shared.is_some() || !kept.idle.is_empty()
        });
        !all.is_empty()
    }

    /// Writes the request on this connection. The inner error is its body, of which nothing was read.
    async fn exchange(
        &self,
        connection: Connection,
        onward: &Onward<'_>,
        body: Body,
    ) -> Result<Result<Response<Incoming>, Body>, Refusal> {
        let to = onward.pass.destination();
        let request = |two, body| -> Result<Request<Body>, Refusal> {
            let head = head::onward(onward.parts, to, onward.asks, two);
            Ok(head.ok_or_else(|| Refusal::new(Reason::BadRequest, "https"))?.map(|()| body))
        };
        let sent = match connection {
            Connection::Shared(mut shared) => shared.sender.try_send_request(request(true, body)?).await,
            Connection::Single(mut single) => {
                single.flight.carries(onward.pass);
                let sent = single.sender.try_send_request(request(false, body)?).await;
                if sent.is_ok() {
                    single.used = Instant::now();
                    self.keep(to, Connection::Single(single));
                }
                sent
            }
        };
        match sent {
            Ok(response) => Ok(Ok(response)),
            Err(mut error) => match error.take_message() {
                Some(unsent) => Ok(Err(unsent.into_body())),
                None => Err(broken(error.error())),
            },
        }
    }

    /// A new connection, by a look-up, the guard and the certificate of the name.
    async fn connect(&self, egress: &Egress, pass: &Arc<Pass>, asks: Asks) -> Result<Connection, Refusal> {
        let (address, stream) = egress.dial(pass).await?;
        let config = &self.configs[usize::from(asks == Asks::WebSocket)];
        let shaken = tokio::time::timeout(HANDSHAKE, handshake(config, &pass.destination().host, stream));
        let stream = match shaken.await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(refused(&error)),
            Err(_) => {
                return Err(Refusal::new(Reason::ConnectFailed, "tls").said("it did not answer in time"));
            }
        };
        let used = Instant::now();
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(WINDOW)
                .max_header_list_size(64 * 1024)
                // A server that vanished is found out while requests wait for it.
                .keep_alive_interval(PING)
                .keep_alive_timeout(HANDSHAKE)
                .handshake(TokioIo::new(stream))
                .await
                .map_err(|error| broken(&error))?;
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a shared connection to the world ended");
                }
            });
            let shared = Shared { sender, address, used };
            self.keep(pass.destination(), Connection::Shared(shared.clone()));
            return Ok(Connection::Shared(shared));
        }
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        let flight = Flight::driving(connection.with_upgrades());
        Ok(Connection::Single(Single { sender, address, flight, used }))
    }
}

async fn handshake(
    config: &Arc<ClientConfig>,
    host: &Host,
    stream: BoxStream,
) -> io::Result<TlsStream<BoxStream>> {
    let name = match host {
        Host::Name(name) => ServerName::try_from(name.as_str().to_owned()).map_err(io::Error::other)?,
        Host::Address(address) => ServerName::from(*address),
    };
    TlsConnector::from(Arc::clone(config)).connect(name, stream).await
}

/// Why there is no TLS with the server, in the words of a client.
fn refused(error: &io::Error) -> Refusal {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(why)) => {
            Refusal::new(Reason::CertificateInvalid, "tls").said(why.to_string())
        }
        Some(why) => Refusal::new(Reason::ConnectFailed, "tls").said(why.to_string()),
        None => Refusal::new(Reason::ConnectFailed, "tls").said(error.kind().to_string()),
    }
}

fn broken(error: &hyper::Error) -> Refusal {
    let said = if error.is_timeout() { "it did not answer in time" } else { "it broke the connection" };
    Refusal::new(Reason::ConnectFailed, "https").said(said)
}
