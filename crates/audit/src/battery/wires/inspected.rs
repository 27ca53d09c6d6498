//! What is said inside TLS that a warden looks into: at a tenant whose rules speak of requests.
//!
//! The rows about the network and the proxy are tried there again, so that what holds unseen holds looked into. The
//! client trusts what its cell is told to trust; the outside speaks TLS under an authority of the operator's, but for
//! one name, whose certificate nobody vouches for.

use super::{GOOD, How, INSPECTED, Wire};
use crate::battery::FLAG;
use cofferdam_sandbox::probe::{
    Attempt::{self, Find},
    Tls,
};
use std::fmt::Write;

/// Every request is judged, and one path is denied.
pub(crate) const POLICY: &str = "version: 2\ndefault: deny\nrules:\n\
    \x20 - {allow: allowed.example, protocol: http, method: [GET, POST]}\n\
    \x20 - {allow: allowed.example, protocol: https, method: [GET, POST]}\n\
    \x20 - {deny: allowed.example, path: /closed}\n\
    \x20 - {allow: forged.example, protocol: https, method: GET}\n\
    \x20 - {allow: rebind-metadata.example, protocol: http, method: GET}\n\
    \x20 - {allow: rebind-loopback.example, protocol: http, method: GET}\n\
    \x20 - {allow: rebind-private.example, protocol: http, method: GET}\n\
    \x20 - {allow: rebind-carrier.example, protocol: http, method: GET}\n\
    \x20 - {allow: rebind-link.example, protocol: http, method: GET}\n\
    \x20 - {allow: rebind-host.example, protocol: http, method: GET}\n\
    \x20 - {allow: rebind-mapped.example, protocol: http, method: GET}\n\
    \x20 - {allow: rebind-nat64.example, protocol: http, method: GET}\n";
/// A name that the outside has no good certificate for.
pub(crate) const FORGED: &str = "forged.example";
/// A secret of the tenant's that is bound to [`GOOD`], below `/v1`.
pub(crate) const BOUND: &str = "canary-of-the-bound-key";
/// Stands for its placeholder, which the host makes.
pub(crate) const PLACEHOLDER: &str = "@PLACEHOLDER@";
/// Stands for the certificate of the neighbour's authority, PEM, and for that of the tenant's own.
pub(crate) const AUTHORITIES: [&str; 2] = ["@NEIGHBOURS@", "@OWN@"];
/// Stands for a line of it, and for the same line of the tenant's own.
pub(crate) const LINES: [&str; 2] = ["@THEIR-LINE@", "@OWN-LINE@"];

/// The same attack where TLS is looked into. What waits for an answer is shown once.
pub(super) fn again(wire: &Wire) -> Option<Wire> {
    let (How::Cell(attack), false) = (&wire.attack, wire.held) else { return None };
    let control = match &wire.control {
        // What only looks like TLS gets nowhere here, good or not.
        How::Cell(_) if wire.id.starts_with("tls.") => {
            inside(wire.id.starts_with("tls.tunnel"), &request("GET", "/", GOOD))
        }
        How::Cell(attempt) => How::In(INSPECTED, attempt.clone()),
        other => other.clone(),
    };
    Some(Wire {
        id: format!("inspected.{}", wire.id).into(),
        title: format!("{}, where requests are judged", wire.title).into(),
        layers: wire.layers,
        attack: How::In(INSPECTED, attack.clone()),
        leak: wire.leak,
        held: false,
        control,
    })
}

pub(super) fn inspected() -> Vec<Wire> {
    let mut rows = requests();
    rows.extend(second());
    rows.extend(authorities());
    rows
}

