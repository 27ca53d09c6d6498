#![allow(clippy::unwrap_used)]

use super::*;
use crate::{LONGEST_METHOD, Reason};
use proptest::{collection::vec, prelude::*};
use std::sync::Arc;

fn to() -> Destination {
    "https://a.example:443".parse().unwrap()
}

fn request(method: &str, target: &str, body: Body) -> RequestFacts {
    let headers = vec!["accept".to_owned(), "x-team".to_owned()];
    let (method, target) = (method.to_owned(), target.to_owned());
    RequestFacts { destination: to(), method, target, headers, websocket: false, grpc: false, body }
}

fn policy(rules: &str) -> Policy {
    Policy::parse(&format!("version: 2\ndefault: deny\nrules:\n{rules}")).unwrap()
}

/// What is said of a request now, and of its record.
fn both(policy: &Policy, facts: &RequestFacts) -> (Judgement, Option<Judgement>) {
    let seen = facts.seen().unwrap();
    let text = serde_json::to_string(&seen).unwrap();
    assert!(!text.contains("hidden"), "no value is recorded: {text}");
    (policy.judge(facts), policy.replay(&to(), &serde_json::from_str(&text).unwrap()))
}

fn call(tool: &str) -> Body {
    let text = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}","arguments":{{"path":"/hidden"}}}}}}"#
    );
    Body::parse(text.as_bytes())
}

