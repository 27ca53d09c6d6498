//! What a TLS client says it means: the name in its ClientHello must be the one that was looked up.
//!
//! The warden passes TLS on as it is, so no head within it is read and there is no `Host` to compare with; what is
//! judged is the ClientHello alone. The outside answers each that gets to it, without speaking TLS.

use super::{GOOD, How, PROXY, TcpName, WEB, Wire, say, tunnel};
use crate::battery::FLAG;
use cofferdam_sandbox::probe::Attempt;
use std::net::SocketAddr;

const SERVER_NAME: u16 = 0;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;

/// By capture, at the address that stands for a name.
fn captured(port: u16, words: String) -> Attempt {
    TcpName { name: GOOD.into(), port, say: words, expect: FLAG.into() }
}

fn proxied(words: &str) -> Attempt {
    tunnel("allowed.example:443", words)
}

pub(super) fn hellos() -> Vec<Wire> {
    let good = || named_hello(GOOD);
    let other = "sni-other.example";
    let literal = "93.184.216.34";
    let check: &[&str] = &["name check"];
    let rows: [(&str, &str, Attempt, &str, &[&str]); 13] = [
        (
            "tls.other-name",
            "connect to an allowed name and name another in the handshake",
            captured(443, hello(&[named(&[other])], usize::MAX)),
            other,
            check,
        ),
        ("tls.no-name", "name none in the handshake", captured(443, hello(&[], usize::MAX)), "", check),
        (
            "tls.literal-name",
            "name an address in the handshake",
            captured(443, hello(&[named(&[literal])], usize::MAX)),
            literal,
            check,
        ),
        (
            "tls.two-names",
            "name two hosts in the handshake",
            captured(443, hello(&[named(&[GOOD, "sni-second.example"])], usize::MAX)),
            "sni-second.example",
            check,
        ),
        (
            "tls.named-twice",
            "name a host twice in the handshake",
            captured(443, hello(&[named(&[GOOD]), named(&["sni-twice.example"])], usize::MAX)),
            "sni-twice.example",
            check,
        ),
        (
            "tls.nul",
            "end the name in the handshake before its end",
            captured(443, hello(&[named(&["allowed.example\0.sni-nul.example"])], usize::MAX)),
            "sni-nul.example",
            check,
        ),
        // What is named openly may be a cover.
        (
            "tls.encrypted-name",
            "name another host in an encrypted handshake",
            captured(
                443,
                hello(&[named(&[GOOD]), (ENCRYPTED_CLIENT_HELLO, "sni-hidden".into())], usize::MAX),
            ),
            "sni-hidden",
            check,
        ),
        // Who reads but the first record sees no name in it.
        (
            "tls.split",
            "name another host in a handshake of many records",
            captured(443, hello(&[named(&["sni-split.example"])], 16)),
            "split.example",
            check,
        ),
        (
            "tls.literal-address",
            "name an allowed host at an address that no rule names",
            say(SocketAddr::new(super::IpAddr::V4([93, 184, 216, 34].into()), 443), good()),
            "",
            &["policy", "name check"],
        ),
        ("tls.port", "speak TLS at a port where a rule allows HTTP", captured(80, good()), "", &["policy"]),
        (
            "tls.cleartext",
            "speak HTTP where a rule allows TLS",
            captured(443, "GET /sni-clear HTTP/1.1\r\nHost: allowed.example\r\n\r\n".into()),
            "sni-clear",
            &["policy"],
        ),
        (
            "tls.tunnel-other-name",
            "name another host in the handshake in a tunnel",
            proxied(&hello(&[named(&["sni-tunnel.example"])], usize::MAX)),
            "sni-tunnel.example",
            check,
        ),
        (
            "tls.tunnel-no-name",
            "name none in the handshake in a tunnel",
            proxied(&hello(&[], usize::MAX)),
            "",
            check,
        ),
    ];
    let wire = |(id, title, attempt, leak, layers): (&'static str, &'static str, Attempt, _, _)| {
        let tunnelled = matches!(&attempt, Attempt::Tcp { to, .. } if *to == PROXY);
        let control = How::Cell(if tunnelled { proxied(&good()) } else { captured(443, good()) });
        Wire {
            id: id.into(),
            title: title.into(),
            layers,
            attack: How::Cell(attempt),
            leak,
            held: false,
            control,
        }
    };
    debug_assert_eq!(literal, WEB);
    rows.into_iter().map(wire).collect()
}

/// A client that means one host.
pub(super) fn named_hello(host: &str) -> String {
    hello(&[named(&[host])], usize::MAX)
}

/// An extension that names hosts, one character a byte.
fn named(hosts: &[&str]) -> (u16, String) {
    let list: String = hosts.iter().fold(String::new(), |list, host| list + "\0" + &vector(host));
    (SERVER_NAME, vector(&list))
}

/// A ClientHello of TLS 1.2 with these extensions (RFC 8446 §4.1.2), in records of at most so many bytes.
fn hello(extensions: &[(u16, String)], record: usize) -> String {
    let extensions: String =
        extensions.iter().fold(String::new(), |all, (kind, data)| all + &number(*kind) + &vector(data));
    // Version, random, no session, one cipher suite, no compression.
    let body = format!("\x03\x03{}\0{}\x01\0{}", "r".repeat(32), vector("\x13\x01"), vector(&extensions));
    let message: Vec<char> = format!("\x01\0{}", vector(&body)).chars().collect();
    let wrap = |part: &[char]| format!("\x16\x03\x01{}", vector(&part.iter().collect::<String>()));
    message.chunks(record.min(1 << 14)).map(wrap).collect()
}

/// A length of two bytes, and what is so long.
fn vector(content: &str) -> String {
    let length = u16::try_from(content.chars().count()).unwrap_or(u16::MAX);
    format!("{}{content}", number(length))
}

fn number(number: u16) -> String {
    number.to_be_bytes().map(char::from).iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_is_what_the_format_says() {
        let text = hello(&[named(&["a.b"])], usize::MAX);
        let bytes: Vec<u8> =
            text.chars().map(|letter| u8::try_from(u32::from(letter)).unwrap_or(0)).collect();
        assert_eq!(bytes[..11], [22, 3, 1, 0, bytes[4], 1, 0, 0, bytes[8], 3, 3]);
        assert_eq!((usize::from(bytes[4]), usize::from(bytes[8])), (bytes.len() - 5, bytes.len() - 9));
        assert!(bytes.ends_with(&[0, 12, 0, 0, 0, 8, 0, 6, 0, 0, 3, b'a', b'.', b'b']));
        // Spread over records, nothing else changes.
        let split = hello(&[named(&["a.b"])], 7);
        let mut rest: Vec<char> = split.chars().collect();
        let mut message: Vec<char> = Vec::new();
        while !rest.is_empty() {
            let length = usize::try_from(u32::from(rest[4])).unwrap_or(0);
            message.extend(rest[5..5 + length].iter());
            rest.drain(..5 + length);
        }
        assert_eq!(message, text.chars().skip(5).collect::<Vec<_>>());
    }
}
