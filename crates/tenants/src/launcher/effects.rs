//! What the launcher does to the machine, behind one trait, so that its decisions are tested without root.
//!
//! Whoever implements it owns system calls, cgroups and files; the recording double is in the tests. Nothing
//! here decides, and no path, uid or environment reaches it from a message: see `plan`.

use cofferdam_base::{
    Slot, TenantId,
    ipc::{
        launcher::{CellOrder, ExecOrder, Failure, Limits, Usage},
        receipt::Receipt,
    },
};
use std::{
    net::SocketAddr,
    os::fd::{BorrowedFd, OwnedFd},
};

/// One of our own processes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Tenants, policies, keys, API.
    Control,
    /// What clients talk to.
    Edge,
    /// The built-in model of `demo`.
    Model,
    /// One tenant's broker.
    Warden(TenantId, Slot),
}

/// A process, or a cell, that ends some time.
pub trait Process: std::fmt::Debug {
    /// Readable once it has ended.
    fn watch(&self) -> BorrowedFd<'_>;
    /// How it ended; none while it runs. Leaves nothing behind: no zombie, no cgroup.
    fn reap(&mut self) -> Option<Ended>;
    /// SIGKILL to all of it.
    fn kill(&mut self);
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this status.
    Exit(u8),
    /// By this signal.
    Signal(u8),
}

/// A cell that runs.
pub trait Cell: Process {
    /// SIGTERM to the runtime.
    fn terminate(&mut self);
    /// Tells every process of it to stand still; does not wait.
    fn freeze(&mut self) -> Result<(), Failure>;
    /// Waits until they do.
    fn frozen(&mut self) -> Result<(), Failure>;
    /// Marked, unconnected TCP sockets made in its network namespace.
    fn sockets(&mut self, count: u8) -> Result<Vec<OwnedFd>, Failure>;
    /// Holds it to other limits, all that can change while it runs or none; its receipt as it is then, and the
    /// names of those that hold from its next start.
    fn set_limits(
        &mut self,
        limits: &Limits,
        receipt: &Receipt,
    ) -> Result<(Receipt, Vec<&'static str>), Failure>;
    /// What it uses now.
    fn usage(&self) -> Usage;
    /// Duplicates of its listeners, in the order of `warden::Listener::ALL`, each proved to be the socket
    /// that was opened at the cell's start.
    fn listeners(&mut self) -> Result<Vec<OwnedFd>, Failure>;
}

/// A cell that has just been started.
#[derive(Debug)]
pub struct Launched<C> {
    /// The cell.
    pub cell: C,
    /// Host pid of its init.
    pub pid: u32,
    /// Its network namespace.
    pub netns_cookie: u64,
    /// Its runtime's port.
    pub port: u16,
    /// Which layers hold.
    pub receipt: Receipt,
    /// The reading end of its output.
    pub output: OwnedFd,
    /// Its configuration had been changed, and was written anew.
    pub drift: bool,
}

/// All that is done to the machine.
pub trait Effects {
    /// Control, edge, model or warden.
    type Part: Process;
    /// A cell.
    type Cell: Cell;
    /// A command in a cell.
    type Exec: Process;
    /// Work on files that takes its time; exit 0, or the errno.
    type Work: Process;

    /// Starts one of our own processes; `wire` becomes its descriptor 3.
    fn spawn(&mut self, part: &Part, wire: OwnedFd) -> Result<Self::Part, Failure>;
    /// Makes the tenant's directories, the home with a quota where one can be.
    fn make_home(&mut self, tenant: &TenantId, slot: Slot, limits: &Limits) -> Result<(), Failure>;
    /// Could the tenant's home be held to these limits?
    fn check_limits(&mut self, tenant: &TenantId, limits: &Limits) -> Result<(), Failure>;
    /// Begins to remove them and all that is in them.
    fn remove_home(&mut self, tenant: &TenantId, slot: Slot) -> Result<Self::Work, Failure>;
    /// Starts a cell.
    fn launch(&mut self, order: &CellOrder) -> Result<Launched<Self::Cell>, Failure>;
    /// Runs a command in a cell.
    fn exec(
        &mut self,
        cell: &mut Self::Cell,
        order: &ExecOrder,
        stdio: [OwnedFd; 3],
    ) -> Result<Self::Exec, Failure>;
    /// Opens a listening TCP socket of the host.
    fn listen(&mut self, address: SocketAddr) -> Result<OwnedFd, Failure>;
    /// Readable when a child has changed, be it one that this launcher knows or not.
    fn children(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    /// Reaps the children that have ended and that nobody knows.
    fn sweep(&mut self) {}
    /// Takes output of a cell for its log. Never waits.
    fn log(&mut self, tenant: &TenantId, bytes: &[u8]);
}

impl Ended {
    /// As an exec tells it: the status, or 128 + the signal.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Exit(status) => status,
            Self::Signal(signal) => signal.saturating_add(128),
        }
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exit(status) => write!(f, "exit {status}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

impl Part {
    /// Its name in logs and errors.
    pub fn name(&self) -> String {
        match self {
            Self::Control => "control".to_owned(),
            Self::Edge => "edge".to_owned(),
            Self::Model => "the built-in model".to_owned(),
            Self::Warden(tenant, _) => format!("the warden of {tenant}"),
        }
    }
}

/// A failure without a known mend.
pub(crate) fn failure(message: impl Into<String>) -> Failure {
    Failure { message: message.into(), mend: String::new() }
}
