#![allow(clippy::unwrap_used, clippy::format_push_string)]
use crate::{Body, Document, Error, Inspection, Judgement, Policy, Reason, RequestFacts, Verb, Verdict};
use cofferdam_base::{Destination, Host, Millis, Protocol};
use proptest::prelude::*;

fn to(host: &str, port: u16, protocol: Protocol) -> Destination {
    Destination { host: Host::Name(host.parse().unwrap()), port: port.try_into().unwrap(), protocol }
}

fn ask(host: &str, method: &str, target: &str) -> RequestFacts {
    RequestFacts {
        destination: to(host, 443, Protocol::Https),
        method: method.into(),
        target: target.into(),
        headers: vec!["accept".into()],
        websocket: false,
        grpc: false,
        body: Body::None,
    }
}

fn tool(name: &str, arguments: &str) -> Body {
    Body::parse(
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{name}","arguments":{arguments}}}}}"#)
            .as_bytes(),
    )
}

fn call(method: &str) -> Body {
    Body::parse(format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}"}}"#).as_bytes())
}

/// The verb, the rule and, where it is ambiguous, the reason.
fn judged(policy: &Policy, facts: &RequestFacts) -> (Verb, Option<u32>, Option<Reason>) {
    let judgement = policy.judge(facts);
    assert_eq!(judgement, policy.judge_linear(facts).0, "{facts:?}");
    match judgement {
        Judgement::Clear(verdict) => (verdict.verb(), verdict.rule().map(|rule| rule.0), None),
        Judgement::Unclear { reason, rule } => (Verb::Deny, Some(rule.0), Some(reason)),
    }
}

