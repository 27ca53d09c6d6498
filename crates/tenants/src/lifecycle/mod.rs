//! The life of one tenant as a pure machine: what is wanted, what is known, and what to do next.
//!
//! [`step`] has no I/O and no clock. Control's reconciler hands it events and the time, journals the new
//! state and carries out the effects; each effect that is a launcher command comes back as
//! [`Event::Done`] or [`Event::Failed`]. Three promises are model-checked below: a cell is never started
//! before its warden is configured, never twice, and never while its last proof bars it.
//!
//! It owns no probe, no wire and no storage, and it knows nothing of policies.

mod drive;
mod retry;
#[cfg(test)]
mod tests;

pub use retry::Retry;

use cofferdam_base::Millis;
use serde::{Deserialize, Serialize};

/// What somebody asked for. Deleted is for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// Cell and warden run.
    Running,
    /// Neither runs; the home is kept.
    Stopped,
    /// The kill switch: no warden runs and nothing is started; the launcher has frozen or killed the cell.
    Killed,
    /// Neither runs and the home is gone.
    Deleted,
}

/// What is known of the home directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Home {
    /// Not looked at since control started.
    Unknown,
    /// `MakeHome` is under way.
    Making,
    /// It is there.
    Present,
    /// `RemoveHome` is under way.
    Removing,
    /// It is gone for ever.
    Removed,
    /// It is gone for ever, and the store was told to forget the tenant.
    Forgotten,
}

/// What is known of the warden.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Warden {
    /// There is none.
    Absent,
    /// `StartWarden` is under way.
    Starting,
    /// It runs, and was sent nothing yet.
    Started,
    /// It was sent its snapshot (policy, keys, grants, `Ready`) and has not reported it in force.
    Configuring,
    /// It enforces the policy.
    Configured,
    /// It runs, and control cannot talk to it any more: it is to be stopped.
    Broken,
    /// `StopWarden` is under way.
    Stopping,
}

/// What is known of the cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cell {
    /// There is none.
    Absent,
    /// `StartCell` is under way.
    Starting,
    /// It runs.
    Started,
    /// It runs, and its runtime is probed.
    Probing,
    /// Its runtime answers.
    Ready {
        /// Since when.
        since: Millis,
    },
    /// `StopCell` is under way.
    Stopping,
}

/// All that the machine knows of one tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TenantState {
    /// What somebody asked for.
    pub desired: Desired,
    /// Has the launcher told what runs? Nothing is done before.
    pub observed: bool,
    /// The home directory.
    pub home: Home,
    /// The warden.
    pub warden: Warden,
    /// The cell.
    pub cell: Cell,
    /// The number of the last start of the cell, 0 before the first. To be durable before the effect
    /// [`Effect::StartCell`] that bears it.
    pub generation: u64,
    /// The cell is to be stopped and started anew, once.
    pub restart: bool,
    /// Failures of cell and home since the cell was last ready for long.
    pub cell_retry: Retry,
    /// Failures of the warden since it was last configured.
    pub warden_retry: Retry,
    /// Failures of stopping and removing. These are never given up.
    pub undo_retry: Retry,
    /// What went wrong last, for a person; empty after all went well.
    pub trouble: String,
    /// Starting was given up, because of `trouble`, until somebody asks again.
    pub failed: bool,
    /// Its last proof found what escapes: no cell is started. One that runs goes on.
    pub barred: bool,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Somebody wants this. Asking for what is already wanted clears a failure. What was killed and is to run
    /// does so in a cell of its own making, never in the one that stood still.
    Want(Desired),
    /// Somebody wants the cell stopped and started anew; implies `Want(Running)`.
    Restart,
    /// A proof found what escapes, or found nothing any more.
    Barred(bool),
    /// The launcher told what runs (`Command::Observe`, sent once, before all else). `cell` is the
    /// generation of the running cell.
    Observed { warden: bool, cell: Option<u64> },
    /// The launcher did it. For [`Action::StartCell`] its word for that is `CellStarted`.
    Done(Action),
    /// The launcher could not; the text is for a person.
    Failed(Action, String),
    /// The warden has reported its policy in force and was sent `Ready`.
    WardenConfigured,
    /// The warden refused its configuration.
    WardenRefused(String),
    /// The launcher says that the warden is gone without having been asked to.
    WardenEnded,
    /// The warden's wire ended or broke the protocol, or [`Effect::ConfigureWarden`] found no wire, and the
    /// launcher has not said that it is gone.
    WardenLost,
    /// The cell of this generation is gone, asked for or not. The text is its wait status.
    CellEnded { generation: u64, status: String },
    /// The runtime of this generation answered its readiness probe.
    CellReady { generation: u64 },
    /// The runtime of this generation did not answer in time.
    CellNotReady { generation: u64 },
    /// The moment of an [`Effect::WakeAt`] has come.
    Woken,
}

