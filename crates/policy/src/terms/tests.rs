#![allow(clippy::unwrap_used)]

use super::*;
use crate::Document;
use std::sync::Arc;

const TEXT: &str = "version: 2
approvers: [admin, operator]
limits: {memory_bytes: 33554432, pids: 9, connections: 5}
inference:
  routes: {fast: [tokens/day=10], good: []}
  budget: [tokens/day=100, usd/month=12.50]
rules:
  - ask: api.example.com
    method: POST
    path: /pay/**
    approvers: operator
  - ask: other.example.com
";

fn policy(text: &str) -> Policy {
    Policy::parse(text).unwrap()
}

fn under(text: &str, ceiling: &str) -> Policy {
    policy(text).under(Some(Arc::new(Policy::ceiling(ceiling).unwrap())))
}

fn to(host: &str) -> Destination {
    format!("https://{host}:443").parse().unwrap()
}

fn alias(text: &str) -> Alias {
    text.parse().unwrap()
}

fn limits(all: &[&str]) -> Vec<Limit> {
    all.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn what_no_document_can_mean_is_refused_with_its_line() {
    for (line, said) in [
        ("approvers: []", "who may say yes"),
        ("approvers: [ann]", "who may say yes"),
        ("limits: {memory: 1}", "memory"),
        ("limits: {memory_bytes: 1}", "at least 16777216"),
        ("limits: {pids: 0}", "at least 8"),
        ("limits: {connections: 0}", "at least 1"),
        ("limits: {pids: -9}", "line 2"),
        ("inference: {key: sk-1}", "key"),
        ("inference: {routes: [Fast]}", "no route's name"),
        ("inference: {routes: [a, a]}", "twice"),
        ("inference: {routes: {a: [tokens/year=1]}}", "no limit"),
        ("inference: {budget: [tokens/day=1, tokens/day=2]}", "already"),
    ] {
        let error = Document::parse(&format!("version: 2\n{line}\n")).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains(said), "{line}: {error}");
    }
    for line in ["approvers: operator", "limits: {pids: 9}", "inference: {routes: []}"] {
        let error = Document::parse(&format!("version: 1\n{line}\n")).unwrap_err().to_string();
        assert!(error.contains("needs `version: 2`"), "{line}: {error}");
    }
    let wider = TEXT.replace("approvers: operator", "approvers: approver");
    let error = Document::parse(&wider).unwrap_err().to_string();
    assert!(error.contains("line 8") && error.contains("more than the document's own, admin"), "{error}");
}

#[test]
fn who_may_say_yes_is_the_least_of_document_rule_and_ceiling() {
    let bare = policy("version: 1\n");
    assert_eq!(bare.approver(&to("a.example"), None), Standing::Approver);
    let own = policy(TEXT);
    let said = |policy: &Policy, host, request| policy.approver(&to(host), request);
    for (host, request, who) in [
        ("nobody.example", None, Standing::Admin),
        ("api.example.com", Some(("GET", "/pay/x")), Standing::Admin),
        ("api.example.com", Some(("POST", "/read")), Standing::Admin),
        ("api.example.com", Some(("post", "/PAY/x?y=1")), Standing::Operator),
        // What is for the destination is for all that could be asked there, and so is what cannot be read.
        ("api.example.com", None, Standing::Operator),
        ("api.example.com", Some(("POST", "/a%2fb")), Standing::Operator),
    ] {
        assert_eq!(said(&own, host, request), who, "{host} {request:?}");
    }
    // A ceiling leaves fewer, and never more.
    for (ceiling, who) in [
        ("version: 2\napprovers: [operator]\n", Standing::Operator),
        ("version: 2\napprovers: [approver]\n", Standing::Admin),
        ("version: 2\nrules:\n  - ask: \"*.example\"\n    approvers: [operator]\n", Standing::Operator),
        ("version: 2\nrules:\n  - ask: \"*.else.example\"\n    approvers: [operator]\n", Standing::Admin),
    ] {
        assert_eq!(said(&under(TEXT, ceiling), "nobody.example", None), who, "{ceiling}");
    }
    let expired = TEXT.replace("approvers: operator", "approvers: operator\n    expires: 2020-01-01");
    let expired = policy(&expired).at(cofferdam_base::Millis(1_600_000_000_000));
    assert_eq!(said(&expired, "api.example.com", None), Standing::Admin);
}

#[test]
fn limits_are_the_lower_of_document_ceiling_and_what_the_operator_set() {
    let set = launcher::Limits::default();
    assert_eq!(policy("version: 1\n").lower(set), set);
    let own = policy(TEXT).lower(set);
    let lowered = launcher::Limits { memory_bytes: 32 << 20, tmp_bytes: 32 << 20, pids: 9, ..set };
    assert_eq!(own, lowered, "/tmp is a part of the memory");
    let less = launcher::Limits { pids: 8, ..set };
    assert_eq!(policy(TEXT).lower(less).pids, 8, "a document never gives more");
    let ceiling = "version: 2\nlimits: {pids: 8, memory_bytes: 67108864, disk_bytes: 67108864}\n";
    let both = under(TEXT, ceiling);
    let lowered = launcher::Limits { pids: 8, disk_bytes: 64 << 20, inodes: 64 << 10, ..lowered };
    assert_eq!(both.lower(set), lowered);
    assert_eq!((both.connections(256), both.connections(3)), (5, 3));
    let least = launcher::Limits::LEAST;
    assert_eq!(both.lower(least), least);
    let above =
        policy("version: 2\nlimits: {pids: 513, memory_bytes: 33554432}\n").document().terms.above(&set);
    assert_eq!(above, ["pids: 513, but the operator set 512, which holds"]);
    assert!(both.terms_in_words().contains(&"pids: 8 (ceiling)".to_owned()));
}

#[test]
fn routes_and_budgets_are_narrowed_by_document_and_ceiling() {
    let own = policy(TEXT);
    assert!(own.serves(&alias("fast")) && own.serves(&alias("good")) && !own.serves(&alias("dear")));
    assert_eq!(own.route_limits(&alias("fast")), limits(&["tokens/day=10"]));
    assert_eq!(own.budget(), limits(&["tokens/day=100", "usd/month=12.50"]));
    let open = policy("version: 2\ninference: {budget: tokens/day=7}\n");
    assert!(open.serves(&alias("any")) && open.route_limits(&alias("any")).is_empty());
    assert!(!policy("version: 2\ninference: {routes: []}\n").serves(&alias("any")));
    let ceiling = "version: 2\ninference: {routes: {fast: [tokens/day=5]}, budget: [tokens/day=50]}\n";
    let both = under(TEXT, ceiling);
    assert!(both.serves(&alias("fast")) && !both.serves(&alias("good")));
    assert_eq!(both.route_limits(&alias("fast")), limits(&["tokens/day=10", "tokens/day=5"]));
    assert_eq!(both.budget().len(), 3);
}

#[test]
fn terms_are_compared_in_words_and_what_is_above_the_ceiling_is_named() {
    let before = policy("version: 2\napprovers: [admin]\n");
    let diff = before.diff(&policy(TEXT));
    assert!(diff.removed.is_empty(), "{diff:?}");
    for line in [
        "memory_bytes: 33554432",
        "connections: 5",
        "model routes: fast, good",
        "model route fast: tokens/day=10",
        "all model routes: usd/month=12.50",
    ] {
        assert!(diff.added.iter().any(|it| it == line), "{line} of {diff:?}");
    }
    assert!(diff.added.iter().any(|it| it.contains("POST /pay/**, approved by operator")), "{diff:?}");
    let ceiling = "version: 2\napprovers: [operator]\nlimits: {pids: 8}\ninference:\n  routes: {fast: [tokens/day=5]}\n  \
                   budget: [tokens/day=50]\n";
    let beyond = under(TEXT, ceiling).terms_beyond_ceiling();
    for said in [
        "approvers: admin, but the ceiling says operator",
        "pids: 9, but the ceiling says 8",
        "model route fast: tokens/day=10, but the ceiling says tokens/day=5",
        "model route good, but the ceiling says no",
        "all model routes: tokens/day=100, but the ceiling says tokens/day=50",
    ] {
        assert!(beyond.iter().any(|it| it == said), "{said} of {beyond:?}");
    }
    assert_eq!(beyond.len(), 5);
    assert!(under(TEXT, "version: 2\nlimits: {pids: 9}\n").terms_beyond_ceiling().is_empty());
    assert!(before.terms_beyond_ceiling().is_empty());
}

#[test]
fn an_answer_that_becomes_a_rule_keeps_the_terms() {
    let text = TEXT.to_owned() + "  - ask: new.example.com\n";
    let new = crate::add_rule(&text, &to("www.new.example.com"), "").unwrap();
    assert_eq!(policy(&new).document().terms, policy(TEXT).document().terms);
    let top = "version: 2\nrules:\n  - ask: a.example\nlimits: {pids: 9}\n";
    let new = crate::add_rule(top, &to("b.example"), "").unwrap();
    assert_eq!(policy(&new).document().terms, policy(top).document().terms);
}

#[test]
fn a_directory_is_named_by_the_document_and_let_by_the_ceiling() {
    let names = |policy: &Policy| policy.read_only().iter().map(ToString::to_string).collect::<Vec<_>>();
    let text = "version: 2\nfilesystem: {read_only: [models, data]}\n";
    assert_eq!(names(&policy(text)), ["data", "models"]);
    assert!(names(&policy("version: 2\n")).is_empty());
    let low = under(text, "version: 2\nfilesystem: {read_only: [models]}\n");
    assert_eq!(names(&low), ["models"], "a ceiling that names some leaves no others");
    assert_eq!(low.terms_beyond_ceiling(), ["directory data, but the ceiling says no"]);
    assert_eq!(names(&under("version: 2\n", text)), [""; 0], "a ceiling gives nothing");
    assert!(policy(text).document().terms.lines().contains(&"directories read-only: data|models".to_owned()));
    let many = (0..17).map(|n| format!("d{n}")).collect::<Vec<_>>().join(", ");
    assert!(Document::parse(&format!("version: 2\nfilesystem: {{read_only: [{many}]}}\n")).is_err());
}
