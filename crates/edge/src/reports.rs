//! What the edge tells control for the ledger (class B): in order, kept until it is recorded.
//!
//! It owns numbers, folding and the bounds. The threats: a flood that drowns the ledger (alike ones fold to one
//! row a second, those of strangers to one a minute, since a tenant's day in the ledger is bounded and must
//! not be filled from outside), one tenant whose rows leave no room for another's (each has a share, strangers
//! together have one too), and a ledger that takes nothing while the edge lets people in (then new connections
//! are refused). A report that must be dropped still takes its number: the gap shows the loss.

use cofferdam_base::{Millis, TenantId, ipc::edge::Report};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// With this many unrecorded reports no new connection is let in; refusals and ends are kept up to twice as
/// many.
pub const FULL: usize = 16 * 1024;
/// With this many of one tenant's none of its members is let in; its refusals and ends are kept up to twice
/// as many.
pub const SHARE: usize = 1024;
/// How many kinds of report fold at a time; further ones are reported one by one.
const FOLDS: usize = 4096;

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

impl What {
    /// Whose share of the queue it takes: that of its token's tenant, or that of all strangers.
    fn share(tenant: Option<&TenantId>, jti: &str) -> Option<TenantId> {
        tenant.filter(|_| !jti.is_empty()).cloned()
    }

    /// For how many seconds alike ones fold.
    fn window(&self) -> u64 {
        if self.jti.is_empty() { 60 } else { 1 }
    }
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
    shares: HashMap<Option<TenantId>, usize>,
    folds: HashMap<What, Fold>,
    /// The second in which the folds were last looked through.
    looked: u64,
}

#[derive(Debug)]
struct Fold {
    /// The last second of its window.
    last: u64,
    more: u32,
}

impl Reports {
    /// Is there room for one more connection of this tenant?
    pub fn has_room(&self, tenant: &TenantId) -> bool {
        let inner = self.lock();
        inner.unrecorded.len() < FULL
            && inner.shares.get(&Some(tenant.clone())).is_none_or(|count| *count < SHARE)
    }

    /// Reports. The first of its kind goes at once; alike ones are counted and told when their time is over.
    pub fn push(&self, what: What, now: Millis) {
        let mut inner = self.lock();
        let second = now.seconds();
        inner.unfold(second);
        if let Some(fold) = inner.folds.get_mut(&what) {
            fold.more = fold.more.saturating_add(1);
            return;
        }
        if inner.folds.len() < FOLDS {
            let window = what.window();
            let last = (second / window).saturating_mul(window).saturating_add(window - 1);
            inner.folds.insert(what.clone(), Fold { last, more: 0 });
        }
        inner.queue(what, now, 1);
        drop(inner);
        self.more.notify_one();
    }

