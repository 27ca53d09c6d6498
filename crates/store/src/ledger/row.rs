//! What a row of the ledger is, and which rows are worth the last mebibyte of the disk.

use cofferdam_base::{Digest, Millis, TenantId};
use serde::{Deserialize, Serialize};

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
    /// The rest.
    pub body: serde_json::Value,
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

/// Kinds that are still written when the disk is full, into the room that the reserve gave back.
pub(super) fn essential(kind: &str) -> bool {
    ESSENTIAL.contains(&kind)
}

/// What is essential: what was refused, taken away or stopped, and what is missing from the ledger.
const ESSENTIAL: &[&str] = &[
    // Refused.
    "deny",
    "refused",
    // Taken away.
    "revoke",
    "token_revoked",
    "secret_removed",
    // Stopped.
    "kill",
    "kill_all",
    "stop",
    "stop_cell",
    "stop_warden",
    "cell_ended",
    "warden_ended",
    "warden_lost",
    "failed",
    // Lost.
    "gap",
    RECOVERED,
    COUNTED,
];

/// A torn end was cut off when the ledger was opened; the body says how many bytes.
pub(super) const RECOVERED: &str = "recovered";
/// So many rows of a tenant over its daily budget were counted and not kept.
pub(super) const COUNTED: &str = "counted";
