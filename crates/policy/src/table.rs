//! From rules about requests to trees in which the rules that could speak of one request are a few look-ups
//! away, however many there are.
//!
//! By host, port and protocol to a tree of path segments; there by method; there by one exact value that the
//! rule wants: a tool, a call's method, a query parameter. Only rules that agree in all of these are walked.
//! What stops requests has a tree of its own, folded to lower case.

use crate::{
    Pattern, Rule, Verb,
    compile::Winner,
    condition::{Condition, Head, Said},
    glob::Glob,
    path::{Segment, Template},
    rule::parent,
};
use cofferdam_base::{Destination, Host, Protocol};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    num::NonZeroU16,
};

/// Every rule about requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    exact: HashMap<Host, BTreeMap<At, Place>>,
    /// By the name after the first label.
    wildcards: HashMap<Box<str>, BTreeMap<At, Place>>,
}

/// A port and a protocol; none: every.
type At = (Option<NonZeroU16>, Option<Protocol>);

/// What is said of requests to one place.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    allow: Node,
    stop: Node,
    /// The strongest rule of all.
    pub(crate) strongest: Option<Winner>,
    /// Does a rule let a request through, or ask about one?
    pub(crate) opens: bool,
    /// A rule that speaks of targets.
    pub(crate) target: Option<Winner>,
    /// A rule that speaks of methods.
    pub(crate) method: Option<Winner>,
    /// A rule that speaks of bodies.
    pub(crate) body: Option<Winner>,
    /// Does a rule speak of GraphQL?
    pub(crate) graphql: bool,
}

#[derive(Clone, Debug, Default)]
struct Node {
    literal: HashMap<Box<str>, Node>,
    globs: Vec<(Glob, Node)>,
    any: Option<Box<Node>>,
    /// What follows a run of segments.
    run: Option<Box<Node>>,
    here: Leaf,
    rest: Leaf,
}

/// The rules of one path, by method.
#[derive(Clone, Debug, Default)]
struct Leaf {
    any: Tail,
    methods: HashMap<Box<str>, Tail>,
}

/// The rules of one path and method. Lists begin with the strongest.
#[derive(Clone, Debug, Default)]
struct Tail {
    plain: Option<Winner>,
    keyed: HashMap<Key, Vec<Entry>>,
    others: Vec<Entry>,
    /// What stops calls, and what stops operations of GraphQL, that nobody can read.
    hidden_calls: Hidden,
    hidden_operations: Hidden,
    /// The strongest rule that needs the body.
    body: Option<Winner>,
}

/// Rules that stop what cannot be read: the strongest without more conditions, and the others.
#[derive(Clone, Debug, Default)]
struct Hidden {
    plain: Option<Winner>,
    more: Vec<Entry>,
}

/// One exact value that a request must have for a rule to speak of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Tool(String),
    Call(String),
    Query(String, String),
    /// A root field of GraphQL.
    Field(String),
    /// A method of gRPC.
    Grpc(String),
}

#[derive(Clone, Debug)]
struct Entry {
    winner: Winner,
    condition: Condition,
}

impl Table {
    pub(crate) fn insert(&mut self, rule: &Rule, condition: &Condition) {
        let winner = Winner::of(rule);
        let places = match &rule.pattern {
            Pattern::Exact(host) => self.exact.entry(host.clone()).or_default(),
            Pattern::Wildcard(base) => self.wildcards.entry(base.as_str().into()).or_default(),
        };
        let ports: BTreeSet<Option<NonZeroU16>> = rule
            .ports
            .as_ref()
            .map_or_else(|| BTreeSet::from([None]), |ports| ports.iter().copied().map(Some).collect());
        for port in ports {
            places.entry((port, rule.protocol)).or_default().insert(winner, condition);
        }
    }

    /// The places whose rules could speak of this destination; at most eight.
    pub(crate) fn places(&self, destination: &Destination) -> Vec<&Place> {
        let Destination { host, port, protocol } = destination;
        if *protocol == Protocol::Tcp {
            return Vec::new();
        }
        let found = match host {
            Host::Address(address) => [self.exact.get(&Host::Address(address.to_canonical())), None],
            Host::Name(name) => {
                let wild = parent(name.as_str()).and_then(|base| self.wildcards.get(base));
                [self.exact.get(host), wild]
            }
        };
        let keys =
            [(Some(*port), Some(*protocol)), (Some(*port), None), (None, Some(*protocol)), (None, None)];
        found.into_iter().flatten().flat_map(|places| keys.iter().filter_map(|key| places.get(key))).collect()
    }
}

