//! What leaves a cell for an address: straight, by the proxy, or by a name that is allowed and means something else.

use super::{How, NAMESERVER, WEB, Wire, allowed, connect, get, plain};
use cofferdam_sandbox::probe::Attempt;
use std::net::SocketAddr;

/// Straight to an address.
pub(super) fn captured() -> Vec<Wire> {
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
    let wire = |(id, title, address, port, layers): (&'static str, &'static str, &str, u16, _)| {
        let attempt = plain(SocketAddr::new(address.parse().ok()?, port));
        let (attack, control) = (How::Cell(attempt.clone()), How::Outside(attempt));
        Some(Wire { id: id.into(), title: title.into(), layers, attack, leak: "", held: false, control })
    };
    rows.into_iter().filter_map(wire).collect()
}

/// By the explicit proxy.
pub(super) fn proxied() -> Vec<Wire> {
    let guarded: &[&str] = &["policy", "guard", "uid firewall"];
    let rows: [(&str, &str, Attempt, &[&str]); 19] = [
        (
            "proxy.unlisted",
            "ask the proxy for a name that no rule names",
            get("http://unlisted.example/"),
            &["policy"],
        ),
        (
            "proxy.suffix",
            "ask for a name that begins like an allowed one",
            get("http://allowed.example.evil.example/"),
            &["policy"],
        ),
        (
            "proxy.prefix",
            "ask for a name that ends like an allowed one",
            get("http://evilallowed.example/"),
            &["policy"],
        ),
        (
            "proxy.user",
            "put the allowed name where the user belongs",
            get("http://allowed.example@unlisted.example/"),
            &["policy"],
        ),
        ("proxy.decimal", "write the metadata address as one number", get("http://2852039166/"), guarded),
        ("proxy.hexadecimal", "write it in hexadecimal", get("http://0xA9FEA9FE/"), guarded),
        ("proxy.octal", "write it in octal", get("http://0251.0376.0251.0376/"), guarded),
        ("proxy.short", "write it with fewer dots", get("http://169.16689662/"), guarded),
        ("proxy.mapped", "write it as a mapped address", get("http://[::ffff:169.254.169.254]/"), guarded),
        ("proxy.nat64", "write it as a NAT64 address", get("http://[64:ff9b::a9fe:a9fe]/"), guarded),
        ("proxy.sixtofour", "write it as a 6to4 address", get("http://[2002:a9fe:a9fe::1]/"), guarded),
        ("proxy.connect-metadata", "tunnel to the metadata address", connect("169.254.169.254:80"), guarded),
        ("proxy.connect-literal", "tunnel to an address", connect("93.184.216.34:80"), &["policy"]),
        (
            "proxy.connect-ssh",
            "tunnel to a port that is no web server's",
            connect("allowed.example:22"),
            &["policy"],
        ),
        ("proxy.connect-zero", "tunnel to port 0", connect("allowed.example:0"), &["policy"]),
        ("proxy.itself", "have the proxy connect to itself", connect("127.0.0.1:3128"), guarded),
        ("proxy.any", "have the proxy connect to all of its addresses", connect("0.0.0.0:80"), guarded),
        ("proxy.edge", "have the proxy connect to the host's edge", connect("127.0.0.1:8471"), guarded),
        ("proxy.localhost", "have the proxy connect to localhost", connect("localhost:8471"), guarded),
    ];
    let wire = |(id, title, attempt, layers): (&'static str, &'static str, _, _)| Wire {
        id: id.into(),
        title: title.into(),
        layers,
        attack: How::Cell(attempt),
        leak: "",
        held: false,
        control: allowed(),
    };
    rows.into_iter().map(wire).collect()
}

/// Names that the policy allows and that mean what nobody may reach.
pub(super) fn rebound() -> Vec<Wire> {
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
    let wire = |(id, title, name): (&'static str, &'static str, &str)| Wire {
        id: id.into(),
        title: title.into(),
        layers: &["guard", "uid firewall"],
        attack: How::Cell(get(&format!("http://{name}/"))),
        leak: "",
        held: false,
        control: allowed(),
    };
    rows.into_iter().map(wire).collect()
}
