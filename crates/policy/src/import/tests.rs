#![allow(clippy::unwrap_used)]
use super::*;
use crate::{Body, Judgement, Policy, RequestFacts, Verb};
use cofferdam_base::Destination;

const OPENSHELL: &str = include_str!("tests/openshell.yaml");
const PRESET: &str = include_str!("tests/preset.yaml");
const PERSONAL: &str = include_str!("tests/personal.yaml");

fn outcome(imported: &Imported, field: &str) -> Vec<Outcome> {
    imported.fields.iter().filter(|it| it.place.ends_with(field)).map(|it| it.outcome).collect()
}

fn judged(policy: &Policy, place: &str, method: &str, target: &str, body: &str) -> Verb {
    let websocket = method == "WS";
    let facts = RequestFacts {
        destination: place.parse::<Destination>().unwrap(),
        method: if websocket { "GET".into() } else { method.into() },
        target: target.into(),
        headers: vec![],
        websocket,
        grpc: false,
        body: Body::parse(body.as_bytes()),
    };
    match policy.judge(&facts) {
        Judgement::Clear(verdict) => verdict.verb(),
        Judgement::Unclear { .. } => Verb::Deny,
    }
}

fn graph(query: &str) -> String {
    format!(r#"{{"query":"{query}"}}"#)
}

fn tool(name: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{name}"}}}}"#)
}

#[test]
fn an_openshell_policy_is_read_unchanged_and_means_the_same_or_less() {
    let imported = import(OPENSHELL).unwrap();
    let policy = Policy::parse(&imported.document).unwrap();
    let code = "https://api.code.example:443";
    for (place, method, target, body, verb) in [
        (code, "GET", "/repos/a/b/c", "", Verb::Allow),
        (code, "GET", "/repos/a/secrets/c", "", Verb::Deny),
        (code, "PUT", "/repos/a/b/c", "", Verb::Deny),
        (code, "POST", "/search?kind=pulls-open", "", Verb::Allow),
        (code, "POST", "/search?kind=users", "", Verb::Deny),
        (code, "DELETE", "/anything", "", Verb::Deny),
        (code, "GET", "/repos/a/b/c/d/secrets", "", Verb::Deny),
        ("http://api.code.example:443", "GET", "/repos/a/b", "", Verb::Deny),
        ("https://a.cdn.code.example:8443", "HEAD", "/x", "", Verb::Allow),
        ("http://a.cdn.code.example:8443", "GET", "/x", "", Verb::Allow),
        ("https://a.cdn.code.example:443", "POST", "/x", "", Verb::Deny),
        ("https://mcp.tools.example:443", "POST", "/mcp", &tool("read_file"), Verb::Allow),
        ("https://mcp.tools.example:443", "POST", "/mcp", &tool("fetch"), Verb::Allow),
        ("https://mcp.tools.example:443", "POST", "/mcp", &tool("delete_all"), Verb::Deny),
        ("https://mcp.tools.example:443", "POST", "/mcp", &tool("write"), Verb::Deny),
        (
            "https://mcp.tools.example:443",
            "POST",
            "/mcp",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#,
            Verb::Allow,
        ),
        ("https://graph.tools.example:443", "POST", "/graphql", "{}", Verb::Deny),
        ("https://graph.tools.example:443", "POST", "/graphql", &graph("{ viewer }"), Verb::Allow),
        ("https://graph.tools.example:443", "POST", "/other", &graph("{ viewer }"), Verb::Deny),
        ("https://graph.tools.example:443", "POST", "/graphql", &graph("{ viewer rateLimit }"), Verb::Deny),
        ("https://graph.tools.example:443", "POST", "/graphql", &graph("mutation { viewer }"), Verb::Deny),
        (
            "https://graph.tools.example:443",
            "POST",
            "/graphql",
            &graph("query Admin1 { viewer }"),
            Verb::Deny,
        ),
        ("https://read.tools.example:443", "POST", "/any", &graph("{ a }"), Verb::Allow),
        ("https://read.tools.example:443", "POST", "/any", &graph("mutation { a }"), Verb::Deny),
        ("https://live.tools.example:443", "WS", "/v1/live", "", Verb::Allow),
        ("https://live.tools.example:443", "WS", "/v1/admin/x", "", Verb::Deny),
        ("https://git.tools.example:443", "POST", "/a/b.git/git-upload-pack", "", Verb::Allow),
        ("https://git.tools.example:443", "POST", "/a/b.git/git-receive-pack", "", Verb::Deny),
        (
            "https://git.tools.example:443",
            "GET",
            "/a/b.git/info/refs?service=git-upload-pack",
            "",
            Verb::Allow,
        ),
        (
            "https://git.tools.example:443",
            "GET",
            "/a/b.git/info/refs?service=git-receive-pack",
            "",
            Verb::Deny,
        ),
        ("https://mcp.tools.example:443", "POST", "/other", &tool("search"), Verb::Deny),
        (
            "https://node.tools.example:8545",
            "POST",
            "/",
            r#"{"jsonrpc":"2.0","id":1,"method":"eth_call"}"#,
            Verb::Allow,
        ),
        (
            "https://node.tools.example:8545",
            "POST",
            "/",
            r#"{"jsonrpc":"2.0","id":1,"method":"eth_send"}"#,
            Verb::Deny,
        ),
        ("https://unused.example:443", "GET", "/", "", Verb::Deny),
    ] {
        assert_eq!(judged(&policy, place, method, target, body), verb, "{method} {place}{target} {body}");
    }
    for (field, expected) in [
        ("landlock", Outcome::Tightened),
        ("filesystem_policy.read_write", Outcome::Inexpressible),
        ("code_host.binaries", Outcome::Widened),
        ("code_host.endpoints[0].rules[0]", Outcome::Tightened),
        ("code_host.endpoints[0].rules[1]", Outcome::Mapped),
        ("code_host.endpoints[0].deny_rules[0]", Outcome::Tightened),
        ("code_host.endpoints[0].deny_rules[1]", Outcome::Mapped),
        ("code_host.endpoints[1].host", Outcome::Tightened),
        ("code_host.endpoints[1].access", Outcome::Mapped),
        ("tools.endpoints[0].mcp.max_body_bytes", Outcome::Inexpressible),
        ("tools.endpoints[1].rules[0]", Outcome::Mapped),
        ("tools.endpoints[1].persisted_queries", Outcome::Mapped),
        ("tools.endpoints[3].access", Outcome::Mapped),
        ("tools.endpoints[4].access", Outcome::Mapped),
        ("network_middlewares", Outcome::Widened),
    ] {
        assert_eq!(outcome(&imported, field), [expected], "{field}");
    }
}

#[test]
fn a_preset_is_read_unchanged_with_its_sockets_and_its_tunnels() {
    let imported = import(PRESET).unwrap();
    let policy = Policy::parse(&imported.document).unwrap();
    for (place, method, target, verb) in [
        ("https://chat.example:443", "GET", "/anything/at/all", Verb::Allow),
        ("https://chat.example:443", "POST", "/bot12:ab/send", Verb::Allow),
        ("https://chat.example:443", "POST", "/users", Verb::Deny),
        ("https://chat.example:443", "WS", "/anything", Verb::Deny),
        ("https://gateway.chat.example:443", "WS", "/socket", Verb::Allow),
        ("https://gateway.chat.example:443", "WS", "/other", Verb::Deny),
        ("https://quiet.chat.example:443", "WS", "/socket", Verb::Deny),
        ("https://media-1.chat.example:443", "GET", "/", Verb::Deny),
    ] {
        assert_eq!(judged(&policy, place, method, target, ""), verb, "{method} {place}{target}");
    }
    let files = policy.document().rules.iter().find(|rule| rule.opaque).unwrap();
    assert_eq!(files.pattern.to_string(), "files.chat.example");
    assert_eq!(outcome(&imported, "endpoints[2].rules[0]"), [Outcome::Inexpressible]);
    assert_eq!(outcome(&imported, "endpoints[4].host"), [Outcome::Inexpressible]);
    assert!(imported.document.contains("# widened       network_policies.chat.binaries"));
}

#[test]
fn parts_of_policies_and_profiles_of_providers_are_read_as_the_policy_around_them() {
    let endpoints = "endpoints:\n  - {host: api.example.com, port: 443, protocol: rest, access: read-only, path: \"/v1/**\"}\n";
    let named = format!("id: some\ncredentials: [{{name: token}}]\n{endpoints}binaries: [/usr/bin/curl]\n");
    let entry =
        "weather:\n  endpoints: [{host: api.example.com, port: 443}]\n  binaries: [{path: /usr/bin/curl}]\n";
    for (text, path, widened) in [
        (endpoints, "/v1/a", "binaries"),
        (&named, "/v1/a", "part.binaries"),
        (entry, "/v2", "weather.binaries"),
    ] {
        let imported = import(text).unwrap();
        let policy = Policy::parse(&imported.document).unwrap();
        assert_eq!(judged(&policy, "https://api.example.com:443", "GET", path, ""), Verb::Allow, "{text}");
        assert_eq!(judged(&policy, "https://else.example.com:443", "GET", path, ""), Verb::Deny, "{text}");
        let found: Vec<_> = imported.fields.iter().filter(|it| it.outcome == Outcome::Widened).collect();
        assert!(found.len() == 1 && found[0].place.ends_with(widened), "{found:?}");
    }
    assert_eq!(outcome(&import(&named).unwrap(), "credentials"), [Outcome::Inexpressible]);
    // Said to be for no program, it is for none.
    for none in ["binaries: []", "binaries:"] {
        assert!(import(&format!("{endpoints}{none}\n")).unwrap().document.ends_with("rules: []\n"));
    }
    let middleware = import("network_middlewares: {scrub: {middleware: x}}\n").unwrap();
    assert_eq!(outcome(&middleware, "network_middlewares"), [Outcome::Widened]);
}

#[test]
fn a_denial_of_all_names_below_one_says_that_it_is_narrower_here() {
    let endpoint = |deny: &str| {
        let text = format!(
            "endpoints:\n  - {{host: \"**.example.com\", port: 443, protocol: rest, access: read-only{deny}}}\n\
             binaries: [/usr/bin/curl]\n"
        );
        outcome(&import(&text).unwrap(), "[0].deny_rules")
    };
    assert!(endpoint(", deny_rules: [{method: GET, path: /admin}]").contains(&Outcome::Widened));
    assert_eq!(endpoint(""), []);
}

#[test]
fn what_cannot_be_said_stays_closed_and_every_field_is_accounted_for() {
    let imported = import(PERSONAL).unwrap();
    let policy = Policy::parse(&imported.document).unwrap();
    assert!(policy.effective().iter().all(|row| row.host == "10.2.0.7" || row.host == "plain.example"));
    assert_eq!(judged(&policy, "http://plain.example:80", "PATCH", "/x", ""), Verb::Allow);
    assert_eq!(judged(&policy, "http://plain.example:80", "DELETE", "/x", ""), Verb::Deny);
    for (field, expected) in [
        ("endpoints[0].host", Outcome::Inexpressible),
        ("endpoints[1].allowed_ips", Outcome::Inexpressible),
        ("endpoints[2].enforcement", Outcome::Tightened),
        ("endpoints[2].allow_encoded_slash", Outcome::Tightened),
        ("endpoints[2].credential_binding", Outcome::Inexpressible),
        ("endpoints[2].colour", Outcome::Inexpressible),
    ] {
        assert_eq!(outcome(&imported, field), [expected], "{field}");
    }
    for bad in
        ["version: 1\n", "version: 2\nnetwork_policies: {}\n", "- 1\n", "network_policies: 3\n", "a: [", ""]
    {
        assert!(import(bad).is_err(), "{bad}");
    }
    assert!(import("version: 1\nnetwork_policies: {}\n").unwrap().document.ends_with("rules: []\n"));
}
