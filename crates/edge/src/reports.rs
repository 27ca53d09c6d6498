//! What the edge tells control for the ledger (class B): in order, kept until it is recorded.
//!
//! It owns numbers, folding and the bound. The threat: a flood of refusals that drowns the ledger (alike ones
//! fold to one row a second), and a ledger that takes nothing while the edge lets people in (then new
//! connections are refused). A report that must be dropped still takes its number: the gap shows the loss.

use cofferdam_base::{Millis, TenantId, ipc::edge::Report};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// With this many unrecorded reports no new connection is let in.
pub const FULL: usize = 4096;
/// Refusals and ends are still kept up to here.
const LAST: usize = 2 * FULL;
/// How many kinds of refusal fold at a time; further ones are reported one by one.
const FOLDS: usize = 1024;

/// What is reported.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct What {
    /// `connect`, `refused` or `closed`.
    pub kind: &'static str,
    /// Whose origin was addressed.
    pub tenant: Option<TenantId>,
    /// `sub` of the verified token, else empty.
    pub subject: String,
    /// `jti` of the verified token, else empty.
    pub jti: String,
    /// Why, for a refusal or an end.
    pub reason: &'static str,
}

/// The queue of reports.
#[derive(Debug, Default)]
pub struct Reports {
    inner: Mutex<Inner>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    seq: u64,
    unrecorded: VecDeque<Report>,
    sent: usize,
    folds: HashMap<What, Fold>,
}

#[derive(Debug)]
struct Fold {
    second: u64,
    more: u32,
}

impl Reports {
    /// Is there room for one more connection?
    pub fn has_room(&self) -> bool {
        self.lock().unrecorded.len() < FULL
    }

    /// Reports. Refusals that are alike are counted and told once a second.
    pub fn push(&self, what: What, now: Millis) {
        let mut inner = self.lock();
        if what.kind == "refused" {
            let second = now.seconds();
            inner.unfold(second);
            if let Some(fold) = inner.folds.get_mut(&what) {
                fold.more = fold.more.saturating_add(1);
                return;
            }
            if inner.folds.len() < FOLDS {
                inner.folds.insert(what.clone(), Fold { second, more: 0 });
            }
        }
        inner.queue(what, now, 1);
        drop(inner);
        self.more.notify_one();
    }

    /// Tells what was folded in the seconds before this moment; to be called each second.
    pub fn tick(&self, now: Millis) {
        self.lock().unfold(now.seconds());
        self.more.notify_one();
    }

    /// The next report that this wire has not carried, when there is one.
    pub async fn next(&self) -> Report {
        loop {
            let more = self.more.notified();
            {
                let mut inner = self.lock();
                if let Some(report) = inner.unrecorded.get(inner.sent).cloned() {
                    inner.sent += 1;
                    return report;
                }
            }
            more.await;
        }
    }

    /// A new wire: everything unrecorded is sent again.
    pub fn rewind(&self) {
        self.lock().sent = 0;
        self.more.notify_one();
    }

    /// Everything up to this number is in the ledger.
    pub fn recorded(&self, through: u64) {
        let mut inner = self.lock();
        while inner.unrecorded.front().is_some_and(|report| report.seq <= through) {
            inner.unrecorded.pop_front();
            inner.sent = inner.sent.saturating_sub(1);
        }
    }

    // A queue that a panic left is at worst one report short, which its number shows.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn queue(&mut self, what: What, at: Millis, count: u32) {
        self.seq += 1;
        if self.unrecorded.len() >= LAST {
            return;
        }
        let What { kind, tenant, subject, jti, reason } = what;
        let (what, reason) = (kind.to_owned(), reason.to_owned());
        self.unrecorded.push_back(Report { seq: self.seq, at, tenant, what, subject, jti, reason, count });
    }

    /// Ends the folds of earlier seconds.
    fn unfold(&mut self, second: u64) {
        let over: Vec<(What, Fold)> = self.folds.extract_if(|_, fold| fold.second != second).collect();
        for (what, fold) in over {
            if fold.more > 0 {
                self.queue(what, Millis(fold.second.saturating_mul(1000).saturating_add(999)), fold.more);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(reason: &'static str) -> What {
        What { kind: "refused", tenant: None, subject: String::new(), jti: String::new(), reason }
    }

    #[tokio::test]
    async fn alike_refusals_fold_to_one_row_a_second_with_a_count() {
        let reports = Reports::default();
        for _ in 0..1000 {
            reports.push(refused("token_expired"), Millis(5_100));
        }
        reports.push(refused("foreign_origin"), Millis(5_200));
        reports.tick(Millis(6_000));
        let rows = [reports.next().await, reports.next().await, reports.next().await];
        assert_eq!(rows.each_ref().map(|row| (row.seq, row.count)), [(1, 1), (2, 1), (3, 999)]);
        reports.push(refused("token_expired"), Millis(6_100));
        assert_eq!(reports.next().await.seq, 4);
    }

    #[tokio::test]
    async fn what_is_not_recorded_is_sent_again_on_the_next_wire() {
        let reports = Reports::default();
        for jti in ["a", "b", "c"] {
            reports.push(What { kind: "connect", jti: jti.into(), ..refused("") }, Millis(1));
        }
        assert_eq!(reports.next().await.jti, "a");
        assert_eq!(reports.next().await.jti, "b");
        reports.recorded(1);
        assert_eq!(reports.next().await.jti, "c");
        reports.rewind();
        assert_eq!(reports.next().await.jti, "b");
        reports.recorded(3);
        reports.push(What { kind: "connect", jti: "d".into(), ..refused("") }, Millis(1));
        assert_eq!(reports.next().await.seq, 4);
    }

    #[test]
    fn a_ledger_that_takes_nothing_ends_the_room_and_drops_show_as_gaps() {
        let reports = Reports::default();
        let connect = || What { kind: "connect", ..refused("") };
        for _ in 0..FULL {
            assert!(reports.has_room());
            reports.push(connect(), Millis(1));
        }
        assert!(!reports.has_room());
        for _ in 0..FULL + 10 {
            reports.push(connect(), Millis(1));
        }
        reports.recorded(u64::try_from(LAST).unwrap_or(u64::MAX));
        assert!(reports.has_room());
        reports.push(connect(), Millis(1));
        let inner = reports.lock();
        assert_eq!(inner.unrecorded[0].seq, u64::try_from(LAST + 11).unwrap_or(0));
    }
}
