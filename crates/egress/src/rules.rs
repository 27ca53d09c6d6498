//! Policy and guard as one voice: what is said about a destination before anybody is asked.

use crate::Refusal;
use cofferdam_base::Destination;
use cofferdam_policy::{CheckedAddress, Guard, Policy, Reason, Verdict};
use std::net::IpAddr;

/// The policy in force and the guard beside it.
#[derive(Debug)]
pub struct Rules {
    /// The tenant's policy.
    pub policy: Policy,
    /// What no policy opens.
    pub guard: Guard,
}

/// What is said about a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// Let it through.
    Allow {
        /// The rule that says so.
        by: String,
    },
    /// Refuse it.
    Deny(Refusal),
    /// Ask a person.
    Ask {
        /// The rule, or `default`, that says so.
        why: String,
    },
}

impl Rules {
    /// The guard first: what it refuses nobody is asked about.
    pub fn judge(&self, destination: &Destination) -> Ruling {
        if let Err(refusal) = self.guard.check_host(&destination.host) {
            return Ruling::Deny(Refusal::new(refusal.code, "guard"));
        }
        match self.policy.verdict(destination) {
            Verdict::Allow { rule } => Ruling::Allow { by: self.policy.decider(Some(rule)) },
            Verdict::Ask { rule } => Ruling::Ask { why: self.policy.decider(rule) },
            Verdict::Deny { rule, silent } => {
                let reason = if rule.is_some() { Reason::DeniedByRule } else { Reason::NoRule };
                let said = rule.and_then(|id| self.policy.rule(id)).and_then(|rule| rule.reason.clone());
                let mut refusal = Refusal::new(reason, self.policy.decider(rule));
                refusal.said = said.unwrap_or_default();
                refusal.silent = silent;
                Ruling::Deny(refusal)
            }
        }
    }

    /// Judges one resolved address.
    pub fn check(&self, address: IpAddr) -> Result<CheckedAddress, Refusal> {
        self.guard.check(address).map_err(|refusal| Refusal::new(refusal.code, "guard"))
    }
}
