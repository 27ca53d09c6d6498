//! What a row of the ledger is.

use cofferdam_base::{Digest, Millis, TenantId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// When a row must be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Class {
    /// Before what it tells takes effect. Never dropped for a tenant's daily budget.
    A,
    /// In order, soon after.
    B,
}

/// A row to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRow {
    /// When it happened, as whoever saw it says; rows need not be ordered by it.
    pub at: Millis,
    /// When it must be durable.
    pub class: Class,
    /// About whom, if about one tenant.
    pub tenant: Option<TenantId>,
    /// What happened: one lower-case word.
    pub kind: String,
    /// The rest; not copied on its way to the disk.
    pub body: Arc<serde_json::Value>,
}

/// A row as it stands in the ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredRow {
    /// Its number, from 1, without gaps.
    pub seq: u64,
    /// When it happened.
    pub at: Millis,
    /// When it had to be durable.
    pub class: Class,
    /// About whom, if about one tenant.
    pub tenant: Option<TenantId>,
    /// What happened.
    pub kind: String,
    /// The rest.
    pub body: serde_json::Value,
}

/// The outcome of reading the whole chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Every row was read, every link fits and none is missing at the end.
    pub whole: bool,
    /// How many rows fit before the first that does not.
    pub rows: u64,
    /// The hash of the last row that fits; 32 zero bytes if none does.
    pub head: Digest,
    /// What is wrong and where (segment, line); empty if whole.
    pub problem: String,
}
