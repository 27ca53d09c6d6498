//! Why a verdict is what it is: every rule walked in order, which of them spoke, and which won.

use crate::{Inspection, Judgement, Policy, RequestFacts, RuleId, Verb, Verdict};
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
    /// Is each request judged by itself?
    pub requests: bool,
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
    /// Walks all rules about connections; slower than [`Policy::verdict`] and always of its opinion. Where
    /// requests are judged, the answer is which rule about connections decides what no rule about requests does.
    pub fn explain(&self, destination: &Destination) -> Explanation {
        let live = self.document().rules.iter().filter(|rule| self.is_live(rule));
        let winner = live.clone().filter(|rule| rule.matches(destination)).max_by_key(|rule| rule.rank());
        let about: Vec<_> =
            live.filter(|rule| rule.request.is_some() && rule.place_matches(destination)).collect();
        let verdict = winner.map_or(self.default_verdict().verb(), |rule| rule.verb);
        let denied = winner.is_some_and(|rule| rule.verb == Verb::Deny);
        let opens = verdict != Verb::Deny || about.iter().any(|rule| rule.verb != Verb::Deny);
        let requests = !denied && opens && !about.is_empty();
        let speaks = |rule: &crate::Rule| rule.matches(destination);
        let mut explanation = self.explained(destination, winner.map(|rule| rule.id), verdict, &speaks);
        explanation.requests = requests;
        explanation
    }

    /// The same about one request, and which reason it is refused for if it is ambiguous.
    pub fn explain_request(&self, facts: &RequestFacts) -> (Explanation, Judgement) {
        let (judgement, spoke) = self.judge_linear(facts);
        let (rule, verb) = match judgement {
            Judgement::Clear(verdict) => (verdict.rule(), verdict.verb()),
            Judgement::Unclear { rule, .. } => (Some(rule), Verb::Deny),
        };
        let speaks = |rule: &crate::Rule| rule.matches(&facts.destination) || spoke.contains(&rule.id);
        let mut explanation = self.explained(&facts.destination, rule, verb, &speaks);
        explanation.requests = self.inspection(&facts.destination) != Inspection::Opaque;
        (explanation, judgement)
    }

    fn explained(
        &self,
        destination: &Destination,
        winner: Option<RuleId>,
        verdict: Verb,
        speaks: &dyn Fn(&crate::Rule) -> bool,
    ) -> Explanation {
        let considered = self.document().rules.iter().map(|rule| {
            let won = winner == Some(rule.id);
            let matched = won || speaks(rule) && self.is_live(rule);
            let why = if won && rule.verb == Verb::Deny {
                "decided: a denial beats everything"
            } else if won {
                "decided"
            } else if !self.is_live(rule) {
                "expired"
            } else if matched {
                "overruled by a stronger rule"
            } else if !rule.pattern.matches(&destination.host) {
                "another host"
            } else if rule.ports.as_ref().is_some_and(|ports| !ports.contains(&destination.port)) {
                "another port"
            } else if rule.protocol.is_some_and(|protocol| protocol != destination.protocol) {
                "another protocol"
            } else {
                "about other requests"
            };
            Considered { rule: rule.id, text: rule.to_string(), matched, won, why }
        });
        Explanation {
            destination: destination.clone(),
            verdict,
            rule: winner,
            reason: winner.and_then(|id| self.rule(id)).and_then(|rule| rule.reason.clone()),
            requests: false,
            considered: considered.collect(),
        }
    }
}

impl Explanation {
    /// Is this the explanation of that verdict?
    pub fn agrees_with(&self, verdict: Verdict) -> bool {
        match verdict {
            Verdict::Inspect { .. } => self.requests,
            verdict => !self.requests && (self.verdict, self.rule) == (verdict.verb(), verdict.rule()),
        }
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
        if self.requests {
            f.write_str("\n  each request is judged by itself")?;
        }
        for considered in self.considered.iter().filter(|considered| !considered.won) {
            write!(f, "\n  {}: {}", considered.text, considered.why)?;
        }
        Ok(())
    }
}
