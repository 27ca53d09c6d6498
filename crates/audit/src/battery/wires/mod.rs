//! What leaves and what comes in: attacks on a whole host, with its warden and its edge.
//!
//! Each has a control that asks for nearly the same and gets it: the same words to a destination that the policy
//! allows, the same connection from outside any cell, the same request with a token that is good.

pub(crate) mod checks;
mod defaults;
mod edge;
pub(crate) mod inspected;
mod names;
mod out;
mod ruled;
mod tls;

use super::FLAG;
use crate::rules::Rules;
use cofferdam_base::{Destination, Host, HostName, Protocol};
use cofferdam_sandbox::probe::Attempt::{self, Tcp, TcpName};
use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU16,
};

/// Where and how something is tried.
#[derive(Clone, Debug)]
pub(crate) enum How {
    /// By a process in the tenant's cell.
    Cell(Attempt),
    /// By a process in another tenant's cell.
    In(&'static str, Attempt),
    /// By a process of the world that is in no cell.
    Outside(Attempt),
    /// A request to the edge.
    Edge(Knock),
}

/// A request to the edge, which succeeds if a cell answers it.
#[derive(Clone, Debug)]
pub(crate) struct Knock {
    /// Whose token.
    pub(crate) token: Token,
    /// Whose origin.
    pub(crate) tenant: &'static str,
    /// What is asked for.
    pub(crate) path: &'static str,
    /// The `Host` header; none is the tenant's own.
    pub(crate) host: Option<&'static str>,
    /// More headers, each line ending in CRLF.
    pub(crate) headers: &'static str,
    /// What the cell must have been told for this to count as a success; empty is anything.
    pub(crate) told: &'static str,
}

impl Knock {
    /// A request for the page that shows what the cell was told.
    pub(crate) const fn good(tenant: &'static str, token: Token) -> Self {
        Self { token, tenant, path: "/", host: None, headers: "", told: "" }
    }
}

/// A token of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// Good.
    Good,
    /// None at all.
    None,
    /// The neighbour's, which is good there.
    Neighbours,
    /// It was revoked.
    Revoked,
    /// Its time is over.
    Expired,
    /// Its algorithm says `none`, and nothing signs it.
    Unsigned,
    /// One character of its signature is another.
    Forged,
    /// Signed with another kind of key: the public one, as a secret.
    Confused,
}

/// One attack on a host.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    pub(crate) id: Cow<'static, str>,
    pub(crate) title: Cow<'static, str>,
    /// What answers it, in words: these are no protections of a cell.
    pub(crate) layers: &'static [&'static str],
    pub(crate) attack: How,
    /// What the witness outside must not have heard; empty where the answer tells enough.
    pub(crate) leak: &'static str,
    /// It is to wait for somebody's answer.
    pub(crate) held: bool,
    pub(crate) control: How,
}

/// Whose cell tries what it can.
pub(crate) const TENANT: &str = "acme";
/// Its neighbour.
pub(crate) const NEIGHBOUR: &str = "globex";
/// A third, under the tenant's own policy and nothing else.
pub(crate) const DEFAULTED: &str = "umbrella";
/// A fourth, whose requests are judged one by one, and whose TLS is looked into therefore.
pub(crate) const INSPECTED: &str = "hooli";
/// What the policy of the tenant allows and asks about, before its own rules.
pub(crate) const POLICY: &str = "version: 1\ndefault: deny\nrules:\n\
    \x20 - {allow: allowed.example, protocol: http}\n\
    \x20 - {allow: allowed.example, protocol: https}\n\
    \x20 - {allow: rebind-metadata.example, protocol: http}\n\
    \x20 - {allow: rebind-loopback.example, protocol: http}\n\
    \x20 - {allow: rebind-private.example, protocol: http}\n\
    \x20 - {allow: rebind-carrier.example, protocol: http}\n\
    \x20 - {allow: rebind-link.example, protocol: http}\n\
    \x20 - {allow: rebind-host.example, protocol: http}\n\
    \x20 - {allow: rebind-mapped.example, protocol: http}\n\
    \x20 - {allow: rebind-nat64.example, protocol: http}\n\
    \x20 - {allow: 10.0.0.2, protocol: http}\n\
    \x20 - {allow: 100.64.0.2, protocol: http}\n\
    \x20 - {allow: 169.254.170.2, protocol: http}\n\
    \x20 - {allow: 169.254.7.8, protocol: http}\n\
    \x20 - {allow: 198.51.100.2, protocol: http}\n\
    \x20 - {allow: 203.0.113.2, protocol: http}\n\
    \x20 - {allow: \"fd00:ec2::23\", protocol: http}\n\
    \x20 - {allow: \"2001:db8:2::2\", protocol: http}\n\
    \x20 - {ask: held.example, protocol: http}\n";
