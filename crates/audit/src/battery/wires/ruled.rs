//! What a rule allows and nobody may reach: the guard answers it, whatever a policy says.

use super::{How, Wire, allowed, get, plain};
use crate::rules::{Forbidden, Rules};
use std::net::SocketAddr;

const GUARD: &[&str] = &["guard", "uid firewall"];

/// By the battery's own rules.
pub(super) fn ours() -> Vec<Wire> {
    let rows: [(&str, &str, &str); 8] = [
        ("guard.private", "use a rule that allows a private address", "10.0.0.2"),
        ("guard.carrier", "use a rule that allows a carrier's address", "100.64.0.2"),
        ("guard.metadata", "use a rule that allows a cloud's metadata", "169.254.170.2"),
        ("guard.metadata-6", "use a rule that allows a cloud's metadata, IPv6", "fd00:ec2::23"),
        ("guard.link-local", "use a rule that allows a link-local address", "169.254.7.8"),
        ("guard.documentation", "use a rule that allows an address of documentation", "198.51.100.2"),
        ("guard.documentation-3", "use a rule that allows another of documentation", "203.0.113.2"),
        ("guard.documentation-6", "use a rule that allows an IPv6 one of documentation", "2001:db8:2::2"),
    ];
    let wire = |(id, title, address): (&'static str, &'static str, &str)| {
        Some(reached(id.into(), title.into(), SocketAddr::new(address.parse().ok()?, 80)))
    };
    rows.into_iter().filter_map(wire).collect()
}

/// By the tenant's, each that is about such a target.
pub(super) fn tenants(rules: &Rules) -> Vec<Wire> {
    let wire = |(rule, forbidden): (u32, Forbidden)| {
        let id = format!("guard.tenants-rule-{rule}").into();
        match forbidden {
            Forbidden::Address(to) => {
                reached(id, format!("use the tenant's own rule {rule}, which allows {to}").into(), to)
            }
            Forbidden::Name(name) => Wire {
                id,
                title: format!("use the tenant's own rule {rule}, which allows {name}").into(),
                layers: &["guard"],
                attack: How::Cell(get(&format!("http://{name}/"))),
                leak: "",
                held: false,
                control: allowed(),
            },
        }
    };
    rules.forbidden().into_iter().map(wire).collect()
}

/// From the cell, and from outside any cell.
fn reached(id: super::Cow<'static, str>, title: super::Cow<'static, str>, to: SocketAddr) -> Wire {
    let (attack, control) = (How::Cell(plain(to)), How::Outside(plain(to)));
    Wire { id, title, layers: GUARD, attack, leak: "", held: false, control }
}
