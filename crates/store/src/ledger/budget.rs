//! How much of the ledger a tenant may fill in a day.
//!
//! The threat: a cell that is refused a million times a second writes the disk full, and with it everybody
//! else's ledger. And strangers at the edge who fill a tenant's day, so that what its cell does is only counted: what
//! the edge saw has a day of its own. The day is the ledger's own, not that of the rows, which a broken warden may stamp as it likes.

use super::{
    kind::Kind,
    row::{Class, NewRow},
    segment::Head,
};
use cofferdam_base::{Millis, TenantId};
use serde_json::json;
use std::collections::BTreeMap;

/// What every tenant wrote on one day.
#[derive(Debug)]
pub(super) struct Budget {
    day: u64,
    payers: BTreeMap<Payer, Use>,
    bytes: u64,
    batch: u64,
}

/// A tenant, and whether the rows are what the edge saw at its door.
type Payer = (TenantId, bool);

/// One payer's day.
#[derive(Debug, Clone, Copy, Default)]
struct Use {
    bytes: u64,
    counted: u64,
}

/// What a batch will have used, once it is written.
#[derive(Debug)]
pub(super) struct Plan {
    day: u64,
    payers: BTreeMap<Payer, Use>,
}

impl Budget {
    pub(super) fn new(now: Millis, bytes: u64, batch: u64) -> Self {
        Self { day: day(now), payers: BTreeMap::new(), bytes, batch }
    }

    /// A row that is in the ledger since before it was opened.
    pub(super) fn replay(&mut self, row: &Head, bytes: u64) {
        if let (Class::B, Some(tenant), true) = (row.class, &row.tenant, day(row.at) == self.day) {
            self.payers.entry(payer(tenant, &row.kind)).or_default().bytes += bytes;
        }
    }

    /// Begins a batch: the rows that tell of yesterday's overruns, if the day has turned.
    pub(super) fn begin(&self, now: Millis) -> (Plan, Vec<NewRow>) {
        let plan = Plan { day: day(now), payers: BTreeMap::new() };
        if plan.day == self.day {
            return (plan, Vec::new());
        }
        let counted = self.payers.iter().filter(|(_, used)| used.counted > 0);
        (plan, counted.map(|(payer, used)| counted_row(payer, used.counted, self.day, now)).collect())
    }

    /// Whether the row of so many bytes is kept; if not, it is counted, and the row that tells of a full
    /// count comes back.
    pub(super) fn admit(&self, plan: &mut Plan, row: &NewRow, bytes: u64, now: Millis) -> Admission {
        let (Class::B, Some(tenant)) = (row.class, &row.tenant) else { return Admission::Keep };
        let payer = payer(tenant, &row.kind);
        let today = || if plan.day == self.day { self.payers.get(&payer).copied() } else { None };
        let mut used = plan.payers.get(&payer).copied().or_else(today).unwrap_or_default();
        let admission = if used.bytes.saturating_add(bytes) <= self.bytes {
            used.bytes += bytes;
            Admission::Keep
        } else {
            // Once over, over until the day ends: small rows do not slip in behind a large one.
            used.bytes = self.bytes;
            used.counted += 1;
            if used.counted >= self.batch {
                let row = counted_row(&payer, std::mem::take(&mut used.counted), plan.day, now);
                Admission::Counted(Some(row))
            } else {
                Admission::Counted(None)
            }
        };
        plan.payers.insert(payer, used);
        admission
    }

    /// The batch is written.
    pub(super) fn commit(&mut self, plan: Plan) {
        if plan.day != self.day {
            self.day = plan.day;
            self.payers.clear();
        }
        self.payers.extend(plan.payers);
    }
}

/// What becomes of a row.
#[derive(Debug)]
pub(super) enum Admission {
    /// It is written.
    Keep,
    /// It is only counted.
    Counted(Option<NewRow>),
}

fn payer(tenant: &TenantId, kind: &str) -> Payer {
    (tenant.clone(), [Kind::Edge, Kind::EdgeRefused].iter().any(|edge| edge.as_str() == kind))
}

fn counted_row((tenant, edge): &Payer, counted: u64, day: u64, now: Millis) -> NewRow {
    NewRow {
        at: now,
        class: Class::B,
        tenant: Some(tenant.clone()),
        kind: Kind::Counted.as_str().to_owned(),
        body: json!({ "counted": counted, "day": day, "edge": edge }).into(),
    }
}

/// Days since the epoch, UTC.
fn day(at: Millis) -> u64 {
    at.0 / 86_400_000
}
