//! One client's connection, from accept to end.
//!
//! It owns the order of the checks: whose origin, from where, with which token; only then anything is
//! dialled. What was found for one request is remembered for the next of the same connection, while nothing
//! that it rests on has changed.

use crate::{
    check::{Check, at_most, keeps, within},
    edge::Edge,
    headers::Identity,
    limits::{Seat, Socket, Stranger},
    methods::{self, Gate},
    origin::{self, Arrival, only},
    proxy::{self, BUFFER, Reply, Upstream},
    refusal::Refusal,
    token::{TokenError, Verified},
    ws,
};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use cofferdam_base::{
    TenantId,
    ipc::edge::{RuntimeKind, TenantRoute},
};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    convert::Infallible,
    io,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
    time,
};

/// How long a request's head, or a first frame, may take.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest head of a request, and its most headers.
const HEAD_BYTES: usize = 16 * 1024;
const HEAD_HEADERS: usize = 100;

pub(crate) struct Connection {
    pub(crate) edge: Arc<Edge>,
    arrival: Arrival,
    pub(crate) peer: IpAddr,
    memory: Mutex<Memory>,
    changed: Notify,
    /// Counts as long as anything of the connection is left, the WebSocket that it became included.
    _socket: Socket,
}

/// What this connection's last request was found to be.
#[derive(Default)]
struct Memory {
    /// Counts as a stranger until a token was verified.
    stranger: Option<Stranger>,
    seat: Option<Seat>,
    host: Option<(u64, HeaderValue, Arc<TenantRoute>)>,
    bearer: Option<(u64, Vec<u8>, Arc<Verified>)>,
    upstream: Option<Upstream>,
    generation: Option<u64>,
}

/// Serves one accepted socket until it ends. The tenant is the listener's, if the listener has one.
pub async fn serve(
    edge: Arc<Edge>,
    mut stream: TcpStream,
    tenant: Option<TenantId>,
    socket: Socket,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let arrival = Arrival { tenant, local: stream.local_addr()? };
    let peer = stream.peer_addr()?.ip();
    let Some(stranger) = edge.limits.stranger(arrival.tenant.as_ref(), peer) else {
        let refusal =
            Refusal::crowded("too_many_strangers", "too many sockets of this address show no token");
        edge.report_refused(arrival.tenant, refusal.code);
        let Some(_told) = edge.limits.turned_away() else { return Ok(()) };
        return turn_away(&mut stream, &refusal).await;
    };
    let memory = Mutex::new(Memory { stranger: Some(stranger), ..Memory::default() });
    let connection =
        Arc::new(Connection { edge, arrival, peer, memory, changed: Notify::new(), _socket: socket });
    let service = {
        let connection = Arc::clone(&connection);
        service_fn(move |request| {
            let connection = Arc::clone(&connection);
            async move { Ok::<_, Infallible>(connection.answer(request).await) }
        })
    };
    let serving = reader().serve_connection(TokioIo::new(stream), service).with_upgrades();
    tokio::select! {
        ended = serving => if let Err(error) = ended {
            tracing::debug!(%error, "a client's connection ended");
        },
        () = connection.doom() => {}
    }
    Ok(())
}

/// How we read the HTTP of strangers.
pub(crate) fn reader() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(within(Check::HeadTime, HEAD_TIMEOUT))
        .max_headers(at_most(Check::HeadHeaders, HEAD_HEADERS))
        .max_header_size(at_most(Check::HeadBytes, HEAD_BYTES))
        .max_buf_size(BUFFER)
        .writev(false);
    builder
}

/// Answers without reading, then waits a moment so that the answer is not lost to a reset.
async fn turn_away(stream: &mut TcpStream, refusal: &Refusal) -> io::Result<()> {
    let farewell = async {
        stream.write_all(&refusal.unread()).await?;
        stream.shutdown().await?;
        let mut rest = [0; 1024];
        for _ in 0..16 {
            if stream.read(&mut rest).await? == 0 {
                break;
            }
        }
        Ok(())
    };
    time::timeout(Duration::from_millis(200), farewell).await.unwrap_or(Ok(()))
}

impl Connection {
    async fn answer(self: &Arc<Self>, request: Request<Incoming>) -> Response<Reply> {
        match self.admit(request).await {
            Ok(response) => response,
            Err(refusal) => {
                let tenant = self.lock().host.as_ref().map(|(_, _, route)| route.tenant.clone());
                self.edge.report_refused(tenant, refusal.code);
                refusal.response()
            }
        }
    }

