//! What all connections of the edge share, and the questions that each asks again and again.

use crate::{
    approvals::{Answers, Cards},
    check::{Check, keeps},
    limits::Limits,
    pool::{Dialable, Pool},
    refusal::Refusal,
    reports::{Reports, What},
    state::State,
    token::Verified,
};
use cofferdam_base::{
    Clock, TenantId,
    ipc::edge::{SocketRequest, TenantRoute},
};
use cofferdam_sys::socket;
use std::{
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpStream, sync::mpsc, time};

/// The source address of connections into cells: neither loopback nor an interface's own, as upstream
/// demands of a proxy that it trusts.
pub const SOURCE: Ipv4Addr = Ipv4Addr::new(198, 19, 255, 1);

/// How long a socket and then a connection into a cell may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The edge.
#[derive(Debug)]
pub struct Edge {
    /// What control told.
    pub state: State,
    /// Sockets of the cells' namespaces.
    pub pool: Pool,
    /// What is told to control.
    pub reports: Reports,
    /// Counts of connections.
    pub limits: Limits,
    /// The ids under which clients see approvals.
    pub(crate) cards: Cards,
    /// What they say to them.
    pub(crate) answers: Answers,
    source: Ipv4Addr,
}

/// A connection into a cell.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) stream: TcpStream,
    pub(crate) generation: u64,
}

impl Edge {
    /// An edge that knows nothing yet, with these limits. It asks for sockets on this channel and dials from
    /// this address ([`SOURCE`], but for tests).
    #[must_use]
    pub fn new(
        clock: Arc<dyn Clock>,
        limits: Limits,
        requests: mpsc::UnboundedSender<SocketRequest>,
        source: Ipv4Addr,
    ) -> Self {
        Self {
            state: State::new(clock),
            pool: Pool::new(requests, limits.stock()),
            reports: Reports::default(),
            limits,
            cards: Cards::default(),
            answers: Answers::default(),
            source,
        }
    }

    /// Connects to a tenant's gateway. The caller has verified a token.
    pub(crate) async fn dial(&self, tenant: &TenantId) -> Result<Line, Refusal> {
        let taken = time::timeout(PATIENCE, self.pool.take(tenant)).await;
        let Dialable { socket, generation, port } = match taken {
            Ok(Ok(dialable)) => dialable,
            Ok(Err(_)) => return Err(Refusal::unavailable("no_cell", "this tenant's cell does not run")),
            Err(_) => return Err(Refusal::unavailable("no_socket", "no way into this tenant's cell")),
        };
        let source = SocketAddrV4::new(self.source, 0);
        let target = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        let connected = time::timeout(PATIENCE, socket::connect_through(socket, source, target)).await;
        let refused = || Refusal::unavailable("gateway_silent", "this tenant's gateway does not answer yet");
        let stream = connected.map_err(|_| refused())?.map_err(|error| {
            tracing::debug!(%tenant, %error, "the gateway does not answer");
            refused()
        })?;
        stream.set_nodelay(true).map_err(|_| refused())?;
        Ok(Line { stream, generation })
    }

    /// Is the tenant serving?
    pub(crate) fn serving(route: &TenantRoute) -> Result<(), Refusal> {
        // A degraded tenant answers; what it lacks is its warden, without which nothing leaves the cell.
        if matches!(route.state.as_str(), "running" | "degraded") || !keeps(Check::Serving) {
            Ok(())
        } else {
            Err(Refusal::state(&route.state))
        }
    }

    /// Why a connection of this token, into this start of a cell, must end now.
    pub(crate) fn doomed(&self, token: &Verified, generation: Option<u64>) -> Option<&'static str> {
        if let Err(error) = self.state.recheck(token) {
            return Some(error.code());
        }
        let gone = |generation| keeps(Check::CellAlive) && !self.pool.alive(&token.claims.tid, generation);
        generation.is_some_and(gone).then_some("cell_gone")
    }

    /// Waits until a connection must end.
    pub(crate) async fn doom(&self, token: &Verified, generation: Option<u64>) -> &'static str {
        let mut changed = self.state.watch();
        loop {
            if let Some(reason) = self.doomed(token, generation) {
                return reason;
            }
            let rest = self.until_expiry(token);
            tokio::select! {
                // The state outlives its watchers; were it gone, the time still runs.
                _ = changed.changed() => {}
                () = time::sleep(rest) => {}
            }
        }
    }

    /// Does something for a token's holder, unless it must end before: then, why.
    pub(crate) async fn while_good<T>(
        &self,
        token: &Verified,
        generation: Option<u64>,
        work: impl Future<Output = T>,
    ) -> Result<T, &'static str> {
        tokio::select! {
            // Looked at first: what is doomed at the start does nothing at all.
            biased;
            reason = self.doom(token, generation) => Err(reason),
            done = work => Ok(done),
        }
    }

    /// How long to sleep before looking at the clock again: clocks are set, so never long.
    pub(crate) fn until_expiry(&self, token: &Verified) -> Duration {
        let end = cofferdam_base::Millis(token.claims.exp.saturating_mul(1000));
        Duration::from_millis(end.since(self.state.now()).clamp(1, 5000))
    }

    /// Reports something about a verified token.
    pub(crate) fn report(&self, kind: &'static str, token: &Verified, reason: &'static str) {
        let what = What {
            kind,
            tenant: Some(token.claims.tid.clone()),
            subject: token.claims.sub.clone(),
            jti: token.claims.jti.clone(),
            reason,
        };
        self.reports.push(what, self.state.now());
    }

    /// Reports a refusal to somebody who is not known.
    pub(crate) fn report_refused(&self, tenant: Option<TenantId>, reason: &'static str) {
        let what = What { kind: "refused", tenant, subject: String::new(), jti: String::new(), reason };
        self.reports.push(what, self.state.now());
    }
}
