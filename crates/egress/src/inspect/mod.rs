//! TLS that is ended here, because a rule speaks of what is inside: the client is served under a certificate of the
//! tenant's own authority, each request is judged by itself, and what is let through goes on over TLS of ours.
//!
//! It owns the certificates, the HTTP of both sides and the connections to the world. It refuses to decide. The
//! threats are those of [`crate::http`], and besides a client that says one name to be let in and another one
//! inside (every request names the host of its certificate), and a server that is not who it says.

mod authority;
mod cut;
mod grpc;
mod head;
mod rest;
mod upstream;
mod websocket;

pub use authority::{Authority, Failed};

use crate::{
    ACCESS_DENIED, Egress, Error, Pass, Refusal, Stream,
    check::{Check, keeps},
    credentials::{Covered, Credentials, Outgoing, Searched},
    http::{
        Body, elsewhere, full,
        head::Authority as Named,
        judged,
        lines::{Lined, Switched},
        reader, refused, served, tunnel, unreadable,
    },
    loss::Alarm,
    sniff::Rewound,
};
use bytes::{Bytes, BytesMut};
use cofferdam_base::{Destination, Host, Millis, Protocol};
use cofferdam_policy::Reason;
use cut::{Counted, Way, cut};
use head::Asks;
use http::{Request, Response, StatusCode, Version, header};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rest::Rest;
use rustls::{RootCertStore, ServerConfig};
use std::{
    convert::Infallible,
    fmt, io,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsAcceptor;
use upstream::{Onward, Pool};

/// How long a client may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Requests that one HTTP/2 connection may have under way.
const STREAMS: u32 = 64;
/// What one of a client's streams, and all of them together, may have under way.
const STREAM_WINDOW: u32 = 1 << 20;
const WINDOW: u32 = 4 << 20;

/// What inspection needs: who vouches to the cell, and whom we believe outside.
pub struct Inspector {
    authority: RwLock<Option<Arc<Authority>>>,
    pool: Pool,
}

impl fmt::Debug for Inspector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inspector").field("pool", &self.pool).finish_non_exhaustive()
    }
}

impl Inspector {
    /// One that trusts these roots outside, and has no authority yet: until then whatever needs one is refused.
    pub fn new(roots: impl Into<Arc<RootCertStore>>) -> Result<Self, rustls::Error> {
        Ok(Self { authority: RwLock::new(None), pool: Pool::new(roots.into())? })
    }

    /// From now on this authority vouches to the cell.
    pub fn set_authority(&self, authority: Arc<Authority>) {
        *self.authority.write().unwrap_or_else(PoisonError::into_inner) = Some(authority);
    }

    /// The certificate of the authority that vouches to the cell, DER.
    pub fn certificate(&self) -> Option<Vec<u8>> {
        let authority = self.authority.read().unwrap_or_else(PoisonError::into_inner);
        authority.as_ref().map(|authority| authority.certificate().to_vec())
    }

    /// Lets go of connections to the world that no request uses: the rules are others now.
    pub fn forget(&self) {
        self.pool.forget();
    }

    /// To be called a few times a second, unless it says that nothing is kept: what was not used for long is closed.
    pub fn tick(&self) -> bool {
        self.pool.tick()
    }

    fn config(&self, destination: &Destination, now: Millis) -> Result<Arc<ServerConfig>, Refusal> {
        let authority = self.authority.read().unwrap_or_else(PoisonError::into_inner).clone();
        let authority = authority.ok_or_else(|| {
            Refusal::new(Reason::NotReady, "tls").said("the warden has no certificate authority yet")
        })?;
        authority.config(&destination.host, now).map_err(|error| {
            tracing::error!(%error, "a name gets no certificate");
            Refusal::new(Reason::NotReady, "tls").said("the warden can make no certificate")
        })
    }
}

