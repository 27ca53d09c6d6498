//! The kill switch: the operator's own wire to the launcher, and what is told of it.
//!
//! One packet, one answer. It carries an id and words for the ledger, nothing that chooses what is done.

use crate::TenantId;
use serde::{Deserialize, Serialize};

/// The name of the launcher's socket, below the data directory and not below `run`, which is control's.
pub const SOCKET: &str = "kill.sock";

/// No reason is longer, in characters.
pub const LONGEST_REASON: usize = 500;

/// Operator → launcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Whom; none: every tenant.
    pub tenant: Option<TenantId>,
    /// Why, for the ledger.
    pub reason: String,
}

/// Launcher → operator: what was done, a row for each tenant of whom something ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// One a tenant.
    pub severed: Vec<Severed>,
}

/// What became of one tenant's processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Severed {
    /// Whose.
    pub tenant: TenantId,
    /// Its cell.
    pub cell: Fate,
    /// It had a warden, which is killed, and every connection out with it.
    pub warden: bool,
    /// The edge runs and was told to end every connection in.
    pub edge: bool,
}

/// What became of a cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Fate {
    /// There was none.
    Absent,
    /// Its processes stand still.
    Frozen,
    /// It could not be frozen, for this reason, and was killed instead.
    Killed(String),
}
