//! The headers of a request into a cell and of an answer out of it.
//!
//! Both maps are made anew from the parsed ones, header by header; nothing is copied raw. The threats: a
//! client that forges an identity, a forwarding address or a hop-by-hop header; a cell that sets cookies or
//! lasting rules of the browser on an origin, or claims to be us. It owns the lists; who the user is comes
//! verified from elsewhere.

use crate::{
    check::{Check, keeps},
    token::Verified,
};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use std::net::IpAddr;

/// Who asks, through what.
#[derive(Debug)]
pub struct Identity<'a> {
    /// The verified token.
    pub token: &'a Verified,
    /// The client's address.
    pub peer: IpAddr,
    /// The public host, as the client named it and as it was checked.
    pub host: &'a HeaderValue,
}

/// The headers that go into the cell.
#[must_use]
pub fn inbound(mut given: HeaderMap, identity: &Identity<'_>) -> HeaderMap {
    let named = named_by_connection(&given);
    let mut kept = HeaderMap::with_capacity(given.len() + 6);
    kept.insert(header::HOST, identity.host.clone());
    keep(&mut given, &mut kept, |name| !dropped_inbound(name) && !named.contains(name));
    kept.insert(USER, identity.token.user_header.clone());
    kept.insert(SCOPES, identity.token.scopes_header.clone());
    kept.insert(X_FORWARDED_FOR, forwarded_for(identity.peer));
    kept.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    kept.insert(X_FORWARDED_HOST, identity.host.clone());
    kept
}

/// The headers that leave the cell.
#[must_use]
pub fn outbound(mut given: HeaderMap) -> HeaderMap {
    let named = named_by_connection(&given);
    let mut kept = HeaderMap::with_capacity(given.len());
    keep(&mut given, &mut kept, |name| !dropped_outbound(name) && !named.contains(name));
    kept
}

fn keep(given: &mut HeaderMap, kept: &mut HeaderMap, wanted: impl Fn(&HeaderName) -> bool) {
    let mut last = None;
    for (name, value) in given.drain() {
        // A header that comes again has no name of its own the second time.
        if let Some(name) = name {
            last = wanted(&name).then_some(name);
        }
        if let Some(name) = &last {
            kept.append(name.clone(), value);
        }
    }
}

/// What `Connection` lists is for this hop only.
fn named_by_connection(given: &HeaderMap) -> Vec<HeaderName> {
    if !keeps(Check::NamedByConnection) {
        return Vec::new();
    }
    let listed = given.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    listed
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .filter(|name| !name.eq_ignore_ascii_case("keep-alive") && !name.eq_ignore_ascii_case("close"))
        .filter_map(|name| name.parse().ok())
        .collect()
}

/// RFC 9110 §7.6.1, and `Keep-Alive` and `Proxy-Connection` of old.
fn hop_by_hop(name: &HeaderName) -> bool {
    *name == header::CONNECTION
        || *name == header::TRANSFER_ENCODING
        || *name == header::UPGRADE
        || *name == header::TE
        || *name == header::TRAILER
        || *name == header::PROXY_AUTHENTICATE
        || *name == header::PROXY_AUTHORIZATION
        || matches!(name.as_str(), "keep-alive" | "proxy-connection" | "http2-settings")
        || name.as_str().starts_with("sec-websocket-")
}

/// What says who somebody is, by our convention or by that of the gateway's other front ends.
fn claims_identity(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.starts_with("x-cofferdam-")
        || name.starts_with("cofferdam-")
        || name.starts_with("x-openclaw-")
        || name.starts_with("x-forwarded-")
        || name.starts_with("tailscale-")
        || matches!(name, "x-real-ip" | "forwarded" | "x-client-ip" | "true-client-ip" | "cf-connecting-ip")
}

fn dropped_inbound(name: &HeaderName) -> bool {
    let credential = *name == header::AUTHORIZATION || *name == header::COOKIE;
    *name == header::HOST
        || *name == header::EXPECT
        || keeps(Check::Credentials) && credential
        // In a program's environment it becomes HTTP_PROXY, which many obey.
        || keeps(Check::HttpProxy) && name.as_str() == "proxy"
        // Many gateways read `_` and `-` alike: X_Cofferdam_User would be an identity.
        || keeps(Check::Underscores) && name.as_str().contains('_')
        || keeps(Check::HopByHop) && hop_by_hop(name)
        || keeps(Check::Identity) && claims_identity(name) && *name != HOOK
}

/// `Access-Control-*` speaks to pages of other origins, and requests of these are refused. What a page says about
/// itself, its content security policy above all, passes.
fn dropped_outbound(name: &HeaderName) -> bool {
    *name == header::SERVER
        || keeps(Check::AnswersCredentials) && carries_credentials(name)
        || keeps(Check::AnswersRules) && rules_browsers(name)
        || keeps(Check::AnswersCors) && name.as_str().starts_with("access-control-")
        || keeps(Check::HopByHop) && hop_by_hop(name)
        || keeps(Check::Identity) && claims_identity(name)
}

fn carries_credentials(name: &HeaderName) -> bool {
    *name == header::SET_COOKIE
        || *name == header::COOKIE
        || *name == header::AUTHORIZATION
        || name.as_str() == "set-cookie2"
}

/// What tells the browser something that outlasts the answer or concerns other pages.
fn rules_browsers(name: &HeaderName) -> bool {
    *name == header::ALT_SVC
        || *name == header::STRICT_TRANSPORT_SECURITY
        || matches!(
            name.as_str(),
            "clear-site-data" | "service-worker-allowed" | "nel" | "report-to" | "reporting-endpoints"
        )
}

