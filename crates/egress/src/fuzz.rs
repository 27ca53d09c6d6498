//! What must hold of anything that a cell sends its resolver, its captured connections and its proxy, for
//! `fuzz/`.
//!
//! It owns no parser: each is called as the product calls it. The threats: bytes that a cell's client, we and
//! the server outside read differently, and a look-up that carries something out or grows on its way back.

use crate::{
    dns,
    hello::{self, ClientHello, Hello},
    http::head::{self, Authority, Target},
    names::{Meaning, Names},
    sniff::{MOST, Spoken, classify},
};
use cofferdam_base::{Destination, Host, HostName, Millis, Protocol};
use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::RData,
};
use http::{HeaderMap, Request, header, request::Parts};
use hyper::server::conn::http1;
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU16,
};

/// Any packet at the resolver.
pub fn resolve(packet: &[u8]) {
    let mut names = Names::new(4);
    let reply = dns::answer(packet, &mut names, Millis(1));
    let Some(bytes) = reply.packet else { return };
    assert!(bytes.len() <= 512, "a reply of {} bytes", bytes.len());
    let response = Message::from_vec(&bytes).expect("our own packet parses");
    assert_eq!(response.metadata.message_type, MessageType::Response);
    assert_eq!(bytes.get(..2), packet.get(..2), "the reply to another question");
    assert!(
        response.answers.len() <= 1 && response.authorities.is_empty() && response.additionals.is_empty()
    );
    assert_eq!(dns::answer(&bytes, &mut names, Millis(1)).packet, None, "two of us would talk for ever");
    let Some(answer) = response.answers.first() else { return };
    assert_eq!(response.metadata.response_code, ResponseCode::NoError);
    let question = response.queries.first().expect("an answer has its question");
    assert_eq!(question.name(), &answer.name);
    let address: IpAddr = match &answer.data {
        RData::A(a) => a.0.into(),
        RData::AAAA(aaaa) => aaaa.0.into(),
        other => panic!("an answer of another type: {other:?}"),
    };
    let name = question.name().to_ascii().to_ascii_lowercase();
    let name = HostName::try_from(name.trim_end_matches('.')).expect("a name with an address is a host name");
    if [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()].contains(&address) {
        assert_eq!(name.labels().last(), Some("localhost"));
    } else {
        assert_eq!(names.meaning(address, Millis(1)), Meaning::Name(name), "an address that is not ours");
    }
}

/// Any first bytes of a captured connection.
pub fn first_bytes(bytes: &[u8]) {
    let spoken = classify(bytes);
    if bytes.len() >= MOST {
        assert!(spoken.is_some(), "it would be read for ever");
    }
    let whole = hello::read(bytes);
    match &whole {
        Ok(Hello::Complete(said)) => {
            assert_eq!(spoken, Some(Spoken::Tls(said.clone())));
            agrees_with_rustls(bytes, said);
            assert_eq!(hello::read(&[bytes, b"\x17\x03\x03"].concat()), whole, "what follows changed it");
        }
        Ok(Hello::Partial) => {}
        Err(_) => assert!(hello::read(&[bytes, b"\x16\x03\x01\0\x01"].concat()).is_err(), "it was healed"),
    }
    let step = bytes.len() / 64 + 1;
    for cut in (0..bytes.len()).step_by(step) {
        let before = hello::read(&bytes[..cut]);
        let stable = match before {
            Ok(Hello::Partial) => true,
            Ok(Hello::Complete(_)) => before == whole,
            Err(_) => whole.is_err(),
        };
        assert!(stable, "{cut} bytes said {before:?}, all of them {whole:?}");
    }
}

/// Whatever name a server reads from it, ours is the same.
fn agrees_with_rustls(bytes: &[u8], said: &ClientHello) {
    let mut acceptor = rustls::server::Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        if acceptor.read_tls(&mut rest).is_err() {
            return;
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let theirs = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
                assert_eq!(theirs.as_deref(), said.name.as_ref().map(HostName::as_str), "two names");
                return;
            }
            Err(_) => return,
        }
    }
}

/// Any text as the target of a CONNECT, or a Host.
pub fn authority(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some((host, port)) = crate::http::authority(text) {
        named(&Authority { host, port });
    }
    if let Some(read) = Authority::parse(text, NonZeroU16::new(80)) {
        named(&read);
    }
}

/// What was read is written so that it is read again, and a policy can name it.
fn named(read: &Authority) {
    let again = Authority::parse(&read.to_header(), NonZeroU16::new(80));
    assert_eq!(again.as_ref(), Some(read), "{}", read.to_header());
    if let Host::Address(address) = read.host {
        assert_eq!(address.to_canonical(), address, "a second spelling of an address");
    }
    let Authority { host, port } = read.clone();
    cofferdam_policy::fuzz::nameable(&Destination { host, port, protocol: Protocol::Http });
}

/// How the HTTP of cells is read.
pub fn reader() -> http1::Builder {
    crate::http::reader()
}

/// What the parser gets of these bytes, and how many heads are whole in them; no number once a tunnel begins.
/// Once one byte is changed, all that follows are NULs.
pub fn lined(bytes: &[u8]) -> (Vec<u8>, Option<usize>) {
    let (lined, heads) = crate::http::lines::watched(bytes, 1);
    assert_eq!(crate::http::lines::watched(bytes, bytes.len()).0, lined, "it depends on how it is cut");
    assert_eq!(crate::http::lines::watched(bytes, 7).0, lined, "it depends on how it is cut");
    if let Some(at) = (0..bytes.len()).find(|at| bytes[*at] != lined[*at]) {
        assert!(lined[at..].iter().all(|byte| *byte == 0), "something is left to be read");
    }
    (lined, heads)
}

/// What a request that was read becomes on its way out, if it may go on at all, and where to.
pub fn onward(parts: &Parts) -> Option<(Request<()>, Destination)> {
    let Target { absolute, host } = head::target(&Request::from_parts(parts.clone(), ())).ok()?;
    if absolute.is_some_and(|absolute| absolute != host) {
        return None;
    }
    named(&host);
    let Authority { host, port } = host;
    let destination = Destination { host, port, protocol: Protocol::Http };
    let onward = head::onward(parts, &destination, head::wants_websocket(&parts.headers))?;
    let ours = [header::HOST, header::CONNECTION, header::UPGRADE, header::TRANSFER_ENCODING];
    for name in onward.headers().keys().filter(|name| !ours.contains(name)) {
        let values = |headers: &HeaderMap| headers.get_all(name).iter().cloned().collect::<Vec<_>>();
        assert_eq!(values(onward.headers()), values(&parts.headers), "{name} was changed");
    }
    Some((onward, destination))
}
