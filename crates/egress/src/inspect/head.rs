//! The head of a request inside TLS: it means the one host of its connection, its framing is beyond doubt, and it
//! leaves rebuilt for whatever HTTP the other side speaks.

use super::websocket;
use crate::{
    Refusal,
    check::{Check, keeps},
    http::head::{self, Authority},
};
use cofferdam_base::{Destination, Host};
use cofferdam_policy::Reason;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header, request::Parts, uri};
use std::num::NonZeroU16;

/// Where HTTPS is unless somebody says otherwise.
pub(super) const HTTPS_PORT: NonZeroU16 = NonZeroU16::new(443).unwrap();
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const SEC_WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");

/// What a request asks its connection to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asks {
    /// Nothing.
    Answer,
    /// A WebSocket.
    WebSocket,
}

/// What a head asks for; refused if it means another host than `meant`, or could be read in two ways.
pub(super) fn check<B>(request: &Request<B>, meant: &Destination) -> Result<Asks, Refusal> {
    let bad = |said: &str| Err(Refusal::new(Reason::BadRequest, "https").said(said));
    let (headers, version) = (request.headers(), request.version());
    let two = version == Version::HTTP_2;
    if !matches!(version, Version::HTTP_10 | Version::HTTP_11 | Version::HTTP_2) {
        return bad("only HTTP/1 and HTTP/2 are spoken here");
    }
    if *request.method() == Method::CONNECT && !websocket::is_extended(request) {
        return bad("CONNECT is for the proxy");
    }
    if let Err(said) = head::framing(headers) {
        return bad(said);
    }
    if two && HOP.iter().any(|name| headers.contains_key(name)) {
        return bad("a header of HTTP/1 connections in HTTP/2");
    }
    host(request, meant, two)?;
    upgrade(request, two)
}

/// Headers that HTTP/2 forbids (RFC 9113 §8.2.2).
const HOP: [HeaderName; 4] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("proxy-connection"),
];

/// Everything that names a host must name the one whose certificate the client was shown.
fn host<B>(request: &Request<B>, meant: &Destination, two: bool) -> Result<(), Refusal> {
    let bad = |said: &str| Err(Refusal::new(Reason::BadRequest, "https").said(said));
    let meant = Authority { host: meant.host.clone(), port: meant.port };
    let mut said = Vec::new();
    // As nearly everybody writes it.
    let exact = |text: &[u8]| {
        meant.port == HTTPS_PORT
            && matches!(&meant.host, Host::Name(name) if name.as_str().as_bytes() == text)
    };
    let hosts = request.headers().get_all(header::HOST);
    for host in hosts {
        if exact(host.as_bytes()) {
            said.push(meant.clone());
            continue;
        }
        match host.to_str().ok().and_then(|text| Authority::parse(text, Some(HTTPS_PORT))) {
            Some(authority) => said.push(authority),
            None => return bad("the Host is malformed"),
        }
    }
    if said.len() > 1 {
        return bad("there is more than one Host");
    }
    if said.is_empty() && !two {
        return bad("there is no Host");
    }
    match (request.uri().scheme_str(), request.uri().authority()) {
        (None, None) if !two => {}
        (Some("https"), Some(authority)) => match Authority::parse(authority.as_str(), Some(HTTPS_PORT)) {
            Some(authority) => said.push(authority),
            None => return bad("the URI's host is malformed"),
        },
        // Of HTTP/2 hyper gives the scheme with the authority only.
        (None, None) if !said.is_empty() => {}
        _ => return bad("the URI is not of https"),
    }
    if keeps(Check::HostIsShown) && said.iter().any(|said| *said != meant) {
        return Err(Refusal::new(Reason::HostMismatch, "https"));
    }
    Ok(())
}

/// No other protocol begins inside a connection than a WebSocket, and that only by a request that nothing else
/// could be read into.
fn upgrade<B>(request: &Request<B>, two: bool) -> Result<Asks, Refusal> {
    let headers = request.headers();
    let asked = headers.contains_key(header::UPGRADE) || headers.contains_key(HTTP2_SETTINGS);
    let fits = if websocket::is_extended(request) {
        websocket::fits(request)
    } else if two || !asked {
        return Ok(Asks::Answer);
    } else {
        let one = |name: &HeaderName| headers.get_all(name).iter().count() == 1;
        let body = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
        head::wants_websocket(headers)
            && *request.method() == Method::GET
            && request.version() == Version::HTTP_11
            && !body.iter().any(|it| headers.contains_key(it))
            && !headers.contains_key(HTTP2_SETTINGS)
            && headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13")
            && one(&SEC_WEBSOCKET_KEY)
    };
    if fits || !keeps(Check::OnlyWebSocket) {
        return Ok(Asks::WebSocket);
    }
    Err(Refusal::new(Reason::BadRequest, "https").said("nothing but a WebSocket is switched to"))
}

