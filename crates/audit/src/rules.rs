//! The tenant's own policy, beside the battery's.
//!
//! Its rules are in force on the host that is proved, so that what is shown is true of them as well. What they allow
//! is no escape, and what they allow and nobody may reach must still be refused.

use crate::{Error, battery::wires::POLICY, document::digest};
use cofferdam_base::{Destination, Host, Protocol};
use cofferdam_policy::{AddressClass, Document, Guard, Pattern, Policy, Rule, Verb, Verdict};
use serde::{Deserialize, Serialize};
use std::{
    fmt::Write,
    net::{IpAddr, SocketAddr},
};

/// Which policy was in force, for the document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyProved {
    /// Its number.
    pub revision: u64,
    /// SHA-256 of its text.
    pub digest: cofferdam_base::Digest,
    /// What happens to what no rule names, `ask` or `deny`.
    pub default: cofferdam_policy::Default,
}

/// The tenant's rules, parsed.
#[derive(Clone, Debug)]
pub struct Rules {
    /// What is told of them.
    pub proved: PolicyProved,
    own: Policy,
    both: Policy,
    text: String,
    own_text: String,
}

/// A target that a rule allows or asks about and nobody may reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Forbidden {
    Address(SocketAddr),
    Name(String),
}

impl Rules {
    /// From the text that the host keeps.
    pub fn parse(text: &str, revision: u64) -> Result<Self, Error> {
        let malformed = |error: cofferdam_policy::Error| Error::Policy(error.to_string());
        let document = Document::parse(text).map_err(malformed)?;
        let proved = PolicyProved { revision, digest: digest(text.as_bytes()), default: document.default };
        let merged = document.rules.iter().fold(POLICY.to_owned(), |text, rule| text + &line(rule));
        let both = Policy::parse(&merged).map_err(malformed)?;
        Ok(Self { proved, own: Policy::compile(document), both, text: merged, own_text: text.to_owned() })
    }

    /// Of a tenant without any.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self::parse("version: 1\n", 1).unwrap()
    }

    /// The battery's rules and these.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The tenant's document, as it is.
    pub(crate) fn own_text(&self) -> &str {
        &self.own_text
    }

    /// Do these alone let it pass?
    pub(crate) fn allow(&self, destination: &Destination) -> bool {
        passes(&self.own, destination)
    }

    /// Do they let pass what the battery's own rules allow?
    pub(crate) fn leave(&self, destination: &Destination) -> bool {
        passes(&self.both, destination)
    }

    /// Addresses outside that only these rules speak of: a witness is to answer there.
    pub(crate) fn witnesses(&self) -> Vec<SocketAddr> {
        let address = |(_, forbidden)| match forbidden {
            Forbidden::Address(to) => Some(to),
            Forbidden::Name(_) => None,
        };
        self.forbidden().into_iter().filter_map(address).collect()
    }

    /// Which rules name what nobody may reach. The host's own loopback is not here: nothing outside answers
    /// there, and other rows try it.
    pub(crate) fn forbidden(&self) -> Vec<(u32, Forbidden)> {
        let guard = Guard::default();
        let target = |rule: &Rule| {
            let Pattern::Exact(host) = &rule.pattern else { return None };
            if rule.verb == Verb::Deny || guard.check_host(host).is_ok() {
                return None;
            }
            let port = rule.ports.as_ref().and_then(|ports| ports.first()).map_or(80, |port| port.get());
            match host {
                Host::Name(name) => Some((rule.id.0, Forbidden::Name(format!("{name}:{port}")))),
                Host::Address(address) if outside(*address) => {
                    Some((rule.id.0, Forbidden::Address((*address, port).into())))
                }
                Host::Address(_) => None,
            }
        };
        self.own.document().rules.iter().filter_map(target).collect()
    }
}

/// Whatever is spoken, since `tcp` is a rule about anything.
fn passes(policy: &Policy, destination: &Destination) -> bool {
    [destination.protocol, Protocol::Tcp].into_iter().any(|protocol| {
        let destination = Destination { protocol, ..destination.clone() };
        matches!(policy.verdict(&destination), Verdict::Allow { .. })
    })
}

