//! Why a verdict is what it is: every rule walked in order, which of them spoke, and which won.

use crate::{Policy, RuleId, Verb, Verdict};
use cofferdam_base::Destination;
use serde::Serialize;
use std::fmt;

/// The answer to `policy explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// About what.
    pub destination: Destination,
    /// What policy says.
    pub verdict: Verb,
    /// The rule that decided; none: the default did.
    pub rule: Option<RuleId>,
    /// The deciding rule's own reason.
    pub reason: Option<String>,
    /// Every rule that was considered, in the document's order.
    pub considered: Vec<Considered>,
}

/// One rule's part in a verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Considered {
    /// Which rule.
    pub rule: RuleId,
    /// The rule in words.
    pub text: String,
    /// Does it speak about the destination?
    pub matched: bool,
    /// Did it decide?
    pub won: bool,
    /// Why it did or did not.
    pub why: &'static str,
}

impl Policy {
    /// Walks all rules; slower than [`Policy::verdict`] and always of its opinion.
    pub fn explain(&self, destination: &Destination) -> Explanation {
        let rules = &self.document().rules;
        let winner = rules.iter().filter(|rule| rule.matches(destination)).max_by_key(|rule| rule.rank());
        let considered = rules.iter().map(|rule| {
            let won = winner.is_some_and(|winner| winner.id == rule.id);
            let matched = rule.matches(destination);
            let why = if won && rule.verb == Verb::Deny {
                "decided: a denial beats everything"
            } else if won {
                "decided"
            } else if matched {
                "overruled by a stronger rule"
            } else if !rule.pattern.matches(&destination.host) {
                "another host"
            } else if rule.ports.as_ref().is_some_and(|ports| !ports.contains(&destination.port)) {
                "another port"
            } else {
                "another protocol"
            };
            Considered { rule: rule.id, text: rule.to_string(), matched, won, why }
        });
        Explanation {
            destination: destination.clone(),
            verdict: winner.map_or(self.default_verdict().verb(), |rule| rule.verb),
            rule: winner.map(|rule| rule.id),
            reason: winner.and_then(|rule| rule.reason.clone()),
            considered: considered.collect(),
        }
    }
}

impl Explanation {
    /// Is this the explanation of that verdict?
    pub fn agrees_with(&self, verdict: Verdict) -> bool {
        (self.verdict, self.rule) == (verdict.verb(), verdict.rule())
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} by ", self.destination, self.verdict)?;
        match self.considered.iter().find(|considered| considered.won) {
            Some(winner) => f.write_str(&winner.text)?,
            None => f.write_str("default, since no rule names it")?,
        }
        if let Some(reason) = &self.reason {
            write!(f, " ({reason})")?;
        }
        for considered in self.considered.iter().filter(|considered| !considered.won) {
            write!(f, "\n  {}: {}", considered.text, considered.why)?;
        }
        Ok(())
    }
}
