//! Control's end of one warden's wire.
//!
//! It sends the snapshot and its changes, and takes the warden's reports: asks and spends to the approvals,
//! records to the ledger, usage to the store. The threat: a warden broken by hostile bytes. It can say
//! nothing about another tenant, because the wire is the tenant; a report that does not fit ends the wire.

use crate::{
    Error,
    check::{Check, keeps},
    host::Host,
    plain,
    tenant::Tenant,
};
use cofferdam_base::{
    Certificate,
    ipc::{
        asked::{LONGEST_WHY, visible},
        warden::{Command, RecordKind, Report},
    },
};
use cofferdam_sys::channel::AsyncChannel;
use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::{mpsc, watch};

/// A warden takes no longer than this to put a policy in force.
const PATIENCE: Duration = Duration::from_secs(30);

/// No words of a warden are longer, in characters.
const LONGEST_WORDS: usize = 500;

/// So many messages may wait for a warden to read them.
const QUEUE: usize = 1024;

type Packet = (Command, Option<OwnedFd>);

/// A living wire to a warden.
#[derive(Debug)]
pub struct Link {
    wire: Arc<AsyncChannel>,
    queue: mpsc::Sender<Packet>,
    /// Its hello, the last `Configured`, or that the wire ended.
    configured: watch::Sender<Configured>,
    /// The last record of this wire that is in the ledger.
    recorded: watch::Sender<u64>,
    /// The last use of a model that is counted, likewise.
    counted: watch::Sender<u64>,
}

#[derive(Clone, Debug, Default)]
struct Configured {
    greeted: bool,
    revision: Option<u64>,
    error: Option<String>,
    authority: Option<Certificate>,
    ended: bool,
}

impl Link {
    /// Takes the wire. Call within the runtime.
    pub fn new(wire: OwnedFd) -> Result<Self, Error> {
        let wire = Arc::new(AsyncChannel::new(wire).map_err(|e| Error::io("a warden's wire", e))?);
        let (queue, outbox) = mpsc::channel(QUEUE);
        tokio::spawn(write(Arc::clone(&wire), outbox));
        let (recorded, counted) = (watch::Sender::default(), watch::Sender::default());
        Ok(Self { wire, queue, configured: watch::Sender::default(), recorded, counted })
    }

    /// Queues one message. Nobody waits behind a warden that does not read: one that lets its queue fill is
    /// given up.
    pub fn send(&self, tenant: &Tenant, command: &Command) -> Result<(), Error> {
        self.push(tenant, (command.clone(), None))
    }

