#![allow(clippy::unwrap_used, clippy::format_push_string)]
use super::*;
use crate::{Policy, Verb, Verdict};
use cofferdam_base::{Destination, Host, Protocol};
use proptest::prelude::*;

fn to(url: &str) -> Destination {
    let (protocol, rest) = url.split_once("://").unwrap();
    let (host, port) = rest.rsplit_once(':').unwrap();
    let host = host.trim_matches(['[', ']']);
    let host = host.parse().map_or_else(|_| Host::Name(host.parse().unwrap()), Host::Address);
    let protocol = match protocol {
        "http" => Protocol::Http,
        "https" => Protocol::Https,
        _ => Protocol::Tcp,
    };
    Destination { host, port: port.parse().unwrap(), protocol }
}

const DOCUMENT: &str = "\
version: 1
default: ask
rules:
  - allow: api.example.com
    reason: \"the model\"
  - allow: \"*.example.com\"
    ports: [443, 8443]
  - allow: 93.184.216.34
    protocol: tcp
    ports: [5432]
  - allow: plain.example
    protocol: http
  - deny: \"*.ads.example\"
    silent: true
  - allow: x.ads.example
  - ask: www.example.com
  - ask: both.example
  - allow: both.example
  - allow: \"2606:4700::1\"
";

fn verdict(url: &str) -> (Verb, Option<u32>) {
    let policy = Policy::parse(DOCUMENT).unwrap();
    let verdict = policy.verdict(&to(url));
    assert!(policy.explain(&to(url)).agrees_with(verdict), "{}", policy.explain(&to(url)));
    (verdict.verb(), verdict.rule().map(|rule| rule.0))
}

#[test]
fn the_strongest_rule_decides() {
    for (url, verb, rule) in [
        ("https://api.example.com:443", Verb::Allow, Some(1)),
        ("http://api.example.com:80", Verb::Ask, None),
        ("https://api.example.com:8443", Verb::Allow, Some(2)),
        ("https://b.example.com:443", Verb::Allow, Some(2)),
        ("https://example.com:443", Verb::Ask, None),
        ("https://a.b.example.com:443", Verb::Ask, None),
        ("https://b.example.com.evil.test:443", Verb::Ask, None),
        ("tcp://93.184.216.34:5432", Verb::Allow, Some(3)),
        ("tcp://[::ffff:93.184.216.34]:5432", Verb::Allow, Some(3)),
        ("https://93.184.216.34:443", Verb::Ask, None),
        ("http://plain.example:80", Verb::Allow, Some(4)),
        ("https://x.ads.example:443", Verb::Deny, Some(5)),
        ("https://www.example.com:443", Verb::Ask, Some(7)),
        ("https://both.example:443", Verb::Allow, Some(9)),
        ("https://both.example:444", Verb::Ask, Some(8)),
        ("https://[2606:4700::1]:443", Verb::Allow, Some(10)),
    ] {
        assert_eq!(verdict(url), (verb, rule), "{url}");
    }
}

#[test]
fn a_denial_carries_its_silence_and_the_default_decides_the_rest() {
    let policy =
        Policy::parse("version: 1\ndefault: deny\nrules:\n  - deny: a.example\n    silent: true\n").unwrap();
    let rule = Some(RuleId(1));
    assert_eq!(policy.verdict(&to("tcp://a.example:1")), Verdict::Deny { rule, silent: true });
    assert_eq!(policy.verdict(&to("tcp://b.example:1")), Verdict::Deny { rule: None, silent: false });
    let empty = Policy::parse("version: 1\n").unwrap();
    assert_eq!(empty.verdict(&to("https://a.example:443")), Verdict::Ask { rule: None });
}

#[test]
fn a_bad_document_is_refused_with_its_place() {
    let place = |text: &str| match Document::parse(text) {
        Err(Error::Document { line, column, message }) => (line, column, message),
        other => panic!("{text:?} gave {other:?}"),
    };
    for (text, line, part) in [
        ("version: 1\nrulez: []\n", 2, "rulez"),
        ("version: 1\nrules:\n  - allow: a.example\n    colour: red\n", 4, "colour"),
        ("version: 1\nversion: 1\n", 2, "version"),
        ("version: 1\nrules:\n  - allow: a.example\n    allow: b.example\n", 4, "allow"),
        ("version: one\n", 1, ""),
        ("version: 3\n", 1, "version 3"),
        ("version: 1\ndefault: allow\n", 2, "allow"),
        ("version: 1\nrules:\n  - allow: a.example\n    ports: 443\n", 4, ""),
        ("version: 1\nrules:\n  - allow: a.example\n    ports: [0]\n", 4, "1 to 65535"),
        ("version: 1\nrules:\n  - allow: a.example\n    ports: []\n", 4, "one or more"),
        ("version: 1\nrules:\n  - allow: a.example\n    ports: [65536]\n", 4, ""),
        ("version: 1\nrules:\n  - allow: a.example\n    protocol: udp\n", 4, "udp"),
        ("version: 1\nrules:\n  - allow: a.example\n    protocol: tcp\n", 3, "ports"),
        ("version: 1\nrules:\n  - allow: a.example\n    deny: b.example\n", 3, "exactly one"),
        ("version: 1\nrules:\n  - ports: [1]\n", 3, "exactly one"),
        ("version: 1\nrules:\n  - allow: a.example\n    silent: true\n", 4, "silent"),
        ("version: 1\nrules:\n  - deny: a.example\n    silent: yes\n", 4, ""),
        ("version: 1\nrules:\n  - allow: \"*\"\n", 3, "host name"),
        ("version: 1\nrules:\n  - allow: \"*.com\"\n", 3, "two labels"),
        ("version: 1\nrules:\n  - allow: \"a.*.com\"\n", 3, "host name"),
        ("version: 1\nrules:\n  - allow: \"https://a.example\"\n", 3, "host name"),
        ("version: 1\nrules:\n  - allow: \"2130706433\"\n", 3, "host name"),
        ("version: 1\nrules:\n  - allow: \"::ffff:1.2.3.4\"\n", 3, "1.2.3.4"),
        ("version: 1\nrules:\n  - allow: [a.example]\n", 3, ""),
        ("version: 1\nrules:\n  - &a\n    allow: a.example\n  - *a\n", 0, ""),
        ("version: 1\nrules:\n  - !x\n    allow: a.example\n", 4, "!x"),
        ("rules: []\n", 1, "version"),
        ("- 1\n", 1, ""),
        ("version: 1\n---\nversion: 1\n", 0, ""),
        ("", 0, ""),
        ("version: 1\nrules: [", 0, ""),
    ] {
        let (at, column, message) = place(text);
        assert!(message.contains(part), "{text:?}: {message}");
        assert!(line == 0 || (at == line && column > 0), "{text:?}: line {at}, column {column}, {message}");
    }
}

