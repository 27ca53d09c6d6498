//! Placeholders in what is forwarded, plain or inspected: what is said of one in the wrong place, or of an answer
//! that could hide its secret.

use crate::{
    Egress, Refusal,
    credentials::{Blocked, Credentials, Newer, Spotted},
};
use cofferdam_base::Destination;
use cofferdam_policy::Reason;
use std::sync::Arc;

impl Egress {
    /// What is in force for one request, and the place for what is found in its body, which is recorded at once.
    pub(crate) fn spotted(&self, destination: &Destination) -> (Arc<Credentials>, Spotted) {
        let credentials = self.credentials();
        let (gate, known) = (Arc::clone(&self.gate), Arc::clone(&credentials));
        let destination = destination.clone();
        let spotted = Spotted::new(move |found: &str| {
            gate.refuse(Some(&destination), elsewhere(known.in_body(found)));
        });
        (credentials, spotted)
    }

    /// What is covered of this destination's answers once that is something else than now.
    pub(crate) fn newer(self: &Arc<Self>, now: Arc<Credentials>, destination: &Destination) -> Newer {
        let (egress, destination, mut last) = (Arc::downgrade(self), destination.clone(), now);
        Box::new(move || {
            let now = egress.upgrade()?.credentials();
            if Arc::ptr_eq(&now, &last) {
                return None;
            }
            last = now;
            Some(last.patterns(&destination))
        })
    }
}

/// A placeholder where its secret is not bound.
pub(crate) fn elsewhere(blocked: Blocked) -> Refusal {
    let Blocked { secret, place } = blocked;
    let by = secret.map_or_else(|| "placeholder".to_owned(), |name| format!("secret {name}"));
    tracing::warn!(by, place, "a placeholder was sent where its secret is not bound");
    Refusal::new(Reason::PlaceholderElsewhere, by).said(format!("it stands in {place}"))
}

/// An answer in which a secret that it reflects could not be covered.
pub(crate) fn unreadable(by: &str) -> Refusal {
    let said = "its answer is compressed, and could not be read for secrets";
    Refusal::new(Reason::ConnectFailed, by).said(said)
}
