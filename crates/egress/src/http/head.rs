//! The head of a request: which host it means, and which of its headers go on.

use crate::check::{Check, keeps};
use aws_lc_rs::digest::SHA256;
use cofferdam_base::{
    Destination, Digest, Host, HostName, Protocol,
    ipc::asked::{self, RequestShown},
};
use cofferdam_policy::{Body as Known, Call, RequestFacts};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header, request::Parts};
use serde_json::Value;
use std::{net::IpAddr, num::NonZeroU16};

/// A host and a port, as a URI or a Host header spells them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Authority {
    pub(crate) host: Host,
    pub(crate) port: NonZeroU16,
}

/// A request as people see it, and to which a yes for once is bound: spelt out once somebody is asked.
pub(crate) fn shows<B>(
    request: &Request<B>,
) -> impl Fn(&RequestFacts) -> RequestShown + Send + Sync + use<B> {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let size = request.headers().get(header::CONTENT_LENGTH);
    let size = size.and_then(|size| size.to_str().ok()?.parse().ok());
    move |facts| shown(facts, &method, &uri, size)
}

fn shown(facts: &RequestFacts, method: &Method, uri: &Uri, size: Option<u64>) -> RequestShown {
    let destination = &facts.destination;
    let authority = Authority { host: destination.host.clone(), port: destination.port };
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let scheme = if destination.protocol == Protocol::Https { "https" } else { "http" };
    let url = format!("{scheme}://{}{path}", authority.to_header());
    let method = method.to_string();
    let (tool, arguments) = called(&facts.body).unzip();
    let long = |text: &str, most: usize| text.chars().count() > most;
    let cut = long(&url, asked::LONGEST_URL)
        || long(&method, asked::LONGEST_WORD)
        || tool.as_ref().is_some_and(|tool| long(tool, asked::LONGEST_WORD))
        || arguments.as_ref().is_some_and(|arguments| long(arguments, asked::LONGEST_ARGUMENTS));
    let whole = cut.then(|| {
        let all = serde_json::json!([method, url, tool, arguments]).to_string();
        let digest = aws_lc_rs::digest::digest(&SHA256, all.as_bytes());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Digest::from_bytes(bytes)
    });
    RequestShown { method, url, tool, arguments, size, whole }.visible()
}

/// What a body that was read calls, and with which arguments.
fn called(body: &Known) -> Option<(String, String)> {
    let (names, arguments): (Vec<String>, Vec<String>) = match body {
        Known::None | Known::Unread | Known::Other => return None,
        Known::Calls(calls) => {
            let name = |call: &Call| call.tool.clone().or_else(|| call.method.clone()).unwrap_or_default();
            let arguments = |call: &Call| match &call.params {
                Value::Null => Value::Object(call.arguments.clone()).to_string(),
                params => params.to_string(),
            };
            calls.iter().map(|call| (name(call), arguments(call))).unzip()
        }
        Known::Operations(all) => {
            let names = all.iter().map(|it| format!("{} {}", it.kind, it.selected())).collect();
            let mut sources: Vec<String> = all.iter().map(|it| it.source.to_string()).collect();
            sources.dedup();
            (names, sources)
        }
    };
    Some((names.join(", "), arguments.join(", ")))
}

/// Which host a request means.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// What the request line says, if it has an absolute URI.
    pub(crate) absolute: Option<Authority>,
    /// What the Host header says.
    pub(crate) host: Authority,
}

impl Target {
    /// Everything that names a host.
    pub(crate) fn authorities(&self) -> impl Iterator<Item = &Authority> {
        self.absolute.iter().chain(std::iter::once(&self.host))
    }
}

impl Authority {
    /// Reads `host`, `host:port`, `1.2.3.4:port` or `[v6]:port`; user information and anything else is
    /// none of these.
    pub(crate) fn parse(text: &str, default: Option<NonZeroU16>) -> Option<Self> {
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (address, rest) = rest.split_once(']')?;
            let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) };
            (Host::Address(IpAddr::V6(address.parse().ok()?).to_canonical()), port)
        } else {
            let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
            let host = match host.parse::<std::net::Ipv4Addr>() {
                Ok(address) => Host::Address(address.into()),
                Err(_) => Host::Name(HostName::try_from(host).ok()?),
            };
            (host, port)
        };
        let port = match port {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok()?,
            Some(_) => return None,
            None => default?,
        };
        Some(Self { host, port })
    }

    /// As a Host header spells it.
    pub(crate) fn to_header(&self) -> String {
        if self.port.get() == 80 { self.host.to_string() } else { format!("{}:{}", self.host, self.port) }
    }
}

