//! The battery in the sandboxes of others: which rows ask for something that only a cell of ours has.
//!
//! It owns that list and the shape of a comparison; what the others are and how they are started is told by whoever
//! compares. The threat: a figure that looks good because the question was ours.

use crate::verdict::Judged;
use serde::{Deserialize, Serialize};

/// One row, here and there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compared {
    /// In a cell.
    pub cell: Judged,
    /// In each of the others, in their order. The control is the cell's: the same attempt, in the same world, in a
    /// cell without the layers that answer it.
    pub peers: Vec<Judged>,
}

/// Rows that are not tried in a sandbox of somebody else's, and why.
const OURS: &[(&str, &str)] = &[
    ("kernel.sweep", "asks whether calls are refused as our own list says"),
    ("processes.cgroup-name", "looks for a name that only our groups have"),
    ("network.gateway-port", "asks for the mark of our edge, which nobody else has"),
    ("network.low-port", "is about the ports of our warden, which nobody else has"),
];

/// Rows about directories that a policy shows its cell are not tried there, either.
const OFFERED: &str = "files.offered-";

/// Why a row is not tried in a sandbox of somebody else's.
pub(crate) fn ours(id: &str) -> Option<&'static str> {
    if id.starts_with(OFFERED) {
        return Some("is about a directory that nobody else is shown");
    }
    OURS.iter().find(|(row, _)| *row == id).map(|(_, why)| *why)
}
