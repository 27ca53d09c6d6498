//! Launcher ⇄ init: the private messages by which a cell is built.
//!
//! Both ends are this binary; init reads its orders before it is sealed, and afterwards only one word.

use crate::{CellPlan, error::LayerFailure, proof::Findings};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Launcher → init.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// The first message. `network` is the cookie of the one that is ready, if it was born into one. Descriptors: the
    /// seccomp programs, and `tasks` of the version 1 groups.
    Build { plan: Box<CellPlan>, network: Option<u64>, mounts: Vec<Mount>, links: Vec<Link> },
    /// The second. Descriptors (as root): the mounts in order.
    Root {},
    /// From outside the cell holds: start the runtime once it holds from inside.
    Start {},
    /// SIGTERM to the runtime.
    Terminate {},
}

/// A link in the new root, and what it says.
pub(crate) type Link = (PathBuf, PathBuf);

/// A mount of the new root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mount {
    pub(crate) source: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) kind: Kind,
}

/// What a mount may be used for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// Of the host, links followed: read and execute.
    Host,
    /// A device file of the host.
    Device,
    /// Of ours: read and execute.
    ReadOnly,
    /// Of the operator's, apart from this path: read and execute.
    Offered(PathBuf),
    /// Of ours: read and write.
    ReadWrite,
}

/// Init → launcher.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The cell is built and will now be sealed. If init made a network, its cookie; then descriptors: the six
    /// listeners, and the socket that made the capture, if there is one.
    Built { netns_cookie: Option<u64> },
    /// The runtime has been executed, after it and init found this of the cell's layers.
    Running { findings: Findings },
    /// A layer failed; init ends.
    Failed(LayerFailure),
    /// The runtime ended. `code` is its exit status, or 128 + the signal.
    Ended { status: String, code: u8 },
}