/// May an interface outside have it?
fn outside(address: IpAddr) -> bool {
    let class = AddressClass::of(address);
    let documentation = match address {
        IpAddr::V4(address) => address.is_documentation() && address.octets()[..3] != [192, 0, 2],
        IpAddr::V6(address) => address.segments()[..2] == [0x2001, 0xdb8],
    };
    documentation
        || class.is_private()
        || matches!(class, AddressClass::Metadata)
        || matches!((class, address), (AddressClass::LinkLocal, IpAddr::V4(_)))
}

/// A rule as a line of a document.
fn line(rule: &Rule) -> String {
    let host = match &rule.pattern {
        Pattern::Exact(Host::Address(address)) => address.to_string(),
        pattern => pattern.to_string(),
    };
    let mut line = format!("  - {{{}: \"{host}\"", rule.verb);
    // Writing to a string does not fail.
    if let Some(ports) = &rule.ports {
        let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
        let _ = write!(line, ", ports: [{}]", ports.join(", "));
    }
    if let Some(protocol) = rule.protocol {
        let _ = write!(line, ", protocol: {protocol}");
    }
    if rule.silent {
        line.push_str(", silent: true");
    }
    line + "}\n"
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const OWN: &str = "version: 1\ndefault: ask\nrules:\n\
        \x20 - {allow: unlisted.example, protocol: http, ports: [80, 22], reason: \"a \\\"quoted\\\" one\"}\n\
        \x20 - {deny: \"fd00:ec2::254\", silent: true}\n\
        \x20 - {ask: 10.1.2.3}\n\
        \x20 - {allow: 203.0.113.9, protocol: tcp, ports: [9000]}\n\
        \x20 - {allow: metadata.google.internal, protocol: http}\n\
        \x20 - {allow: 127.0.0.1, protocol: http}\n\
        \x20 - {allow: 8.8.8.8}\n";

    #[test]
    fn a_tenants_rules_are_in_force_beside_the_batterys() {
        let rules = Rules::parse(OWN, 7).unwrap();
        let ours = Document::parse(POLICY).unwrap().rules.len();
        let (own, both) = (rules.own.document(), rules.both.document());
        assert_eq!(both.default, cofferdam_policy::Default::Deny);
        for (mine, merged) in own.rules.iter().zip(&both.rules[ours..]) {
            let of = |rule: &Rule| {
                (rule.verb, rule.pattern.clone(), rule.ports.clone(), rule.protocol, rule.silent)
            };
            assert_eq!(of(mine), of(merged));
        }
        assert_eq!(own.rules.len(), both.rules.len() - ours);
        assert_eq!((rules.proved.revision, rules.proved.digest), (7, digest(OWN.as_bytes())));
    }

    #[test]
    fn what_the_rules_allow_is_told_from_what_nobody_may_reach() {
        let rules = Rules::parse(OWN, 1).unwrap();
        let to = |host: &str, port: u16, protocol| Destination {
            host: host.parse().map_or_else(|_| Host::Name(host.try_into().unwrap()), Host::Address),
            port: port.try_into().unwrap(),
            protocol,
        };
        assert!(rules.allow(&to("unlisted.example", 22, Protocol::Http)));
        assert!(!rules.allow(&to("unlisted.example", 443, Protocol::Https)));
        assert!(rules.allow(&to("203.0.113.9", 9000, Protocol::Http)));
        assert!(rules.leave(&to("allowed.example", 443, Protocol::Https)));
        let denying = Rules::parse("version: 1\nrules:\n  - {deny: allowed.example}\n", 1).unwrap();
        assert!(!denying.leave(&to("allowed.example", 80, Protocol::Http)));
        let address = |text: &str| Forbidden::Address(text.parse().unwrap());
        let expected = [
            (3, address("10.1.2.3:80")),
            (4, address("203.0.113.9:9000")),
            (5, Forbidden::Name("metadata.google.internal:80".into())),
        ];
        assert_eq!(rules.forbidden(), expected);
        assert_eq!(rules.witnesses().len(), 2);
    }
}
