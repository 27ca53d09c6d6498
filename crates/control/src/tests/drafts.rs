//! Policies as they are set, compared and replayed.

use super::{
    hubs::running,
    world::{World, acme, beside, world},
};
use crate::{
    Error,
    api::types::{
        ExplainRequest, ExplainedRequest, ModelRoute, NewTenant, SimulateRequest, SimulatedChange, Upstream,
        WantedLimits,
    },
};
use cofferdam_base::ipc::launcher::{Command, Limits};
use cofferdam_policy::{Body, LONGEST_METHOD, RequestFacts};
use cofferdam_store::ledger::Kind;
use serde_json::json;
use std::{sync::Arc, time::Duration};

const OPEN: &str = "version: 2\ndefault: deny\nrules:\n  - allow: a.example\n  - allow: b.example\n    method: GET\n  - allow: c.example\n    expires: 2020-01-01\n";

async fn stopped() -> World {
    let world = world().await;
    let new =
        NewTenant { id: acme(), runtime: "command:echo".to_owned(), limits: None, start: false, wait: false };
    world.host.create(new).await.unwrap();
    world
}

async fn decided(world: &World, kind: Kind, destination: &str, by: &str, request: &str) {
    let body = json!({ "destination": destination, "by": by, "reason": "", "request": request, "count": 1 });
    let there = || world.disk.kinds().iter().filter(|row| *row == kind.as_str()).count();
    let before = there();
    world.host.observe(Some(&acme()), kind, body).await;
    while there() == before {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_policy_is_set_only_on_the_revision_that_was_read() {
    let world = stopped().await;
    let set = async |text: &str, expected| world.host.policy_set(&acme(), text.to_owned(), expected).await;
    let first = set("version: 1\n", None).await.unwrap().revision;
    assert_eq!(set(OPEN, Some(first)).await.unwrap().revision, first + 1);
    let stale = set("version: 1\n", Some(first)).await.unwrap_err();
    assert!(matches!(&stale, Error::Conflict { code: "revision", .. }) && stale.status() == 409, "{stale}");
    assert_eq!(world.host.policy_show(&acme()).await.unwrap().text, OPEN);
}

#[tokio::test]
async fn a_draft_is_replayed_against_what_the_ledger_tells() {
    let world = stopped().await;
    decided(&world, Kind::Allow, "https://a.example:443", "rule 1 (line 4): allow https a.example:443", "")
        .await;
    decided(&world, Kind::Allow, "https://b.example:443", "rule 2 (line 5): x", "GET /x").await;
    decided(&world, Kind::Deny, "https://b.example:443", "default", "PUT /x").await;
    decided(&world, Kind::Deny, "https://metadata.google.internal:443", "guard", "").await;
    decided(&world, Kind::Hold, "https://d.example:443", "policy", "").await;
    let draft = "version: 2\nrules:\n  - deny: a.example\n  - allow: b.example\n    method: PUT\n  - ask: d.example\n";
    let simulate = async |text: &str, days| {
        let request = SimulateRequest { text: text.to_owned(), days };
        world.host.policy_simulate(&acme(), request).await
    };
    let found = simulate(draft, 1).await.unwrap();
    let changes: Vec<_> = found
        .changes
        .iter()
        .map(|it| (it.destination.as_str(), it.request.as_str(), it.was.as_str(), it.becomes.as_str()))
        .collect();
    assert_eq!(
        changes,
        [
            ("https://a.example:443", "", "allow", "deny"),
            ("https://b.example:443", "GET /x", "allow", "ask"),
            ("https://b.example:443", "PUT /x", "deny", "allow"),
        ]
    );
    assert_eq!(found.replayed, 4, "what the guard refuses no policy decides");
    assert!(found.changes[0].by.starts_with("rule 1 (line 3): deny"), "{found:?}");
    let by_query = draft.replace("method: PUT", "query: {a: \"1\"}");
    let found = simulate(&by_query, 1).await.unwrap();
    assert!(found.changes.iter().filter(|it| !it.request.is_empty()).all(|it| it.becomes == "unknown"));
    assert_eq!(found.unknown, 2);
    assert!(simulate(draft, 0).await.is_err() && simulate("version: 9\n", 1).await.is_err());
}

#[tokio::test]
async fn what_a_record_has_only_the_beginning_of_is_unknown() {
    let world = stopped().await;
    for request in [format!("{} /x", "M".repeat(LONGEST_METHOD)), format!("PUT /{}", "x".repeat(199))] {
        decided(&world, Kind::Allow, "https://b.example:443", "rule 2 (line 5): x", &request).await;
    }
    let text =
        "version: 2\ndefault: deny\nrules:\n  - allow: b.example\n    method: PUT\n    path: /x\n".to_owned();
    let found = world.host.policy_simulate(&acme(), SimulateRequest { text, days: 1 }).await.unwrap();
    let becomes: Vec<_> = found.changes.iter().map(|it| &*it.becomes).collect();
    assert_eq!((becomes.as_slice(), found.unknown), (&["unknown", "unknown"][..], 2));
}

#[tokio::test]
async fn what_is_effective_says_when_it_was_used_and_flags_what_was_not_for_thirty_days() {
    let world = stopped().await;
    world.host.policy_set(&acme(), OPEN.to_owned(), None).await.unwrap();
    world.disk.age_policies(31 * 24 * 60 * 60 * 1000);
    // The rule stood elsewhere when it was used.
    decided(&world, Kind::Allow, "https://a.example:443", "rule 7 (line 40): allow https a.example:443", "")
        .await;
    let all = world.host.policy_effective(&acme()).await.unwrap();
    let row = |part: &str| all.rows.iter().find(|row| row.destination.contains(part));
    let used = row("a.example").unwrap();
    assert!(used.used.is_some() && !used.unused, "{used:?}");
    let unused = row("b.example").unwrap();
    assert!(unused.destination.ends_with(":443 GET") && unused.used.is_none() && unused.unused, "{unused:?}");
    assert!(row("c.example").is_none(), "what has expired is not reachable");
    let checked = world.host.policy_check(&acme(), OPEN).await.unwrap();
    assert!(checked.warnings.iter().any(|it| it.contains("line 7") && it.contains("expired")), "{checked:?}");
}

#[tokio::test]
async fn a_request_is_explained_with_the_rule_that_decides_it() {
    let world = stopped().await;
    world.host.policy_set(&acme(), OPEN.to_owned(), None).await.unwrap();
    let explain = async |request: Option<ExplainedRequest>| {
        let destination = "https://b.example:443".parse().unwrap();
        world.host.policy_explain(&acme(), ExplainRequest { destination, text: None, request }).await.unwrap()
    };
    let request = |method: &str, target: &str| {
        Some(ExplainedRequest { method: method.into(), target: target.into(), ..Default::default() })
    };
    assert_eq!(explain(None).await.verdict, "inspect");
    let told = explain(request("GET", "/x")).await;
    assert!(told.verdict == "allow" && told.by.starts_with("rule 2 (line 5)"), "{told:?}");
    let told = explain(request("PUT", "/x")).await;
    assert!(
        told.verdict == "deny" && told.by == "default" && told.text.contains("about other requests"),
        "{told:?}"
    );
}

#[tokio::test]
async fn a_document_lowers_the_limits_of_a_tenant_and_the_operators_hold_again_without_it() {
    let (world, warden) = running().await;
    let reader = Arc::clone(&warden);
    tokio::task::spawn_blocking(move || reader.ready());
    let told = || {
        std::iter::from_fn(|| world.commands.recv_timeout(Duration::from_secs(5)).ok()).find_map(
            |it| match it {
                Command::SetLimits { limits, .. } => Some(limits),
                _ => None,
            },
        )
    };
    let set = async |text: &str| world.host.policy_set(&acme(), text.to_owned(), None).await;
    let shown = async || world.host.show(&acme()).await.unwrap();
    let own = shown().await.limits;
    let low =
        "version: 2\nlimits: {memory_bytes: 67108864, pids: 9, open_files: 99, disk_bytes: 99999999999999}\n";
    let done = set(low).await.unwrap();
    assert_eq!(done.at_next_start, ["open_files"], "as the launcher says");
    let lowered = Limits { memory_bytes: 64 << 20, tmp_bytes: 64 << 20, pids: 9, open_files: 99, ..own };
    assert_eq!((told(), shown().await.policy_leaves), (Some(lowered), Some(lowered)));
    assert_eq!(shown().await.limits, own, "what the operator set stays");
    // Where both meet, the lower holds.
    let wanted = WantedLimits {
        pids: Some(8),
        cpu_percent: Some(50),
        memory_bytes: Some(3 << 30),
        ..Default::default()
    };
    let changed = world.host.set_limits(&acme(), wanted).await.unwrap();
    assert_eq!(changed.policy_says_less, ["memory_bytes"]);
    assert_eq!(changed.in_force, ["pids", "cpu_percent"]);
    let both = Limits { pids: 8, cpu_percent: 50, ..lowered };
    assert_eq!(told(), Some(both));
    // What cannot hold is no policy, and nothing was changed.
    let revision = shown().await.policy_revision;
    let error = set("version: 2\nlimits: {memory_bytes: 103809024}\n").await.unwrap_err();
    assert!(error.to_string().contains("in use"), "{error}");
    assert_eq!((shown().await.policy_revision, shown().await.policy_leaves), (revision, Some(both)));
    told();
    // Without it, what the operator set by now.
    assert_eq!(set("version: 2\n").await.unwrap().at_next_start, ["open_files"]);
    let back = Limits { pids: 8, cpu_percent: 50, memory_bytes: 3 << 30, ..own };
    assert_eq!((told(), shown().await.policy_leaves, shown().await.limits), (Some(back), None, back));
    let warned = world.host.policy_check(&acme(), low).await.unwrap().warnings;
    assert!(
        warned.iter().any(|it| it.contains("disk_bytes: 99999999999999, but the operator set")),
        "{warned:?}"
    );
    // A start and a control that takes over hold to both.
    set(low).await.unwrap();
    assert_eq!(told(), Some(both));
    let World { disk, dir, .. } = world;
    let next = beside(disk, dir, vec![acme()]).await;
    let again = std::iter::from_fn(|| next.commands.recv_timeout(Duration::from_secs(5)).ok());
    let again =
        again.filter_map(|it| if let Command::SetLimits { limits, .. } = it { Some(limits) } else { None });
    assert_eq!(again.take(1).collect::<Vec<_>>(), [both]);
}

#[tokio::test]
async fn terms_are_shown_with_what_is_effective_and_doubtful_routes_are_named() {
    let world = stopped().await;
    let route = |name: &str| {
        ModelRoute::new(name.parse().unwrap(), Upstream::Url("https://m.example/v1".into()), "m")
    };
    for name in ["fast", "dear"] {
        world.host.model_set(&acme(), &name.parse().unwrap(), route(name)).await.unwrap();
    }
    let text = "version: 2\napprovers: [operator]\ninference: {routes: [fast, gone], budget: [usd/day=1]}\n";
    world.host.policy_set(&acme(), text.to_owned(), None).await.unwrap();
    let all = world.host.policy_effective(&acme()).await.unwrap();
    assert_eq!(
        all.terms,
        ["approvers: operator", "model routes: fast, gone", "all model routes: usd/day=1.00"]
    );
    let row = |name: &str| all.rows.iter().find(|row| row.why.contains(&format!("route {name}:"))).unwrap();
    assert_eq!((row("fast").verdict.as_str(), row("dear").verdict.as_str()), ("allow", "deny"));
    let warnings = world.host.policy_check(&acme(), text).await.unwrap().warnings;
    assert!(warnings.iter().any(|it| it.contains("gone: acme has none of that name")), "{warnings:?}");
    assert!(warnings.iter().any(|it| it.contains("fast: money is limited")), "{warnings:?}");
    let diff = world.host.policy_diff(&acme(), "version: 2\n").await.unwrap();
    assert!(diff.removed.contains(&"approvers: operator".to_owned()), "{diff:?}");
}

#[tokio::test]
async fn a_draft_about_more_than_method_and_path_is_replayed_and_what_is_not_recorded_is_counted() {
    let world = stopped().await;
    let facts = |target: &str, body: &str| RequestFacts {
        destination: "https://b.example:443".parse().unwrap(),
        method: "POST".into(),
        target: target.into(),
        headers: vec!["x-team".into()],
        websocket: false,
        grpc: false,
        body: Body::parse(body.as_bytes()),
    };
    let call = |tool: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}","arguments":{{"a":"b"}}}}}}"#
        )
    };
    for (facts, count) in
        [(facts("/mcp", &call("search")), 1), (facts("/mcp", &call("drop")), 2), (facts("/find?q=1", ""), 4)]
    {
        let body = json!({
            "destination": "https://b.example:443", "by": "rule 2 (line 5): x", "reason": "", "count": count,
            "request": facts.summary(), "seen": facts.seen(),
        });
        world.host.observe(Some(&acme()), Kind::Allow, body).await;
    }
    while world.disk.kinds().iter().filter(|kind| *kind == "allow").count() < 3 {
        tokio::task::yield_now().await;
    }
    let simulate = async |rules: &str| {
        let text = format!("version: 2\ndefault: deny\nrules:\n{rules}");
        let found = world.host.policy_simulate(&acme(), SimulateRequest { text, days: 1 }).await.unwrap();
        let row = |it: SimulatedChange| (it.request, it.becomes, it.count);
        (found.changes.into_iter().map(row).collect::<Vec<_>>(), found.unknown, found.replayed)
    };
    let change = |request: &str, becomes: &str, count| (request.to_owned(), becomes.to_owned(), count);
    let (changes, unknown, replayed) = simulate("  - {allow: b.example, mcp: {tool: search}}\n").await;
    assert_eq!(changes, [change("POST /find", "deny", 4), change("POST /mcp, tool drop", "deny", 2)]);
    assert_eq!((unknown, replayed), (0, 7));
    let (changes, unknown, _) = simulate("  - {allow: b.example, headers: [x-team]}\n").await;
    assert!(changes.is_empty() && unknown == 0, "{changes:?}");
    let (changes, unknown, _) =
        simulate("  - {allow: b.example, headers: [x-team]}\n  - {deny: b.example, query: {q: \"2\"}}\n")
            .await;
    assert_eq!((changes, unknown), (vec![change("POST /find", "unknown", 4)], 4));
    let by_argument = "  - {allow: b.example, mcp: {tool: search, arguments: {a: b}}}\n  - {allow: b.example, path: /find}\n";
    let (changes, unknown, _) = simulate(by_argument).await;
    let expected =
        [change("POST /mcp, tool drop", "deny", 2), change("POST /mcp, tool search", "unknown", 1)];
    assert_eq!((changes.as_slice(), unknown), (&expected[..], 1));
}

#[tokio::test]
async fn a_cell_is_ordered_with_the_directories_that_its_policy_names_and_the_operator_offers() {
    let world = stopped().await;
    let set = async |name: &str| {
        let text = format!("version: 2\nfilesystem: {{read_only: [{name}]}}\n");
        world.host.policy_set(&acme(), text, None).await
    };
    let refused = set("else").await.unwrap_err();
    assert!(refused.to_string().contains("offers no directory else"), "{refused}");
    assert!(set("models").await.unwrap().at_next_start.is_empty(), "no cell runs");
    let host = Arc::clone(&world.host);
    tokio::spawn(async move { host.start(&acme(), false).await });
    let order = super::world::blocking(move || {
        let warden = Arc::new(world.wardens.recv().unwrap());
        let reader = Arc::clone(&warden);
        std::thread::spawn(move || reader.ready());
        // It stays until the cell is ordered.
        let order = std::iter::from_fn(|| world.commands.recv_timeout(Duration::from_secs(20)).ok())
            .find_map(|it| if let Command::StartCell(order) = it { Some(order) } else { None });
        drop(warden);
        order
    })
    .await
    .unwrap();
    assert_eq!(order.offered.iter().map(ToString::to_string).collect::<Vec<_>>(), ["models"]);
}
