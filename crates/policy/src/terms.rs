//! What a document says beside its rules: who may approve, the limits of the cell, which models and how much of them,
//! and what of the host the cell sees.
//!
//! Nothing in here gives more than the operator set for the tenant, or offers by name; a ceiling is one more document
//! that narrows. The threat: a document by which a tenant has more than its operator gave it.

use crate::{
    Error, Policy, Rule, Verb,
    condition::{Head, joined},
    file::{Many, RawDocument, RawFilesystem, RawInference, RawLimits, RawRoutes},
    parse::at,
    path::Target,
    request::{Body, RequestFacts},
};
use cofferdam_base::{
    Destination, Scope,
    binding::FileName,
    ipc::{
        launcher,
        model::{Alias, Limit, MOST_ROUTES},
    },
};
use serde_saphyr::{Location, Spanned};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// The terms of a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Who may say yes to what it asks about; none: whoever may answer approvals.
    pub approvers: Option<Standing>,
    /// What the cell may use at most.
    pub limits: Limits,
    /// Which models it may ask, and how much.
    pub inference: Inference,
    /// What of the host the cell sees, by the names under which the operator offers it; none: nothing is said.
    pub read_only: Option<BTreeSet<FileName>>,
}

/// As whom somebody says yes. Each may what the one before may: an operator always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Whose token has the role `approver`.
    Approver,
    /// Whose token has the role `admin`.
    Admin,
    /// Who holds the control socket.
    Operator,
}

/// What a cell may use at most; none: what the operator set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    memory_bytes: Option<u64>,
    pids: Option<u32>,
    cpu_percent: Option<u32>,
    tmp_bytes: Option<u64>,
    open_files: Option<u32>,
    io_bytes: Option<u64>,
    disk_bytes: Option<u64>,
    inodes: Option<u64>,
    connections: Option<u32>,
}

/// Which models a cell may ask, and how much.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inference {
    /// The routes that may be used, each with limits of its own; none: all of the tenant's.
    pub routes: Option<BTreeMap<Alias, Vec<Limit>>>,
    /// What all routes together may use.
    pub budget: Vec<Limit>,
}

impl Terms {
    pub(crate) fn parse(raw: &RawDocument) -> Result<Self, Error> {
        let RawDocument { version, default: _, rules: _, approvers, limits, inference, filesystem } = raw;
        let newer = [
            ("approvers", approvers.as_ref().map(|it| it.referenced)),
            ("limits", limits.as_ref().map(|it| it.referenced)),
            ("inference", inference.as_ref().map(|it| it.referenced)),
            ("filesystem", filesystem.as_ref().map(|it| it.referenced)),
        ];
        for (key, place) in newer.into_iter().filter_map(|(key, place)| Some((key, place?))) {
            if version.value < 2 {
                return Err(at(place, format!("`{key}` needs `version: 2`")));
            }
        }
        Ok(Self {
            approvers: approvers.as_ref().map(Standing::parse).transpose()?,
            limits: limits.as_ref().map(Limits::parse).transpose()?.unwrap_or_default(),
            inference: inference.as_ref().map(Inference::parse).transpose()?.unwrap_or_default(),
            read_only: filesystem.as_ref().map(parse_names).transpose()?,
        })
    }

    /// In words, one line each: what differs between two documents, and what is shown of one.
    pub fn lines(&self) -> Vec<String> {
        let Self { approvers, limits, inference: Inference { routes, budget }, read_only } = self;
        let mut lines: Vec<String> = approvers.iter().map(|who| format!("approvers: {who}")).collect();
        lines
            .extend(limits.named().into_iter().filter_map(|(name, most)| Some(format!("{name}: {}", most?))));
        if let Some(routes) = routes {
            let names: Vec<&str> = routes.keys().map(Alias::as_str).collect();
            lines.push(format!(
                "model routes: {}",
                if names.is_empty() { "none".into() } else { names.join(", ") }
            ));
            let limits = routes.iter().flat_map(|(alias, limits)| limits.iter().map(move |it| (alias, it)));
            lines.extend(limits.map(|(alias, limit)| format!("model route {alias}: {limit}")));
        }
        lines.extend(budget.iter().map(|limit| format!("all model routes: {limit}")));
        lines.extend(read_only.iter().map(|names| format!("directories read-only: {}", joined(names))));
        lines
    }

