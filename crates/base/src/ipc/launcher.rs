//! Control ⇄ launcher.
//!
//! Commands carry ids, digests and numbers, never a path, uid, mount or environment: the launcher builds
//! the launch plan from its own configuration. Only [`ExecOrder`] carries an argument vector; it runs
//! after the seal.

use super::{kill::Severed, receipt::Receipt};
use crate::{
    Certificate, Digest, Slot, TenantId,
    binding::{FileName, Variable, placeholder},
    canary::Like,
};
use serde::{Deserialize, Serialize};

/// Control's number for one command; the answer bears it. Never 0.
pub type Op = u64;

/// Control → launcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Tell what runs. Answered by [`Event::Observed`]. Before that answer the launcher introduces every
    /// living warden again ([`Event::WardenWire`]) and the edge ([`Event::EdgeWire`]).
    Observe { op: Op },
    /// Make the tenant's home directory, owned by its uid, if it is not there; of the limits those of bytes and
    /// inodes count. Answered by `Done`.
    MakeHome { op: Op, tenant: TenantId, slot: Slot, limits: Limits },
    /// Remove the tenant's home directory and all in it. Refused while its cell runs. Answered by `Done`.
    RemoveHome { op: Op, tenant: TenantId, slot: Slot },
    /// Start a warden. Answered by [`Event::WardenWire`] and then `Done`.
    StartWarden { op: Op, tenant: TenantId, slot: Slot },
    /// Kill a warden. Answered by `Done` once it is reaped.
    StopWarden { op: Op, tenant: TenantId },
    /// Start a cell. Its warden must run. Answered by [`Event::CellStarted`] or `Failed`.
    StartCell(CellOrder),
    /// SIGTERM to the runtime, after `grace_ms` SIGKILL to all. Answered by `Done` once nothing is left.
    StopCell { op: Op, tenant: TenantId, grace_ms: u32 },
    /// Kill every process of the cell now. Answered by `Done` once nothing is left.
    KillCell { op: Op, tenant: TenantId },
    /// The kill switch: freeze the cell, or kill it if it cannot be frozen, cut every connection in and out, and
    /// start nothing of the tenant before [`Command::Resume`]. Answered by [`Event::Severed`].
    Kill { op: Op, tenant: TenantId, reason: String },
    /// The same, but for the warden, which has yet to tell what its cell did. Answered by [`Event::Severed`].
    Freeze { op: Op, tenant: TenantId, reason: String },
    /// Take [`Command::Kill`] back: a frozen cell is killed, and another may start. Answered by `Done` at once.
    Resume { op: Op, tenant: TenantId },
    /// Hold the tenant to other limits: its cell, if it runs, to those that can change in one that runs. Answered
    /// by [`Event::LimitsSet`]; after `Failed` the old ones hold.
    SetLimits { op: Op, tenant: TenantId, limits: Limits },
    /// Tell what the cell uses. Answered by [`Event::Measured`], or `Failed` if none runs.
    Measure { op: Op, tenant: TenantId },
    /// Run a command in the cell under its seal. Three descriptors: stdin, stdout, stderr. Answered by
    /// [`Event::ExecEnded`] or `Failed`.
    Exec(ExecOrder),
    /// Kill what an exec started. Answered, under the exec's own op, by [`Event::ExecEnded`].
    CancelExec { op: Op, exec: Op },
    /// Complete the package lifecycle of a staged runtime in a cell without network, then seal it.
    /// Answered by `Done`.
    SealRuntime { op: Op, lock: Digest },
}

/// What a cell is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellOrder {
    /// The command's number.
    pub op: Op,
    /// Whose cell.
    pub tenant: TenantId,
    /// From which uids follow.
    pub slot: Slot,
    /// Counts this tenant's starts, from 1; tells a socket of this start from one of an earlier.
    pub generation: u64,
    /// What runs in it.
    pub runtime: RuntimeRef,
    /// What it may use.
    pub limits: Limits,
    /// The authority under which its warden inspects TLS, for it to trust.
    pub authority: Option<Certificate>,
    /// Placeholders of secrets that it sees. Whatever is named here, what is put there is a digest.
    #[serde(default)]
    pub placeholders: Vec<Placeholder>,
    /// Directories that it sees read-only, by the names under which the launcher's own configuration offers them.
    #[serde(default)]
    pub offered: Vec<FileName>,
}

/// Where a cell sees what it is offered, each by its name.
pub const OFFERED: &str = "/offered";
/// A cell sees at most so many.
pub const MOST_OFFERED: usize = 16;

/// A placeholder that a cell sees: names of which nothing that acts on them can be one, and a digest. The launcher
/// makes the text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placeholder {
    /// From which its text follows.
    pub digest: Digest,
    /// The variable of the runtime's environment.
    pub env: Option<Variable>,
    /// The file below [`crate::binding::PLACEHOLDERS`], or below [`crate::canary::CANARIES`].
    pub file: Option<FileName>,
    /// It is no placeholder but a canary that looks like this.
    #[serde(default)]
    pub canary: Option<Like>,
}