/// Which host the request means; an error if it is ambiguous or its framing is.
pub(crate) fn target<B>(request: &Request<B>) -> Result<Target, &'static str> {
    let headers = request.headers();
    if keeps(Check::HttpVersion) && !matches!(request.version(), Version::HTTP_10 | Version::HTTP_11) {
        return Err("only HTTP/1 is spoken here");
    }
    framing(headers)?;
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok()).ok_or("there is no Host")?;
    if keeps(Check::OneHost) && hosts.next().is_some() {
        return Err("there is more than one Host");
    }
    let http = NonZeroU16::new(80);
    let host = Authority::parse(host, http).ok_or("the Host is malformed")?;
    let absolute = match (request.uri().scheme_str(), request.uri().authority()) {
        (None, None) => None,
        (Some(scheme), Some(authority)) if scheme == "http" || !keeps(Check::HttpScheme) => {
            Some(Authority::parse(authority.as_str(), http).ok_or("the URI's host is malformed")?)
        }
        _ => return Err("the URI's scheme is not http"),
    };
    Ok(Target { absolute, host })
}

/// An error if two parsers could take the body for one of different lengths.
pub(crate) fn framing(headers: &HeaderMap) -> Result<(), &'static str> {
    if keeps(Check::OneCoding) && headers.contains_key(header::TRANSFER_ENCODING) {
        let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
        let chunked = codings.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked"));
        if !chunked || codings.next().is_some() || headers.contains_key(header::CONTENT_LENGTH) {
            return Err("the length of the body is ambiguous");
        }
    }
    if keeps(Check::OneLength) && headers.get_all(header::CONTENT_LENGTH).iter().count() > 1 {
        return Err("the length of the body is ambiguous");
    }
    Ok(())
}

/// The URI in origin form, rebuilt.
pub(crate) fn origin_form(uri: &Uri) -> Option<Uri> {
    let text = uri.path_and_query().map_or("/", |path| path.as_str());
    let text = if text.is_empty() { "/" } else { text };
    // HTTP/2 may bring a target that begins otherwise, which reads differently once it is written.
    if uri.authority().is_none() && text.starts_with('/') && uri.path().starts_with('/') {
        return Some(uri.clone());
    }
    text.parse().ok()
}

/// What the Host header of a plain request says.
pub(crate) fn authority(to: &Destination) -> String {
    let Destination { host, port, protocol: _ } = to.clone();
    Authority { host, port }.to_header()
}

/// The head of a request as it goes on: from its parsed parts, under the judged host.
pub(crate) fn onward(parts: &Parts, destination: &Destination, websocket: bool) -> Option<Request<()>> {
    let mut headers = end_to_end(&parts.headers);
    headers.insert(header::HOST, HeaderValue::try_from(authority(destination)).ok()?);
    headers.remove(header::EXPECT);
    if parts.headers.contains_key(header::TRANSFER_ENCODING) {
        // Unasked, the client that writes it sends a GET without its body.
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if websocket {
        switch_headers(&mut headers);
    }
    let mut request = Request::new(());
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = origin_form(&parts.uri)?;
    *request.headers_mut() = headers;
    Some(request)
}

/// What asks for a WebSocket, or grants it.
pub(crate) fn switch_headers(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}

/// Headers that speak about one connection only (RFC 9110 §7.6.1), and those that speak to proxies.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// The headers that go on.
pub(crate) fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let goes_on = goes_on(headers);
    if headers.keys().all(&goes_on) {
        return headers.clone();
    }
    let mut kept = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers.iter().filter(|(name, _)| goes_on(name)) {
        kept.append(name.clone(), value.clone());
    }
    kept
}

/// Does a header of this name go on, beside these?
pub(crate) fn goes_on(headers: &HeaderMap) -> impl Fn(&HeaderName) -> bool + use<> {
    let named: Vec<HeaderName> = tokens(headers, &header::CONNECTION)
        .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
        .collect();
    move |name| {
        let hop = keeps(Check::HopByHop) && HOP_BY_HOP.contains(name);
        let named = keeps(Check::NamedByConnection) && named.contains(name);
        !hop && !named
    }
}

/// The headers of an answer that go on to the cell: whoever answers cannot speak as the warden does.
pub(crate) fn from_world(headers: &HeaderMap) -> HeaderMap {
    let mut kept = end_to_end(headers);
    let ours: Vec<HeaderName> = kept
        .keys()
        .filter(|name| keeps(Check::OurHeaders) && name.as_str().starts_with("cofferdam-"))
        .cloned()
        .collect();
    for name in ours {
        kept.remove(name);
    }
    kept
}