/// The key of the tenant's model, which no cell may see.
pub(crate) const SECRET: &str = "canary-of-the-models-key";
/// What names mean to the name server outside. All others are [`WEB`].
pub(crate) const NAMES: &[(&str, &str)] = &[
    ("rebind-metadata.example", "169.254.169.254"),
    ("rebind-loopback.example", "127.0.0.1"),
    ("rebind-private.example", "10.0.0.1"),
    ("rebind-carrier.example", "100.100.100.200"),
    ("rebind-link.example", "169.254.7.7"),
    ("rebind-host.example", "192.0.2.1"),
    ("rebind-mapped.example", "::ffff:169.254.169.254"),
    ("rebind-nat64.example", "64:ff9b::a9fe:a9fe"),
];
/// What the policy allows above all.
pub(crate) const GOOD: &str = "allowed.example";
/// The web outside.
pub(crate) const WEB: &str = "93.184.216.34";
/// The name server outside.
pub(crate) const NAMESERVER: &str = "9.9.9.9";
/// The addresses outside at which a witness answers.
pub(crate) const OUTSIDE: &[&str] = &[
    WEB,
    NAMESERVER,
    "169.254.169.254",
    "169.254.7.7",
    "10.0.0.1",
    "100.100.100.200",
    "2606:2800:220:1::1",
    "fd00:ec2::254",
    // Those that a rule allows and nobody may reach.
    "10.0.0.2",
    "100.64.0.2",
    "169.254.170.2",
    "169.254.7.8",
    "198.51.100.2",
    "203.0.113.2",
    "fd00:ec2::23",
    "2001:db8:2::2",
];

/// The explicit proxy in a cell.
pub(crate) const PROXY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 3128);

/// What the outside answers to what is said at once.
fn say(to: SocketAddr, words: String) -> Attempt {
    Tcp { to, say: words, expect: FLAG.into() }
}

/// The proxy's words for a page.
pub(crate) fn page(target: &str) -> String {
    let host = target.trim_start_matches("http://").trim_end_matches('/');
    format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

fn get(target: &str) -> Attempt {
    say(PROXY, page(target))
}

fn connect(target: &str) -> Attempt {
    tunnel(target, "GET / HTTP/1.0\r\n\r\n")
}

fn tunnel(target: &str, words: &str) -> Attempt {
    say(PROXY, format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n{words}"))
}

fn plain(to: SocketAddr) -> Attempt {
    say(to, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".into())
}

/// The same words to what is allowed.
fn allowed() -> How {
    How::Cell(get("http://allowed.example/"))
}

/// All of them, and those that the tenant's own rules make.
pub(crate) fn wires(rules: &Rules) -> Vec<Wire> {
    let ours =
        [out::captured(), out::proxied(), out::rebound(), names::names(), names::carried(), tls::hellos()];
    let again: Vec<Wire> = ours.iter().flatten().filter_map(inspected::again).collect();
    let more = [names::secrets(), edge::edge(), edge::sockets(), ruled::ours(), ruled::tenants(rules)];
    let last = [again, inspected::inspected(), defaults::defaults(rules)];
    ours.into_iter().chain(more).chain(last).flatten().collect()
}

impl How {
    /// Whose cell tries it, if one does.
    pub(crate) fn cell(&self) -> Option<(&'static str, &Attempt)> {
        match self {
            Self::Cell(attempt) => Some((TENANT, attempt)),
            Self::In(tenant, attempt) => Some((tenant, attempt)),
            Self::Outside(_) | Self::Edge(_) => None,
        }
    }

    /// Where a process in a cell that has the tenant's rules would get to, if anywhere: what they are asked about.
    pub(crate) fn destination(&self) -> Option<Destination> {
        let (TENANT | DEFAULTED, attempt) = self.cell()? else { return None };
        let (host, port, words) = match attempt {
            Tcp { to, say, .. } if *to != PROXY => (Host::Address(to.ip()), to.port(), say),
            TcpName { name, port, say, .. } => (named(name)?, *port, say),
            Tcp { say, .. } => {
                // The last one decides where a chain of requests gets to.
                let host = say.rsplit("Host: ").next()?.lines().next()?;
                let host = host.rsplit('@').next()?;
                let (name, port) = match host.rsplit_once(':') {
                    Some((name, port)) if !host.ends_with(']') => (name, port.parse().ok()?),
                    _ => (host, 80),
                };
                (named(name)?, port, say)
            }
            _ => return None,
        };
        let protocol = if words.contains('\u{16}') { Protocol::Https } else { Protocol::Http };
        Some(Destination { host, port: NonZeroU16::new(port)?, protocol })
    }
}

fn named(text: &str) -> Option<Host> {
    let address = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    address.map(Host::Address).ok().or_else(|| HostName::try_from(text).ok().map(Host::Name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wire_has_a_name_of_its_own() {
        let wires = wires(&Rules::none());
        let names: std::collections::BTreeSet<_> = wires.iter().map(|wire| &wire.id).collect();
        assert!(names.len() == wires.len() && wires.len() >= 160, "{}", wires.len());
    }

    #[test]
    fn what_a_policy_is_asked_about_is_where_an_attack_would_get_to() {
        let wires = wires(&Rules::none());
        let of = |id: &str| {
            let wire = wires.iter().find(|wire| wire.id == id);
            wire.and_then(|wire| wire.attack.destination()).map(|found| found.to_string())
        };
        for (id, destination) in [
            ("egress.literal-port", Some("http://93.184.216.34:22")),
            ("egress.literal-6", Some("http://[2606:2800:220:1::1]:80")),
            ("proxy.user", Some("http://unlisted.example:80")),
            ("proxy.connect-literal", Some("http://93.184.216.34:80")),
            ("proxy.connect-ssh", Some("http://allowed.example:22")),
            ("names.second-host", Some("http://unlisted.example:80")),
            ("carry.post", Some("http://unlisted.example:80")),
            ("tls.port", Some("https://allowed.example:80")),
            ("tls.literal-address", Some("https://93.184.216.34:443")),
            ("proxy.connect-zero", None),
            ("edge.forged", None),
        ] {
            assert_eq!(of(id).as_deref(), destination, "{id}");
        }
    }
}