    /// Queues the data key, in a pipe of which nothing else ever held an end.
    pub fn send_key(&self, tenant: &Tenant, key: &cofferdam_vault::DataKey) -> Result<(), Error> {
        let (theirs, ours) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|e| Error::io("a pipe for a data key", e))?;
        // 32 bytes fit any pipe, so this does not wait for a reader.
        key.write_to(std::fs::File::from(ours))?;
        self.push(tenant, (Command::DataKey {}, Some(theirs)))
    }

    fn push(&self, tenant: &Tenant, packet: Packet) -> Result<(), Error> {
        self.queue.try_send(packet).map_err(|_| {
            self.configured.send_modify(|c| c.ended = true);
            nonsense(tenant, "its wire ended, or it does not read it")
        })
    }

    /// Waits until the warden reported this revision to be in force; its refusal is an error.
    pub async fn in_force(&self, tenant: &Tenant, revision: u64) -> Result<(), InForce> {
        let mut watch = self.configured.subscribe();
        let wanted = watch.wait_for(|c| c.revision == Some(revision) || c.ended);
        match tokio::time::timeout(PATIENCE, wanted).await {
            Ok(Ok(state)) if !state.ended => state.error.clone().map_or(Ok(()), |e| Err(InForce::Refused(e))),
            Ok(_) => Err(InForce::Lost),
            Err(_) => {
                tracing::warn!(tenant = %tenant.id, revision, "the warden did not report a policy in force");
                Err(InForce::Lost)
            }
        }
    }

    /// Waits for its hello. All that wires before this one brought is taken by then.
    pub async fn greeted(&self, tenant: &Tenant) -> Result<(), Error> {
        let mut watch = self.configured.subscribe();
        let greeted = watch.wait_for(|c| c.greeted || c.ended);
        match tokio::time::timeout(PATIENCE, greeted).await {
            Ok(Ok(state)) if !state.ended => Ok(()),
            _ => Err(nonsense(tenant, "it said no hello")),
        }
    }

    /// Waits for its end, and says it.
    pub async fn gone(&self, tenant: &Tenant) -> Error {
        let mut watch = self.configured.subscribe();
        // Its sender lives in itself.
        let _ = watch.wait_for(|c| c.ended).await;
        nonsense(tenant, "its wire ended")
    }

    /// The revision that was last reported in force.
    pub fn revision(&self) -> Option<u64> {
        self.configured.borrow().revision
    }

    /// The certificate of the authority under which it inspects TLS.
    pub fn authority(&self) -> Option<Certificate> {
        self.configured.borrow().authority.clone()
    }

    /// Takes reports until the wire ends or brings what does not fit.
    pub async fn read(self: &Arc<Self>, host: &Arc<Host>, tenant: &Arc<Tenant>) {
        let mut boot = None;
        let mut ended = self.configured.subscribe();
        let acknowledge = tokio::spawn(Arc::clone(self).acknowledge());
        'wire: loop {
            let received = tokio::select! {
                received = self.wire.recv::<Vec<Report>>() => received,
                _ = ended.wait_for(|c| c.ended) => break,
            };
            let reports = match received {
                Ok(Some((reports, none))) if none.is_empty() => reports,
                Ok(None) => break,
                Ok(Some(_)) => {
                    tracing::warn!(tenant = %tenant.id, "the warden sent descriptors");
                    break;
                }
                Err(error) => {
                    tracing::warn!(tenant = %tenant.id, %error, "the warden's wire broke");
                    break;
                }
            };
            for report in reports {
                if let Err(error) = self.take(report, &mut boot, host, tenant).await {
                    tracing::warn!(tenant = %tenant.id, %error, "the warden's wire is given up");
                    break 'wire;
                }
            }
        }
        acknowledge.abort();
        self.configured.send_modify(|c| c.ended = true);
    }

    /// Tells the warden how far its records are in the ledger and its uses of models counted, once for however many
    /// came at once.
    async fn acknowledge(self: Arc<Self>) {
        let (mut recorded, mut counted) = (self.recorded.subscribe(), self.counted.subscribe());
        loop {
            let command = tokio::select! {
                Ok(()) = recorded.changed() => Command::Recorded { through: *recorded.borrow_and_update() },
                Ok(()) = counted.changed() => Command::Counted { through: *counted.borrow_and_update() },
                else => return,
            };
            if self.wire.send(&command, &[]).await.is_err() {
                return;
            }
        }
    }

    async fn take(
        self: &Arc<Self>,
        report: Report,
        boot: &mut Option<u64>,
        host: &Arc<Host>,
        tenant: &Arc<Tenant>,
    ) -> Result<(), Error> {
        match tidy(report) {
            Report::Hello { tenant: who, boot: now } => {
                if who != tenant.id && keeps(Check::WardenTenant) {
                    return Err(nonsense(tenant, "it says that it is another tenant's"));
                }
                *boot = Some(now);
                host.count_lost(tenant, now).await;
                self.configured.send_modify(|c| c.greeted = true);
            }
            _ if boot.is_none() && keeps(Check::WardenHello) => {
                return Err(nonsense(tenant, "its first message is no hello"));
            }
            Report::Configured { revision, error, authority } => {
                self.configured.send_modify(|c| {
                    c.error = error;
                    c.authority = authority;
                    c.revision = Some(revision);
                });
            }
            Report::Ask { destination, why, request } => {
                let hidden = request.as_ref().is_some_and(|request| !request.is_visible());
                if hidden && keeps(Check::WardenShows) {
                    return Err(nonsense(tenant, "it shows a request that cannot be read in one way"));
                }
                host.asked(tenant, self, destination, why, request).await?;
            }
            Report::HoldEnded { destination } => host.hold_ended(tenant, destination).await,
            Report::Spend { grant } => {
                let ok = host.spend(tenant, grant).await;
                self.send(tenant, &Command::Spent { grant, ok })?;
            }
            Report::Record(record) => {
                let boot = boot.unwrap_or_default();
                let (link, through) = (Arc::downgrade(self), record.seq);
                let done = move || {
                    // Of a wire that ended nothing is told: the warden sends again what was not answered.
                    if let Some(link) = link.upgrade() {
                        link.recorded.send_modify(|last| *last = (*last).max(through));
                    }
                };
                match tenant.heard.expect(boot, record.seq) {
                    Number::Next { missing } => {
                        if let (RecordKind::Hold, Some(destination)) = (record.what, &record.destination) {
                            host.held(&tenant.id, destination, record.count).await;
                        }
                        host.record(tenant, boot, &record, missing, done).await;
                    }
                    Number::Again => host.scribe.after(done).await,
                }
            }
            Report::Tripped { canary, destination } => host.tripped(tenant, canary, destination),
            Report::Tested { test, tested } => host.testers.tested(&tenant.id, test, tested),
            Report::Rotated { secret } => host.secret_rotated(tenant, secret).await?,
            Report::Posted { delivery, error } => host.posted(&tenant.id, delivery, error).await,
            Report::Asking(usage) | Report::Usage(usage) if i64::try_from(usage.at.0).is_err() => {
                return Err(nonsense(tenant, "it used a model at no time that there is"));
            }
            Report::Asking(most) => tenant.under_way.add(most)?,
            Report::Usage(usage) => {
                // From here on it is counted as what it was, whatever becomes of the warden.
                tenant.under_way.remove(usage.request);
                let (link, through) = (Arc::downgrade(self), usage.seq);
                let done = move || {
                    if let Some(link) = link.upgrade() {
                        link.counted.send_modify(|last| *last = (*last).max(through));
                    }
                };
                match tenant.heard_uses.expect(boot.unwrap_or_default(), through) {
                    Number::Next { missing: _ } => host.used(&tenant.id, usage, done).await,
                    Number::Again => host.counter.after(done).await,
                }
            }
        }
        Ok(())
    }
}

