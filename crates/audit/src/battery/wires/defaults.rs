//! What the tenant's own policy does with what it does not name: its document, unchanged, is in force at a tenant of
//! its own, and its default answers there. What it allows is no escape, and what waits for an answer is contained.

use super::{DEFAULTED, GOOD, How, TcpName, WEB, Wire, get, page, plain, tls};
use crate::{battery::FLAG, rules::Rules};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

pub(super) fn defaults(rules: &Rules) -> Vec<Wire> {
    let held = rules.proved.default == cofferdam_policy::Default::Ask;
    let named = |name: &str, port, say| TcpName { name: name.into(), port, say, expect: FLAG.into() };
    let web = |port| SocketAddr::new(WEB.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), port);
    let (captured, proxied, hello) =
        ("default-captured.example", "default-proxied.example", "default-hello.example");
    let rows = [
        (
            "default.captured",
            "connect to a name that the tenant's policy does not name",
            named(captured, 80, page(&format!("http://{captured}/"))),
            plain(web(80)),
            captured,
        ),
        (
            "default.proxied",
            "ask the proxy for another",
            get(&format!("http://{proxied}/")),
            plain(web(80)),
            proxied,
        ),
        (
            "default.hello",
            "speak TLS to another",
            named(hello, 443, tls::named_hello(hello)),
            super::say(web(443), tls::named_hello(GOOD)),
            hello,
        ),
    ];
    let wire = |(id, title, attack, control, leak): (&'static str, &'static str, _, _, _)| Wire {
        id: id.into(),
        title: title.into(),
        layers: &["policy"],
        attack: How::In(DEFAULTED, attack),
        leak,
        held,
        control: How::Outside(control),
    };
    rows.into_iter().map(wire).collect()
}