/// One request, or what is none.
fn requests() -> Vec<Wire> {
    let smuggled = |path: &str| request("GET", path, "unlisted.example");
    let with = |lines: &str, body: &str| {
        format!("POST / HTTP/1.1\r\nHost: {GOOD}\r\n{lines}Connection: close\r\n\r\n{body}")
    };
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n0\r\n\r\n", text.len());
    let holder = format!(
        "GET /holder-inside HTTP/1.1\r\nHost: {GOOD}\r\nX-Other: {PLACEHOLDER}\r\nConnection: close\r\n\r\n"
    );
    let rows: [(&str, &str, String, &str, &[&str]); 14] = [
        (
            "other-host",
            "name another host in a request than in the handshake",
            request("GET", "/other-inside", "unlisted.example"),
            "other-inside",
            &["host check"],
        ),
        (
            "two-hosts",
            "name two hosts in a request",
            request("GET", "/two-inside", &format!("{GOOD}\r\nHost: unlisted.example")),
            "two-inside",
            &["host check"],
        ),
        (
            "absolute",
            "ask for a whole URL of another host",
            request("GET", "https://unlisted.example/absolute-inside", GOOD),
            "absolute-inside",
            &["host check"],
        ),
        (
            "length-and-chunks",
            "hide a second request behind a length, and then chunks",
            with(
                "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
                &format!("0\r\n\r\n{}", smuggled("/clte-inside")),
            ),
            "clte-inside",
            &["head parser"],
        ),
        (
            "chunks-and-length",
            "send chunks and pass on a length besides",
            with("Transfer-Encoding: chunked\r\nContent-Length: 7731\r\n", &chunk(&smuggled("/tecl-inside"))),
            // Who ends the body at a length finds another request behind it.
            ": 7731",
            &["head parser"],
        ),
        (
            "two-lengths",
            "hide one behind two lengths",
            with("Content-Length: 0\r\nContent-Length: 60\r\n", &smuggled("/clcl-inside")),
            "clcl-inside",
            &["head parser"],
        ),
        (
            "folded",
            "hide a name in a folded header",
            request("GET", "/folded-inside", &format!("{GOOD}\r\nX-A: b\r\n Host: unlisted.example")),
            "folded-inside",
            &["head parser"],
        ),
        (
            "method",
            "use a method that no rule allows",
            request("DELETE", "/method-inside", GOOD),
            "method-inside",
            &["policy"],
        ),
        (
            "path",
            "ask for a path that a rule denies",
            request("GET", "/closed?path-inside", GOOD),
            "path-inside",
            &["policy"],
        ),
        (
            "path-encoded",
            "write that path in percents",
            request("GET", "/%63losed?percent-inside", GOOD),
            "percent-inside",
            &["policy"],
        ),
        (
            "path-dots",
            "write it with dots",
            request("GET", "/open/../closed?dots-inside", GOOD),
            "dots-inside",
            &["policy"],
        ),
        (
            "connect",
            "open a tunnel to another host",
            format!(
                "CONNECT unlisted.example:80 HTTP/1.1\r\nHost: unlisted.example:80\r\n\r\n{}",
                smuggled("/connect-inside")
            ),
            "connect-inside",
            &["host check"],
        ),
        (
            "other-protocol",
            "speak what is no HTTP",
            "SSH-2.0-inside\r\n\r\n".into(),
            "SSH-2.0-inside",
            &["head parser"],
        ),
        (
            "placeholder",
            "send a secret's placeholder where it is not bound",
            holder,
            "holder-inside",
            &["placeholders"],
        ),
    ];
    let mut wires: Vec<Wire> =
        rows.into_iter().map(|(id, title, say, leak, layers)| one(id, title, &say, leak, layers)).collect();
    let bound = format!(
        "GET /v1/bound HTTP/1.1\r\nHost: {GOOD}\r\nX-Api-Key: {PLACEHOLDER}\r\nConnection: close\r\n\r\n"
    );
    if let Some(wire) = wires.last_mut() {
        wire.control = inside(false, &bound);
    }
    wires
}