/// Whatever a warden's words are made of, a person sees them as one line.
fn tidy(mut report: Report) -> Report {
    let line = |text: &mut String| {
        // As nearly all are.
        let is_one = text.len() <= LONGEST_WORDS && text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if !is_one {
            *text = plain::line(text, LONGEST_WORDS);
        }
    };
    match &mut report {
        Report::Configured { revision: _, error, authority: _ } | Report::Posted { delivery: _, error } => {
            error.iter_mut().for_each(line);
        }
        Report::Ask { destination: _, why, request: _ } => *why = visible(why, LONGEST_WHY),
        Report::Record(record) => {
            let record = Arc::make_mut(record);
            [&mut record.by, &mut record.reason].into_iter().for_each(line);
        }
        Report::Hello { .. }
        | Report::HoldEnded { .. }
        | Report::Spend { .. }
        | Report::Tripped { .. }
        | Report::Rotated { .. } => {}
        Report::Asking(usage) | Report::Usage(usage) => {
            [&mut usage.model, &mut usage.user, &mut usage.agent].into_iter().for_each(line);
        }
        Report::Tested { test: _, tested } => line(&mut tested.said),
    }
    report
}

/// Sends what is queued, in order, until the wire or the link ends.
async fn write(wire: Arc<AsyncChannel>, mut outbox: mpsc::Receiver<Packet>) {
    while let Some((command, descriptor)) = outbox.recv().await {
        let descriptors: Vec<_> = descriptor.iter().map(AsFd::as_fd).collect();
        if let Err(error) = wire.send(&command, &descriptors).await {
            return tracing::warn!(%error, "a warden's wire ended");
        }
    }
}

/// Why a policy is not known to be in force.
#[derive(Debug)]
pub enum InForce {
    /// The warden refused it.
    Refused(String),
    /// The warden is gone or does not answer.
    Lost,
}

/// How far a tenant's wardens were heard, whichever wire they spoke on.
#[derive(Debug, Default)]
pub struct Heard(Mutex<Option<Position>>);

/// A start of the warden, and the number of the last record that was taken from it.
#[derive(Clone, Copy, Debug)]
struct Position {
    boot: u64,
    seq: u64,
}

/// What the number of a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    /// It follows; so many are missing before it.
    Next { missing: u64 },
    /// It was taken already, and is sent again because its sender did not hear so.
    Again,
}

impl Heard {
    /// What the ledger had at the start of control.
    pub fn before(told: Option<&(u64, u64)>) -> Self {
        Self(Mutex::new(told.map(|(boot, seq)| Position { boot: *boot, seq: *seq })))
    }

    /// Takes the number of a record of this start. Of a start that was never heard the first is number 1.
    fn expect(&self, boot: u64, seq: u64) -> Number {
        let mut heard = self.lock();
        let last = heard.filter(|position| position.boot == boot).map_or(0, |position| position.seq);
        if seq <= last {
            return Number::Again;
        }
        *heard = Some(Position { boot, seq });
        Number::Next { missing: seq - last - 1 }
    }

    /// After what record a warden that died may have had more to say: its start, and the record's number.
    pub fn last(&self) -> Option<(u64, u64)> {
        self.lock().map(|Position { boot, seq }| (boot, seq))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Position>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of the tenant's one current link.
#[derive(Debug, Default)]
pub struct Seat(Mutex<Option<Arc<Link>>>);

impl Seat {
    /// The link, if there is one.
    pub fn link(&self) -> Option<Arc<Link>> {
        self.lock().clone()
    }

    /// Puts a link there.
    pub fn put(&self, link: Arc<Link>) {
        *self.lock() = Some(link);
    }

    /// Takes this link away; false if another is there already.
    pub fn clear(&self, link: &Arc<Link>) -> bool {
        let mut seat = self.lock();
        let ours = seat.as_ref().is_some_and(|l| Arc::ptr_eq(l, link));
        if ours {
            *seat = None;
        }
        ours
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<Link>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn nonsense(tenant: &Tenant, what: &str) -> Error {
    Error::Warden { tenant: tenant.id.to_string(), what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_in_the_records_is_counted_and_a_repetition_is_none() {
        let next = |missing| Number::Next { missing };
        // After a restart of control a warden goes on where it was, and says again what it may have lost.
        let heard = Heard::before(Some(&(7, 39)));
        assert_eq!(heard.expect(7, 39), Number::Again);
        assert_eq!(heard.expect(7, 40), next(0));
        assert_eq!(heard.expect(7, 41), next(0));
        assert_eq!(heard.expect(7, 41), Number::Again);
        assert_eq!(heard.expect(7, 45), next(3));
        assert_eq!(heard.expect(7, 46), next(0));
        // Another start counts from 1, and so does the first of all.
        assert_eq!(heard.expect(8, 3), next(2));
        assert_eq!(heard.last(), Some((8, 3)));
        assert_eq!(Heard::default().expect(1, 1), next(0));
    }
}
