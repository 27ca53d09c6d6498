//! What the warden has to say to control, kept until control has it.
//!
//! It owns the numbers of records: from 1, without gaps, each kept until it is in the ledger and sent again
//! on a new wire. The threat is loss: while records cannot be handed on, nothing more is allowed, and the
//! denials that go on happening have room of their own, and when that is full too they are counted.

use cofferdam_base::{
    Clock, TenantId,
    ipc::warden::{Record, RecordKind, Report, Usage},
};
use cofferdam_egress::{Notice, Outlet, Row};
use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// How many records may wait for the ledger before nothing more is allowed.
const ROOM: usize = 1024;
/// How many more denials are kept one by one.
const ROOM_FOR_DENIALS: usize = 256;
/// How many other messages may wait for a wire.
const WAITING: usize = 1024;

/// The queue.
pub(crate) struct Outbox {
    tenant: TenantId,
    boot: u64,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    more: Notify,
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Outbox").field("kept", &state.kept.len()).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    /// The number of the last record.
    last: u64,
    /// Records that are not in the ledger yet.
    kept: VecDeque<Record>,
    /// The number of the last record that was given to this wire.
    sent: u64,
    /// What else waits for this wire, before any record.
    waiting: VecDeque<Report>,
    /// Denials that found no room.
    uncounted: u32,
    /// Is there a wire?
    wired: bool,
}