/// What a connection is worth once a request of it was allowed, of both generations of HTTP.
fn second() -> Vec<Wire> {
    let kept = format!(
        "GET / HTTP/1.1\r\nHost: {GOOD}\r\n\r\n{}",
        request("GET", "/second-inside", "unlisted.example")
    );
    let two = |authority: &str, path: &str, more: &[(&str, &str)]| {
        let say = http2(authority, path, more);
        How::In(INSPECTED, Attempt::Tls(Tls { protocol: "h2".into(), ..client(GOOD, &say) }))
    };
    let good = || two(GOOD, "/", &[]);
    let row = |id: &'static str, title: &'static str, attack, leak, control| Wire {
        id: id.into(),
        title: title.into(),
        layers: &["host check"],
        attack,
        leak,
        held: false,
        control,
    };
    vec![
        one(
            "second-host",
            "ask for another host on a connection that was allowed",
            &kept,
            "second-inside",
            &["host check"],
        ),
        Wire {
            id: "inspected.tunnel-other-host".into(),
            title: "name another host in a request in a tunnel".into(),
            attack: inside(true, &request("GET", "/tunnel-inside", "unlisted.example")),
            leak: "tunnel-inside",
            control: inside(true, &request("GET", "/", GOOD)),
            ..one("", "", "", "", &["host check"])
        },
        row(
            "inspected.h2-authority",
            "name another host in a request of HTTP/2",
            two("unlisted.example", "/authority-inside", &[]),
            "authority-inside",
            good(),
        ),
        row(
            "inspected.h2-host",
            "name another one besides in its Host header",
            two(GOOD, "/h2host-inside", &[("host", "unlisted.example")]),
            "h2host-inside",
            good(),
        ),
        Wire {
            layers: &["head parser"],
            ..row(
                "inspected.h2-line",
                "hide a second request in a header of HTTP/2",
                two(GOOD, "/h2line-inside", &[("x-a", "b\r\n\r\nGET /smuggled-inside HTTP/1.1")]),
                "line-inside",
                good(),
            )
        },
        Wire {
            layers: &["policy"],
            ..row(
                "inspected.h2-path",
                "ask for a path that a rule denies over HTTP/2",
                two(GOOD, "/closed?h2path-inside", &[]),
                "h2path-inside",
                good(),
            )
        },
    ]
}

