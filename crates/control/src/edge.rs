//! Control's end of the edge's wire: who may be served and by which keys, and what the edge has to tell.
//!
//! One lock is held while a snapshot is read and sent, and while a change is sent, and every change is in the
//! store before it is sent: so a change is in the snapshot or comes after it. The threat: an edge broken by
//! hostile bytes. All it can do here is to write rows that say they are the edge's, and to bring answers of people
//! whose tokens it has seen, which `approvals` checks.

use crate::{Error, host::Host};
use cofferdam_base::ipc::edge::{Config, Message};
use cofferdam_sys::channel::AsyncChannel;
use std::{
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Mutex, watch};

/// An edge that does not read for so long is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// The edge, as control sees it.
#[derive(Debug, Default)]
pub struct Edge {
    wire: Mutex<Option<Arc<AsyncChannel>>>,
    synced: AtomicBool,
}

impl Edge {
    /// Was the edge sent all there is?
    pub fn synced(&self) -> bool {
        self.synced.load(Ordering::Relaxed)
    }

    /// Sends a change. With no edge there is nobody to tell: the next one gets a snapshot.
    pub async fn tell(&self, change: &Config) {
        let mut seat = self.wire.lock().await;
        if let Some(wire) = seat.as_ref()
            && let Err(error) = send(wire, change).await
        {
            tracing::warn!(%error, "the edge's wire ended");
            *seat = None;
            self.synced.store(false, Ordering::Relaxed);
        }
    }

    /// Takes a new wire, sends the snapshot and listens until the wire ends.
    pub async fn attach(&self, host: &Arc<Host>, wire: OwnedFd) {
        match self.sync(host, wire).await {
            Ok(wire) => {
                listen(host, &wire).await;
                let mut seat = self.wire.lock().await;
                if seat.as_ref().is_some_and(|current| Arc::ptr_eq(current, &wire)) {
                    *seat = None;
                    self.synced.store(false, Ordering::Relaxed);
                }
            }
            // The wire is dropped: the edge notices and serves nobody new.
            Err(error) => tracing::warn!(%error, "the edge could not be sent its snapshot"),
        }
    }

    async fn sync(&self, host: &Arc<Host>, wire: OwnedFd) -> Result<Arc<AsyncChannel>, Error> {
        let wire = Arc::new(AsyncChannel::new(wire).map_err(|e| Error::io("the edge's wire", e))?);
        let mut seat = self.wire.lock().await;
        self.synced.store(false, Ordering::Relaxed);
        for message in snapshot(host).await? {
            send(&wire, &message).await?;
        }
        *seat = Some(Arc::clone(&wire));
        self.synced.store(true, Ordering::Relaxed);
        Ok(wire)
    }
}

/// Sends, and gives up on an edge that does not read: nobody waits behind it.
async fn send(wire: &AsyncChannel, message: &Config) -> Result<(), Error> {
    let sent = tokio::time::timeout(PATIENCE, wire.send(message, &[])).await;
    let failed = |e| Error::io("the edge's wire", e);
    sent.map_err(|_| failed(std::io::ErrorKind::TimedOut.into()))?
        .map_err(|e| failed(std::io::Error::other(e)))
}

async fn snapshot(host: &Host) -> Result<Vec<Config>, Error> {
    let mut messages = vec![Config::Begin {}, host.issuer_message()];
    messages.extend(host.tenants().iter().map(|tenant| Config::Tenant(tenant.route())));
    let revoked = host.revoked().await?;
    messages.extend(revoked.into_iter().map(|(jti, expires)| Config::Revoked { jti, expires }));
    messages.extend(host.questions().await);
    messages.push(Config::Synced {});
    Ok(messages)
}

async fn listen(host: &Arc<Host>, wire: &Arc<AsyncChannel>) {
    let recorded = watch::Sender::new(0_u64);
    let acknowledge = tokio::spawn(acknowledge(Arc::clone(wire), recorded.subscribe()));
    let recorded = Arc::new(recorded);
    let mut last: Option<u64> = None;
    loop {
        let report = match wire.recv::<Message>().await {
            Ok(Some((Message::Report(report), none))) if none.is_empty() => report,
            Ok(Some((Message::Answer(answer), none))) if none.is_empty() => {
                host.answered_at_edge(answer);
                continue;
            }
            Ok(None) => break,
            Ok(Some(_)) => {
                tracing::warn!("the edge sent descriptors");
                break;
            }
            Err(error) => {
                tracing::warn!(%error, "the edge's wire broke");
                break;
            }
        };
        let missing = last.map_or(0, |last| report.seq.saturating_sub(last.saturating_add(1)));
        last = Some(last.unwrap_or(0).max(report.seq));
        let (recorded, through) = (Arc::clone(&recorded), report.seq);
        let done = move || recorded.send_modify(|last| *last = (*last).max(through));
        host.record_edge(report, missing, done).await;
    }
    acknowledge.abort();
}

/// Tells the edge how far its reports are in the ledger, once for however many came at once.
async fn acknowledge(wire: Arc<AsyncChannel>, mut recorded: watch::Receiver<u64>) {
    while recorded.changed().await.is_ok() {
        let through = *recorded.borrow_and_update();
        if wire.send(&Config::Recorded { through }, &[]).await.is_err() {
            return;
        }
    }
}