/// The head as it goes on, for a server that speaks HTTP/2 or one that speaks HTTP/1.1.
pub(super) fn onward(parts: &Parts, to: &Destination, asks: Asks, two: bool) -> Option<Request<()>> {
    let mut headers = head::end_to_end(&parts.headers);
    headers.remove(header::EXPECT);
    headers.remove(header::HOST);
    headers.remove(HTTP2_SETTINGS);
    let trailers = head::tokens(&parts.headers, &header::TE).any(|coding| coding == "trailers");
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(names) = parts.headers.get(header::TRAILER) {
        headers.insert(header::TRAILER, names.clone());
    }
    let authority = authority(to);
    let mut request = Request::new(());
    *request.method_mut() = parts.method.clone();
    let path = head::origin_form(&parts.uri)?;
    if two {
        *request.version_mut() = Version::HTTP_2;
        let mut parts = uri::Parts::default();
        parts.scheme = Some(uri::Scheme::HTTPS);
        parts.authority = Some(authority.parse().ok()?);
        parts.path_and_query = path.into_parts().path_and_query;
        *request.uri_mut() = Uri::from_parts(parts).ok()?;
    } else {
        *request.uri_mut() = path;
        one_cookie(&mut headers)?;
        headers.insert(header::HOST, HeaderValue::try_from(authority).ok()?);
        if parts.headers.contains_key(header::TRANSFER_ENCODING) {
            // Unasked, the client that writes it sends a GET without its body.
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        match asks {
            Asks::WebSocket => head::switch_headers(&mut headers),
            Asks::Answer if trailers => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
            }
            Asks::Answer => {}
        }
    }
    *request.headers_mut() = headers;
    Some(request)
}

/// The headers of an answer as they go to the cell.
pub(super) fn answered(headers: &HeaderMap) -> HeaderMap {
    let mut kept = head::from_world(headers);
    if let Some(names) = headers.get(header::TRAILER) {
        kept.insert(header::TRAILER, names.clone());
    }
    if headers.contains_key(header::TRANSFER_ENCODING) {
        // The body has the length of its chunks.
        kept.remove(header::CONTENT_LENGTH);
    }
    // Where else the host is said to answer, by a protocol that does not pass.
    kept.remove(header::ALT_SVC);
    kept
}

/// As a URI and a Host header spell it.
pub(super) fn authority(to: &Destination) -> String {
    let host = match &to.host {
        Host::Address(std::net::IpAddr::V6(address)) => format!("[{address}]"),
        other => other.to_string(),
    };
    if to.port == HTTPS_PORT { host } else { format!("{host}:{}", to.port) }
}