/// Does the request ask for a WebSocket, and for nothing else?
pub(crate) fn wants_websocket(headers: &HeaderMap) -> bool {
    if !headers.contains_key(header::UPGRADE) {
        return false;
    }
    let upgrade: Vec<String> = tokens(headers, &header::UPGRADE).collect();
    tokens(headers, &header::CONNECTION).any(|token| token == "upgrade") && upgrade == ["websocket"]
}

pub(crate) fn tokens<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = String> + use<'a> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|token| token.trim().to_ascii_lowercase())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn request(uri: &str, headers: &[(&'static str, &'static str)]) -> Request<()> {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn a_target_goes_on_as_it_is_written_or_not_at_all() {
        let of = |target: &'static str| {
            let mut parts = http::uri::Parts::default();
            parts.path_and_query = Some(http::uri::PathAndQuery::from_maybe_shared(target.as_bytes()).ok()?);
            origin_form(&Uri::from_parts(parts).ok()?).map(|uri| uri.to_string())
        };
        for target in ["/", "/a?b", "//a", "*"] {
            assert_eq!(of(target).as_deref(), Some(target));
        }
        // What HTTP/2 may bring: judged it would be another one than what is written.
        assert_eq!(of("?x=1"), None);
        assert_eq!(of("#x").as_deref(), Some("/"));
        assert_eq!(origin_form(&"http://a.example".parse().unwrap()).unwrap(), "/");
        assert_eq!(origin_form(&"http://a.example/x?y".parse().unwrap()).unwrap(), "/x?y");
    }

    #[test]
    fn a_person_sees_what_each_call_is_called_with() {
        let called = |method: &str, params: &str| {
            let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
            called(&Known::parse(body.as_bytes())).unwrap()
        };
        let tool = called("tools/call", r#"{"name":"run","arguments":{"path":"/a"}}"#);
        assert_eq!(tool, ("run".to_owned(), r#"{"path":"/a"}"#.to_owned()));
        let (one, other) = (called("eth_send", r#"["0xaa",1]"#), called("eth_send", r#"["0xbb",1]"#));
        assert_eq!(one, ("eth_send".to_owned(), r#"["0xaa",1]"#.to_owned()));
        assert_ne!(one, other, "they are not one question");
    }

    #[test]
    fn hosts_are_read_strictly() {
        let read = |text| Authority::parse(text, NonZeroU16::new(80)).map(|it| it.to_header());
        for (text, shown) in [
            ("A.example", "a.example"),
            ("a.example:80", "a.example"),
            ("a.example:8080", "a.example:8080"),
            ("1.2.3.4", "1.2.3.4"),
            ("[2001:db8::1]:81", "[2001:db8::1]:81"),
            ("[::ffff:1.2.3.4]", "1.2.3.4"),
        ] {
            assert_eq!(read(text).as_deref(), Some(shown), "{text}");
        }
        for bad in [
            "",
            "a.example:0",
            "a.example:",
            "a.example:+80",
            "u@a.example",
            "a.example.",
            "[::1",
            "a b",
            "::1",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn ambiguous_heads_are_refused_and_a_plain_one_is_not() {
        let host = ("host", "a.example");
        for bad in [
            request("/", &[]),
            request("/", &[host, host]),
            request("/", &[host, ("content-length", "1"), ("transfer-encoding", "chunked")]),
            request("/", &[host, ("transfer-encoding", "gzip, chunked")]),
            request("/", &[host, ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]),
            request("/", &[host, ("content-length", "1"), ("content-length", "1")]),
            request("https://a.example/", &[host]),
        ] {
            assert!(target(&bad).is_err(), "{bad:?}");
        }
        assert!(target(&request("/", &[host, ("transfer-encoding", "chunked")])).is_ok());
        assert!(target(&request("http://a.example/x", &[host])).unwrap().absolute.is_some());
    }

    #[test]
    fn headers_of_the_hop_stay_behind() {
        let request = request(
            "/",
            &[
                ("host", "a.example"),
                ("connection", "keep-alive, X-Mine, host"),
                ("x-mine", "1"),
                ("proxy-authorization", "basic"),
                ("upgrade", "h2c"),
                ("accept", "a"),
                ("accept", "b"),
            ],
        );
        let kept = end_to_end(request.headers());
        let names: Vec<&str> = kept.keys().map(HeaderName::as_str).collect();
        // The host that was judged is written anew, and so is the length of what is sent.
        assert_eq!(names, ["accept"]);
        assert_eq!(kept.get_all("accept").iter().count(), 2);
        assert!(!wants_websocket(request.headers()));
    }
}