/// The gateway takes a loopback address behind a proxy for an attack, so a client on this machine is
/// announced with an address of the documentation block.
fn forwarded_for(peer: IpAddr) -> HeaderValue {
    let peer = peer.to_canonical();
    if peer.is_loopback() {
        return HeaderValue::from_static("203.0.113.1");
    }
    // The text of an address is always a header value.
    HeaderValue::from_str(&peer.to_string()).unwrap_or_else(|_| HeaderValue::from_static("203.0.113.1"))
}

/// A hook's own token opens hooks and names nobody: the gateway wants it beside what we say of the caller.
const HOOK: HeaderName = HeaderName::from_static("x-openclaw-token");
const USER: HeaderName = HeaderName::from_static("x-cofferdam-user");
const SCOPES: HeaderName = HeaderName::from_static("x-openclaw-scopes");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::token::tests::{Signer, claims};
    use proptest::prelude::*;

    fn into_cell(rows: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut given = HeaderMap::new();
        for (name, value) in rows {
            given.append(*name, HeaderValue::from_static(value));
        }
        let token = Signer::new("k1").verified(&claims("acme"));
        let host = HeaderValue::from_static("acme.localhost:8471");
        inbound(given, &Identity { token: &token, peer: "127.0.0.1".parse().unwrap(), host: &host })
    }

    #[test]
    fn what_a_client_says_about_itself_is_replaced() {
        let kept = into_cell(&[
            ("host", "evil"),
            ("accept", "*/*"),
            ("accept", "text/html"),
            ("authorization", "Bearer x"),
            ("cookie", "a=b"),
            ("x-cofferdam-user", "m999"),
            ("x-openclaw-scopes", "operator.admin"),
            ("x-openclaw-session-key", "main"),
            ("x-openclaw-token", "hook"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-for", "10.0.0.2"),
            ("x-forwarded-prefix", "/x"),
            ("forwarded", "for=10.0.0.1"),
            ("x-real-ip", "10.0.0.1"),
            ("tailscale-user-login", "root"),
            ("x_cofferdam_user", "m999"),
            ("x-cofferdam_user", "m999"),
            ("x_forwarded_for", "10.0.0.1"),
            ("proxy", "http://evil"),
            ("connection", "keep-alive, X-Secret-Hop"),
            ("x-secret-hop", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("expect", "100-continue"),
            ("user-agent", "curl"),
        ]);
        let mut rows: Vec<(&str, &str)> =
            kept.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        rows.sort_unstable();
        assert_eq!(
            rows,
            [
                ("accept", "*/*"),
                ("accept", "text/html"),
                ("host", "acme.localhost:8471"),
                ("user-agent", "curl"),
                ("x-cofferdam-user", "m001"),
                ("x-forwarded-for", "203.0.113.1"),
                ("x-forwarded-host", "acme.localhost:8471"),
                ("x-forwarded-proto", "http"),
                ("x-openclaw-scopes", "operator.read,operator.write,operator.questions"),
                ("x-openclaw-token", "hook"),
            ]
        );
    }

    #[test]
    fn a_cell_sets_no_cookie_claims_no_identity_and_rules_no_browser() {
        let mut given = HeaderMap::new();
        for name in [
            "set-cookie",
            "cookie",
            "authorization",
            "server",
            "alt-svc",
            "x-cofferdam-user",
            "cofferdam-reason",
            "connection",
            "clear-site-data",
            "strict-transport-security",
            "service-worker-allowed",
            "nel",
            "report-to",
            "reporting-endpoints",
            "access-control-allow-origin",
            "access-control-allow-credentials",
        ] {
            given.append(name, HeaderValue::from_static("x"));
        }
        given.append("set-cookie", HeaderValue::from_static("y"));
        let own = ["cache-control", "content-security-policy", "content-type", "etag", "location", "vary"];
        for name in own {
            given.append(name, HeaderValue::from_static("x"));
        }
        let kept = outbound(given);
        let mut names: Vec<&str> = kept.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, own);
    }

    #[test]
    fn a_peer_that_is_not_loopback_keeps_its_address() {
        assert_eq!(forwarded_for("203.0.113.9".parse().unwrap()), "203.0.113.9");
        for loopback in ["127.0.0.1", "127.18.0.2", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(forwarded_for(loopback.parse().unwrap()), "203.0.113.1", "{loopback}");
        }
    }

    proptest! {
        #[test]
        fn no_header_panics_or_forges(rows in prop::collection::vec(
            ("[a-zA-Z-]{1,24}", prop::collection::vec(any::<u8>(), 0..40)), 0..30)
        ) {
            let mut given = HeaderMap::new();
            for (name, value) in rows {
                if let (Ok(name), Ok(value)) =
                    (name.parse::<HeaderName>(), HeaderValue::from_bytes(&value))
                {
                    given.append(name.clone(), value.clone());
                    given.append(header::CONNECTION, value);
                }
            }
            let token = Signer::new("k1").verified(&claims("acme"));
            let host = HeaderValue::from_static("acme.localhost:8471");
            let identity = Identity { token: &token, peer: "127.0.0.1".parse().unwrap(), host: &host };
            let kept = inbound(given, &identity);
            for name in [USER, SCOPES, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO, header::HOST] {
                prop_assert_eq!(kept.get_all(&name).iter().count(), 1);
            }
            prop_assert!(!kept.contains_key(header::CONNECTION));
        }
    }
}