const DOCUMENT: &str = r#"
version: 2
default: deny
rules:
  - allow: api.example.com
    method: [GET, HEAD]
    path: /repos/{owner}/{repo}/**
  - ask: api.example.com
    method: POST
    path: /repos/acme/*/issues
    approvers: [operator]
  - deny: "*.example.com"
    path: /repos/{owner}/secret/**
    silent: true
  - allow: api.example.com
    path: /search
    query: {q: ["is:open*", public], page: "1"}
  - allow: api.example.com
    path: /private
    headers: [X-Key]
  - allow: mcp.example.com
    mcp: {method: [initialize, "notifications/*", tools/list]}
  - allow: mcp.example.com
    mcp: {tool: read_file, arguments: {path: "/workspace/*"}}
  - deny: mcp.example.com
    mcp: {tool: "delete*"}
  - allow: rpc.example.com
    jsonrpc: {method: "eth_get*"}
  - allow: chat.example.com
    protocol: ws
  - allow: chat.example.com
    method: GET
  - allow: open.example.com
  - deny: open.example.com
    method: DELETE
  - allow: pinned.example.org
    inspect: never
"#;

/// Servers that do not look at case are many: a denial holds for them too, and an allow holds for none of two.
#[test]
fn what_stops_a_request_looks_at_no_case_of_parameters_and_arguments() {
    let policy = Policy::parse(
        "version: 2
default: deny
rules:
  - allow: api.example.com
    path: /open
  - deny: api.example.com
    query: {action: delete}
  - allow: api.example.com
    path: /git
    query: {service: git-upload-pack}
  - allow: mcp.example.com
    mcp: {tool: run}
  - deny: mcp.example.com
    mcp: {tool: run, arguments: {Resource: \"secret*\"}}
",
    )
    .unwrap();
    for (target, verb) in [
        ("/open?action=list", Verb::Allow),
        ("/open?action=delete", Verb::Deny),
        ("/open?action=DELETE", Verb::Deny),
        ("/open?Action=Delete", Verb::Deny),
        ("/git?service=git-upload-pack", Verb::Allow),
        ("/git?service=GIT-upload-pack", Verb::Deny),
        ("/git?service=git-upload-pack&Service=git-receive-pack", Verb::Deny),
        ("/git?Service=git-upload-pack", Verb::Deny),
    ] {
        assert_eq!(judged(&policy, &ask("api.example.com", "GET", target)).0, verb, "{target}");
    }
    for (name, verb) in
        [("resource", Verb::Deny), ("RESOURCE", Verb::Deny), ("reſource", Verb::Deny), ("other", Verb::Allow)]
    {
        let call = serde_json::json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": {"name": "run", "arguments": {name: "secret/a"}}});
        let facts = RequestFacts {
            body: Body::parse(call.to_string().as_bytes()),
            ..ask("mcp.example.com", "POST", "/")
        };
        assert_eq!(judged(&policy, &facts).0, verb, "{name}");
    }
}

#[test]
fn the_strongest_rule_decides_about_each_request() {
    let policy = Policy::parse(DOCUMENT).unwrap();
    for (method, target, verb, rule) in [
        ("GET", "/repos/acme/site", Verb::Allow, Some(1)),
        ("GET", "/repos/acme/site/pulls/1?state=open", Verb::Allow, Some(1)),
        ("POST", "/repos/acme/site/pulls", Verb::Deny, None),
        ("GET", "/repos/acme", Verb::Deny, None),
        ("get", "/repos/acme/site", Verb::Deny, None),
        ("POST", "/repos/acme/site/issues", Verb::Ask, Some(2)),
        ("post", "/REPOS/ACME/site/Issues", Verb::Ask, Some(2)),
        ("GET", "/repos/acme/secret/x", Verb::Deny, Some(3)),
        ("GET", "/repos/acme/SECRET", Verb::Deny, Some(3)),
        ("GET", "/repos/acme/site/../secret", Verb::Deny, Some(3)),
        ("GET", "/repos/acme/%73ecret/x", Verb::Deny, Some(3)),
        ("GET", "/search?q=public&page=1", Verb::Allow, Some(4)),
        ("GET", "/search?q=is%3aopen+bug&page=1", Verb::Allow, Some(4)),
        ("GET", "/search?q=public&q=other&page=1", Verb::Deny, None),
        ("GET", "/search?q=public", Verb::Deny, None),
        ("GET", "/private", Verb::Deny, None),
    ] {
        assert_eq!(
            judged(&policy, &ask("api.example.com", method, target)),
            (verb, rule, None),
            "{method} {target}"
        );
    }
    let mut keyed = ask("api.example.com", "GET", "/private");
    keyed.headers.push("x-key".into());
    assert_eq!(judged(&policy, &keyed).1, Some(5));
    assert_eq!(judged(&policy, &ask("open.example.com", "POST", "/x")).1, Some(12));
    assert_eq!(judged(&policy, &ask("open.example.com", "delete", "/x")), (Verb::Deny, Some(13), None));
}

#[test]
fn calls_are_judged_by_tool_and_arguments_and_the_worst_of_a_batch_decides() {
    let policy = Policy::parse(DOCUMENT).unwrap();
    let with = |host: &str, body: Body| {
        let facts = RequestFacts { body, ..ask(host, "POST", "/mcp") };
        judged(&policy, &facts)
    };
    let mcp = |body| with("mcp.example.com", body);
    assert_eq!(mcp(call("tools/list")).1, Some(6));
    assert_eq!(mcp(call("notifications/initialized")).1, Some(6));
    assert_eq!(mcp(tool("read_file", r#"{"path":"/workspace/a"}"#)), (Verb::Allow, Some(7), None));
    assert_eq!(mcp(tool("read_file", r#"{"path":"/workspace/../etc/passwd"}"#)), (Verb::Deny, None, None));
    assert_eq!(mcp(tool("read_file", r#"{"path":["/workspace/a"]}"#)), (Verb::Deny, None, None));
    assert_eq!(mcp(tool("read_file", "{}")), (Verb::Deny, None, None));
    assert_eq!(mcp(tool("write_file", r#"{"path":"/workspace/a"}"#)), (Verb::Deny, None, None));
    assert_eq!(mcp(tool("Delete_repo", "{}")), (Verb::Deny, Some(8), None));
    let one = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    let bad = r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"delete_repo"}}"#;
    assert_eq!(mcp(Body::parse(format!("[{one},{one}]").as_bytes())).0, Verb::Allow);
    assert_eq!(mcp(Body::parse(format!("[{one},{bad},{one}]").as_bytes())).1, Some(8));
    assert_eq!(mcp(Body::parse(b"[{\"jsonrpc\":\"2.0\"")), (Verb::Deny, Some(8), Some(Reason::BodyUnclear)));
    assert_eq!(mcp(Body::Unread), (Verb::Deny, Some(8), Some(Reason::BodyTooLong)));
    assert_eq!(mcp(Body::None), (Verb::Deny, None, None));
    assert_eq!(with("rpc.example.com", call("eth_getBalance")).1, Some(9));
    assert_eq!(with("rpc.example.com", call("eth_send")), (Verb::Deny, None, None));
    assert_eq!(with("rpc.example.com", Body::Unread).2, Some(Reason::BodyTooLong));
}

const GRAPH: &str = r#"
version: 2
default: deny
rules:
  - allow: api.example.com
    path: /graphql
    graphql: {operation: query, fields: [viewer, "repo*"]}
  - allow: api.example.com
    path: /graphql
    graphql: {operation: mutation, name: "Add*", fields: addStar}
  - allow: open.example.com
    path: /graphql
  - deny: open.example.com
    path: /**/graphql
    graphql: {operation: mutation, fields: "delete*"}
  - allow: rpc.example.com
    grpc: {service: "acme.Notes", method: [Get, "List*"]}
  - allow: all.example.com
  - deny: all.example.com
    grpc: {service: "acme.*", method: "Delete*"}
    reason: nothing is deleted
