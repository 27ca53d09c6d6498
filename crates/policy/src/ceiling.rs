//! Ceilings: what an operator denies to every tenant's policy, and where a policy exceeds that.
//!
//! A ceiling is a policy document of its own. What its rules deny stays denied, what they ask about is never
//! allowed without a person, requests that they judge are judged by both. What none of its rules names is the
//! tenant's own affair, unless its default is `deny`. The threat: a tenant's policy that opens what the operator
//! closed; so the two are joined in every verdict, and not only compared when a policy is set.

use crate::{
    Body, Document, Error, Judgement, Kind, Operation, Pattern, Policy, RequestFacts, Rule, RuleId, Verb,
    Verdict, condition::Globs, path::Segment,
};
use cofferdam_base::{Destination, Host, HostName, Protocol};
use serde::Serialize;
use std::{num::NonZeroU16, sync::Arc};

/// Rules of a ceiling are counted from here on; this number itself is its default.
pub(crate) const CEILING: u32 = 1 << 31;

/// A rule that says more than the ceiling lets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exceeds {
    /// The rule.
    pub rule: RuleId,
    /// Its line.
    pub line: u64,
    /// What decides instead, in words.
    pub ceiling: String,
    /// Does it come to nothing? Else it is limited.
    pub wholly: bool,
}

impl Policy {
    /// Parses a ceiling. Its rules are numbered apart from those of policies.
    pub fn ceiling(text: &str) -> Result<Self, Error> {
        let mut document = Document::parse(text)?;
        for rule in &mut document.rules {
            rule.id = RuleId(CEILING + rule.id.0);
        }
        Ok(Self::compile(document))
    }

    /// This policy, as far as a ceiling lets it.
    #[must_use]
    pub fn under(mut self, ceiling: Option<Arc<Self>>) -> Self {
        self.ceiling = ceiling;
        self
    }

    /// Is it a rule of the ceiling, or its default?
    pub const fn is_of_ceiling(rule: RuleId) -> bool {
        rule.0 >= CEILING
    }

    /// The rules that say more than the ceiling lets them. Found by trying what each rule speaks of; what a
    /// verdict comes to never depends on it.
    pub fn exceeding(&self) -> Vec<Exceeds> {
        let Some(ceiling) = &self.ceiling else { return Vec::new() };
        let opens = self.document().rules.iter().filter(|rule| rule.verb != Verb::Deny);
        opens.filter_map(|rule| ceiling.exceeded(rule)).collect()
    }

    fn exceeded(&self, rule: &Rule) -> Option<Exceeds> {
        let mut found: Vec<(bool, String)> = Vec::new();
        let probes = probes(rule);
        for probe in &probes {
            let (denied, by) = match &rule.request {
                None => (self.verdict(probe).verb() == Verb::Deny, self.verdict(probe).rule()),
                Some(_) => match self.judge(&facts(rule, probe)) {
                    Judgement::Clear(verdict) => (verdict.verb() == Verb::Deny, verdict.rule()),
                    Judgement::Unclear { .. } => (false, None),
                },
            };
            let less = match self.verdict(probe) {
                Verdict::Ask { rule: Some(by) } if rule.verb == Verb::Allow => Some(by),
                Verdict::Inspect { rule: by } if rule.request.is_none() => Some(by),
                _ => None,
            };
            if denied || less.is_some() {
                found.push((denied, self.decider(by.filter(|_| denied).or(less).or(Some(RuleId(CEILING))))));
            }
        }
        // Names within a wildcard that the ceiling takes out of it.
        let within =
            self.document().rules.iter().filter(|other| {
                other.verb != Verb::Allow && other.pattern != rule.pattern && other.meets(rule)
            });
        let limited: Vec<String> = within.map(|other| self.decider(Some(other.id))).collect();
        let wholly = !probes.is_empty() && found.iter().filter(|(denied, _)| *denied).count() == probes.len();
        let ceiling = found.into_iter().map(|(_, by)| by).chain(limited).next()?;
        Some(Exceeds { rule: rule.id, line: rule.line, ceiling, wholly })
    }