impl Outbox {
    pub(crate) fn new(tenant: TenantId, boot: u64, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { tenant, boot, clock, state: Mutex::default(), more: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new wire: hello first, then `asks`, then every record that is not in the ledger.
    pub(crate) fn attach(&self, asks: Vec<Notice>) {
        let mut state = self.lock();
        state.wired = true;
        state.sent = state.kept.front().map_or(state.last, |first| first.seq - 1);
        let told = std::mem::take(&mut state.waiting);
        state.waiting.push_back(Report::Hello { tenant: self.tenant.clone(), boot: self.boot });
        state.waiting.extend(asks.into_iter().map(report));
        // What was asked or spent on the old wire is void; the rest is still true.
        let lasting = |report: &Report| matches!(report, Report::Usage(_) | Report::HoldEnded { .. });
        state.waiting.extend(told.into_iter().filter(lasting));
        drop(state);
        self.more.notify_one();
    }

    /// The wire is gone.
    pub(crate) fn detach(&self) {
        self.lock().wired = false;
    }

    /// The next message for the wire, waiting for it. It is taken out only once it was sent: [`Self::sent`].
    pub(crate) async fn next(&self) -> Report {
        loop {
            {
                let state = self.lock();
                if let Some(report) = state.waiting.front() {
                    return report.clone();
                }
                if let Some(record) = state.kept.iter().find(|record| record.seq > state.sent) {
                    return Report::Record(record.clone());
                }
            }
            self.more.notified().await;
        }
    }

    /// A message of [`Self::next`] went out.
    pub(crate) fn sent(&self, report: &Report) {
        let mut state = self.lock();
        match report {
            Report::Record(record) => state.sent = record.seq,
            _ => {
                state.waiting.pop_front();
            }
        }
    }

    /// Records up to this number are in the ledger.
    pub(crate) fn recorded(&self, through: u64) {
        let mut state = self.lock();
        while state.kept.front().is_some_and(|record| record.seq <= through) {
            state.kept.pop_front();
        }
        if state.uncounted > 0 && state.kept.len() < ROOM {
            let count = std::mem::take(&mut state.uncounted);
            let row = Row {
                what: RecordKind::Deny,
                destination: None,
                by: "warden".into(),
                reason: "ledger_unavailable".into(),
                count,
            };
            self.push(&mut state, row);
        }
        drop(state);
        self.more.notify_one();
    }

    /// Anything else for control.
    pub(crate) fn say(&self, report: Report) -> bool {
        let mut state = self.lock();
        if state.waiting.len() >= WAITING {
            return false;
        }
        state.waiting.push_back(report);
        drop(state);
        self.more.notify_one();
        true
    }

    /// What one inference request used.
    pub(crate) fn usage(&self, usage: Usage) {
        if !self.say(Report::Usage(usage)) {
            tracing::warn!("a usage report found no room");
        }
    }

    fn push(&self, state: &mut State, row: Row) {
        let Row { what, destination, by, reason, count } = row;
        state.last += 1;
        let record = Record { seq: state.last, at: self.clock.now(), what, destination, by, reason, count };
        state.kept.push_back(record);
    }
}

impl Outlet for Outbox {
    fn record(&self, row: Row) -> bool {
        let mut state = self.lock();
        let deny = row.what == RecordKind::Deny;
        let room = if deny { ROOM + ROOM_FOR_DENIALS } else { ROOM };
        if state.kept.len() >= room {
            if deny {
                state.uncounted = state.uncounted.saturating_add(row.count);
            }
            return false;
        }
        self.push(&mut state, row);
        drop(state);
        self.more.notify_one();
        true
    }

    fn tell(&self, notice: Notice) -> bool {
        let keep = matches!(notice, Notice::HoldEnded(_));
        (self.lock().wired || keep) && self.say(report(notice))
    }
}

fn report(notice: Notice) -> Report {
    match notice {
        Notice::Ask { destination, why } => Report::Ask { destination, why },
        Notice::HoldEnded(destination) => Report::HoldEnded { destination },
        Notice::Spend(grant) => Report::Spend { grant },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use cofferdam_base::Millis;

    struct At(u64);
    impl Clock for At {
        fn now(&self) -> Millis {
            Millis(self.0)
        }
    }

    fn outbox() -> Arc<Outbox> {
        Outbox::new("acme".parse().unwrap(), 7, Arc::new(At(5)))
    }

    fn row(what: RecordKind) -> Row {
        Row { what, destination: None, by: "rule".into(), reason: String::new(), count: 1 }
    }

    async fn take(outbox: &Outbox) -> Report {
        let report = outbox.next().await;
        outbox.sent(&report);
        report
    }

    #[tokio::test]
    async fn a_full_queue_allows_nothing_more_and_still_takes_denials() {
        let outbox = outbox();
        for _ in 0..ROOM {
            assert!(outbox.record(row(RecordKind::Allow)));
        }
        assert!(!outbox.record(row(RecordKind::Allow)));
        for _ in 0..ROOM_FOR_DENIALS {
            assert!(outbox.record(row(RecordKind::Deny)));
        }
        for _ in 0..3 {
            assert!(!outbox.record(row(RecordKind::Deny)));
        }
        // The positive control: once the ledger has them there is room again, and the lost are counted.
        outbox.recorded((ROOM + ROOM_FOR_DENIALS) as u64);
        assert!(outbox.record(row(RecordKind::Allow)));
        outbox.attach(Vec::new());
        assert!(matches!(take(&outbox).await, Report::Hello { boot: 7, .. }));
        let Report::Record(lost) = take(&outbox).await else { panic!() };
        assert_eq!((lost.what, lost.count, lost.seq), (RecordKind::Deny, 3, 1281));
        let Report::Record(next) = take(&outbox).await else { panic!() };
        assert_eq!((next.what, next.seq), (RecordKind::Allow, 1282));
    }

    #[tokio::test]
    async fn a_new_wire_gets_every_record_that_the_ledger_has_not() {
        let outbox = outbox();
        outbox.attach(Vec::new());
        for _ in 0..4 {
            outbox.record(row(RecordKind::Deny));
        }
        for _ in 0..4 {
            take(&outbox).await;
        }
        outbox.recorded(2);
        outbox.detach();
        assert!(!outbox.tell(Notice::Spend(1)));
        outbox.record(row(RecordKind::Deny));
        outbox.attach(Vec::new());
        assert!(matches!(take(&outbox).await, Report::Hello { .. }));
        for seq in 3..=5 {
            assert!(matches!(take(&outbox).await, Report::Record(record) if record.seq == seq));
        }
        assert!(outbox.tell(Notice::Spend(1)));
    }
}
