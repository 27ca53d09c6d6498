//! What must hold of any policy document, for `fuzz/`.
//!
//! It owns no parser. The threat is a document, or an edit of one, that means something else than its reader
//! sees: the table and the walk of `explain` must agree, and an edit must open its destination alone.

use crate::{Body, Document, Pattern, Policy, RequestFacts, Target, Verb, add_rule};
use cofferdam_base::{Destination, Host, HostName, Protocol, ipc::launcher::Limits};
use std::num::NonZeroU16;

/// Any text as a policy.
pub fn policy(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(policy) = Policy::parse(text) else { return };
    assert!(policy.document().rules.len() <= text.len(), "more rules than bytes");
    let probes = probes(policy.document());
    for probe in &probes {
        let verdict = policy.verdict(probe);
        assert!(policy.explain(probe).agrees_with(verdict), "{}", policy.explain(probe));
        let by_a_rule = verdict.rule().and_then(|id| policy.rule(id));
        assert!(verdict.verb() != Verb::Allow || by_a_rule.is_some_and(|rule| rule.matches(probe)));
    }
    for reachable in policy.effective() {
        assert!(policy.rule(reachable.rule).is_some_and(|rule| rule.verb == Verb::Allow));
    }
    let diff = policy.diff(&policy);
    assert!(diff.opened.is_empty() && diff.closed.is_empty() && diff.default.is_none());
    assert!(diff.added.is_empty() && diff.removed.is_empty());
    narrow(&policy, &probes);
    edited(text, &policy, &probes);
}

/// What a document says beside its rules gives nothing.
fn narrow(policy: &Policy, probes: &[Destination]) {
    let (set, low) = (Limits::default(), policy.lower(Limits::default()));
    assert!(low.memory_bytes <= set.memory_bytes && low.disk_bytes <= set.disk_bytes && low.pids <= set.pids);
    assert!(low.tmp_bytes <= low.memory_bytes && low.inodes <= set.inodes && policy.connections(9) <= 9);
    for probe in probes {
        let all = policy.approver(probe, None);
        assert!(policy.approver(probe, Some(("GET", "/"))) <= all, "a yes to all is one to each");
    }
}

/// A host that a client may name is one that a policy may name, and then it is what the policy allows.
pub fn nameable(destination: &Destination) {
    let opened = add_rule("version: 1\n", destination, "").expect("a policy can name it");
    let verdict = Policy::parse(&opened).expect("an edited policy parses").verdict(destination);
    assert_eq!(verdict.verb(), Verb::Allow, "{destination}");
}

/// What requests are judged by in [`request`].
const JUDGES: &str = r#"version: 2
default: deny
rules:
  - {allow: a.example, method: GET, path: /pub/**}
  - {deny: a.example, path: /pub/secret/**}
  - {allow: a.example, path: /search, query: {q: ["1", "is:*"]}}
  - {allow: a.example, mcp: {tool: [search, "read_*"], arguments: {path: "/notes/*"}}}
  - {deny: a.example, mcp: {tool: "delete*"}}
  - {ask: a.example, jsonrpc: {method: ping}}
  - {allow: a.example, path: /graphql, graphql: {operation: query, fields: [viewer, "repo*"]}}
  - {deny: a.example, path: /**/graphql, graphql: {operation: mutation, name: "Del*"}}
  - {allow: a.example, grpc: {service: "acme.*", method: [Get, "List*"]}}
"#;

/// Any line as the target of a request, and the rest as its body.
pub fn request(bytes: &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (line, body) = (&bytes[..end], bytes.get(end + 1..).unwrap_or_default());
    let target = String::from_utf8_lossy(line).into_owned();
    if let Ok(read) = Target::parse(&target) {
        let again = Target::parse(read.rebuilt()).expect("what goes on is a target");
        assert_eq!((&again.segments, &again.query), (&read.segments, &read.query), "{target}");
        let odd =
            |segment: &String| matches!(segment.as_str(), "" | "." | "..") || segment.contains(['/', '\\']);
        assert!(!read.segments.iter().any(odd), "{target}");
    }
    let body = Body::parse(body);
    if let Body::Calls(calls) = &body {
        assert!(!calls.is_empty() && calls.iter().all(|call| call.tool.is_none() || call.method.is_some()));
    }
    if let Body::Operations(all) = &body {
        assert!(!all.is_empty() && all.iter().all(|it| !it.fields.is_empty()));
    }
    let Ok(destination) = "https://a.example:443".parse() else { return };
    let method = if bytes.len().is_multiple_of(2) { "GET" } else { "POST" }.to_owned();
    let grpc = bytes.len().is_multiple_of(3);
    let facts =
        RequestFacts { destination, method, target, headers: Vec::new(), websocket: false, grpc, body };
    let policy = Policy::parse(JUDGES).expect("it is a policy");
    assert_eq!(policy.judge(&facts), policy.judge_linear(&facts).0);
}

/// Any text as somebody else's policy: what comes of it is a policy that denies what it does not name.
pub fn foreign(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(imported) = crate::import::import(text) else { return };
    let policy = Policy::parse(&imported.document).expect("what is imported is a policy");
    assert_eq!(policy.document().default, crate::Default::Deny);
    assert!(policy.document().rules.iter().all(|rule| rule.verb != Verb::Ask));
}

/// One approval that becomes a rule: it opens what was asked for, and changes no other verdict.
fn edited(text: &str, policy: &Policy, probes: &[Destination]) {
    let asked = probes.iter().find(|probe| policy.verdict(probe).verb() == Verb::Ask);
    let Some(asked) = asked else { return };
    let Ok(new) = add_rule(text, asked, "approval \"7\": \\ \n#") else { return };
    let opened = Policy::parse(&new).expect("an edited policy parses");
    for probe in probes {
        let (before, after) = (policy.verdict(probe), opened.verdict(probe));
        let wanted = if probe == asked { Verb::Allow } else { before.verb() };
        assert_eq!(after.verb(), wanted, "{probe}");
    }
    assert_eq!(add_rule(&new, asked, "").as_deref(), Ok(new.as_str()), "twice is once");
}

/// Destinations at the borders of the document's rules, and one that no rule can name.
fn probes(document: &Document) -> Vec<Destination> {
    let mut probes = Vec::new();
    for rule in document.rules.iter().take(12) {
        let host = match &rule.pattern {
            Pattern::Exact(host) => Some(host.clone()),
            Pattern::Wildcard(base) => HostName::try_from(format!("w.{base}")).ok().map(Host::Name),
        };
        let ports = rule.ports.iter().flatten().copied().take(2);
        let ports = ports.chain([443, 80].into_iter().filter_map(NonZeroU16::new));
        for (host, port) in ports.filter_map(|port| host.clone().map(|host| (host, port))) {
            for protocol in [Protocol::Http, Protocol::Https, Protocol::Tcp] {
                probes.push(Destination { host: host.clone(), port, protocol });
            }
        }
    }
    if let (Ok(name), Some(port)) = (HostName::try_from("nobody.names.this.invalid"), NonZeroU16::new(4433)) {
        probes.push(Destination { host: Host::Name(name), port, protocol: Protocol::Https });
    }
    probes.sort();
    probes.dedup();
    probes
}