"#;

fn graph(host: &str, target: &str, query: &str) -> RequestFacts {
    let body = Body::parse(serde_json::json!({ "query": query }).to_string().as_bytes());
    RequestFacts { body, ..ask(host, "POST", target) }
}

#[test]
fn operations_of_graphql_are_judged_by_kind_name_and_root_field() {
    let policy = Policy::parse(GRAPH).unwrap();
    let said = |query: &str| judged(&policy, &graph("api.example.com", "/graphql", query));
    assert_eq!(said("{ viewer { login } repository { id } }"), (Verb::Allow, Some(1), None));
    assert_eq!(said("query Any { me: viewer { login } }"), (Verb::Allow, Some(1), None));
    assert_eq!(said("mutation AddIt { addStar { id } }"), (Verb::Allow, Some(2), None));
    for refused in [
        "{ viewer { login } secrets }",
        "{ viewer: secrets }",
        "{ viewer ...F } fragment F on Query { secrets }",
        "mutation { addStar { id } }",
        "mutation AddIt { addStar { id } deleteRepository { id } }",
        "subscription { viewer }",
        "query A { viewer } mutation B { addStar }",
        "{ VIEWER }",
    ] {
        assert_eq!(said(refused), (Verb::Deny, None, None), "{refused}");
    }
    let body = |text: &str| RequestFacts {
        body: Body::parse(text.as_bytes()),
        ..ask("api.example.com", "POST", "/graphql")
    };
    let one = r#"{"query":"{ viewer }"}"#;
    assert_eq!(judged(&policy, &body(&format!("[{one},{one}]"))).0, Verb::Allow);
    assert_eq!(judged(&policy, &body(&format!(r#"[{one},{{"query":"mutation {{ x }}"}}]"#))).0, Verb::Deny);
    let persisted = r#"{"extensions":{"persistedQuery":{"version":1,"sha256Hash":"00"}}}"#;
    assert_eq!(judged(&policy, &body(persisted)).0, Verb::Deny);
    assert_eq!(
        judged(&policy, &RequestFacts { body: Body::Unread, ..body(one) }).2,
        Some(Reason::BodyTooLong)
    );
}

#[test]
fn a_get_asks_in_its_query_and_what_names_a_stored_document_is_unclear() {
    let policy = Policy::parse(GRAPH).unwrap();
    let get = |target: &str| judged(&policy, &ask("api.example.com", "GET", target)).0;
    assert_eq!(get("/graphql?query=%7bviewer%7blogin%7d%7d"), Verb::Allow);
    assert_eq!(get("/graphql?query=query+A%7bviewer%7d&operationName=A&variables=%7b%7d"), Verb::Allow);
    for refused in [
        "/graphql",
        "/graphql?query=%7bsecrets%7d",
        "/graphql?query=%7bviewer%7d&id=7",
        "/graphql?query=%7bviewer%7d&query=%7bsecrets%7d",
        "/graphql?query=%7bviewer%7d&Query=%7bsecrets%7d",
        "/graphql?query=%7bviewer%7d&extensions=%7b%22persistedQuery%22%3a%7b%7d%7d",
        "/graphql?extensions=%7b%22persistedQuery%22%3a%7b%7d%7d",
    ] {
        assert_eq!(get(refused), Verb::Deny, "{refused}");
    }
    // Servers differ in which of the two they read.
    let both = graph("api.example.com", "/graphql?query=mutation%7bx%7d", "{ viewer }");
    assert_eq!(judged(&policy, &both).0, Verb::Deny);
    assert_eq!(judged(&policy, &graph("api.example.com", "/graphql?trace=1", "{ viewer }")).0, Verb::Allow);
}

#[test]
fn what_stops_an_operation_stops_what_nobody_can_read() {
    let policy = Policy::parse(GRAPH).unwrap();
    let open = |query: &str| judged(&policy, &graph("open.example.com", "/graphql", query));
    assert_eq!(open("mutation { addStar }"), (Verb::Allow, Some(3), None));
    assert_eq!(open("mutation { a: addStar b: DeleteRepository }"), (Verb::Deny, Some(4), None));
    assert_eq!(open("mutation { ...F } fragment F on M { deleteRepository }").1, Some(4));
    let unclear = (Verb::Deny, Some(4), Some(Reason::BodyUnclear));
    let with = |body: Body, target: &str| {
        judged(&policy, &RequestFacts { body, ..ask("open.example.com", "POST", target) })
    };
    assert_eq!(with(Body::parse(br#"{"id":"stored"}"#), "/graphql"), unclear);
    assert_eq!(with(call("ping"), "/graphql"), unclear);
    let get = ask("open.example.com", "GET", "/graphql?id=7");
    assert_eq!(judged(&policy, &get), unclear);
    assert_eq!(judged(&policy, &ask("open.example.com", "GET", "/graphql")).0, Verb::Allow);
    // What is said in a WebSocket is not seen.
    assert_eq!(
        judged(&policy, &RequestFacts { websocket: true, ..ask("open.example.com", "GET", "/graphql") }),
        unclear
    );
}

#[test]
fn methods_of_grpc_are_judged_by_service_and_name() {
    let policy = Policy::parse(GRAPH).unwrap();
    let rpc = |host: &str, path: &str, grpc: bool| {
        judged(&policy, &RequestFacts { grpc, body: Body::Unread, ..ask(host, "POST", path) })
    };
    assert_eq!(rpc("rpc.example.com", "/acme.Notes/Get", true), (Verb::Allow, Some(5), None));
    assert_eq!(rpc("rpc.example.com", "/acme.Notes/ListAll", true).0, Verb::Allow);
    for (path, grpc) in [
        ("/acme.Notes/Delete", true),
        ("/acme.notes/Get", true),
        ("/acme.NotesAdmin/Get", true),
        ("/acme.Notes/Get/x", true),
        ("/acme.Notes/Get", false),
    ] {
        assert_eq!(rpc("rpc.example.com", path, grpc).0, Verb::Deny, "{path} {grpc}");
    }
    assert_eq!(rpc("all.example.com", "/acme.Notes/Get", true).0, Verb::Allow);
    // A denial looks at the path, whatever the client calls what it sends.
    assert_eq!(rpc("all.example.com", "/acme.Notes/DeleteAll", true), (Verb::Deny, Some(7), None));
    assert_eq!(rpc("all.example.com", "/Acme.Notes/deleteAll", false).1, Some(7));
}

#[test]
fn a_websocket_needs_a_rule_of_its_own_where_requests_are_judged() {
    let policy = Policy::parse(DOCUMENT).unwrap();
    let upgrade = |host| judged(&policy, &RequestFacts { websocket: true, ..ask(host, "GET", "/socket") }).1;
    assert_eq!(upgrade("chat.example.com"), Some(10));
    assert_eq!(upgrade("open.example.com"), Some(12));
    let without = DOCUMENT.replace("  - allow: chat.example.com\n    protocol: ws\n", "");
    let policy = Policy::parse(&without).unwrap();
    let facts = ask("chat.example.com", "GET", "/socket");
    assert_eq!(judged(&policy, &facts).0, Verb::Allow);
    assert_eq!(judged(&policy, &RequestFacts { websocket: true, ..facts }).0, Verb::Deny);
}

#[test]
fn what_can_be_read_in_two_ways_is_refused_and_the_rule_is_named() {
    let policy = Policy::parse(DOCUMENT).unwrap();
    let ambiguous = Some(Reason::AmbiguousRequest);
    for target in ["/repos/a%2fb/c", "/repos/../../x", "/repos/a/b/%252e%252e", "*", "/search?q=1;page=1"] {
        assert_eq!(
            judged(&policy, &ask("api.example.com", "GET", target)),
            (Verb::Deny, Some(3), ambiguous),
            "{target}"
        );
    }
    let mut post = ask("open.example.com", "POST", "/x");
    post.headers.push("x-http-method-override".into());
    assert_eq!(judged(&policy, &post), (Verb::Deny, Some(13), ambiguous));
    // Where no rule depends on it, it is nobody's business.
    assert_eq!(judged(&policy, &ask("pinned.example.org", "GET", "/a%2fb")).1, Some(14));
}

#[test]
fn a_connection_is_let_through_to_be_inspected_or_not_at_all() {
    let policy = Policy::parse(DOCUMENT).unwrap();
    let at = |host: &str, protocol| {
        let destination = to(host, 443, protocol);
        let verdict = policy.verdict(&destination);
        assert!(policy.explain(&destination).agrees_with(verdict), "{destination}");
        (verdict, policy.inspection(&destination))
    };
    let inspected = |rule| Verdict::Inspect { rule: crate::RuleId(rule) };
    assert_eq!(at("api.example.com", Protocol::Https), (inspected(3), Inspection::Heads));
    assert_eq!(at("mcp.example.com", Protocol::Https), (inspected(8), Inspection::Bodies));
    assert_eq!(at("open.example.com", Protocol::Https), (inspected(13), Inspection::Heads));
    let denied = Verdict::Deny { rule: None, silent: false };
    assert_eq!(
        at("other.example.com", Protocol::Https),
        (denied, Inspection::Heads),
        "only a denial speaks of it"
    );
    assert_eq!(at("api.example.com", Protocol::Tcp), (denied, Inspection::Opaque));
    assert_eq!(at("else.example", Protocol::Https), (denied, Inspection::Opaque));
    let asking = Policy::parse("version: 2\nrules:\n  - deny: a.example\n    method: PUT\n").unwrap();
    assert_eq!(asking.verdict(&to("a.example", 443, Protocol::Http)), inspected(1));
    let closed =
        Policy::parse("version: 2\nrules:\n  - allow: a.example\n    method: GET\n  - deny: a.example\n")
            .unwrap();
    assert_eq!(closed.verdict(&to("a.example", 443, Protocol::Https)).verb(), Verb::Deny);
}

#[test]
fn a_rule_is_silent_once_it_has_expired() {
    let text = "version: 2\ndefault: deny\nrules:\n  - allow: a.example\n    expires: 2026-01-01\n  - allow: a.example\n    method: GET\n    expires: 2027-01-01T00:00:00Z\n";
    let policy = Policy::parse(text).unwrap();
    let expiry = policy.next_expiry().unwrap();
    let (before, after) = (policy.at(Millis(expiry.0 - 1)), policy.at(expiry));
    let there = to("a.example", 443, Protocol::Https);
    assert_eq!(judged(&before, &ask("a.example", "POST", "/")).1, Some(1));
    assert_eq!(judged(&after, &ask("a.example", "POST", "/")), (Verb::Deny, None, None));
    assert_eq!(judged(&after, &ask("a.example", "GET", "/")).1, Some(2));
    let gone = after.at(after.next_expiry().unwrap());
    assert_eq!((gone.verdict(&there).verb(), gone.next_expiry()), (Verb::Deny, None));
    assert!(gone.effective().is_empty() && before.effective().len() == 2);
    assert!(gone.explain(&there).agrees_with(gone.verdict(&there)));
}

#[test]
fn a_bad_rule_of_version_2_is_refused_with_its_place_and_version_1_has_none_of_it() {
    for (rule, line, part) in [
        ("method: get", 4, "capitals"),
        ("method: []", 4, "capitals"),
        ("method: CONNECT", 4, "destination"),
        ("path: repos", 4, "slash"),
        ("path: /a/**b", 4, "alone"),
        ("path: /**/a/**/b", 4, "one `**`"),
        ("graphql: {operation: query}", 4, "`path`"),
        ("path: /g\n    graphql: {operation: delete}", 5, "mutation"),
        ("path: /g\n    graphql: {operation: []}", 5, "mutation"),
        ("path: /g\n    graphql: {type: query}", 5, "type"),
        ("path: /g\n    graphql: {fields: []}", 5, "one value"),
        ("path: /g\n    graphql: {}\n    mcp: {}", 3, "one of"),
        ("path: /g\n    graphql: {}\n    protocol: ws", 3, "one of"),
        ("grpc: {service: a}\n    path: /g", 4, "itself"),
        ("grpc: {service: a}\n    method: POST", 4, "itself"),
        ("grpc: {service: a}\n    protocol: http", 4, "TLS"),
        ("grpc: {package: a}", 4, "package"),
        ("path: /a/{b", 4, "{name}"),
        ("path: /a%20b", 4, "decoded"),
        ("query: {q: []}", 4, "one value"),
        ("query: [q]", 4, ""),
        ("headers: [\"a b\"]", 4, "names"),
        ("expires: tomorrow", 4, "UTC"),
        ("budget: {}", 4, "one limit"),
        ("budget: {bytes_per_hour: 0}", 4, "above 0"),
        ("budget: {bytes_per_week: 1}", 4, "bytes_per_week"),
        ("inspect: always", 4, "always"),
        ("inspect: never\n    method: GET", 4, "belongs to"),
        ("approvers: [a]", 4, "ask"),
        ("plain: true", 4, "plain"),
        ("protocol: tcp\n    ports: [1]\n    method: GET", 3, "tcp"),
        ("protocol: ws\n    mcp: {}", 3, "one of"),
        ("mcp: {tool: a}\n    jsonrpc: {method: b}", 3, "one of"),
        ("mcp: {arguments: {a: b}}", 4, "tool"),
        ("mcp: {tools: a}", 4, "tools"),
        ("content: unknown", 4, "unknown"),
    ] {
        let text = format!("version: 2\nrules:\n  - allow: a.example\n    {rule}\n");
        let Err(Error::Document { line: at, column, message }) = Document::parse(&text) else {
            panic!("{rule} was taken")
        };
        assert!(message.contains(part) && at == line && column > 0, "{rule}: {at}:{column} {message}");
    }
    for key in ["method: GET", "path: /", "mcp: {}", "protocol: ws", "expires: 2026-01-01", "inspect: never"]
    {
        let text = format!("version: 1\nrules:\n  - allow: a.example\n    {key}\n");
        let error = Document::parse(&text).unwrap_err().to_string();
        assert!(error.contains("version: 2") && error.contains("line 4"), "{error}");
        assert!(Document::parse(&text.replace("version: 1", "version: 2")).is_ok(), "{key}");
    }
    let both = "version: 2\nrules:\n  - allow: a.b.example\n    inspect: never\n  - deny: \"*.b.example\"\n    method: PUT\n";
    assert!(Document::parse(both).unwrap_err().to_string().contains("inspect: never"));
}

/// What is looked at for one verdict in a document of so many rules of each kind.
fn steps(count: usize) -> usize {
    let mut text = "version: 2\ndefault: deny\nrules:\n".to_owned();
    let kinds: [fn(usize) -> String; 5] = [
        |n| format!("  - {{allow: a.example, method: GET, path: /v{n}/*}}\n"),
        |n| format!("  - {{deny: a.example, path: /x/{n}}}\n"),
        |n| format!("  - {{allow: a.example, path: /mcp, mcp: {{tool: t{n}}}}}\n"),
        |n| format!("  - {{allow: a.example, path: /q, query: {{id: \"{n}\"}}}}\n"),
        |n| format!("  - {{allow: h{n}.example, method: GET}}\n"),
    ];
    (0..count).for_each(|n| text.push_str(&kinds[n % kinds.len()](n)));
    let policy = Policy::parse(&text).unwrap();
    let mut steps = 0;
    for (facts, verb) in [
        (ask("a.example", "GET", "/v5/x"), Verb::Allow),
        (ask("a.example", "GET", "/x/6"), Verb::Deny),
        (RequestFacts { body: tool("t7", "{}"), ..ask("a.example", "POST", "/mcp") }, Verb::Allow),
        (RequestFacts { body: tool("t8", "{}"), ..ask("a.example", "POST", "/mcp") }, Verb::Deny),
        (ask("a.example", "GET", "/q?id=8"), Verb::Allow),
        (ask("a.example", "GET", "/nowhere"), Verb::Deny),
        (ask("h9.example", "GET", "/"), Verb::Allow),
    ] {
        let judgement = policy.judge_counted(&facts, &mut steps);
        assert_eq!(judgement, policy.judge_linear(&facts).0);
        assert!(matches!(judgement, Judgement::Clear(verdict) if verdict.verb() == verb), "{facts:?}");
    }
    steps
}

#[test]
fn a_verdict_looks_at_no_more_rules_of_a_thousand_than_of_ten() {
    let few = steps(10);
    assert_eq!(steps(1000), few);
    assert!(few < 100, "{few}");
}

fn piece(options: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::sample::select(options).prop_map(ToOwned::to_owned)
}

fn rule() -> impl Strategy<Value = String> {
    let host = piece(&["a.x.example", "b.x.example", "\"*.x.example\""]);
    let verb = piece(&["allow", "ask", "deny"]);
    let keys = prop::collection::vec(
        piece(&[
            "method: GET",
            "method: [POST, PUT]",
            "path: /a/**",
            "path: /a/*",
            "path: /A/b",
            "path: /a/{x}/c*",
            "path: /**/b",
            "path: /a/**/cd/**",
            "path: /a/**\n    graphql: {operation: query}",
            "path: /a/b\n    graphql: {fields: [v, \"r*\"]}",
            "path: /**\n    graphql: {operation: mutation, name: \"D*\", fields: [Drop]}",
            "grpc: {service: a, method: [b, \"c*\"]}",
            "grpc: {service: \"A*\"}",
            "query: {q: \"1\"}",
            "query: {q: [\"1\", \"2*\"]}",
            "headers: [x-a]",
            "protocol: ws",
            "mcp: {tool: t1}",
            "mcp: {tool: [T2, \"t*\"], arguments: {p: \"/w/*\"}}",
            "mcp: {method: tools/list}",
            "jsonrpc: {method: [ping, tools/call]}",
            "ports: [443]",
            "ports: [80, 443]",
        ]),
        0..4,
    );
    (verb, host, keys).prop_map(|(verb, host, mut keys)| {
        let of = |key: &String| key.split(':').next().map(str::to_owned);
        let mut seen = std::collections::HashSet::new();
        keys.retain(|key| {
            // One of what excludes each other, and no key twice.
            let layered = ["mcp", "jsonrpc", "protocol", "grpc"];
            let name = of(key).filter(|name| !layered.contains(&name.as_str()) && !key.contains("graphql"));
            seen.insert(name)
        });
        let about = |key: &String| ["grpc", "graphql"].iter().any(|it| key.contains(it));
        if let Some(about) = keys.iter().find(|key| about(key)).cloned() {
            // GraphQL brings its path, and gRPC has none.
            keys.retain(|key| *key == about || key.starts_with("headers") || key.starts_with("ports"));
        }
        let keys: Vec<String> = keys.iter().map(|key| format!("    {key}\n")).collect();
        format!("  - {verb}: {host}\n{}", keys.concat())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_trees_are_always_of_the_walks_opinion(
        rules in prop::collection::vec(rule(), 0..14),
        host in piece(&["a.x.example", "b.x.example", "c.x.example"]),
        method in piece(&["GET", "get", "POST", "DELETE"]),
        target in piece(&["/a", "/a/b", "/A/B", "/a/b/cd", "/a/b?q=1", "/a/b?q=22&q=3", "/a/%2f", "/", "/a/../a/b?q=2", "/a/b?query=%7bv%7d", "/a/b?query=mutation%7bdrop%7d", "/a/b?id=7", "/a/x/b", "/a/x/cd/y"]),
        headers in prop::collection::vec(piece(&["x-a", "x-http-method"]), 0..2),
        websocket in any::<bool>(),
        grpc in any::<bool>(),
        body in 0..12usize,
        protocol in 0..3usize,
    ) {
        let policy = Policy::parse(&format!("version: 2\ndefault: deny\nrules:\n{}", rules.concat())).unwrap();
        let body = match body {
            0 => Body::None,
            1 => Body::Unread,
            2 => Body::Other,
            3 => tool("t1", "{}"),
            4 => tool("T2", r#"{"p":"/w/a"}"#),
            5 => tool("t3", r#"{"p":["/w/../x"]}"#),
            6 => call("tools/list"),
            7 => Body::parse(br#"{"query":"{ v r1: q }"}"#),
            8 => Body::parse_graphql(b"query A { v } mutation Do { drop }"),
            9 => Body::parse_graphql(b"{ v ...F } fragment F on Q { r2 }"),
            10 => Body::parse(br#"{"extensions":{"persistedQuery":{}}}"#),
            _ => Body::parse(br#"[{"jsonrpc":"2.0","method":"ping"},{"jsonrpc":"2.0","id":1,"result":1}]"#),
        };
        let protocol = [Protocol::Http, Protocol::Https, Protocol::Tcp][protocol];
        let facts = RequestFacts { destination: to(&host, 443, protocol), method, target, headers, websocket, grpc, body };
        prop_assert_eq!(policy.judge(&facts), policy.judge_linear(&facts).0);
        let verdict = policy.verdict(&facts.destination);
        prop_assert!(policy.explain(&facts.destination).agrees_with(verdict));
        // What no connection may become, no request may; and what is opaque is judged as its connection.
        let judged = policy.judge(&facts);
        let allowed = matches!(judged, Judgement::Clear(Verdict::Allow { .. }));
        prop_assert!(!allowed || verdict.verb() != Verb::Deny);
        if policy.inspection(&facts.destination) == Inspection::Opaque {
            prop_assert_eq!(judged, Judgement::Clear(verdict));
        }
    }

    #[test]
    fn no_body_and_no_target_panics(body in prop::collection::vec(any::<u8>(), 0..200), target in ".{0,60}") {
        let _ = (Body::parse(&body), Body::parse_graphql(&body));
        if let Ok(read) = crate::Target::parse(&target) {
            let again = crate::Target::parse(read.rebuilt()).unwrap();
            prop_assert_eq!(again.segments, read.segments);
        }
    }
}
