//! What comes in: requests and WebSockets that the edge must refuse.

use super::{How, Knock, NEIGHBOUR, TENANT, Token, Wire};

const UPGRADE: &str = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const FOREIGN_UPGRADE: &str = "Origin: http://evil.example\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
/// Clients that want a WebSocket.
pub(super) fn sockets() -> Vec<Wire> {
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
        ("socket.other-host", "open one under another host's name", &["edge: host check"], misdirected),
    ];
    rows.into_iter().map(|(id, title, layers, knock)| wire(id, title, layers, knock, &good)).collect()
}

/// Clients.
pub(super) fn edge() -> Vec<Wire> {
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
            &["edge: host check"],
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
    rows.into_iter().map(|(id, title, layers, knock)| wire(id, title, layers, knock, &good)).collect()
}

/// A request and one like it that is good. What the neighbour's token is good for is shown at the neighbour.
fn wire(
    id: &'static str,
    title: &'static str,
    layers: &'static [&'static str],
    knock: Knock,
    good: &Knock,
) -> Wire {
    let control = match knock.token {
        Token::Neighbours => Knock { token: Token::Neighbours, tenant: NEIGHBOUR, ..good.clone() },
        _ => good.clone(),
    };
    let (id, title, attack) = (id.into(), title.into(), How::Edge(knock));
    Wire { id, title, layers, attack, leak: "", held: false, control: How::Edge(control) }
}
