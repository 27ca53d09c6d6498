//! From rules to a table in which a verdict is a few look-ups, however many rules there are.
//!
//! Per host two look-ups find what its exact name and its wildcard say; in each of these a port's cell
//! already holds the one rule that wins there. The linear walk of `explain` is the oracle that tests hold
//! this table against.

use crate::{
    Default, Document, Error, Pattern, Rule, RuleId, Verb,
    ceiling::CEILING,
    rule::{Rank, parent},
    table::{Table, stronger},
};
use cofferdam_base::{Destination, Host, Millis, Protocol};
use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    num::NonZeroU16,
    sync::Arc,
};

/// A policy in force.
#[derive(Clone, Debug)]
pub struct Policy {
    document: Document,
    /// Its rules in the words of records.
    words: Vec<String>,
    names: HashMap<Box<str>, Cells>,
    wildcards: HashMap<Box<str>, Cells>,
    addresses: HashMap<IpAddr, Cells>,
    pub(crate) requests: Table,
    /// The moment for which it was compiled.
    at: Millis,
    expiry: Option<Millis>,
    /// What it cannot exceed.
    pub(crate) ceiling: Option<Arc<Self>>,
}

/// What policy says about a destination. `rule` is none where the document's default decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its requests are judged one by one: what cannot be looked into must be refused.
    Inspect {
        /// The strongest rule about its requests.
        rule: RuleId,
    },
    /// Let it through.
    Allow {
        /// The rule that decided; an allow is always a rule's.
        rule: RuleId,
    },
    /// Refuse it.
    Deny {
        /// The rule that decided.
        rule: Option<RuleId>,
        /// Make no noise about it.
        silent: bool,
    },
    /// Hold it and ask a person.
    Ask {
        /// The rule that decided.
        rule: Option<RuleId>,
    },
}

impl Policy {
    /// Parses and compiles a document.
    pub fn parse(text: &str) -> Result<Self, Error> {
        Document::parse(text).map(Self::compile)
    }

    /// Compiles a parsed document, as if no rule of it had expired.
    pub fn compile(document: Document) -> Self {
        Self::compile_at(document, Millis(0))
    }

    /// This policy as it is at a moment: without the rules that have expired by then.
    #[must_use]
    pub fn at(&self, now: Millis) -> Self {
        let ceiling = self.ceiling.as_ref().map(|ceiling| Arc::new(ceiling.at(now)));
        Self::compile_at(self.document.clone(), now).under(ceiling)
    }

    /// When the next of its rules expires: from then on [`Self::at`] gives another policy.
    pub fn next_expiry(&self) -> Option<Millis> {
        let ceiling = self.ceiling.as_ref().and_then(|ceiling| ceiling.expiry);
        self.expiry.into_iter().chain(ceiling).min()
    }

    /// Does the rule still speak?
    pub(crate) fn is_live(&self, rule: &Rule) -> bool {
        is_live(rule, self.at)
    }

    fn compile_at(document: Document, at: Millis) -> Self {
        let mut names: HashMap<Box<str>, Cells> = HashMap::new();
        let mut wildcards: HashMap<Box<str>, Cells> = HashMap::new();
        let mut addresses: HashMap<IpAddr, Cells> = HashMap::new();
        // Rules that name ports first, so that every port's cell is there when the others are laid over.
        let mut requests = Table::default();
        let live = || document.rules.iter().filter(|rule| is_live(rule, at));
        for rule in live() {
            if let Some(condition) = &rule.request {
                requests.insert(rule, condition);
            }
        }
        let (ported, general): (Vec<&Rule>, Vec<&Rule>) =
            live().filter(|rule| rule.request.is_none()).partition(|rule| rule.ports.is_some());
        for rule in ported.into_iter().chain(general) {
            let cells = match &rule.pattern {
                Pattern::Exact(Host::Name(name)) => names.entry(name.as_str().into()).or_default(),
                Pattern::Exact(Host::Address(address)) => addresses.entry(*address).or_default(),
                Pattern::Wildcard(base) => wildcards.entry(base.as_str().into()).or_default(),
            };
            cells.lay(rule);
        }
        let expiry = live().filter_map(|rule| rule.expires).min();
        let words = document.rules.iter().map(ToString::to_string).collect();
        Self { document, words, names, wildcards, addresses, requests, at, expiry, ceiling: None }
    }

    /// What policy says of a connection. About a literal address only exact rules speak; the guard judges it
    /// besides.
    pub fn verdict(&self, destination: &Destination) -> Verdict {
        let own = self.own_verdict(destination);
        match &self.ceiling {
            Some(ceiling) => Self::lowered(own, ceiling.own_verdict(destination)),
            None => own,
        }
    }

    fn own_verdict(&self, destination: &Destination) -> Verdict {
        let winner = self.connection(destination);
        let verdict = self.said(winner);
        if winner.is_some_and(|winner| winner.verb == Verb::Deny) {
            return verdict;
        }
        let places = self.requests.places(destination);
        let mut strongest = None;
        places.iter().filter_map(|place| place.strongest).for_each(|it| stronger(&mut strongest, it));
        let opens = verdict.verb() != Verb::Deny || places.iter().any(|place| place.opens);
        match strongest {
            Some(Winner { rule, .. }) if opens => Verdict::Inspect { rule },
            _ => verdict,
        }
    }

