//! The policy document: strict YAML in, typed rules out.
//!
//! ```yaml
//! version: 1
//! default: ask              # ask | deny; ask if left out
//! rules:
//!   - allow: api.example.com    # a name, a literal address, or one label wide: "*.example.com"
//!     ports: [443]              # if left out: 443 for https, 80 for http; tcp must name them
//!     protocol: https           # https | http | tcp; https if left out of an allow
//!     reason: "the model"       # optional
//!   - deny: "*.ads.example"     # all ports and protocols unless narrowed
//!     silent: true              # neither noise nor single records
//!   - ask: "*.example.org"
//! ```
//!
//! An unknown key, a wrong type or a key given twice is refused with its line and column; so are anchors,
//! aliases, tags and merge keys. `tcp` is whatever is neither plain HTTP nor TLS, or is not to be looked
//! at. Which rule decides: see [`Rule`]'s order, a denial first.

use crate::{
    Default, Error, Pattern, Rule, RuleId, Verb,
    file::{RawDocument, RawRule},
};
use cofferdam_base::{Host, HostName, Protocol};
use serde_saphyr::{DuplicateKeyPolicy, Location, MergeKeyPolicy, Options, Spanned};
use std::{collections::BTreeSet, net::IpAddr, num::NonZeroU16};

/// The longest document that is read, in bytes.
pub const MAX_DOCUMENT: usize = 64 * 1024;

/// A parsed policy document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// What happens to what no rule names.
    pub default: Default,
    /// The rules, in the document's order.
    pub rules: Vec<Rule>,
}

impl Document {
    /// Parses a document.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_DOCUMENT {
            return Err(Error::TooLong(text.len()));
        }
        let raw: RawDocument =
            serde_saphyr::from_str_with_options(text, options()).map_err(|error| yaml_error(&error))?;
        if raw.version.value != 1 {
            let message = format!("version {} is not known: write `version: 1`", raw.version.value);
            return Err(at(raw.version.referenced, message));
        }
        let rules = raw.rules.into_iter().flatten().zip(1..).map(|(rule, id)| parse_rule(rule, RuleId(id)));
        Ok(Self { default: raw.default.unwrap_or(Default::Ask), rules: rules.collect::<Result<_, _>>()? })
    }

    /// The rule of this id.
    pub fn rule(&self, id: RuleId) -> Option<&Rule> {
        self.rules.get(usize::try_from(id.0).ok()?.checked_sub(1)?)
    }
}

fn options() -> Options {
    let budget = serde_saphyr::budget! {
        max_depth: 8,
        flow_nesting_limit: 8,
        max_aliases: 0,
        max_anchors: 0,
        max_documents: 1,
        max_events: 60_000,
        max_nodes: 60_000,
    };
    serde_saphyr::options! {
        budget: budget,
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        no_schema: true,
        reject_unsupported_tags: true,
        reject_tagged_field_names: true,
        with_snippet: false,
    }
}

fn parse_rule(raw: Spanned<RawRule>, id: RuleId) -> Result<Rule, Error> {
    let place = raw.referenced;
    let RawRule { allow, ask, deny, ports, protocol, reason, silent } = raw.value;
    let (verb, host) = match (allow, ask, deny) {
        (Some(host), None, None) => (Verb::Allow, host),
        (None, Some(host), None) => (Verb::Ask, host),
        (None, None, Some(host)) => (Verb::Deny, host),
        _ => return Err(at(place, "a rule has exactly one of `allow`, `ask` and `deny`")),
    };
    let pattern = parse_pattern(&host, verb)?;
    let protocol = match verb {
        Verb::Allow => Some(protocol.unwrap_or(Protocol::Https)),
        Verb::Ask | Verb::Deny => protocol,
    };
    let ports = match (ports, verb, protocol) {
        (Some(ports), _, _) => Some(parse_ports(&ports)?),
        (None, Verb::Allow, Some(Protocol::Http)) => NonZeroU16::new(80).map(|port| BTreeSet::from([port])),
        (None, Verb::Allow, Some(Protocol::Https)) => NonZeroU16::new(443).map(|port| BTreeSet::from([port])),
        (None, Verb::Allow, _) => {
            return Err(at(place, "an allow with `protocol: tcp` names its `ports`"));
        }
        (None, _, _) => None,
    };
    if let Some(silent) = silent.as_ref().filter(|_| verb != Verb::Deny) {
        return Err(at(silent.referenced, "`silent` belongs to a deny"));
    }
    let reason = reason.map(parse_reason).transpose()?;
    let silent = silent.is_some_and(|silent| silent.value);
    Ok(Rule { id, line: place.line(), verb, pattern, ports, protocol, reason, silent })
}

fn parse_pattern(host: &Spanned<String>, verb: Verb) -> Result<Pattern, Error> {
    let text = host.value.as_str();
    let name = |text: &str| HostName::try_from(text).map_err(|error| at(host.referenced, error.to_string()));
    if let Some(base) = text.strip_prefix("*.") {
        let base = name(base)?;
        if verb == Verb::Allow && base.labels().count() < 2 {
            return Err(at(host.referenced, "a wildcard that allows keeps two labels: \"*.example.com\""));
        }
        return Ok(Pattern::Wildcard(base));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        if address.to_canonical() != address {
            return Err(at(host.referenced, format!("write {} for this address", address.to_canonical())));
        }
        return Ok(Pattern::Exact(Host::Address(address)));
    }
    name(text).map(|name| Pattern::Exact(Host::Name(name)))
}

fn parse_ports(ports: &Spanned<Vec<u16>>) -> Result<BTreeSet<NonZeroU16>, Error> {
    let parsed: Option<BTreeSet<NonZeroU16>> = ports.value.iter().copied().map(NonZeroU16::new).collect();
    match parsed {
        Some(parsed) if !parsed.is_empty() => Ok(parsed),
        _ => Err(at(ports.referenced, "`ports` lists one or more ports from 1 to 65535")),
    }
}

fn parse_reason(reason: Spanned<String>) -> Result<String, Error> {
    if reason.value.chars().count() <= 200 && !reason.value.chars().any(char::is_control) {
        Ok(reason.value)
    } else {
        Err(at(reason.referenced, "a reason is one line of at most 200 characters"))
    }
}

fn at(place: Location, message: impl Into<String>) -> Error {
    Error::Document { line: place.line(), column: place.column(), message: message.into() }
}

fn yaml_error(error: &serde_saphyr::Error) -> Error {
    let error = error.without_snippet();
    let place = error.location();
    let message = error.render().lines().next().unwrap_or_default().chars().take(300).collect();
    Error::Document {
        line: place.map_or(0, |place| place.line()),
        column: place.map_or(0, |place| place.column()),
        message,
    }
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