    /// The limits of it that are more than the operator set, and so do not matter, in words.
    pub fn above(&self, set: &launcher::Limits) -> Vec<String> {
        let pairs = self.limits.named().into_iter().zip(Limits::of(set, u32::MAX).named());
        let above = pairs
            .filter_map(|((name, own), (_, set))| Some((name, own?, set?)))
            .filter(|(_, own, set)| own > set);
        above
            .map(|(name, own, set)| format!("{name}: {own}, but the operator set {set}, which holds"))
            .collect()
    }

    /// What of it is more than these let it, in words.
    fn beyond(&self, ceiling: &Self) -> Vec<String> {
        let mut found = Vec::new();
        let mut note =
            |what: String, most: String| found.push(format!("{what}, but the ceiling says {most}"));
        if let (Some(own), Some(most)) = (self.approvers, ceiling.approvers)
            && own < most
        {
            note(format!("approvers: {own}"), most.to_string());
        }
        for ((name, own), (_, most)) in self.limits.named().into_iter().zip(ceiling.limits.named()) {
            if let (Some(own), Some(most)) = (own, most)
                && own > most
            {
                note(format!("{name}: {own}"), most.to_string());
            }
        }
        let (own, most) = (&self.inference, &ceiling.inference);
        let larger = |limits: &[Limit], most: &[Limit]| {
            let above = |own: &Limit| {
                let same = |it: &&Limit| (it.unit, it.span) == (own.unit, own.span) && it.most < own.most;
                most.iter().find(same).map(|most| (own.to_string(), most.to_string()))
            };
            limits.iter().filter_map(above).collect::<Vec<_>>()
        };
        if let (Some(own), Some(most)) = (&own.routes, &most.routes) {
            for (alias, limits) in own {
                match most.get(alias) {
                    None => note(format!("model route {alias}"), "no".to_owned()),
                    Some(most) => larger(limits, most)
                        .into_iter()
                        .for_each(|(own, most)| note(format!("model route {alias}: {own}"), most)),
                }
            }
        }
        for (own, most) in larger(&own.budget, &most.budget) {
            note(format!("all model routes: {own}"), most);
        }
        if let (Some(own), Some(most)) = (&self.read_only, &ceiling.read_only) {
            own.difference(most).for_each(|name| note(format!("directory {name}"), "no".to_owned()));
        }
        found
    }
}

impl Standing {
    const ALL: [Self; 3] = [Self::Approver, Self::Admin, Self::Operator];

    /// Whoever holds these scopes; none: nobody who may approve.
    pub fn of(scopes: &BTreeSet<Scope>) -> Option<Self> {
        match () {
            () if scopes.contains(&Scope::Admin) => Some(Self::Admin),
            () if scopes.contains(&Scope::Approvals) => Some(Self::Approver),
            () => None,
        }
    }

    /// The list of who may; whoever may more may too.
    pub(crate) fn parse(all: &Spanned<Many>) -> Result<Self, Error> {
        let Many(names) = &all.value;
        let read = |name: &String| Self::ALL.into_iter().find(|known| known.as_str() == name);
        let found: Option<Vec<Self>> = names.iter().map(read).collect();
        found.and_then(|found| found.into_iter().min()).ok_or_else(|| {
            at(
                all.referenced,
                "`approvers` lists who may say yes: approver, admin, operator; each includes the next",
            )
        })
    }

