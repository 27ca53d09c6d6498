//! What leaves the gate: rows for the ledger, and what control must hear.

use cofferdam_base::{
    Destination, SecretName,
    ipc::{asked::RequestShown, seen::Seen, warden::RecordKind},
};
use futures_util::future::BoxFuture;

/// A row for the ledger, before it is numbered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What happened.
    pub what: RecordKind,
    /// To what.
    pub destination: Option<Destination>,
    /// What decided.
    pub by: String,
    /// The reason of a denial; of what was let through [`OPAQUE`], if nobody looks into it; else empty.
    pub reason: String,
    /// The request, where requests are seen, else empty.
    pub request: String,
    /// The same as rules see it, for who asks another policy about it.
    pub seen: Option<Box<Seen>>,
    /// How many alike.
    pub count: u32,
}

/// The word for a connection whose inside nobody sees: whatever its client sends is passed on.
pub const OPAQUE: &str = "opaque";

/// What the gate says to control.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Somebody must answer for this destination, which this request was the first to want.
    Ask { destination: Destination, why: String, request: Option<RequestShown> },
    /// Nothing is held for this destination any more, and nobody answered.
    HoldEnded(Destination),
    /// This once-grant is about to be used; to be answered by [`Gate::spent`].
    Spend(u64),
    /// A canary was about to be sent there, and the gate is closed for good.
    Tripped { canary: SecretName, destination: Destination },
}

/// Where rows and notices go.
pub trait Outlet: Send + Sync + std::fmt::Debug {
    /// Takes a row, and numbers it. None: it cannot be handed on, and what it describes must not be allowed.
    fn record(&self, row: Row) -> Option<u64>;
    /// Records a secret that goes there, borne by the request that was let through under the row of this number. False:
    /// it cannot be handed on, and the secret must not go out.
    fn record_use(&self, request: Option<u64>, destination: &Destination, name: &SecretName) -> bool;
    /// Is there no room for a row of what is let through?
    fn is_full(&self) -> bool {
        false
    }
    /// Waits until there is room for a row again; none if there is some, or no place to wait.
    fn room(&self) -> Option<BoxFuture<'_, ()>> {
        None
    }
    /// Passes a notice on. False: there is nobody to hear it now.
    fn tell(&self, notice: Notice) -> bool;
}
