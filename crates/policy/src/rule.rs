//! One parsed rule: what it is about and what it says.

use crate::{Standing, ceiling::CEILING, condition::Condition};
use cofferdam_base::{Destination, Host, HostName, Millis, Protocol};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt, num::NonZeroU16};

/// What a rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// Let it through.
    Allow,
    /// Hold it and ask a person.
    Ask,
    /// Refuse it.
    Deny,
}

/// What happens to a destination that no rule names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Default {
    /// Hold it and ask a person.
    Ask,
    /// Refuse it.
    Deny,
}

/// A rule's place in its document, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RuleId(pub u32);

/// The hosts that a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    /// One name or one literal address.
    Exact(Host),
    /// Every name with exactly one label before this one: `*.example.com`.
    Wildcard(HostName),
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its place in the document.
    pub id: RuleId,
    /// The line on which it begins, counted from 1.
    pub line: u64,
    /// What it says.
    pub verb: Verb,
    /// About which hosts.
    pub pattern: Pattern,
    /// About which ports; none: all.
    pub ports: Option<BTreeSet<NonZeroU16>>,
    /// About which protocol; none: all.
    pub protocol: Option<Protocol>,
    /// Why, in its author's words.
    pub reason: Option<String>,
    /// A denial that makes no noise.
    pub silent: bool,
    /// About which requests; none: about connections.
    pub request: Option<Condition>,
    /// From when on it says nothing any more.
    pub expires: Option<Millis>,
    /// What comes from there.
    pub content: Option<Content>,
    /// How much may go there.
    pub budget: Option<Budget>,
    /// Its connections are never looked into.
    pub opaque: bool,
    /// Who may say yes to what it asks; none: whoever the document says.
    pub approvers: Option<Standing>,
}

/// How far an answer is to be believed. Recorded with each use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Content {
    /// It is the operator's own, or as good.
    Trusted,
    /// Anybody may have written it.
    Untrusted,
}

/// How much may go where a rule allows. Counted by each warden from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Bytes sent in any hour.
    #[serde(default)]
    pub bytes_per_hour: Option<u64>,
    /// Bytes sent in any day.
    #[serde(default)]
    pub bytes_per_day: Option<u64>,
    /// Requests, or connections where none are seen, in any minute.
    #[serde(default)]
    pub requests_per_minute: Option<u32>,
    /// Different URLs in any hour.
    #[serde(default)]
    pub urls_per_hour: Option<u32>,
    /// Different URLs in any day.
    #[serde(default)]
    pub urls_per_day: Option<u32>,
    /// Counted for all that the rule allows, or for each of its destinations.
    #[serde(default)]
    pub per: Per,
}

/// What a budget is counted for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Per {
    /// All that the rule allows together.
    #[default]
    Rule,
    /// Each host, port and protocol by itself.
    Destination,
}

/// So many different URLs can be told apart.
pub(crate) const MAX_URLS: u32 = 10_000;

/// How strongly a matching rule speaks: the greatest decides, the earlier of two equals. A denial beats
/// everything; then an exact host a wildcard; then what is about requests what is about connections; then
/// named ports all ports; then a named protocol all protocols; then ask beats allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    deny: bool,
    exact: bool,
    request: bool,
    ports: bool,
    protocol: bool,
    ask: bool,
    earlier: std::cmp::Reverse<RuleId>,
}

impl Rule {
    /// Does the rule speak about connections to this destination?
    pub fn matches(&self, destination: &Destination) -> bool {
        self.request.is_none() && self.place_matches(destination)
    }

    /// Does it speak about this destination or requests to it?
    pub(crate) fn place_matches(&self, destination: &Destination) -> bool {
        let seen = self.request.is_none() || destination.protocol != Protocol::Tcp;
        seen && self.pattern.matches(&destination.host)
            && self.ports.as_ref().is_none_or(|ports| ports.contains(&destination.port))
            && self.protocol.is_none_or(|protocol| protocol == destination.protocol)
    }

    /// Is there a place of which both could speak?
    pub(crate) fn meets(&self, other: &Self) -> bool {
        let hosts = match (&self.pattern, &other.pattern) {
            (Pattern::Exact(host), pattern) | (pattern, Pattern::Exact(host)) => pattern.matches(host),
            (one, other) => one == other,
        };
        let ports = match (&self.ports, &other.ports) {
            (Some(one), Some(other)) => !one.is_disjoint(other),
            _ => true,
        };
        let protocols = match (self.protocol, other.protocol) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        hosts && ports && protocols
    }

    pub(crate) fn rank(&self) -> Rank {
        Rank {
            deny: self.verb == Verb::Deny,
            exact: matches!(self.pattern, Pattern::Exact(_)),
            request: self.request.is_some(),
            ports: self.ports.is_some(),
            protocol: self.protocol.is_some(),
            ask: self.verb == Verb::Ask,
            earlier: std::cmp::Reverse(self.id),
        }
    }
}

impl Pattern {
    /// Is this host one of the pattern's?
    pub fn matches(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::Exact(Host::Address(mine)), Host::Address(theirs)) => {
                mine.to_canonical() == theirs.to_canonical()
            }
            (Self::Exact(mine), theirs) => mine == theirs,
            (Self::Wildcard(base), Host::Name(name)) => parent(name.as_str()) == Some(base.as_str()),
            (Self::Wildcard(_), Host::Address(_)) => false,
        }
    }
}

/// The name without its first label.
pub(crate) fn parent(name: &str) -> Option<&str> {
    name.split_once('.').map(|(_, parent)| parent)
}

impl Verb {
    /// `allow`, `ask` or `deny`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Ask => "ask",
            Self::Deny => "deny",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.checked_sub(CEILING) {
            None => write!(f, "rule {}", self.0),
            Some(0) => f.write_str("ceiling default"),
            Some(of_ceiling) => write!(f, "ceiling rule {of_ceiling}"),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => host.fmt(f),
            Self::Wildcard(base) => write!(f, "*.{base}"),
        }
    }
}

impl fmt::Display for Rule {
    /// `rule 3 (line 12): allow https api.example.com:443`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (line {}): {} ", self.id, self.line, self.verb)?;
        match self.protocol {
            Some(protocol) => write!(f, "{protocol} ")?,
            None => f.write_str("any protocol ")?,
        }
        self.pattern.fmt(f)?;
        match &self.ports {
            None => f.write_str(", any port"),
            Some(ports) => {
                let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
                write!(f, ":{}", ports.join(","))
            }
        }?;
        if let Some(request) = &self.request {
            write!(f, ", {request}")?;
        }
        if let Some(who) = self.approvers {
            write!(f, ", approved by {who}")?;
        }
        match self.content {
            Some(Content::Untrusted) => f.write_str(", content untrusted"),
            Some(Content::Trusted) => f.write_str(", content trusted"),
            None => Ok(()),
        }
    }
}