impl Egress {
    /// Ends a client's TLS and serves what is inside. `first` begins with its ClientHello, whose name was judged.
    pub(crate) async fn inspect<S: Stream>(
        self: Arc<Self>,
        mut stream: S,
        first: BytesMut,
        destination: Destination,
    ) -> Result<(), Error> {
        let config = match self.inspector.config(&destination, self.gate.now()) {
            Ok(config) => config,
            Err(refusal) => {
                let refusal = self.gate.refuse(Some(&destination), refusal);
                stream.write_all(&ACCESS_DENIED).await?;
                return Err(Error::Refused(refusal));
            }
        };
        let accepting = TlsAcceptor::from(config).accept(Rewound::new(first.freeze(), stream));
        let tls = match tokio::time::timeout(HANDSHAKE, accepting).await {
            Ok(Ok(tls)) => tls,
            Ok(Err(error)) if distrusts(&error) => {
                return Err(Error::Refused(self.distrusted(&destination)));
            }
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        };
        let two = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        let shown = Arc::new(destination);
        let (egress, destination) = (Arc::clone(&self), Arc::clone(&shown));
        let switched = Switched::default();
        let for_service = switched.clone();
        let service = hyper::service::service_fn(move |request| {
            let (egress, destination) = (Arc::clone(&egress), Arc::clone(&destination));
            let switched = for_service.clone();
            async move {
                let response = egress.answer(&destination, request).await;
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    switched.now();
                }
                Ok::<_, Infallible>(response)
            }
        });
        let served = if two {
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(STREAMS)
                .max_header_list_size(64 * 1024)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(WINDOW)
                .enable_connect_protocol()
                .serve_connection(TokioIo::new(tls), service)
                .await
        } else {
            let lined = TokioIo::new(Lined::new(tls, switched));
            reader().serve_connection(lined, service).with_upgrades().await
        };
        served.map_err(|error| self.broke(&shown, error))
    }

    /// A request for `https` that a client of the explicit proxy leaves to us in clear, because it speaks no TLS
    /// itself: judged and sent like one whose TLS was ended here. A rule that its TLS is never read is kept to.
    pub(crate) async fn in_clear(self: &Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let authority = request.uri().authority();
        let Some(Named { host, port }) =
            authority.and_then(|it| Named::parse(it.as_str(), Some(head::HTTPS_PORT)))
        else {
            let refusal = Refusal::new(Reason::BadRequest, "proxy").said("the URI's host is malformed");
            return self.told(None, refusal);
        };
        let of = |host| Destination { host, port, protocol: Protocol::Https };
        let destination = match self.named(&host) {
            Ok(host) => of(host),
            Err(refusal) => return self.told(Some(&of(host)), refusal),
        };
        let never = || self.gate.rules().is_none_or(|rules| rules.never_inspects(&destination));
        let said = if self.is_local(&destination.host) {
            (port != head::HTTPS_PORT).then_some("it answers on ports 80 and 443")
        } else {
            (keeps(Check::NeverInClear) && never())
                .then_some("the policy says that nobody reads this host's TLS: use CONNECT")
        };
        match said {
            None => self.answer(&destination, request).await,
            Some(said) => {
                self.told(Some(&destination), Refusal::new(Reason::ProtocolMismatch, "proxy").said(said))
            }
        }
    }

    /// A connection that broke. In TLS 1.3 its client may have found our certificate bad after our handshake was over.
    fn broke(&self, destination: &Destination, error: hyper::Error) -> Error {
        let inner = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<io::Error>());
        if inner.is_some_and(distrusts) {
            return Error::Refused(self.distrusted(destination));
        }
        error.into()
    }

    fn distrusted(&self, destination: &Destination) -> Refusal {
        self.gate.refuse(Some(destination), Refusal::new(Reason::CertificateRefused, "tls"))
    }

    /// One request inside TLS, and its answer.
    async fn answer(
        self: &Arc<Self>,
        destination: &Destination,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let two = request.version() == Version::HTTP_2;
        let grpc = judged::is_grpc(request.version(), request.headers());
        let request = request.map(|body| Rest::new(body, two));
        let outcome = match (head::check(&request, destination), &destination.host) {
            // No more than over plain HTTP: nothing is upgraded, and nothing goes out.
            (Ok(_), Host::Name(name)) if self.is_local(&destination.host) => {
                if websocket::is_extended(&request) {
                    let refusal = Refusal::new(Reason::BadRequest, "https").said("it has no WebSocket");
                    Err(self.gate.refuse(Some(destination), refusal))
                } else {
                    Ok(served(self, name, destination, request).await)
                }
            }
            (Ok(asks), _) => self.onward(destination, request, asks).await,
            (Err(refusal), _) => Err(self.gate.refuse(Some(destination), refusal)),
        };
        let mut response = outcome.unwrap_or_else(|refusal| {
            if grpc { grpc::refused(destination, &refusal) } else { refused(Some(destination), &refusal) }
        });
        if two {
            // A refusal closes a connection of HTTP/1, where it may be out of step; a stream is by itself.
            response.headers_mut().remove(header::CONNECTION);
        }
        response
    }

    /// Lets a request pass. A refusal is recorded already.
    async fn onward(
        self: &Arc<Self>,
        destination: &Destination,
        mut request: Request<Rest>,
        asks: Asks,
    ) -> Result<Response<Body>, Refusal> {
        let record = |refusal| self.gate.refuse(Some(destination), refusal);
        let extended = websocket::is_extended(&request);
        let key = extended.then(|| websocket::unfolded(&mut request)).transpose().map_err(record)?;
        let known = judged::known(self, destination, request).await;
        let (mut request, facts, alarm) = known.map_err(record)?;
        // Request, answer and tunnel each keep the pass: it is given back when the last of them is over.
        let shows = crate::http::head::shows(&request);
        let pass = Arc::new(self.gate.admit_request(facts, shows).await?);
        let counted = Arc::new(Counted::default());
        let upgrade = (asks == Asks::WebSocket).then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let minted = asks == Asks::Answer && self.minted(&parts, destination, None).await?;
        // What has no body can be sent once more.
        let again = (minted && body.is_end_stream()).then(|| parts.clone());
        let sending = Sending { pass: &pass, counted: &counted, asks, alarm: &alarm };
        let (mut answer, mut bound, mut credentials) =
            self.send(&sending, Request::from_parts(parts, body)).await?;
        if let Some(parts) = again.filter(|_| answer.status() == StatusCode::UNAUTHORIZED) {
            // An access token may be refused before its end.
            self.minted(&parts, destination, Some(&credentials)).await?;
            let request = Request::from_parts(parts, full(Bytes::new()));
            (answer, bound, credentials) = self.send(&sending, request).await?;
        }
        let patterns = credentials.patterns(destination);
        if !Credentials::incoming(&patterns, answer.headers_mut(), bound) {
            return Err(record(unreadable("https")));
        }
        key.as_ref().map_or(Ok(()), |key| key.judge(&answer)).map_err(record)?;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let unasked =
                || Refusal::new(Reason::ConnectFailed, "https").said("it switched protocols unasked");
            let cell = upgrade.ok_or_else(|| record(unasked()))?;
            let world = hyper::upgrade::on(&mut answer);
            tokio::spawn(async move {
                if let (Ok(world), Ok(cell)) = tokio::join!(world, cell) {
                    tunnel(cell, world, &pass, alarm).await;
                }
            });
            let mut response = rebuilt(&answer, full(Bytes::new()));
            match key {
                Some(_) => websocket::folded(&mut response),
                None => crate::http::head::switch_headers(response.headers_mut()),
            }
            return Ok(response);
        }
        let (head, body) = answer.into_parts();
        let grpc = judged::is_grpc(head.version, &head.headers);
        let body = Covered::new(body, patterns).messages(grpc);
        let body = body.following(self.newer(credentials, destination));
        let body = cut(&pass, &counted, Way::Back, body);
        Ok(rebuilt(&Response::from_parts(head, ()), body))
    }
}

