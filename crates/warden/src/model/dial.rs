//! The connection to a provider: through the guard like everything else, and TLS where its URL says so.

use super::{Model, pool::Line};
use crate::tls;
use cofferdam_base::{Protocol, ipc::model::Trouble};
use cofferdam_egress::{Pass, Refusal};
use cofferdam_inference::{Connect, Connecting, Keeper, Kept, Route, Stream};
use cofferdam_policy::Reason;
use cofferdam_sys::channel::AsyncChannel;
use std::{
    io,
    os::fd::AsFd,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

/// How long TLS to a provider may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Where a route's provider is.
#[derive(Debug)]
pub(super) enum Place {
    Url(String),
    Builtin(Arc<AsyncChannel>),
}

/// Dials for one request.
pub(super) struct Dial<'a> {
    pub(super) model: &'a Model,
    pub(super) place: Place,
    pub(super) pass: &'a Arc<Pass>,
    /// Why it failed, for the operator; the cell learns only that it did.
    pub(super) trouble: Mutex<Option<(Trouble, String)>>,
    /// Where the connection that was given last leads, if it may be used again.
    pub(super) line: Mutex<Option<Line>>,
}

impl Dial<'_> {
    /// Why it failed.
    pub(super) fn trouble(&self) -> Option<(Trouble, String)> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn failed(&self, trouble: Trouble, said: String) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some((trouble, said));
    }

    fn set_line(&self, line: Line) {
        *self.line.lock().unwrap_or_else(PoisonError::into_inner) = Some(line);
    }

    async fn secure(&self, route: &Route) -> io::Result<Box<dyn Stream>> {
        let destination = route.base.destination();
        let egress = self.model.egress.get().and_then(Weak::upgrade);
        let egress = egress.ok_or(io::ErrorKind::NotConnected)?;
        let (address, stream) = egress.dial(self.pass).await.map_err(|refusal| {
            let refusal = self.model.gate.refuse_service(destination, refusal);
            self.failed(of_refusal(&refusal), told(&refusal));
            io::Error::other(refusal.reason.code())
        })?;
        self.set_line(Line::new(destination.clone(), address));
        if destination.protocol != Protocol::Https {
            return Ok(Box::new(stream));
        }
        let handshake = tls::connect(&self.model.tls, &destination.host, stream);
        let secured = match tokio::time::timeout(HANDSHAKE, handshake).await {
            Ok(secured) => secured,
            Err(late) => Err(late.into()),
        };
        let stream = secured.inspect_err(|error| self.failed(Trouble::Tls, error.to_string()))?;
        Ok(Box::new(stream))
    }
}

impl Connect for Dial<'_> {
    fn kept(&self, _: &Route) -> Option<Kept> {
        let Place::Url(_) = self.place else { return None };
        let (line, kept) = self.model.limits.pool.take(self.pass)?;
        self.set_line(line);
        Some(kept)
    }

    fn keeper(&self, _: &Route) -> Option<Keeper> {
        let line = self.line.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(self.model.limits.pool.keeper(line))
    }

    fn connect<'a>(&'a self, route: &'a Route) -> Connecting<'a> {
        Box::pin(async move {
            let Place::Builtin(wire) = &self.place else { return self.secure(route).await };
            let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
            wire.send(&(), &[theirs.as_fd()]).await.map_err(io::Error::other)?;
            ours.set_nonblocking(true)?;
            let stream = tokio::net::UnixStream::from_std(ours)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}

/// What a refusal of ours means to whoever set the route.
pub(super) const fn of_refusal(refusal: &Refusal) -> Trouble {
    match refusal.reason {
        Reason::PrivateAddress | Reason::Metadata | Reason::HostAddress | Reason::ReservedAddress => {
            Trouble::Guarded
        }
        Reason::ResolveFailed => Trouble::Resolve,
        Reason::CertificateInvalid => Trouble::Tls,
        Reason::LedgerUnavailable | Reason::TooManyRelays => Trouble::Unrecorded,
        Reason::NotReady | Reason::Revoked => Trouble::NotReady,
        _ => Trouble::Connect,
    }
}

/// A refusal in words.
pub(super) fn told(refusal: &Refusal) -> String {
    let said = if refusal.said.is_empty() { String::new() } else { format!(" ({})", refusal.said) };
    format!("{}{said}", refusal.reason.text())
}