impl Placeholder {
    /// The text that the cell sees.
    #[must_use]
    pub fn text(&self) -> String {
        self.canary.map_or_else(|| placeholder(&self.digest), |like| like.text(&self.digest))
    }
}

/// What runs in a cell, by a name that the launcher resolves on its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RuntimeRef {
    /// The entry `[runtime.command.<name>]` of `cofferdam.toml`.
    Command(String),
    /// An installed OpenClaw, by the digest of its lock.
    Openclaw(Digest),
    /// The gateway that is in this program.
    Native,
}

/// What a cell may use. Defaults are those of the design.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of memory, page cache and `/tmp` included.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub pids: u32,
    /// Hundredths of one core.
    pub cpu_percent: u32,
    /// Bytes of `/tmp`.
    pub tmp_bytes: u64,
    /// Open files a process.
    pub open_files: u32,
    /// Bytes a second read from the disk, and as many written to it.
    pub io_bytes: u64,
    /// Bytes of `/sandbox`, what its file system takes for itself included.
    pub disk_bytes: u64,
    /// Files, directories and links of `/sandbox`.
    pub inodes: u64,
}

impl Limits {
    /// No cell can do with less of any.
    pub const LEAST: Self = Self {
        memory_bytes: 16 << 20,
        pids: 8,
        cpu_percent: 1,
        tmp_bytes: 1 << 20,
        open_files: 64,
        io_bytes: 1 << 20,
        disk_bytes: 64 << 20,
        inodes: 1 << 10,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 1 << 30,
            pids: 512,
            cpu_percent: 200,
            tmp_bytes: 256 << 20,
            open_files: 4096,
            io_bytes: 256 << 20,
            disk_bytes: 4 << 30,
            inodes: (4 << 30) / BYTES_AN_INODE,
        }
    }
}

/// A home has one inode for so many of its bytes, unless somebody asked for another number.
pub const BYTES_AN_INODE: u64 = 16 << 10;

/// A home has at most one inode for so many of its bytes.
pub const LEAST_BYTES_AN_INODE: u64 = 1 << 10;

/// What a cell uses now; none where nothing counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Usage {
    /// Bytes of memory, page cache and `/tmp` included.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Milliseconds of CPU time since its start.
    pub cpu_ms: Option<u64>,
    /// Bytes of `/sandbox`, what its file system takes for itself included.
    pub disk_bytes: Option<u64>,
    /// Files, directories and links of `/sandbox`.
    pub inodes: Option<u64>,
}

/// A command to run in a cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecOrder {
    /// The command's number.
    pub op: Op,
    /// Whose cell.
    pub tenant: TenantId,
    /// Program (looked up on the cell's PATH) and arguments; never empty.
    pub argv: Vec<String>,
    /// The three descriptors are one terminal, which becomes the command's controlling terminal.
    pub terminal: bool,
}

/// Launcher → control.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// The command took effect.
    Done { op: Op },
    /// The command had no effect.
    Failed { op: Op, failure: Failure },
    /// The answer to [`Command::Observe`].
    Observed { op: Op, cells: Vec<CellSeen>, wardens: Vec<TenantId> },
    /// A cell runs, sealed; its runtime has been started (not: is ready). `drift`: its configuration had been
    /// changed, and was written anew before the start.
    CellStarted { op: Op, cell: CellSeen, receipt: Receipt, drift: bool },
    /// The answer to [`Command::SetLimits`]: the seal of the running cell as it is now, none if none runs; and which
    /// limits, by name, hold from its next start only.
    LimitsSet { op: Op, receipt: Option<Receipt>, later: Vec<String> },
    /// The answer to [`Command::Measure`].
    Measured { op: Op, usage: Usage },
    /// The answer to [`Command::Kill`].
    Severed { op: Op, severed: Severed },
    /// The operator had the launcher itself kill this tenant, or all; to be made durable. Told again before each
    /// [`Event::Observed`].
    Killed { tenant: Option<TenantId>, reason: String },
    /// A cell is gone, asked for or not. `status` is the runtime's wait status as text, `exit 0` or `signal 9`.
    CellEnded { tenant: TenantId, generation: u64, status: String },
    /// A warden's wire to control. One descriptor: the socket.
    WardenWire { tenant: TenantId },
    /// A warden is gone without having been asked to. Control decides whether to start another.
    WardenEnded { tenant: TenantId },
    /// The edge's wire to control. One descriptor: the socket. The launcher restarts the edge by itself.
    EdgeWire {},
    /// An exec ended. `code` is the exit status, or 128 + the signal.
    ExecEnded { op: Op, code: u8 },
}

/// A running cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellSeen {
    /// Whose.
    pub tenant: TenantId,
    /// Which start.
    pub generation: u64,
    /// Host pid of its init.
    pub pid: u32,
    /// `SO_NETNS_COOKIE` of its network namespace.
    pub netns_cookie: u64,
    /// The runtime's port on the cell's 127.0.0.1.
    pub port: u16,
}

/// Why a command had no effect, for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// What happened, with the layer, path and errno where there are such.
    pub message: String,
    /// What to do or type next; empty if nothing is known.
    pub mend: String,
}
