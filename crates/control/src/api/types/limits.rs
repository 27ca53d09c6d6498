//! What a tenant may use, as somebody asks for it and as it is answered.
//!
//! Shapes only, like all of [`super`]. The threat: a limit that a typing error leaves as it was; unknown names are
//! refused.

use cofferdam_base::ipc::launcher::Limits;
use serde::{Deserialize, Serialize};

/// The limits that somebody asked for, one by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WantedLimits {
    /// Bytes of memory, page cache and `/tmp` included.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u32>,
    /// Hundredths of one core.
    pub cpu_percent: Option<u32>,
    /// Bytes of `/tmp`, a part of the memory.
    pub tmp_bytes: Option<u64>,
    /// Open files a process.
    pub open_files: Option<u32>,
    /// Bytes a second read from the disk, and as many written to it.
    pub io_bytes: Option<u64>,
    /// Bytes of `/sandbox`.
    pub disk_bytes: Option<u64>,
    /// Files, directories and links of `/sandbox`; by default as many for its bytes as before.
    pub inodes: Option<u64>,
}

/// Limits were changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsSet {
    /// All of them, as they are kept.
    pub limits: Limits,
    /// Those that changed and hold in the running cell.
    pub in_force: Vec<String>,
    /// Those that changed and hold from the next start.
    pub at_next_start: Vec<String>,
    /// Those that changed and do not matter now: the policy leaves less.
    #[serde(default)]
    pub policy_says_less: Vec<String>,
}