    /// The rule about connections that wins there.
    pub(crate) fn connection(&self, destination: &Destination) -> Option<Winner> {
        let cell = |cells: Option<&Cells>| cells.and_then(|cells| cells.winner(destination));
        match &destination.host {
            Host::Address(address) => cell(self.addresses.get(&address.to_canonical())),
            Host::Name(name) => {
                let exact = cell(self.names.get(name.as_str()));
                let wild = parent(name.as_str()).and_then(|parent| cell(self.wildcards.get(parent)));
                match (exact, wild) {
                    (Some(exact), Some(wild)) if wild.rank > exact.rank => Some(wild),
                    (exact, wild) => exact.or(wild),
                }
            }
        }
    }

    pub(crate) const fn said(&self, winner: Option<Winner>) -> Verdict {
        match winner {
            None => self.default_verdict(),
            Some(Winner { verb: Verb::Allow, rule, .. }) => Verdict::Allow { rule },
            Some(Winner { verb: Verb::Ask, rule, .. }) => Verdict::Ask { rule: Some(rule) },
            Some(Winner { verb: Verb::Deny, rule, silent, .. }) => Verdict::Deny { rule: Some(rule), silent },
        }
    }

    /// The document that this policy was compiled from.
    pub const fn document(&self) -> &Document {
        &self.document
    }

    /// The rule of this id, its own or its ceiling's.
    pub fn rule(&self, id: RuleId) -> Option<&Rule> {
        let (policy, at) = self.place(id)?;
        policy.document.rules.get(at)
    }

    /// Whose rule that is, and which of them.
    fn place(&self, id: RuleId) -> Option<(&Self, usize)> {
        let known = |document: &'_ Document| document.rules.first().is_some_and(|first| id >= first.id);
        let (policy, number) = match &self.ceiling {
            Some(ceiling) if id.0 >= CEILING => (&**ceiling, id.0 - CEILING),
            _ if id.0 >= CEILING && known(&self.document) => (self, id.0 - CEILING),
            _ => (self, id.0),
        };
        Some((policy, usize::try_from(number).ok()?.checked_sub(1)?))
    }

    /// Who decided, in the words of records: `rule 3 (line 12): …`, `default`, or the same of the ceiling.
    pub fn decider(&self, rule: Option<RuleId>) -> String {
        match rule {
            None => "default".to_owned(),
            Some(RuleId(CEILING)) => "ceiling default".to_owned(),
            Some(id) => {
                let words = self.place(id).and_then(|(policy, at)| policy.words.get(at));
                words.cloned().unwrap_or_else(|| id.to_string())
            }
        }
    }

    pub(crate) const fn default_verdict(&self) -> Verdict {
        match self.document.default {
            Default::Ask => Verdict::Ask { rule: None },
            Default::Deny => Verdict::Deny { rule: None, silent: false },
        }
    }
}

impl Verdict {
    /// What it comes to for who sees no request: of [`Self::Inspect`], a question.
    pub const fn verb(&self) -> Verb {
        match self {
            Self::Allow { .. } => Verb::Allow,
            Self::Deny { .. } => Verb::Deny,
            Self::Ask { .. } | Self::Inspect { .. } => Verb::Ask,
        }
    }

    /// The rule that decided; none: the default did.
    pub const fn rule(&self) -> Option<RuleId> {
        match self {
            Self::Allow { rule } | Self::Inspect { rule } => Some(*rule),
            Self::Deny { rule, .. } | Self::Ask { rule } => *rule,
        }
    }
}

/// What one pattern says: per port and protocol the rule that wins.
#[derive(Clone, Debug, std::default::Default)]
struct Cells {
    general: [Option<Winner>; 3],
    ports: HashMap<NonZeroU16, [Option<Winner>; 3]>,
}

/// A rule as it wins or loses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Winner {
    pub(crate) rank: Rank,
    pub(crate) verb: Verb,
    pub(crate) rule: RuleId,
    silent: bool,
}

fn is_live(rule: &Rule, at: Millis) -> bool {
    rule.expires.is_none_or(|expires| at < expires)
}

impl Cells {
    fn lay(&mut self, rule: &Rule) {
        let winner = Winner::of(rule);
        if let Some(ports) = &rule.ports {
            for port in ports {
                let cell = match self.ports.entry(*port) {
                    Entry::Occupied(entry) => entry.into_mut(),
                    Entry::Vacant(entry) => entry.insert(self.general),
                };
                winner.lay_over(cell, rule.protocol);
            }
        } else {
            winner.lay_over(&mut self.general, rule.protocol);
            for cell in self.ports.values_mut() {
                winner.lay_over(cell, rule.protocol);
            }
        }
    }

    fn winner(&self, destination: &Destination) -> Option<Winner> {
        self.ports.get(&destination.port).unwrap_or(&self.general)[index(destination.protocol)]
    }
}

impl Winner {
    pub(crate) fn of(rule: &Rule) -> Self {
        Self { rank: rule.rank(), verb: rule.verb, rule: rule.id, silent: rule.silent }
    }

    fn lay_over(self, cell: &mut [Option<Self>; 3], protocol: Option<Protocol>) {
        for spoken in [Protocol::Http, Protocol::Https, Protocol::Tcp] {
            let slot = &mut cell[index(spoken)];
            let wins = slot.is_none_or(|there| self.rank > there.rank);
            if protocol.is_none_or(|protocol| protocol == spoken) && wins {
                *slot = Some(self);
            }
        }
    }
}

const fn index(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Http => 0,
        Protocol::Https => 1,
        Protocol::Tcp => 2,
    }
}