#[test]
fn what_is_recorded_is_judged_as_it_was() {
    let graphql = |text: &str| Body::parse(format!(r#"{{"query":"{text}"}}"#).as_bytes());
    let rpc = Body::parse(br#"{"jsonrpc":"2.0","id":1,"method":"eth_getBalance"}"#);
    for (rules, facts) in [
        ("  - {allow: a.example, method: GET, path: /x/**}\n", request("GET", "/x/y?q=hidden", Body::None)),
        ("  - {allow: a.example, method: GET, path: /x/**}\n", request("POST", "/x/y", Body::Other)),
        ("  - {allow: a.example, headers: [x-team]}\n", request("GET", "/", Body::None)),
        ("  - {allow: a.example, headers: [x-other]}\n", request("GET", "/", Body::None)),
        ("  - {allow: a.example, query: {state: open}}\n", request("GET", "/?q=hidden", Body::None)),
        ("  - {allow: a.example, mcp: {tool: search}}\n", request("POST", "/mcp", call("search"))),
        ("  - {allow: a.example, mcp: {tool: search}}\n", request("POST", "/mcp", call("delete"))),
        (
            "  - {deny: a.example, mcp: {tool: del*}}\n  - {allow: a.example}\n",
            request("POST", "/", call("delete")),
        ),
        ("  - {allow: a.example, jsonrpc: {method: eth_get*}}\n", request("POST", "/", rpc.clone())),
        ("  - {allow: a.example, jsonrpc: {method: net_*}}\n", request("POST", "/", rpc)),
        (
            "  - {allow: a.example, path: /**, graphql: {operation: query, fields: [viewer]}}\n",
            request("POST", "/", graphql("{ viewer }")),
        ),
        (
            "  - {allow: a.example, path: /**, graphql: {operation: query, fields: [viewer]}}\n",
            request("POST", "/", graphql("{ other }")),
        ),
        (
            "  - {allow: a.example, path: /**, graphql: {operation: mutation}}\n",
            request("POST", "/", graphql("mutation M { a }")),
        ),
        (
            "  - {allow: a.example, grpc: {service: acme.Notes}}\n",
            request("POST", "/acme.Notes/Get", Body::None),
        ),
        ("  - {allow: a.example, method: GET}\n", request("GET", "/a%2fb", Body::None)),
        ("  - {allow: a.example, path: /x}\n", request("GET", "/a%2fb", Body::None)),
    ] {
        let (now, replayed) = both(&policy(rules), &facts);
        assert_eq!(replayed, Some(now), "{rules} {facts:?}");
    }
    let grpc = RequestFacts { grpc: true, ..request("POST", "/acme.Notes/Get", Body::Unread) };
    let (now, replayed) = both(&policy("  - {allow: a.example, grpc: {service: acme.Notes}}\n"), &grpc);
    assert!(replayed == Some(now) && matches!(now, Judgement::Clear(Verdict::Allow { .. })));
    let socket = RequestFacts { websocket: true, ..request("GET", "/", Body::None) };
    let (now, replayed) = both(&policy("  - {allow: a.example, protocol: ws}\n"), &socket);
    assert!(replayed == Some(now) && matches!(now, Judgement::Clear(Verdict::Allow { .. })));
    let (now, replayed) =
        both(&policy("  - {allow: a.example, path: /x}\n"), &request("GET", "/a%2fb", Body::None));
    assert!(
        replayed == Some(now) && matches!(now, Judgement::Unclear { reason: Reason::AmbiguousRequest, .. })
    );
}

#[test]
fn what_depends_on_what_is_not_recorded_is_not_guessed() {
    for (rules, facts) in [
        ("  - {allow: a.example, query: {state: open}}\n", request("GET", "/?STATE=hidden", Body::None)),
        (
            "  - {deny: a.example, query: {q: x}}\n  - {allow: a.example}\n",
            request("GET", "/?q=hidden", Body::None),
        ),
        (
            "  - {allow: a.example, mcp: {tool: search, arguments: {path: /a}}}\n",
            request("POST", "/", call("search")),
        ),
        ("  - {allow: a.example, mcp: {tool: search}}\n", request("POST", "/", Body::Unread)),
        (
            "  - {allow: a.example, path: /**, graphql: {operation: query}}\n",
            request("POST", "/", Body::Unread),
        ),
        (
            "  - {allow: a.example, path: /**, graphql: {operation: query}}\n",
            request("GET", "/?query=hidden", Body::None),
        ),
        (
            "  - {ask: a.example, jsonrpc: {method: x}}\n  - {allow: a.example}\n",
            request("POST", "/", Body::Unread),
        ),
    ] {
        assert_eq!(both(&policy(rules), &facts).1, None, "{rules}");
    }
    // Where nothing turns on it, it is known all the same.
    for (rules, facts, denied) in [
        (
            "  - {allow: a.example, query: {q: x}}\n  - {allow: a.example}\n",
            request("GET", "/?q=hidden", Body::None),
            false,
        ),
        (
            "  - {allow: a.example, query: {q: x}}\n  - {deny: a.example, method: GET}\n",
            request("GET", "/?q=hidden", Body::None),
            true,
        ),
        (
            "  - {allow: a.example, mcp: {tool: search, arguments: {path: /a}}}\n",
            request("POST", "/", call("delete")),
            true,
        ),
        (
            "  - {allow: a.example, path: /mcp, mcp: {tool: search}}\n",
            request("POST", "/else", Body::Unread),
            true,
        ),
        ("  - {deny: a.example, query: {q: x}}\n", request("GET", "/?q=hidden", Body::None), true),
    ] {
        let known = both(&policy(rules), &facts).1.unwrap();
        assert_eq!(matches!(known, Judgement::Clear(Verdict::Deny { .. })), denied, "{rules}");
    }
    // A ceiling counts the same way.
    let ceiling = |text: &str| {
        let ceiling = Policy::ceiling(&format!("version: 2\nrules:\n{text}")).unwrap();
        policy("  - {allow: a.example}\n").under(Some(Arc::new(ceiling)))
    };
    let facts = request("GET", "/?q=hidden", Body::None);
    assert_eq!(both(&ceiling("  - {deny: a.example, query: {q: x}}\n"), &facts).1, None);
    let denied = both(&ceiling("  - {deny: a.example, method: GET}\n"), &facts).1.unwrap();
    assert!(matches!(denied, Judgement::Clear(Verdict::Deny { .. })));
}

#[test]
fn what_is_too_much_is_not_recorded() {
    let long = "x".repeat(3000);
    for facts in [
        request("GET", &format!("/{long}"), Body::None),
        request("GET", &format!("/?{long}=1"), Body::None),
        request("GET", &format!("/?{}", "a=1&".repeat(700)), Body::None),
        request("POST", "/", call(&long)),
    ] {
        assert_eq!(facts.seen(), None);
    }
}

#[test]
fn what_is_said_of_a_request_in_words_is_short_whatever_it_is() {
    let long = request(&"M".repeat(60_000), &format!("/{}?q", "p".repeat(60_000)), Body::None).summary();
    assert_eq!(long, format!("{} /{}", "M".repeat(LONGEST_METHOD), "p".repeat(199)));
    assert_eq!(request("UPDATEREDIRECTREF", "/a?b", Body::None).summary(), "UPDATEREDIRECTREF /a");
}

/// It may be a token, as in the address of a webhook.
#[test]
fn a_parameter_without_a_value_is_recorded_without_its_name() {
    let seen = request("GET", "/hook?sk-secret&b=2", Body::None).seen().unwrap();
    assert_eq!(seen.query, ["", "b"]);
    let facts = request("GET", "/?sk-secret", Body::None);
    assert_eq!(both(&policy("  - {allow: a.example, query: {q: x}}\n"), &facts).1, None);
}

fn is_within(seen: &Seen) -> bool {
    serde_json::to_vec(seen).unwrap().len() <= LONGEST
}

proptest! {
    /// What is taken for short at a glance is, whatever its texts need as JSON; and not every text is.
    #[test]
    fn nothing_is_recorded_that_is_longer_than_what_is_recorded(
        method in "[A-Z]{0,9}", path in ".{0,120}", query in vec("[\\x00-\\x1f\"\\\\é]{0,40}", 0..8),
        headers in vec("\\PC{0,30}", 0..30), websocket: bool, grpc: bool, body in 0..3usize,
    ) {
        let body = [SeenBody::None, SeenBody::Unread, SeenBody::Other][body].clone();
        let seen = Seen { method, path, query, headers, websocket, grpc, body };
        prop_assert!(!is_surely_short(&seen) || is_within(&seen));
        prop_assert_eq!(is_short(&seen), is_within(&seen));
    }
}