    async fn admit(self: &Arc<Self>, request: Request<Incoming>) -> Result<Response<Reply>, Refusal> {
        let headers = request.headers();
        let route = self.route(headers)?;
        origin::admissible(headers, &route.tenant, route.slot, self.arrival.local.port())?;
        if ws::wanted(headers) {
            return ws::accept(self, request, &route).await;
        }
        let token = self.authenticate(headers, &route)?;
        if route.runtime == RuntimeKind::Openclaw {
            match methods::http::gate(request.method(), request.uri().path(), &token.scopes) {
                Gate::Open => {}
                gate => return Err(gate.into()),
            }
        }
        Edge::serving(&route)?;
        // The host was checked to be one and text.
        let host = headers.get(header::HOST).cloned().ok_or(origin::OriginError::Misdirected)?;
        let identity = Identity { token: &token, peer: self.peer, host: &host };
        let kept = self.lock().upstream.take();
        let (response, upstream) = proxy::forward(&self.edge, request, &identity, kept).await?;
        let mut memory = self.lock();
        if memory.generation != Some(upstream.generation) {
            memory.generation = Some(upstream.generation);
            self.changed.notify_one();
        }
        memory.upstream = Some(upstream);
        Ok(response)
    }

    /// The tenant that is addressed.
    fn route(&self, headers: &HeaderMap) -> Result<Arc<TenantRoute>, Refusal> {
        let state = &self.edge.state;
        let epoch = state.epoch();
        let mut memory = self.lock();
        let mut hosts = headers.get_all(header::HOST).iter();
        if let (Some(host), None, Some((then, known, route))) = (hosts.next(), hosts.next(), &memory.host)
            && *then == epoch
            && known == host
        {
            return Ok(Arc::clone(route));
        }
        if keeps(Check::Synced) && !state.synced() {
            return Err(Refusal::unavailable("not_synced", "this host is starting"));
        }
        let tenant = origin::addressed(headers, &self.arrival, |slot| state.tenant_of(slot))?;
        let route = state.route(&tenant).ok_or(origin::OriginError::Misdirected)?;
        // One connection speaks to one tenant.
        let other = memory.host.as_ref().is_some_and(|(_, _, before)| before.tenant != tenant);
        if keeps(Check::OneTenant) && other {
            return Err(origin::OriginError::Misdirected.into());
        }
        memory.host = headers.get(header::HOST).map(|host| (epoch, host.clone(), Arc::clone(&route)));
        Ok(route)
    }

    /// The token of a request.
    pub(crate) fn authenticate(
        &self,
        headers: &HeaderMap,
        route: &TenantRoute,
    ) -> Result<Arc<Verified>, Refusal> {
        let text = match only(headers, &header::AUTHORIZATION) {
            Some(text) => text,
            None if headers.contains_key(header::AUTHORIZATION) => return Err(TokenError::Malformed.into()),
            None => return Err(Refusal::no_token()),
        };
        let bearer = match text.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                token.trim_matches(' ').as_bytes()
            }
            _ => return Err(Refusal::no_token()),
        };
        let state = &self.edge.state;
        let epoch = state.epoch();
        let mut memory = self.lock();
        if let Some((then, known, token)) = &memory.bearer
            && *then == epoch
            && verify_slices_are_equal(known, bearer).is_ok()
            && !token.expired(state.now())
        {
            return Ok(Arc::clone(token));
        }
        let token = state.verify(bearer, &route.tenant)?;
        if memory.seat.is_none() {
            memory.seat = Some(self.seat(&route.tenant)?);
        }
        let known =
            memory.bearer.as_ref().is_some_and(|(_, _, before)| before.claims.jti == token.claims.jti);
        if !known {
            self.record(&token)?;
        }
        memory.stranger = None;
        memory.bearer = Some((epoch, bearer.to_vec(), Arc::clone(&token)));
        self.changed.notify_one();
        Ok(token)
    }

    /// Room for one more connection of a tenant.
    pub(crate) fn seat(&self, tenant: &TenantId) -> Result<Seat, Refusal> {
        let refused = || Refusal::crowded("too_many_connections", "this tenant has too many connections");
        self.edge.limits.seat(tenant).ok_or_else(refused)
    }

    /// Reports that a token connects. Who cannot be recorded is not let in.
    pub(crate) fn record(&self, token: &Verified) -> Result<(), Refusal> {
        if keeps(Check::LedgerRoom) && !self.edge.reports.has_room(&token.claims.tid) {
            return Err(Refusal::unavailable("ledger_behind", "the ledger takes no more records at present"));
        }
        self.edge.report("connect", token, "");
        Ok(())
    }

    /// What counts this connection, for the WebSocket that it becomes.
    pub(crate) fn hand_over(&self) -> (Option<Stranger>, Option<Seat>) {
        let mut memory = self.lock();
        memory.upstream = None;
        (memory.stranger.take(), memory.seat.take())
    }

    /// Waits until the connection must end: its token is no good any more, or its cell is gone.
    async fn doom(&self) {
        let mut changed = self.edge.state.watch();
        loop {
            let (token, generation) = {
                let memory = self.lock();
                (memory.bearer.as_ref().map(|(_, _, token)| Arc::clone(token)), memory.generation)
            };
            let rest = match &token {
                Some(token) => {
                    if let Some(reason) = self.edge.doomed(token, generation) {
                        self.edge.report("closed", token, reason);
                        return;
                    }
                    self.edge.until_expiry(token)
                }
                None => Duration::from_hours(1),
            };
            tokio::select! {
                _ = changed.changed() => {}
                () = self.changed.notified() => {}
                () = time::sleep(rest) => {}
            }
        }
    }

    // Each change of the memory is whole.
    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