#[test]
fn bombs_and_long_documents_are_refused() {
    assert!(matches!(Document::parse(&"#".repeat(MAX_DOCUMENT + 1)), Err(Error::TooLong(_))));
    assert!(Document::parse(&format!("version: 1\n{}", "#".repeat(MAX_DOCUMENT - 11))).is_ok());
    assert!(Document::parse(&format!("version: 1\nrules: {}", "[".repeat(60_000))).is_err());
    let mut laughs = "version: 1\na: &a [x,x,x,x]\n".to_owned();
    for pair in ["ab", "bc", "cd", "de"] {
        let (from, to) = pair.split_at(1);
        laughs.push_str(&format!("{to}: &{to} [*{from},*{from},*{from},*{from}]\n"));
    }
    assert!(Document::parse(&laughs).is_err());
}

#[test]
fn what_is_effective_and_what_changed_can_be_read() {
    let old = Policy::parse(DOCUMENT).unwrap();
    let effective = old.effective();
    assert!(effective.iter().all(|reachable| reachable.host != "x.ads.example"), "denied by the wildcard");
    let wild = effective.iter().find(|reachable| reachable.host == "*.example.com").unwrap();
    assert_eq!(wild.except.len(), 1);
    assert_eq!(wild.except[0].host, "www.example.com");
    let new = DOCUMENT.replace("  - ask: www.example.com\n", "").replace("default: ask", "default: deny");
    let diff = old.diff(&Policy::parse(&new.replace("plain", "other")).unwrap());
    assert_eq!(diff.removed, ["ask any protocol www.example.com, any port"]);
    assert_eq!(diff.default, Some((Default::Ask, Default::Deny)));
    assert!(diff.opened.iter().any(|r| r.host == "other.example"));
    assert!(diff.closed.iter().any(|r| r.host == "plain.example"));
    assert!(diff.added.is_empty());
    let same = old.diff(&old);
    assert!(same.opened.is_empty() && same.closed.is_empty() && same.removed.is_empty());
}

fn host() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("a.x.example".to_owned()),
        Just("b.x.example".to_owned()),
        Just("x.example".to_owned()),
        Just("1.2.3.4".to_owned())
    ]
}

fn rule() -> impl Strategy<Value = String> {
    let pattern = prop_oneof![host(), Just("*.x.example".to_owned())];
    (0..3usize, pattern, prop::option::of(1..4u16), prop::option::of(0..3usize)).prop_map(
        |(verb, host, port, protocol)| {
            let mut text = format!("  - {}: \"{host}\"\n", ["allow", "ask", "deny"][verb]);
            let protocol = protocol.map(|p| ["http", "https", "tcp"][p]);
            if let Some(port) = port.or((verb == 0).then_some(2)) {
                text.push_str(&format!("    ports: [{port}]\n"));
            }
            if let Some(protocol) = protocol {
                text.push_str(&format!("    protocol: {protocol}\n"));
            }
            text
        },
    )
}

proptest! {
    #[test]
    fn the_table_is_always_of_the_walks_opinion(
        rules in prop::collection::vec(rule(), 0..12), host in host(), port in 1..4u16, protocol in 0..3usize,
    ) {
        let policy = Policy::parse(&format!("version: 1\nrules:\n{}", rules.concat())).unwrap();
        let to = to(&format!("{}://{host}:{port}", ["http", "https", "tcp"][protocol]));
        prop_assert!(policy.explain(&to).agrees_with(policy.verdict(&to)));
    }

    #[test]
    fn no_text_panics(text in ".{0,200}") {
        let _ = Document::parse(&text);
        let _ = Document::parse(&format!("version: 1\nrules:\n  - allow: {text}\n"));
    }
}

#[test]
fn what_a_policy_does_not_offer_is_refused_with_what_does() {
    for (text, mend) in [
        ("filesystem: {read_write: [a]}", "read_write"),
        ("filesystem: {read_only: [/opt]}", "offered"),
        ("colour: red", "colour"),
    ] {
        let error = Document::parse(&format!("version: 2\n{text}\n")).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains(mend), "{text}: {error}");
    }
}