    /// `approver`, `admin` or `operator`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Approver => "approver",
            Self::Admin => "admin",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Limits {
    fn parse(raw: &Spanned<RawLimits>) -> Result<Self, Error> {
        let RawLimits {
            memory_bytes,
            pids,
            cpu_percent,
            tmp_bytes,
            open_files,
            io_bytes,
            disk_bytes,
            inodes,
            connections,
        } = raw.value;
        let limits = Self {
            memory_bytes,
            pids,
            cpu_percent,
            tmp_bytes,
            open_files,
            io_bytes,
            disk_bytes,
            inodes,
            connections,
        };
        let least = Self::of(&launcher::Limits::LEAST, 1).named();
        for ((name, given), (_, least)) in limits.named().into_iter().zip(least) {
            if let (Some(given), Some(least)) = (given, least)
                && given < least
            {
                return Err(at(raw.referenced, format!("`{name}` must be at least {least}")));
            }
        }
        Ok(limits)
    }

    fn of(limits: &launcher::Limits, connections: u32) -> Self {
        let launcher::Limits {
            memory_bytes,
            pids,
            cpu_percent,
            tmp_bytes,
            open_files,
            io_bytes,
            disk_bytes,
            inodes,
        } = *limits;
        Self {
            memory_bytes: Some(memory_bytes),
            pids: Some(pids),
            cpu_percent: Some(cpu_percent),
            tmp_bytes: Some(tmp_bytes),
            open_files: Some(open_files),
            io_bytes: Some(io_bytes),
            disk_bytes: Some(disk_bytes),
            inodes: Some(inodes),
            connections: Some(connections),
        }
    }

    fn named(&self) -> [(&'static str, Option<u64>); 9] {
        let Self {
            memory_bytes,
            pids,
            cpu_percent,
            tmp_bytes,
            open_files,
            io_bytes,
            disk_bytes,
            inodes,
            connections,
        } = *self;
        [
            ("memory_bytes", memory_bytes),
            ("pids", pids.map(u64::from)),
            ("cpu_percent", cpu_percent.map(u64::from)),
            ("tmp_bytes", tmp_bytes),
            ("open_files", open_files.map(u64::from)),
            ("io_bytes", io_bytes),
            ("disk_bytes", disk_bytes),
            ("inodes", inodes),
            ("connections", connections.map(u64::from)),
        ]
    }

    /// The lower of both, each; what is a part of another is no more than that.
    fn lower(&self, set: launcher::Limits) -> launcher::Limits {
        fn least<T: Ord>(set: T, most: Option<T>) -> T {
            most.into_iter().fold(set, Ord::min)
        }
        let memory_bytes = least(set.memory_bytes, self.memory_bytes);
        let disk_bytes = least(set.disk_bytes, self.disk_bytes);
        launcher::Limits {
            memory_bytes,
            pids: least(set.pids, self.pids),
            cpu_percent: least(set.cpu_percent, self.cpu_percent),
            tmp_bytes: least(set.tmp_bytes, self.tmp_bytes).min(memory_bytes),
            open_files: least(set.open_files, self.open_files),
            io_bytes: least(set.io_bytes, self.io_bytes),
            disk_bytes,
            inodes: least(set.inodes, self.inodes).min(disk_bytes / launcher::LEAST_BYTES_AN_INODE),
        }
    }
}

impl Inference {
    fn parse(raw: &Spanned<RawInference>) -> Result<Self, Error> {
        let RawInference { routes, budget } = &raw.value;
        let routes = routes.as_ref().map(|Spanned { value: RawRoutes(all), referenced, .. }| {
            if all.len() > MOST_ROUTES {
                return Err(at(*referenced, format!("a tenant has at most {MOST_ROUTES} routes")));
            }
            let mut read = BTreeMap::new();
            for (name, Many(limits)) in all {
                let alias: Alias = name.parse().map_err(|error| refused(*referenced, error))?;
                if read.insert(alias, parse_limits(limits, *referenced)?).is_some() {
                    return Err(at(*referenced, format!("the route {name} is there twice")));
                }
            }
            Ok(read)
        });
        let budget = budget.as_ref().map(|budget| parse_limits(&budget.value.0, budget.referenced));
        Ok(Self { routes: routes.transpose()?, budget: budget.transpose()?.unwrap_or_default() })
    }
}

fn parse_names(raw: &Spanned<RawFilesystem>) -> Result<BTreeSet<FileName>, Error> {
    let RawFilesystem { read_only: Many(all) } = &raw.value;
    if all.len() > launcher::MOST_OFFERED {
        let message = format!("a cell sees at most {} offered directories", launcher::MOST_OFFERED);
        return Err(at(raw.referenced, message));
    }
    let read = |name: &String| {
        name.parse().map_err(|_| {
            let message =
                format!("{name:?} is no name of an offered directory: the operator's [filesystem] has them");
            at(raw.referenced, message)
        })
    };
    all.iter().map(read).collect()
}

fn parse_limits(all: &[String], place: Location) -> Result<Vec<Limit>, Error> {
    let mut read: Vec<Limit> = Vec::new();
    for text in all {
        let limit: Limit = text.parse().map_err(|error| refused(place, error))?;
        if read.iter().any(|other| (other.unit, other.span) == (limit.unit, limit.span)) {
            return Err(at(place, format!("{limit}: there is one of its kind already")));
        }
        read.push(limit);
    }
    Ok(read)
}

fn refused(place: Location, error: impl fmt::Display) -> Error {
    at(place, error.to_string())
}

impl Policy {
    /// Its own terms, and its ceiling's.
    fn all_terms(&self) -> impl Iterator<Item = &Terms> {
        std::iter::once(self).chain(self.ceiling.as_deref()).map(|it| &it.document().terms)
    }

    /// Its terms in words, and its ceiling's.
    pub fn terms_in_words(&self) -> Vec<String> {
        let ceiling = self.ceiling.iter().flat_map(|it| it.document().terms.lines());
        let own = self.document().terms.lines().into_iter();
        own.chain(ceiling.map(|line| format!("{line} (ceiling)"))).collect()
    }

    /// In words, what its terms say that the ceiling does not let them.
    pub fn terms_beyond_ceiling(&self) -> Vec<String> {
        self.ceiling.as_ref().map_or_else(Vec::new, |it| self.document().terms.beyond(&it.document().terms))
    }

    /// What is left of the limits that the operator set.
    #[must_use]
    pub fn lower(&self, set: launcher::Limits) -> launcher::Limits {
        self.all_terms().fold(set, |left, terms| terms.limits.lower(left))
    }

    /// The connections at one time that are left of so many.
    pub fn connections(&self, set: u32) -> u32 {
        self.all_terms().filter_map(|terms| terms.limits.connections).fold(set, u32::min)
    }

    /// May the cell use this route?
    pub fn serves(&self, route: &Alias) -> bool {
        self.all_terms()
            .all(|terms| terms.inference.routes.as_ref().is_none_or(|all| all.contains_key(route)))
    }

    /// How much of this route, beside what the route itself says.
    pub fn route_limits(&self, route: &Alias) -> Vec<Limit> {
        let of = |terms: &Terms| terms.inference.routes.as_ref().and_then(|all| all.get(route)).cloned();
        self.all_terms().filter_map(of).flatten().collect()
    }

    /// How much of all routes together.
    pub fn budget(&self) -> Vec<Limit> {
        self.all_terms().flat_map(|terms| &terms.inference.budget).copied().collect()
    }

    /// The offered directories that the cell sees: those that it names, as far as the ceiling lets it.
    pub fn read_only(&self) -> BTreeSet<FileName> {
        let own = self.document().terms.read_only.clone().unwrap_or_default();
        let most = self.ceiling.as_ref().and_then(|it| it.document().terms.read_only.as_ref());
        own.into_iter().filter(|name| most.is_none_or(|most| most.contains(name))).collect()
    }

    /// Who may say yes to a request, or to all that is asked there: whoever each rule is content with that could have
    /// asked, as far as method and target tell.
    pub fn approver(&self, destination: &Destination, request: Option<(&str, &str)>) -> Standing {
        let facts = request.map(|(method, target)| RequestFacts {
            destination: destination.clone(),
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            websocket: false,
            grpc: false,
            body: Body::None,
        });
        // Of a target that cannot be read any rule may have asked.
        let target = facts.as_ref().and_then(|facts| Target::parse(&facts.target).ok());
        let head = facts.as_ref().zip(target.as_ref()).map(|(facts, it)| Head { facts, target: Some(it) });
        let one = |policy: &Self| {
            let asks = |rule: &&Rule| {
                let could = |head| rule.request.as_ref().is_none_or(|it| it.place_matches(head, Verb::Ask));
                let there = rule.verb == Verb::Ask && policy.is_live(rule) && rule.place_matches(destination);
                there && head.is_none_or(could)
            };
            let by_rules = policy.document().rules.iter().filter(asks).filter_map(|rule| rule.approvers);
            by_rules.chain(policy.document().terms.approvers).max()
        };
        let all = std::iter::once(self).chain(self.ceiling.as_deref());
        all.filter_map(one).max().unwrap_or(Standing::Approver)
    }
}

#[cfg(test)]
mod tests;