/// How a request is sent.
struct Sending<'a> {
    pass: &'a Arc<Pass>,
    counted: &'a Arc<Counted>,
    asks: Asks,
    alarm: &'a Alarm,
}

impl Egress {
    /// Sends a request with what is in force: the answer, whether that must be readable, and what it may hold. A
    /// refusal is recorded.
    async fn send(
        self: &Arc<Self>,
        sending: &Sending<'_>,
        request: Request<Body>,
    ) -> Result<(Response<Incoming>, bool, Arc<Credentials>), Refusal> {
        let Sending { pass, counted, asks, alarm } = *sending;
        let destination = pass.destination();
        let record = |refusal| self.gate.refuse(Some(destination), refusal);
        let (credentials, spotted) = self.spotted(destination);
        let (parts, body) = request.into_parts();
        let mut head = Request::from_parts(parts, ());
        let exchanged = credentials.outgoing(&mut head, destination, asks == Asks::WebSocket);
        let Outgoing { used, bound, sign } = exchanged.map_err(|blocked| record(elsewhere(blocked)))?;
        for name in &used {
            self.gate.use_secret(pass, name).map_err(record)?;
        }
        let (mut body, filled) = if asks == Asks::WebSocket {
            (body, Vec::new())
        } else {
            let filled = self.filled(&credentials, &mut head, destination, body).await;
            // A body that broke off by us is recorded already.
            filled.map_err(|refusal| alarm.take().unwrap_or_else(|| record(refusal)))?
        };
        for name in &filled {
            self.gate.use_secret(pass, name).map_err(record)?;
        }
        if let Some(signing) = sign {
            let host = head::authority(destination);
            body = signing.apply(self, &mut head, destination, &host, body).await.map_err(record)?;
        }
        let (parts, ()) = head.into_parts();
        let body = BodyExt::boxed_unsync(Searched::new(body, spotted.clone()));
        let onward = Onward { pass, counted, parts: &parts, asks };
        let answered = tokio::select! {
            biased;
            () = pass.withdrawn().cancelled(), if keeps(Check::WithdrawnRequest) => {
                Err(Refusal::new(Reason::Revoked, "policy"))
            }
            answered = self.inspector.pool.send(self, &onward, body) => answered,
        };
        let answer = answered.map_err(|refusal| match (alarm.take(), spotted.take()) {
            // Recorded when it was found.
            (Some(refusal), _) => refusal,
            (None, Some(found)) => elsewhere(credentials.in_body(&found)),
            (None, None) => record(refusal),
        })?;
        Ok((answer, bound, credentials))
    }
}

/// An answer's head, from its parsed parts.
fn rebuilt<B>(answer: &Response<B>, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = answer.status();
    *response.headers_mut() = head::answered(answer.headers());
    response
}

/// Did the client end the handshake because it does not believe our certificate?
fn distrusts(error: &io::Error) -> bool {
    use rustls::AlertDescription::{
        AccessDenied, BadCertificate, CertificateExpired, CertificateUnknown, UnknownCA,
        UnsupportedCertificate,
    };
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let alerts = [
        AccessDenied,
        BadCertificate,
        CertificateExpired,
        CertificateUnknown,
        UnknownCA,
        UnsupportedCertificate,
    ];
    matches!(inner, Some(rustls::Error::AlertReceived(alert)) if alerts.contains(alert))
}