    /// Tells what was folded until this moment; to be called each second.
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
        while let Some(report) = inner.unrecorded.pop_front_if(|report| report.seq <= through) {
            inner.sent = inner.sent.saturating_sub(1);
            let share = What::share(report.tenant.as_ref(), &report.jti);
            if let Some(count) = inner.shares.get_mut(&share) {
                *count -= 1;
                if *count == 0 {
                    inner.shares.remove(&share);
                }
            }
        }
    }

    /// How many reports are not in the ledger yet.
    #[cfg(test)]
    pub(crate) fn unrecorded(&self) -> usize {
        self.lock().unrecorded.len()
    }

    // A queue that a panic left is at worst one report short, which its number shows.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn queue(&mut self, what: What, at: Millis, count: u32) {
        self.seq += 1;
        let share = What::share(what.tenant.as_ref(), &what.jti);
        let count_of = self.shares.get(&share).copied().unwrap_or_default();
        if self.unrecorded.len() >= 2 * FULL || count_of >= 2 * SHARE {
            return;
        }
        self.shares.insert(share, count_of + 1);
        let What { kind, tenant, subject, jti, reason } = what;
        let (what, reason) = (kind.to_owned(), reason.to_owned());
        self.unrecorded.push_back(Report { seq: self.seq, at, tenant, what, subject, jti, reason, count });
    }

    /// Ends the folds whose time is over.
    fn unfold(&mut self, second: u64) {
        if self.looked == second {
            return;
        }
        self.looked = second;
        // A clock that was set back ends them too.
        let over = |what: &What, fold: &Fold| second > fold.last || second + what.window() <= fold.last;
        let over: Vec<(What, Fold)> = self.folds.extract_if(|what, fold| over(what, fold)).collect();
        for (what, fold) in over {
            if fold.more > 0 {
                self.queue(what, Millis(fold.last.saturating_mul(1000).saturating_add(999)), fold.more);
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

    fn connect(tenant: Option<&TenantId>, jti: impl ToString) -> What {
        let (tenant, jti) = (tenant.cloned(), jti.to_string());
        What { kind: "connect", tenant, jti, ..refused("") }
    }

    fn id(text: &str) -> Option<TenantId> {
        TenantId::try_from(text).ok()
    }

    #[tokio::test]
    async fn alike_reports_of_a_token_fold_to_one_row_a_second_with_a_count() {
        let reports = Reports::default();
        for _ in 0..1000 {
            reports.push(connect(id("acme").as_ref(), "a"), Millis(5_100));
            reports.push(connect(id("acme").as_ref(), "b"), Millis(5_100));
        }
        reports.push(What { reason: "missing_scope", ..connect(None, "a") }, Millis(5_200));
        reports.tick(Millis(6_000));
        let mut rows = Vec::new();
        for _ in 0..5 {
            rows.push(reports.next().await);
        }
        rows[3..].sort_by_key(|row| row.jti.clone());
        let rows: Vec<_> = rows.iter().map(|row| (row.jti.as_str(), row.count)).collect();
        assert_eq!(rows, [("a", 1), ("b", 1), ("a", 1), ("a", 999), ("b", 999)]);
        reports.push(connect(id("acme").as_ref(), "a"), Millis(6_100));
        assert_eq!(reports.next().await.seq, 6);
    }

    #[tokio::test]
    async fn alike_refusals_of_strangers_fold_to_one_row_a_minute_with_a_count() {
        let reports = Reports::default();
        for second in 60..120 {
            reports.push(refused("token_expired"), Millis(second * 1000));
            reports.tick(Millis(second * 1000));
        }
        reports.push(refused("foreign_origin"), Millis(119_500));
        reports.tick(Millis(120_000));
        let rows = [reports.next().await, reports.next().await, reports.next().await];
        assert_eq!(rows.each_ref().map(|row| (row.seq, row.count)), [(1, 1), (2, 1), (3, 59)]);
        assert_eq!(rows[2].at, Millis(119_999));
        reports.push(refused("token_expired"), Millis(120_100));
        assert_eq!(reports.next().await.seq, 4);
    }

    #[tokio::test]
    async fn what_is_not_recorded_is_sent_again_on_the_next_wire() {
        let reports = Reports::default();
        for jti in ["a", "b", "c"] {
            reports.push(connect(None, jti), Millis(1));
        }
        assert_eq!(reports.next().await.jti, "a");
        assert_eq!(reports.next().await.jti, "b");
        reports.recorded(1);
        assert_eq!(reports.next().await.jti, "c");
        reports.rewind();
        assert_eq!(reports.next().await.jti, "b");
        reports.recorded(3);
        reports.push(connect(None, "d"), Millis(1));
        assert_eq!(reports.next().await.seq, 4);
    }

    #[test]
    fn one_tenants_rows_leave_room_for_anothers_and_strangers_take_nobodys() {
        let reports = Reports::default();
        let (Some(acme), Some(globex)) = (id("acme"), id("globex")) else { panic!("both are ids") };
        // Strangers at acme's origin and at many others.
        reports.push(What { tenant: Some(acme.clone()), ..refused("token_expired") }, Millis(1));
        for at in 0..2 * SHARE + 10 {
            reports.push(What { tenant: id(&format!("t{at}")), ..refused("token_expired") }, Millis(1));
        }
        assert_eq!(reports.lock().unrecorded.len(), 2 * SHARE);
        for jti in 0..SHARE {
            assert!(reports.has_room(&acme));
            reports.push(connect(Some(&acme), jti), Millis(1));
        }
        assert!(!reports.has_room(&acme) && reports.has_room(&globex));
        for jti in 0..SHARE + 10 {
            reports.push(What { kind: "closed", ..connect(Some(&acme), jti) }, Millis(1));
        }
        assert_eq!(reports.lock().unrecorded.len(), 4 * SHARE, "ends are kept up to twice the share");
        reports.push(connect(Some(&globex), "g"), Millis(1));
        assert_eq!(reports.lock().unrecorded.len(), 4 * SHARE + 1);
        reports.recorded(u64::MAX);
        assert!(reports.has_room(&acme) && reports.lock().shares.is_empty());
    }

    #[test]
    fn a_ledger_that_takes_nothing_ends_the_room_and_drops_show_as_gaps() {
        let reports = Reports::default();
        let Some(other) = id("other") else { panic!("it is an id") };
        for at in 0..FULL {
            assert!(reports.has_room(&other));
            reports.push(connect(id(&format!("t{}", at % 32)).as_ref(), at), Millis(1));
        }
        assert!(!reports.has_room(&other));
        for at in FULL..2 * FULL + 10 {
            reports.push(connect(id(&format!("t{}", at % 32)).as_ref(), at), Millis(1));
        }
        let last = u64::try_from(2 * FULL).unwrap_or(u64::MAX);
        reports.recorded(last);
        assert!(reports.has_room(&other));
        reports.push(connect(Some(&other), "x"), Millis(1));
        assert_eq!(reports.lock().unrecorded[0].seq, last + 11);
    }
}
