//! The kill switch: what is asked, and what was done.

use cofferdam_base::{TenantId, ipc::kill::Fate};
use serde::{Deserialize, Serialize};

/// `POST /kill`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewKill {
    /// Whom; none: every tenant.
    pub tenant: Option<TenantId>,
    /// Why, for the ledger; at most 500 characters.
    pub reason: String,
}

/// Who was killed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kills {
    /// One a tenant, by id.
    pub killed: Vec<Killed>,
}

/// What was done to one tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Killed {
    /// The id.
    pub tenant: TenantId,
    /// What became of its cell.
    pub cell: Fate,
    /// The edge was told to end its connections.
    pub edge: bool,
    /// What could not be done, one a line; empty: all was.
    pub not_done: Vec<String>,
}