    /// What comes of a verdict of this policy under its ceiling's.
    pub(crate) fn lowered(own: Verdict, ceiling: Verdict) -> Verdict {
        match (own, ceiling) {
            (_, Verdict::Deny { rule, silent }) => {
                Verdict::Deny { rule: rule.or(Some(RuleId(CEILING))), silent }
            }
            (own @ Verdict::Deny { .. }, _) => own,
            (_, Verdict::Inspect { .. }) | (Verdict::Allow { .. }, Verdict::Ask { rule: Some(_) }) => ceiling,
            (own, Verdict::Allow { .. } | Verdict::Ask { .. }) => own,
        }
    }

    /// The same about one request: a denial first, then what is unclear.
    pub(crate) fn lowered_judgement(own: Judgement, ceiling: Judgement) -> Judgement {
        let denied = |judgement| matches!(judgement, Judgement::Clear(Verdict::Deny { .. }));
        match (own, ceiling) {
            (Judgement::Clear(own), Judgement::Clear(ceiling)) => {
                Judgement::Clear(Self::lowered(own, ceiling))
            }
            (Judgement::Unclear { .. }, Judgement::Clear(Verdict::Deny { rule, silent })) => {
                Judgement::Clear(Verdict::Deny { rule: rule.or(Some(RuleId(CEILING))), silent })
            }
            (own, Judgement::Unclear { .. }) if denied(own) => own,
            (_, ceiling @ Judgement::Unclear { .. }) => ceiling,
            (own, _) => own,
        }
    }
}

/// Destinations of which the rule speaks: one of its hosts at each of its ports.
fn probes(rule: &Rule) -> Vec<Destination> {
    let host = match &rule.pattern {
        Pattern::Exact(host) => Some(host.clone()),
        Pattern::Wildcard(base) => HostName::try_from(format!("any-name-of-it.{base}")).ok().map(Host::Name),
    };
    let Some(host) = host else { return Vec::new() };
    let general: Vec<NonZeroU16> = [443, 80].into_iter().filter_map(NonZeroU16::new).collect();
    let ports = rule.ports.as_ref().map_or(general, |ports| ports.iter().copied().collect());
    let protocols = rule.protocol.map_or(vec![Protocol::Https, Protocol::Http], |protocol| vec![protocol]);
    let pairs = ports.iter().flat_map(|port| protocols.iter().map(move |protocol| (*port, *protocol)));
    pairs.map(|(port, protocol)| Destination { host: host.clone(), port, protocol }).collect()
}