impl Place {
    fn insert(&mut self, winner: Winner, condition: &Condition) {
        stronger(&mut self.strongest, winner);
        self.opens |= winner.verb != Verb::Deny;
        for (slot, speaks) in [
            (&mut self.target, condition.needs_target()),
            (&mut self.method, condition.methods.is_some()),
            (&mut self.body, condition.needs_body()),
        ] {
            if speaks {
                stronger(slot, winner);
            }
        }
        self.graphql |= condition.graphql.is_some();
        let folded = winner.verb != Verb::Allow;
        let mut node = if folded { &mut self.stop } else { &mut self.allow };
        let mut rest = true;
        if let Some(Template { segments, rest: open, .. }) = &condition.path {
            for segment in segments {
                node = node.child(segment, folded);
            }
            rest = *open;
        }
        let leaf = if rest { &mut node.rest } else { &mut node.here };
        match &condition.methods {
            None => leaf.any.insert(winner, condition),
            Some(methods) => {
                for method in methods {
                    let method = if folded { method.to_ascii_uppercase() } else { method.clone() };
                    leaf.methods.entry(method.into()).or_default().insert(winner, condition);
                }
            }
        }
    }

    /// The strongest rule that speaks of this request. `steps` counts what was looked at.
    pub(crate) fn winner(&self, head: Head<'_>, said: Said<'_>, steps: &mut usize) -> Option<Winner> {
        let mut best = None;
        self.tails(head, steps, &mut |tail, verb, steps| {
            if let Some(winner) = tail.winner(head, said, verb, steps) {
                stronger(&mut best, winner);
            }
        });
        best
    }

    /// The strongest rule that fits method and path and needs the body.
    pub(crate) fn needs_body(&self, head: Head<'_>) -> Option<Winner> {
        let mut needed = None;
        self.tails(head, &mut 0, &mut |tail, _, _| {
            if let Some(winner) = tail.body {
                stronger(&mut needed, winner);
            }
        });
        needed
    }

    fn tails(&self, head: Head<'_>, steps: &mut usize, visit: &mut dyn FnMut(&Tail, Verb, &mut usize)) {
        let empty = Vec::new();
        let path = head.target.map_or(&empty, |target| &target.segments);
        let method = &head.facts.method;
        self.allow.leaves(path, false, steps, &mut |leaf, steps| {
            leaf.tails(method).for_each(|tail| visit(tail, Verb::Allow, steps));
        });
        let capitals =
            method.bytes().any(|byte| byte.is_ascii_lowercase()).then(|| method.to_ascii_uppercase());
        self.stop.leaves(path, true, steps, &mut |leaf, steps| {
            leaf.tails(capitals.as_ref().unwrap_or(method)).for_each(|tail| visit(tail, Verb::Deny, steps));
        });
    }
}

impl Node {
    fn child(&mut self, segment: &Segment, folded: bool) -> &mut Self {
        match segment {
            Segment::Any => self.any.get_or_insert_default(),
            Segment::Run => self.run.get_or_insert_default(),
            Segment::Literal(text) => {
                let text = if folded { text.to_ascii_lowercase() } else { text.clone() };
                self.literal.entry(text.into()).or_default()
            }
            Segment::Fits(glob) => {
                let glob = if folded { glob.folded() } else { glob.clone() };
                let at = self.globs.iter().position(|(known, _)| *known == glob).unwrap_or_else(|| {
                    self.globs.push((glob, Self::default()));
                    self.globs.len() - 1
                });
                &mut self.globs[at].1
            }
        }
    }

    /// Visits what the path leads to. `folded`: the tree is of small letters, and the path is read so.
    fn leaves(
        &self,
        path: &[String],
        folded: bool,
        steps: &mut usize,
        visit: &mut dyn FnMut(&Leaf, &mut usize),
    ) {
        *steps += 1;
        visit(&self.rest, steps);
        if let Some(child) = &self.run {
            (0..=path.len()).for_each(|skipped| child.leaves(&path[skipped..], folded, steps, visit));
        }
        let Some((first, rest)) = path.split_first() else { return visit(&self.here, steps) };
        let capitals = folded && first.bytes().any(|byte| byte.is_ascii_uppercase());
        let small = capitals.then(|| first.to_ascii_lowercase());
        let first = small.as_ref().unwrap_or(first);
        if let Some(child) = self.literal.get(first.as_str()) {
            child.leaves(rest, folded, steps, visit);
        }
        if let Some(child) = &self.any {
            child.leaves(rest, folded, steps, visit);
        }
        for (glob, child) in &self.globs {
            *steps += 1;
            if glob.matches(first) {
                child.leaves(rest, folded, steps, visit);
            }
        }
    }
}

impl Leaf {
    fn tails(&self, method: &str) -> impl Iterator<Item = &Tail> {
        std::iter::once(&self.any).chain(self.methods.get(method))
    }
}

