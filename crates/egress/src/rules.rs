//! Policy and guard as one voice: what is said about a destination before anybody is asked.

use crate::{
    Refusal,
    check::{Check, keeps},
};
use cofferdam_base::{Destination, Host, Millis};
use cofferdam_policy::{
    Budget, CheckedAddress, Guard, Judgement, Policy, Reason, RequestFacts, RuleId, Verdict,
};
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
        /// How much may go there.
        budget: Option<Budget>,
    },
    /// Judge each of its requests, and refuse what cannot be looked into. Never of a request.
    Inspect {
        /// The strongest rule about them.
        by: String,
    },
    /// Refuse it.
    Deny(Refusal),
    /// Ask a person.
    Ask {
        /// The rule, or `default`, that says so.
        why: String,
        /// Is it a rule, and not the default?
        by_rule: bool,
    },
}

impl Rules {
    /// The same rules without those that have expired by now.
    #[must_use]
    pub fn at(&self, now: Millis) -> Self {
        Self { policy: self.policy.at(now), guard: self.guard.clone() }
    }

    /// The guard first: what it refuses nobody is asked about.
    pub fn judge(&self, destination: &Destination) -> Ruling {
        if keeps(Check::GuardFirst)
            && let Err(refusal) = self.guard.check_host(&destination.host)
        {
            return Ruling::Deny(Refusal::new(refusal.code, "guard"));
        }
        self.ruling(self.policy.verdict(destination))
    }

    /// The same about one request: the guard first, then all that policy says of it.
    pub fn judge_request(&self, facts: &RequestFacts) -> Ruling {
        if keeps(Check::GuardFirst)
            && let Err(refusal) = self.guard.check_host(&facts.destination.host)
        {
            return Ruling::Deny(Refusal::new(refusal.code, "guard"));
        }
        match self.policy.judge(facts) {
            Judgement::Clear(verdict) => match self.ruling(verdict) {
                Ruling::Ask { why, by_rule } => {
                    Ruling::Ask { why: format!("{why}: {}", facts.summary()), by_rule }
                }
                ruling => ruling,
            },
            Judgement::Unclear { reason, rule } => {
                Ruling::Deny(Refusal::new(reason, self.policy.decider(Some(rule))))
            }
        }
    }

    fn ruling(&self, verdict: Verdict) -> Ruling {
        match verdict {
            Verdict::Allow { rule } => Ruling::Allow {
                by: self.policy.decider(Some(rule)),
                budget: self.policy.rule(rule).and_then(|rule| rule.budget),
            },
            Verdict::Inspect { rule } => Ruling::Inspect { by: self.policy.decider(Some(rule)) },
            Verdict::Ask { rule } => Ruling::Ask { why: self.policy.decider(rule), by_rule: rule.is_some() },
            Verdict::Deny { rule, silent } => Ruling::Deny(self.denial(rule, silent)),
        }
    }

    /// Does the rule that decides about this destination say that nobody looks into its TLS?
    pub fn never_inspects(&self, destination: &Destination) -> bool {
        let rule = self.policy.verdict(destination).rule();
        rule.and_then(|id| self.policy.rule(id)).is_some_and(|rule| rule.opaque)
    }

    fn denial(&self, rule: Option<RuleId>, silent: bool) -> Refusal {
        let reason = match rule {
            Some(rule) if Policy::is_of_ceiling(rule) => Reason::AboveCeiling,
            Some(_) => Reason::DeniedByRule,
            None => Reason::NoRule,
        };
        let said = rule.and_then(|id| self.policy.rule(id)).and_then(|rule| rule.reason.clone());
        let mut refusal = Refusal::new(reason, self.policy.decider(rule));
        refusal.said = said.unwrap_or_default();
        refusal.silent = silent;
        refusal
    }

    /// Judges one resolved address of a destination: by the guard, and by the rules that deny it as an
    /// address. A rule that allows or asks about an address says nothing about a name.
    pub fn check(&self, destination: &Destination, address: IpAddr) -> Result<CheckedAddress, Refusal> {
        let checked = self.check_address(address)?;
        let resolved = Destination { host: Host::Address(address), ..destination.clone() };
        if keeps(Check::AddressRules)
            && let Verdict::Deny { rule: Some(rule), silent } = self.policy.verdict(&resolved)
            && self.policy.rule(rule).is_some()
        {
            return Err(self.denial(Some(rule), silent));
        }
        Ok(checked)
    }

    /// Judges one resolved address by the guard alone.
    pub fn check_address(&self, address: IpAddr) -> Result<CheckedAddress, Refusal> {
        self.guard.check(address).map_err(|refusal| Refusal::new(refusal.code, "guard"))
    }
}
