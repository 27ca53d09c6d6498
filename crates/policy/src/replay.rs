//! Recorded requests judged by another policy, as far as what is recorded tells.
//!
//! It owns what is recorded of a request, and says of each replay whether the record is enough. The threat: a draft that
//! seems to change nothing, because what it asks about was not recorded; that is told apart and never guessed.

use crate::{
    Body, Call, Judgement, Kind, Operation, Policy, RequestFacts, Rule, Verb, Verdict,
    condition::{Condition, Head, units},
    graphql::Asked,
    path::Target,
};
use cofferdam_base::{
    Destination,
    ipc::seen::{Seen, SeenBody},
};
use serde_json::{Map, Value};
use std::io;

/// More, in bytes of JSON, is not recorded: whoever sends much must not fill the day's room for its own records.
const LONGEST: usize = 2048;

impl RequestFacts {
    /// What of it goes into records; none if that is too much.
    pub fn seen(&self) -> Option<Seen> {
        let Self { destination: _, method, target, headers, websocket, grpc, body } = self;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        // What has no `=` may be a value as well.
        let name = |pair: &str| pair.split_once('=').map_or_else(String::new, |(name, _)| name.to_owned());
        let query: Vec<String> = query.split('&').filter(|pair| !pair.is_empty()).map(name).collect();
        let body = match body {
            Body::None => SeenBody::None,
            Body::Unread => SeenBody::Unread,
            Body::Other => SeenBody::Other,
            Body::Calls(all) => {
                SeenBody::Calls(all.iter().map(|it| (it.method.clone(), it.tool.clone())).collect())
            }
            Body::Operations(all) => SeenBody::Operations(
                all.iter()
                    .map(|it| {
                        (it.kind.as_str().to_owned(), it.name.clone(), it.fields.iter().cloned().collect())
                    })
                    .collect(),
            ),
        };
        let seen = Seen {
            method: method.clone(),
            path: path.to_owned(),
            query,
            headers: headers.clone(),
            websocket: *websocket,
            grpc: *grpc,
            body,
        };
        is_short(&seen).then_some(seen)
    }
}

fn is_short(seen: &Seen) -> bool {
    if is_surely_short(seen) {
        return true;
    }
    let mut left = Left(LONGEST);
    serde_json::to_writer(&mut left, seen).is_ok()
}

/// The same, seen at a glance; false may be wrong. A byte of a text is six of JSON at most.
fn is_surely_short(seen: &Seen) -> bool {
    const REST: usize = 256;
    let Seen { method, path, query, headers, websocket: _, grpc: _, body } = seen;
    let listed = query.iter().chain(headers).map(|text| text.len() + 1);
    let bytes = method.len() + path.len() + listed.sum::<usize>();
    matches!(body, SeenBody::None | SeenBody::Unread | SeenBody::Other) && 6 * bytes + REST <= LONGEST
}

/// Writes nothing, and fails where so much is written.
struct Left(usize);

impl io::Write for Left {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A request with what is recorded of it, and nothing where that was not.
fn facts(destination: &Destination, seen: &Seen) -> RequestFacts {
    let Seen { method, path, query, headers, websocket, grpc, body } = seen.clone();
    let body = match body {
        SeenBody::None => Body::None,
        SeenBody::Unread => Body::Unread,
        SeenBody::Other => Body::Other,
        SeenBody::Calls(all) => Body::Calls(
            all.into_iter()
                .map(|(method, tool)| Call { method, tool, arguments: Map::new(), params: Value::Null })
                .collect(),
        ),
        SeenBody::Operations(all) => Body::Operations(
            all.into_iter()
                .map(|(kind, name, fields)| Operation {
                    // A kind of another program's making counts as the one that is stopped most.
                    kind: Kind::parse(&kind).unwrap_or(Kind::Mutation),
                    name,
                    fields: fields.into_iter().collect(),
                    source: "".into(),
                })
                .collect(),
        ),
    };
    let names: Vec<String> = query.iter().map(|name| format!("{name}=")).collect();
    let target = if names.is_empty() { path } else { format!("{path}?{}", names.join("&")) };
    RequestFacts { destination: destination.clone(), method, target, headers, websocket, grpc, body }
}

impl Policy {
    /// What this policy says of a request of which so much is recorded; none: that depends on what is not.
    pub fn replay(&self, destination: &Destination, seen: &Seen) -> Option<Judgement> {
        let facts = facts(destination, seen);
        let own = self.replay_alone(&facts);
        let Some(ceiling) = &self.ceiling else { return own };
        match (own, ceiling.replay_alone(&facts)) {
            (Some(own), Some(ceiling)) => Some(Self::lowered_judgement(own, ceiling)),
            // What either denies is denied, whatever the other says.
            (None, known @ Some(Judgement::Clear(Verdict::Deny { .. })))
            | (known @ Some(Judgement::Clear(Verdict::Deny { .. })), None) => known,
            _ => None,
        }
    }

    fn replay_alone(&self, facts: &RequestFacts) -> Option<Judgement> {
        let target = Target::parse(&facts.target).ok();
        let head = Head { facts, target: target.as_ref() };
        let unknown = |rule: &Rule| {
            let there = self.is_live(rule) && rule.place_matches(&facts.destination);
            rule.request.as_ref().filter(|_| there).is_some_and(|it| may_speak(it, head, rule.verb))
        };
        let known = self.judge_among(facts, &|rule| !unknown(rule)).0;
        let open: Vec<Verb> =
            self.document().rules.iter().filter(|rule| unknown(rule)).map(|rule| rule.verb).collect();
        let says = match known {
            // Nothing beats a denial, and what is ambiguous is refused before any of it is looked at.
            Judgement::Clear(Verdict::Deny { rule: Some(_), .. }) | Judgement::Unclear { .. } => {
                return Some(known);
            }
            Judgement::Clear(verdict) => verdict.verb(),
        };
        // One more that says the same changes nothing, whether it speaks or not.
        open.iter().all(|verb| *verb == says).then_some(known)
    }
}

/// Does it depend on what is not recorded whether this speaks?
fn may_speak(condition: &Condition, head: Head<'_>, verb: Verb) -> bool {
    let mut rest = condition.clone();
    let mut open = false;
    let asked = |name: &String| {
        let is_it = |given: &str| given.is_empty() || given.eq_ignore_ascii_case(name);
        head.target.is_some_and(|it| it.query.iter().any(|(given, _)| is_it(given)))
    };
    // A parameter that is not there speaks for nothing; one that is may have had any value.
    if !rest.query.is_empty() && rest.query.keys().all(asked) {
        rest.query.clear();
        open = true;
    }
    if let Some(calls) = &mut rest.calls
        && !calls.arguments.is_empty()
        && matches!(head.facts.body, Body::Calls(_))
    {
        calls.arguments.clear();
        open = true;
    }
    let unread = head.facts.body == Body::Unread;
    let in_target =
        head.facts.body == Body::None && head.facts.target.contains('?') && rest.graphql.is_some();
    if rest.needs_body() && (unread || in_target) {
        (rest.calls, rest.graphql) = (None, None);
        open = true;
    }
    let speaks = |said| rest.matches(head, said, verb);
    open && units(&head.facts.body, &Asked::Nothing).into_iter().any(speaks)
}

#[cfg(test)]
mod tests;