/// Name, title, attack, leak, layers and control.
type Row = (&'static str, &'static str, How, &'static str, &'static [&'static str], How);

/// Who vouches for whom, and what of it is in the cell.
fn authorities() -> Vec<Wire> {
    let find = |words: &str, below: &[&str]| {
        How::In(INSPECTED, Find { words: words.into(), below: below.iter().map(Into::into).collect() })
    };
    let files = ["/etc/cofferdam", "/opt/cofferdam", "/sandbox", "/tmp"];
    let vouched = |by: &str| {
        let client = Tls { authorities: by.to_owned(), ..client(GOOD, &request("GET", "/", GOOD)) };
        How::In(INSPECTED, Attempt::Tls(client))
    };
    let good = || inside(false, &request("GET", "/", GOOD));
    let forged = client(FORGED, &request("GET", "/forged-inside", FORGED));
    let rows: [Row; 6] = [
        (
            "forged",
            "get through to a server whose certificate nobody vouches for",
            How::In(INSPECTED, Attempt::Tls(forged)),
            "forged-inside",
            &["certificate check"],
            good(),
        ),
        (
            "neighbours-authority",
            "have the neighbour's authority vouch for a name",
            vouched(AUTHORITIES[0]),
            "",
            &["an authority of each tenant"],
            vouched(AUTHORITIES[1]),
        ),
        (
            "neighbours-trusted",
            "find the neighbour's authority among those that the cell trusts",
            find(LINES[0], &files),
            "",
            &["an authority of each tenant"],
            find(LINES[1], &files),
        ),
        (
            "authority-key",
            "find a private key in a file or an environment",
            find("PRIVATE KEY-----", &files),
            "",
            &["the warden keeps it"],
            find("CERTIFICATE-----", &files),
        ),
        (
            "bound-environment",
            "find a bound secret in an environment",
            find(BOUND, &[]),
            "",
            &["the warden keeps it"],
            find("PATH=", &[]),
        ),
        (
            "bound-files",
            "find a bound secret in a file",
            find(BOUND, &files),
            "",
            &["the warden keeps it"],
            find("CERTIFICATE-----", &files),
        ),
    ];
    let wire = |(id, title, attack, leak, layers, control): Row| Wire {
        id: format!("inspected.{id}").into(),
        title: title.into(),
        layers,
        attack,
        leak,
        held: false,
        control,
    };
    rows.into_iter().map(wire).collect()
}

fn one(
    id: &str,
    title: &'static str,
    say: &str,
    leak: &'static str,
    layers: &'static [&'static str],
) -> Wire {
    Wire {
        id: format!("inspected.{id}").into(),
        title: title.into(),
        layers,
        attack: inside(false, say),
        leak,
        held: false,
        control: inside(false, &request("GET", "/", GOOD)),
    }
}

fn inside(tunnelled: bool, say: &str) -> How {
    How::In(INSPECTED, Attempt::Tls(Tls { tunnelled, ..client(GOOD, say) }))
}

fn client(name: &str, say: &str) -> Tls {
    Tls {
        name: name.into(),
        tunnelled: false,
        protocol: "http/1.1".into(),
        authorities: String::new(),
        say: say.into(),
        expect: FLAG.into(),
    }
}

fn request(method: &str, target: &str, host: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

/// A connection of HTTP/2 with one GET (RFC 9113 §3.4, §4.1; the headers as literals of RFC 7541 §6.2.2), one
/// character a byte.
fn http2(authority: &str, path: &str, more: &[(&str, &str)]) -> String {
    let text = |text: &str| format!("{}{text}", char::from(u8::try_from(text.len()).unwrap_or(0)));
    // GET, https, path and authority are in the static table.
    let mut fields = format!("\u{82}\u{87}\u{4}{}\u{1}{}", text(path), text(authority));
    for (name, value) in more {
        // Writing to a string does not fail.
        let _ = write!(fields, "\0{}{}", text(name), text(value));
    }
    let frame = |kind: u8, flags: u8, stream: u8, payload: &str| {
        let length = u8::try_from(payload.chars().count()).unwrap_or(0);
        let head = [0, 0, length, kind, flags, 0, 0, 0, stream].map(char::from);
        head.iter().collect::<String>() + payload
    };
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    // The stream ends, and so do its headers; then nothing more is asked for.
    let frames = [frame(4, 0, 0, ""), frame(1, 5, 1, &fields), frame(7, 0, 0, &"\0".repeat(8))];
    preface.to_owned() + &frames.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_http_2_is_what_the_format_says() {
        let text = http2("a.b", "/c", &[("x", "y")]);
        let bytes: Vec<u8> =
            text.chars().map(|letter| u8::try_from(u32::from(letter)).unwrap_or(0)).collect();
        let head = b"\0\0\x10\x01\x05\0\0\0\x01";
        let fields = b"\x82\x87\x04\x02/c\x01\x03a.b\x00\x01x\x01y";
        assert!(bytes.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"));
        let end = [b"\0\0\x08\x07\0\0\0\0\0".as_slice(), &[0; 8]].concat();
        assert!(bytes.ends_with(&[head.as_slice(), fields, &end].concat()), "{bytes:?}");
    }

    #[test]
    fn every_row_of_network_and_proxy_is_tried_in_both_modes() {
        let wires = super::super::wires(&crate::rules::Rules::none());
        for family in ["egress.", "proxy.", "rebind.", "names.", "tls."] {
            let plain: Vec<&Wire> = wires.iter().filter(|wire| wire.id.starts_with(family)).collect();
            assert!(plain.len() >= 6, "{family}");
            for wire in plain {
                let again = format!("inspected.{}", wire.id);
                assert!(
                    wires.iter().any(|other| other.id == again && other.layers == wire.layers),
                    "{again}"
                );
            }
        }
    }
}