/// A request of which the rule speaks, as far as its head says.
fn facts(rule: &Rule, destination: &Destination) -> RequestFacts {
    let request = rule.request.clone().unwrap_or_default();
    let segments = request.path.iter().flat_map(|path| &path.segments);
    let path: Vec<String> = segments
        .map(|segment| match segment {
            Segment::Literal(text) => text.clone(),
            Segment::Fits(glob) => glob.to_string().replace('*', "any"),
            Segment::Any | Segment::Run => "any-segment".to_owned(),
        })
        .collect();
    let one = |globs: &Globs| globs.iter().next().map(|glob| glob.to_string().replace('*', "any"));
    let path = match &request.grpc {
        None => path,
        Some(it) => {
            [&it.services, &it.methods].map(|globs| one(globs).unwrap_or_else(|| "any".into())).to_vec()
        }
    };
    let body = match (&request.calls, &request.graphql) {
        (None, None) => Body::None,
        (None, Some(it)) => Body::Operations(vec![Operation {
            kind: it.kinds.first().copied().unwrap_or(Kind::Query),
            name: one(&it.names),
            fields: [one(&it.fields).unwrap_or_else(|| "any".into())].into(),
            source: "".into(),
        }]),
        (Some(calls), _) => Body::Calls(vec![crate::Call {
            method: one(&calls.methods),
            tool: one(&calls.tools),
            arguments: serde_json::Map::new(),
            params: serde_json::Value::Null,
        }]),
    };
    RequestFacts {
        destination: destination.clone(),
        method: request.methods.iter().flatten().next().cloned().unwrap_or_else(|| "GET".to_owned()),
        target: format!("/{}", path.join("/")),
        headers: request.headers.into_iter().collect(),
        websocket: request.websocket,
        grpc: request.grpc.is_some(),
        body,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const CEILING_TEXT: &str = "version: 2\nrules:\n  - deny: \"*.pastes.example\"\n  - ask: pay.example\n  - deny: code.example\n    method: DELETE\n";
    const TENANT: &str = "version: 2\nrules:\n  - allow: a.pastes.example\n  - allow: pay.example\n  - allow: code.example\n  - allow: code.example\n    method: DELETE\n    path: /x\n  - allow: free.example\n";

    fn under(ceiling: &str) -> Policy {
        Policy::parse(TENANT).unwrap().under(Some(Arc::new(Policy::ceiling(ceiling).unwrap())))
    }

    fn to(host: &str) -> Destination {
        let host = Host::Name(host.parse().unwrap());
        Destination { host, port: 443.try_into().unwrap(), protocol: Protocol::Https }
    }

    fn request(method: &str) -> RequestFacts {
        RequestFacts {
            destination: to("code.example"),
            method: method.into(),
            target: "/x".into(),
            headers: vec![],
            websocket: false,
            grpc: false,
            body: Body::None,
        }
    }

    #[test]
    fn what_the_ceiling_denies_stays_denied_and_the_rest_is_the_tenants() {
        let policy = under(CEILING_TEXT);
        let said =
            |host| (policy.verdict(&to(host)).verb(), policy.decider(policy.verdict(&to(host)).rule()));
        let (verb, by) = said("a.pastes.example");
        assert!(verb == Verb::Deny && by.starts_with("ceiling rule 1 (line 3): deny"), "{by}");
        let (verb, by) = said("pay.example");
        assert!(verb == Verb::Ask && by.starts_with("ceiling rule 2"), "{by}");
        assert_eq!(said("free.example").0, Verb::Allow);
        let judged = |method: &str| policy.judge(&request(method));
        assert!(
            matches!(judged("DELETE"), Judgement::Clear(Verdict::Deny { rule: Some(RuleId(id)), .. }) if id == CEILING + 3)
        );
        assert!(matches!(judged("GET"), Judgement::Clear(Verdict::Allow { rule: RuleId(3) })));
        assert_eq!(policy.inspection(&to("code.example")), crate::Inspection::Heads);
        let closed = under("version: 1\ndefault: deny\nrules:\n  - allow: pay.example\n");
        assert_eq!(closed.verdict(&to("pay.example")).verb(), Verb::Allow);
        let verdict = closed.verdict(&to("free.example"));
        assert_eq!(
            (verdict.verb(), closed.decider(verdict.rule()).as_str()),
            (Verb::Deny, "ceiling default")
        );
        // What the tenant's own policy denies no ceiling opens.
        assert_eq!(closed.verdict(&to("else.example")).verb(), Verb::Deny);
    }

    #[test]
    fn a_rule_that_exceeds_the_ceiling_is_named_with_what_decides_instead() {
        let found = under(CEILING_TEXT).exceeding();
        let found: Vec<_> = found.iter().map(|it| (it.rule.0, it.wholly, it.ceiling.as_str())).collect();
        let [(1, true, one), (2, false, two), (3, false, three), (4, true, four)] = found[..] else {
            panic!("{found:?}")
        };
        assert!(
            one.contains("rule 1")
                && two.contains("rule 2")
                && three.contains("rule 3")
                && four.contains("rule 3")
        );
        let closed = under("version: 1\ndefault: deny\n").exceeding();
        assert!(closed.len() == 5 && closed.iter().all(|it| it.wholly && it.ceiling == "ceiling default"));
        assert!(Policy::parse(TENANT).unwrap().exceeding().is_empty());
    }
}