/// The commands of the launcher that the machine uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// `Command::MakeHome`.
    MakeHome,
    /// `Command::RemoveHome`.
    RemoveHome,
    /// `Command::StartWarden`.
    StartWarden,
    /// `Command::StopWarden`.
    StopWarden,
    /// `Command::StartCell`.
    StartCell,
    /// `Command::StopCell`.
    StopCell,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Have the launcher do this. Never `StartCell`, which is an effect of its own.
    Launch(Action),
    /// Have the launcher start the cell with this generation, journaled first.
    StartCell { generation: u64 },
    /// Send the warden its whole snapshot and wait for its report.
    ConfigureWarden,
    /// Probe this generation's runtime until it answers or the runtime's patience ends.
    Probe { generation: u64 },
    /// Send [`Event::Woken`] at this moment. A later one replaces an earlier.
    WakeAt(Millis),
    /// Nothing is left of the tenant: strike it from the store.
    Forget,
}

/// The state in one word, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Neither cell nor warden runs, as asked.
    Stopped,
    /// On the way to running.
    Starting,
    /// The runtime answers and the warden enforces the policy.
    Running,
    /// The runtime answers, and all its egress is denied: the warden is not there yet.
    Degraded,
    /// On the way to stopped.
    Stopping,
    /// Starting was given up.
    Failed,
    /// Ended by the kill switch; a frozen cell may stand there still.
    Killed,
    /// On the way to gone.
    Deleting,
    /// Gone.
    Deleted,
}

/// Takes one event at one moment: the new state and what is to be done, in this order.
#[must_use]
pub fn step(state: &TenantState, event: Event, now: Millis) -> (TenantState, Vec<Effect>) {
    let mut next = state.clone();
    next.take(event, now);
    let effects = next.drive(now);
    (next, effects)
}

impl TenantState {
    /// What control knows when it starts, or when the tenant is created (then with generation 0): what is
    /// wanted, and the number of the last start. Nothing happens before [`Event::Observed`].
    #[must_use]
    pub fn new(desired: Desired, generation: u64) -> Self {
        Self {
            desired,
            observed: false,
            home: Home::Unknown,
            warden: Warden::Absent,
            cell: Cell::Absent,
            generation,
            restart: false,
            cell_retry: Retry::default(),
            warden_retry: Retry::default(),
            undo_retry: Retry::default(),
            trouble: String::new(),
            failed: false,
            barred: false,
        }
    }

    /// The state in one word.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match (self.desired, self.cell, self.warden) {
            (Desired::Deleted, ..) if matches!(self.home, Home::Removed | Home::Forgotten) => Phase::Deleted,
            (Desired::Deleted, ..) => Phase::Deleting,
            (Desired::Stopped, Cell::Absent, Warden::Absent) => Phase::Stopped,
            (Desired::Stopped, ..) => Phase::Stopping,
            (Desired::Killed, ..) => Phase::Killed,
            (Desired::Running, Cell::Absent, _) if self.failed || self.barred => Phase::Failed,
            (Desired::Running, Cell::Ready { .. }, Warden::Configured) => Phase::Running,
            (Desired::Running, Cell::Ready { .. }, _) => Phase::Degraded,
            (Desired::Running, ..) => Phase::Starting,
        }
    }
}

impl Phase {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Degraded => "degraded",
            Self::Stopping => "stopping",
            Self::Failed => "failed",
            Self::Killed => "killed",
            Self::Deleting => "deleting",
            Self::Deleted => "deleted",
        }
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
