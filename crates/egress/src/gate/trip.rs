//! What is done about a value that was about to be sent; a canary closes the gate for good.

use super::{Gate, Notice, State};
use crate::{
    Refusal, Rules,
    check::{Check, keeps},
    hold::Wake,
    loss::Found,
};
use cofferdam_base::{Destination, SecretName};
use cofferdam_policy::Reason;
use std::sync::Arc;

impl Gate {
    /// A known value was about to be sent there. The refusal is not recorded yet; its client learns nothing but that
    /// something was blocked.
    pub(crate) fn leaks(&self, destination: &Destination, found: &Found) -> Refusal {
        let Found { name, canary } = found;
        if *canary && keeps(Check::CanaryTrips) {
            self.trip(name, destination);
        }
        let kind = if *canary { "canary" } else { "secret" };
        tracing::warn!(%name, kind, %destination, "a known value was about to be sent");
        Refusal::new(Reason::LossBlocked, format!("{kind} {name}"))
    }

    /// Closes everything, before anybody is told.
    fn trip(&self, canary: &SecretName, destination: &Destination) {
        let mut state = self.lock();
        state.tripped = true;
        for open in state.open.values() {
            open.withdrawal.now();
        }
        state.spending.clear();
        for held in state.holds.destinations() {
            state.holds.wake_all(&held, &Wake::Refuse(tripped()));
        }
        drop(state);
        self.outlet.tell(Notice::Tripped { canary: canary.clone(), destination: destination.clone() });
    }
}

impl State {
    /// The rules, as long as the cell may send anything at all.
    pub(super) fn standing(&self) -> Result<Arc<Rules>, Refusal> {
        if self.tripped {
            return Err(tripped());
        }
        self.in_force().ok_or_else(|| Refusal::new(Reason::NotReady, "warden"))
    }
}

fn tripped() -> Refusal {
    Refusal::new(Reason::LossBlocked, "canary")
}