/// HTTP/2 may split what HTTP/1.1 must have in one (RFC 9113 §8.2.3).
fn one_cookie(headers: &mut HeaderMap) -> Option<()> {
    let all: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if all.len() > 1 {
        let joined = HeaderValue::from_bytes(&all.join(&b"; "[..])).ok()?;
        headers.insert(header::COOKIE, joined);
    }
    Some(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use cofferdam_base::Protocol;

    fn to(port: u16) -> Destination {
        let host = Host::Name("a.example".parse().unwrap());
        Destination { host, port: port.try_into().unwrap(), protocol: Protocol::Https }
    }

    fn request(line: (&str, &str, Version), headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().method(line.0).uri(line.1).version(line.2);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    const ONE: Version = Version::HTTP_11;
    const TWO: Version = Version::HTTP_2;
    const HOST: (&str, &str) = ("host", "a.example");
    const SWITCH: [(&str, &str); 5] = [
        HOST,
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA=="),
    ];

    #[test]
    fn a_head_means_the_host_of_its_certificate_in_every_place_or_is_misdirected() {
        for good in [
            request(("GET", "/", ONE), &[HOST]),
            request(("GET", "/", ONE), &[("host", "A.example:443")]),
            request(("GET", "https://a.example/x", ONE), &[HOST]),
            request(("GET", "https://a.example/", TWO), &[]),
            request(("GET", "https://a.example:443/", TWO), &[HOST]),
        ] {
            assert_eq!(check(&good, &to(443)), Ok(Asks::Answer), "{good:?}");
        }
        for other in [
            request(("GET", "/", ONE), &[("host", "b.example")]),
            request(("GET", "/", ONE), &[("host", "a.example:8443")]),
            request(("GET", "https://b.example/", ONE), &[HOST]),
            request(("GET", "https://b.example/", TWO), &[]),
            request(("GET", "https://a.example/", TWO), &[("host", "b.example")]),
        ] {
            assert_eq!(check(&other, &to(443)).unwrap_err().reason, Reason::HostMismatch, "{other:?}");
        }
        assert!(check(&request(("GET", "/", ONE), &[("host", "a.example:8443")]), &to(8443)).is_ok());
    }

    #[test]
    fn a_head_that_could_be_read_in_two_ways_is_refused() {
        let with = |more: &[(&'static str, &'static str)]| {
            let mut headers = SWITCH.to_vec();
            headers.extend(more);
            headers
        };
        for bad in [
            request(("GET", "/", ONE), &[]),
            request(("GET", "/", ONE), &[HOST, HOST]),
            request(("GET", "http://a.example/", ONE), &[HOST]),
            request(("GET", "/", ONE), &[("host", "u@a.example")]),
            request(("POST", "/", ONE), &[HOST, ("content-length", "1"), ("content-length", "1")]),
            request(("POST", "/", ONE), &[HOST, ("content-length", "1"), ("transfer-encoding", "chunked")]),
            request(("POST", "/", ONE), &[HOST, ("transfer-encoding", "chunked, chunked")]),
            request(("POST", "https://a.example/", TWO), &[("transfer-encoding", "chunked")]),
            request(("GET", "https://a.example/", TWO), &[("upgrade", "websocket")]),
            request(("CONNECT", "a.example:443", ONE), &[HOST]),
            request(
                ("GET", "/", ONE),
                &[HOST, ("connection", "upgrade, http2-settings"), ("upgrade", "h2c")],
            ),
            request(("GET", "/", ONE), &[HOST, ("http2-settings", "AAMAAABkAAQAoAAAAAIAAAAA")]),
            request(("GET", "/", ONE), &[HOST, ("upgrade", "websocket")]),
            request(("POST", "/", ONE), &SWITCH),
            request(("GET", "/", ONE), &with(&[("content-length", "5")])),
            request(("GET", "/", ONE), &with(&[("transfer-encoding", "chunked")])),
            request(("GET", "/", ONE), &with(&[("upgrade", "h2c")])),
            request(("GET", "/", ONE), &with(&[("sec-websocket-key", "BBBB")])),
            request(("GET", "/", Version::HTTP_10), &SWITCH),
        ] {
            assert_eq!(check(&bad, &to(443)).unwrap_err().reason, Reason::BadRequest, "{bad:?}");
        }
        assert_eq!(check(&request(("GET", "/", ONE), &SWITCH), &to(443)), Ok(Asks::WebSocket));
    }

    #[test]
    fn heads_leave_rebuilt_for_what_the_server_speaks() {
        let came = request(
            ("GET", "https://a.example/x?y", TWO),
            &[("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers"), ("accept", "z")],
        );
        let (parts, ()) = came.into_parts();
        let one = onward(&parts, &to(8443), Asks::Answer, false).unwrap();
        assert_eq!(one.uri(), "/x?y");
        assert_eq!(one.headers()["host"], "a.example:8443");
        assert_eq!(one.headers()["cookie"], "a=1; b=2");
        assert_eq!(
            (&one.headers()["te"], &one.headers()["connection"]),
            (&"trailers".parse().unwrap(), &"te".parse().unwrap())
        );
        let two = onward(&parts, &to(443), Asks::Answer, true).unwrap();
        assert_eq!(two.uri(), "https://a.example/x?y");
        assert!(!two.headers().contains_key("host") && !two.headers().contains_key("connection"));
        assert_eq!(two.headers().get_all("cookie").iter().count(), 2);
    }
}
