//! Launcher ⇄ init: the private messages by which a cell is built.
//!
//! Both ends are this binary; init reads its orders before it is sealed, and afterwards only one word.

use crate::{CellPlan, error::LayerFailure, proof::Finding};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Launcher → init.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// The first message. Descriptors: the seccomp programs, and (as root) the mounts in order.
    Build { plan: Box<CellPlan>, mounts: Vec<Mount>, links: Vec<(PathBuf, PathBuf)> },
    /// What was built is here: seal, and prove it.
    Go {},
    /// The proof was good: start the runtime.
    Start {},
    /// SIGTERM to the runtime.
    Terminate {},
}

/// A mount of the new root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mount {
    pub(crate) source: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) kind: Kind,
}

/// What a mount may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// Of the host, links followed: read and execute.
    Host,
    /// A device file of the host.
    Device,
    /// Of ours: read and execute.
    ReadOnly,
    /// Of ours: read and write.
    ReadWrite,
}

/// Init → launcher.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The cell is built, not yet sealed. Descriptors if `netns_cookie` is set: the six listeners, and the
    /// socket that made the capture, if there is one.
    Built { netns_cookie: Option<u64> },
    /// Sealed; this is what a process sealed as the runtime will be found.
    Proved { findings: Vec<Finding> },
    /// The runtime has been executed.
    Running {},
    /// A layer failed; init ends.
    Failed(LayerFailure),
    /// The runtime ended. `code` is its exit status, or 128 + the signal.
    Ended { status: String, code: u8 },
}