impl Tail {
    fn insert(&mut self, winner: Winner, condition: &Condition) {
        if condition.needs_body() {
            stronger(&mut self.body, winner);
        }
        if !condition.has_more() && !condition.needs_body() {
            return stronger(&mut self.plain, winner);
        }
        let folded = winner.verb != Verb::Allow;
        let entry = Entry { winner, condition: condition.clone() };
        for (hidden, speaks) in [
            (&mut self.hidden_calls, condition.calls.is_some()),
            (&mut self.hidden_operations, condition.graphql.is_some()),
        ] {
            match folded && speaks {
                true if condition.has_more() => sorted(&mut hidden.more, entry.clone()),
                true => stronger(&mut hidden.plain, winner),
                false => {}
            }
        }
        let keys = keys(condition, folded);
        if keys.is_empty() {
            return sorted(&mut self.others, entry);
        }
        for key in keys {
            sorted(self.keyed.entry(key).or_default(), entry.clone());
        }
    }

    fn winner(&self, head: Head<'_>, said: Said<'_>, verb: Verb, steps: &mut usize) -> Option<Winner> {
        // What opens a path opens no WebSocket there: after the upgrade nobody sees what is asked for.
        let mut best = self.plain.filter(|_| verb != Verb::Allow || !head.facts.websocket);
        let mut first = |entries: &[Entry]| {
            for entry in entries {
                *steps += 1;
                if entry.condition.more_matches(head, said, entry.winner.verb) {
                    return stronger(&mut best, entry.winner);
                }
            }
        };
        first(&self.others);
        if !self.keyed.is_empty() {
            let fold =
                |text: &str| if verb == Verb::Allow { text.to_owned() } else { text.to_ascii_lowercase() };
            if let Said::Call(call) = said {
                let tool = call.tool.as_deref().map(|tool| Key::Tool(fold(tool)));
                let method = call.method.as_deref().map(|method| Key::Call(fold(method)));
                for key in tool.iter().chain(&method) {
                    first(self.keyed.get(key).map_or(&[], Vec::as_slice));
                }
            }
            if let Said::Operation(operation) | Said::Asked(operation) = said {
                for field in &operation.fields {
                    first(self.keyed.get(&Key::Field(fold(field))).map_or(&[], Vec::as_slice));
                }
            }
            if let Some([_, method]) = head.target.map(|target| target.segments.as_slice()) {
                first(self.keyed.get(&Key::Grpc(fold(method))).map_or(&[], Vec::as_slice));
            }
            for (name, value) in head.target.iter().flat_map(|target| &target.query) {
                let key = Key::Query(fold(name), fold(value));
                first(self.keyed.get(&key).map_or(&[], Vec::as_slice));
            }
        }
        let hides =
            [(&self.hidden_calls, said.hides_calls()), (&self.hidden_operations, said.hides_operations())];
        for (hidden, _) in hides.into_iter().filter(|(_, hides)| *hides) {
            first(&hidden.more);
        }
        for (hidden, _) in hides.into_iter().filter(|(_, hides)| *hides) {
            if let Some(winner) = hidden.plain {
                stronger(&mut best, winner);
            }
        }
        best
    }
}

/// The exact values of which a request must have one for the condition to hold; none: there are no such.
fn keys(condition: &Condition, folded: bool) -> Vec<Key> {
    let literals = |globs: &BTreeSet<Glob>| -> Option<Vec<String>> {
        globs.iter().map(|glob| glob.literal().map(str::to_owned)).collect()
    };
    let fold = |text: String| if folded { text.to_ascii_lowercase() } else { text };
    if let Some(calls) = &condition.calls {
        for (globs, key) in [(&calls.tools, Key::Tool as fn(String) -> Key), (&calls.methods, Key::Call)] {
            if let Some(texts) = literals(globs).filter(|texts| !texts.is_empty()) {
                return texts.into_iter().map(fold).map(key).collect();
            }
        }
    }
    let keyed = [
        (condition.graphql.as_ref().map(|it| &it.fields), Key::Field as fn(String) -> Key),
        (condition.grpc.as_ref().map(|it| &it.methods), Key::Grpc),
    ];
    for (globs, key) in keyed {
        if let Some(texts) = globs.and_then(literals).filter(|texts| !texts.is_empty()) {
            return texts.into_iter().map(fold).map(key).collect();
        }
    }
    for (name, globs) in &condition.query {
        if let Some(values) = literals(globs) {
            let name = fold(name.clone());
            return values.into_iter().map(|value| Key::Query(name.clone(), fold(value))).collect();
        }
    }
    Vec::new()
}

pub(crate) fn stronger(slot: &mut Option<Winner>, winner: Winner) {
    if slot.is_none_or(|there| winner.rank > there.rank) {
        *slot = Some(winner);
    }
}

fn sorted(entries: &mut Vec<Entry>, entry: Entry) {
    let at = entries.partition_point(|there| there.winner.rank > entry.winner.rank);
    entries.insert(at, entry);
}
