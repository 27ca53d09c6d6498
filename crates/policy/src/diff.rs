//! What a policy makes reachable, and what a change of policy changes about that.

use crate::{Default, Pattern, Policy, Rule, RuleId, Verb};
use cofferdam_base::{Destination, Host, Protocol};
use serde::Serialize;
use std::num::NonZeroU16;

/// Something that a cell reaches without being asked: one line of `policy show --effective`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reachable {
    /// The host, as the rule writes it.
    pub host: String,
    /// The port.
    pub port: NonZeroU16,
    /// What may be spoken.
    pub protocol: Protocol,
    /// The rule that opens it.
    pub rule: RuleId,
    /// Its line.
    pub line: u64,
    /// Why, in its author's words.
    pub reason: Option<String>,
    /// Which requests alone; none: all that is not excepted.
    pub requests: Option<String>,
    /// Rules that take single names out of a wildcard, or requests out of all.
    pub except: Vec<Exception>,
}

/// A name within a wildcard that is not simply allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exception {
    /// The name, with the requests if it is not all of them.
    pub host: String,
    /// What happens to it instead.
    pub verdict: Verb,
    /// By which rule.
    pub rule: RuleId,
}

/// What a new policy changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// Reachable now and not before, or with fewer exceptions than before.
    pub opened: Vec<Reachable>,
    /// Reachable before and not now, or with more exceptions than before.
    pub closed: Vec<Reachable>,
    /// Denials, questions and terms that are new, in words.
    pub added: Vec<String>,
    /// Denials, questions and terms that are gone, in words.
    pub removed: Vec<String>,
    /// The default before and now, if it changed.
    pub default: Option<(Default, Default)>,
}

impl Policy {
    /// Everything that a cell reaches without being asked.
    pub fn effective(&self) -> Vec<Reachable> {
        let rules = &self.document().rules;
        let mut found = Vec::new();
        for rule in rules.iter().filter(|rule| rule.verb == Verb::Allow && self.is_live(rule)) {
            for port in rule.ports.iter().flatten() {
                // Every allow has a protocol: the parser saw to that.
                let Some(protocol) = rule.protocol else { continue };
                found.extend(self.reachable(rule, *port, protocol));
            }
        }
        found
    }

    /// What `new` changes, seen from this policy.
    pub fn diff(&self, new: &Self) -> Diff {
        let (before, now) = (self.effective(), new.effective());
        let key = |r: &Reachable| {
            let except: Vec<_> = r.except.iter().map(|e| (e.host.clone(), e.verdict)).collect();
            (r.host.clone(), r.port, r.protocol, r.requests.clone(), except)
        };
        let only = |these: &[Reachable], those: &[Reachable]| {
            these.iter().filter(|r| !those.iter().any(|other| key(other) == key(r))).cloned().collect()
        };
        let texts = |policy: &Self| -> Vec<String> {
            let rules = policy.document().rules.iter().filter(|rule| rule.verb != Verb::Allow);
            // Without number and line: a rule that only moved did not change.
            let words = |rule: &Rule| rule.to_string().split_once("): ").map(|(_, text)| text.to_owned());
            let terms = policy.document().terms.lines();
            rules.filter_map(words).chain(terms).collect()
        };
        let (old_texts, new_texts) = (texts(self), texts(new));
        let defaults = (self.document().default, new.document().default);
        Diff {
            opened: only(&now, &before),
            closed: only(&before, &now),
            added: new_texts.iter().filter(|text| !old_texts.contains(text)).cloned().collect(),
            removed: old_texts.iter().filter(|text| !new_texts.contains(text)).cloned().collect(),
            default: (defaults.0 != defaults.1).then_some(defaults),
        }
    }

    /// The allow rule's line at one port, if the rule wins there.
    fn reachable(&self, rule: &Rule, port: NonZeroU16, protocol: Protocol) -> Option<Reachable> {
        let speaks = |other: &&Rule| {
            other.ports.as_ref().is_none_or(|ports| ports.contains(&port))
                && other.protocol.is_none_or(|spoken| spoken == protocol)
        };
        let live = |rule: &&Rule| self.is_live(rule);
        let rules = self.document().rules.iter().filter(live).filter(speaks);
        let to = |host: &Host| self.connection(&Destination { host: host.clone(), port, protocol });
        let connections = || rules.clone().filter(|other| other.request.is_none());
        let wins = match (&rule.pattern, &rule.request) {
            (Pattern::Exact(host), None) => to(host).is_some_and(|winner| winner.rule == rule.id),
            (Pattern::Exact(host), Some(_)) => to(host).is_none_or(|winner| winner.verb != Verb::Deny),
            (Pattern::Wildcard(_), request) => !connections().any(|other| {
                let stronger = request.is_none() || other.verb == Verb::Deny;
                other.pattern == rule.pattern && stronger && other.rank() > rule.rank()
            }),
        };
        let except = |host: &Host, other: &Rule| {
            let winner = to(host).filter(|winner| winner.rule == other.id && winner.verb != Verb::Allow);
            let winner = winner.filter(|_| rule.pattern.matches(host))?;
            Some(Exception { host: host.to_string(), verdict: winner.verb, rule: other.id })
        };
        let except =
            rules.clone().filter_map(|other| match (&rule.pattern, &other.pattern, &other.request) {
                (Pattern::Wildcard(_), Pattern::Exact(host), None) => except(host, other),
                (_, _, Some(request)) if other.verb != Verb::Allow && other.meets(rule) => {
                    let host = format!("{} {request}", other.pattern);
                    Some(Exception { host, verdict: other.verb, rule: other.id })
                }
                _ => None,
            });
        wins.then(|| Reachable {
            host: rule.pattern.to_string(),
            port,
            protocol,
            rule: rule.id,
            line: rule.line,
            reason: rule.reason.clone(),
            requests: rule.request.as_ref().map(ToString::to_string),
            except: except.collect(),
        })
    }
}
