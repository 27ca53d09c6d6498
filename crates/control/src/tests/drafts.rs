//! Policies as they are set, compared and replayed.

use super::world::{World, acme, world};
use crate::{
    Error,
    api::types::{ExplainRequest, ExplainedRequest, NewTenant, SimulateRequest},
};
use cofferdam_store::ledger::Kind;
use serde_json::json;

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
    world.host.observe(Some(&acme()), kind, body).await;
    while world.disk.kinds().last().map(String::as_str) != Some(kind.as_str()) {
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
    assert!(found.changes.iter().filter(|it| !it.request.is_empty()).all(|it| it.becomes == "inspect"));
    assert!(simulate(draft, 0).await.is_err() && simulate("version: 9\n", 1).await.is_err());
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
    let checked = world.host.policy_check(&acme(), OPEN).unwrap();
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
