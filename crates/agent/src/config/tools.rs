//! `tools`: what a model may call, and what commands may use.

use super::{Web, is_default};
use serde::{Deserialize, Serialize};

/// The section.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Tools {
    /// The web.
    #[serde(skip_serializing_if = "is_default")]
    pub web: Web,
    /// Commands.
    #[serde(skip_serializing_if = "is_default")]
    pub exec: Exec,
}

/// `tools.exec`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Exec {
    /// MiB of memory of its own that each process of a command may have. Not upstream's: it has no such cap.
    pub memory_mb: u64,
    /// A command makes no process if its cell has so many. Not upstream's either.
    pub processes: u64,
}

impl Default for Exec {
    fn default() -> Self {
        Self { memory_mb: 1024, processes: 256 }
    }
}

impl Tools {
    /// Is each value one that is known?
    pub(super) fn check(&self) -> Result<(), String> {
        if !(16..=1 << 20).contains(&self.exec.memory_mb) {
            return Err("tools.exec.memoryMb: 16 to 1048576".to_owned());
        }
        if !(8..=1 << 16).contains(&self.exec.processes) {
            return Err("tools.exec.processes: 8 to 65536".to_owned());
        }
        self.web.check()
    }
}
