//! The reconciler and the hubs against the world.

use super::{
    memory::Memory,
    world::{Warden, World, acme, another_key, beside, blocking, facts, globex, over, world},
};
use crate::{
    Error,
    api::types::{
        ApprovalsQuery, Approve, DenyRequest, ExplainRequest, Happening, ModelRoute, NewTenant, NewToken,
        SecretValue, Span, Upstream, WantedLimits,
    },
    keys::Issuer,
    start::{Parts, begin},
};
use cofferdam_base::{
    Destination, Host as Place, Millis, Protocol, Role,
    ipc::{
        edge::Config,
        launcher::{Command, Event},
        warden::{self, GrantSpan, Record, RecordKind, Report},
    },
};
use cofferdam_store::ledger::Kind;
use cofferdam_sys::channel::{Channel, pair};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

fn new(start: bool) -> NewTenant {
    NewTenant { id: acme(), runtime: "command:echo".to_owned(), limits: None, start, wait: start }
}

pub(super) fn yes(span: Span) -> Approve {
    Approve { span, reason: String::new(), shown: None }
}

pub(super) fn no(reason: &str) -> DenyRequest {
    DenyRequest { reason: reason.to_owned(), shown: None }
}

/// The state of the approval that changed.
pub(super) async fn changed(changes: &mut tokio::sync::broadcast::Receiver<Happening>) -> String {
    match changes.recv().await.unwrap() {
        Happening::Approval(approval) => approval.state,
        Happening::Alarm(alarm) => panic!("{alarm:?}"),
    }
}

pub(super) fn somewhere() -> Destination {
    let host = Place::Name("api.example.com".parse().unwrap());
    Destination { host, port: 443.try_into().unwrap(), protocol: Protocol::Https }
}

/// acme, running, and its warden.
pub(super) async fn running() -> (World, Arc<Warden>) {
    let world = world().await;
    let host = Arc::clone(&world.host);
    let created = tokio::spawn(async move { host.create(new(true)).await });
    let (wardens, world) = blocking(move || (world.wardens.recv().unwrap(), world)).await;
    let warden = Arc::new(wardens);
    let reader = Arc::clone(&warden);
    blocking(move || reader.ready()).await;
    assert_eq!(created.await.unwrap().unwrap().state, "running");
    (world, warden)
}

/// The next command of a warden.
pub(super) async fn next(warden: &Arc<Warden>) -> warden::Command {
    let warden = Arc::clone(warden);
    blocking(move || warden.next()).await
}

pub(super) async fn asked(warden: &Arc<Warden>) -> u64 {
    warden.report(&Report::Ask { destination: somewhere(), why: "no rule".to_owned(), request: None });
    match next(warden).await {
        warden::Command::Waiting { approval, destination } if destination == somewhere() => approval,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_tenant_starts_in_order_is_stopped_and_leaves_nothing() {
    let (world, _warden) = running().await;
    let kinds = |commands: &std::sync::mpsc::Receiver<Command>| -> Vec<String> {
        commands.try_iter().map(|c| format!("{c:?}").split([' ', '(']).next().unwrap().to_owned()).collect()
    };
    assert_eq!(kinds(&world.commands), ["Observe", "MakeHome", "StartWarden", "StartCell"]);
    let stopped = world.host.stop(&acme(), true).await.unwrap();
    assert_eq!(stopped.state, "stopped");
    assert_eq!(kinds(&world.commands), ["StopCell", "StopWarden"]);
    world.host.delete(&acme()).await.unwrap();
    assert_eq!(kinds(&world.commands), ["RemoveHome"]);
    assert!(matches!(world.host.show(&acme()).await, Err(Error::NotFound { .. })));
    let rows = world.disk.kinds();
    for kind in ["tenant_created", "key_released", "start_cell", "tenant_stop", "stop_cell", "tenant_deleted"]
    {
        assert!(rows.iter().any(|row| row == kind), "{kind} in {rows:?}");
    }
}

#[tokio::test]
async fn limits_are_durable_before_they_hold_and_put_back_if_they_cannot() {
    let (world, _warden) = running().await;
    // The thread tells of a command after its answer.
    let told = |commands: &std::sync::mpsc::Receiver<Command>| {
        std::iter::from_fn(|| commands.recv_timeout(Duration::from_secs(5)).ok()).find_map(|c| match c {
            Command::SetLimits { limits, .. } => Some(limits),
            _ => None,
        })
    };
    let wanted = WantedLimits { pids: Some(77), open_files: Some(99), ..WantedLimits::default() };
    let set = world.host.set_limits(&acme(), wanted).await.unwrap();
    assert_eq!((set.limits.pids, set.limits.open_files), (77, 99));
    assert_eq!((set.in_force, set.at_next_start), (vec!["pids".to_owned()], vec!["open_files".to_owned()]));
    assert_eq!(told(&world.commands), Some(set.limits));
    let shown = world.host.show(&acme()).await.unwrap();
    assert_eq!((shown.limits.pids, shown.usage.unwrap().pids), (77, Some(3)));
    // The same again is no change; what cannot hold changes nothing, and both are in the ledger.
    let rows = |world: &World| world.disk.kinds().iter().filter(|kind| *kind == "limits_set").count();
    world.host.set_limits(&acme(), wanted).await.unwrap();
    assert_eq!(rows(&world), 1);
    let less = WantedLimits { memory_bytes: Some(99 << 20), tmp_bytes: Some(1 << 20), ..wanted };
    let refused = world.host.set_limits(&acme(), less).await.unwrap_err();
    assert_eq!((refused.to_string().contains("in use"), rows(&world)), (true, 3));
    assert_eq!(world.host.show(&acme()).await.unwrap().limits, set.limits);
    let none = WantedLimits { pids: Some(0), ..WantedLimits::default() };
    assert_eq!(world.host.set_limits(&acme(), none).await.unwrap_err().status(), 400);
    // A control that takes over says what is kept: the one before may have ended in between.
    let World { disk, dir, .. } = world;
    let next = beside(disk, dir, vec![acme()]).await;
    assert_eq!(told(&next.commands), Some(set.limits));
}

#[tokio::test]
async fn an_ask_is_granted_once_spent_once_and_never_twice() {
    let (world, warden) = running().await;
    let approval = asked(&warden).await;
    assert_eq!(asked(&warden).await, approval, "the same question is the same approval");
    assert_eq!(world.host.approve(approval, yes(Span::Once)).await.unwrap().state, "granted");
    let grant = next(&warden).await;
    assert!(matches!(grant, warden::Command::Grant(g) if g.id == approval));
    warden.report(&Report::Spend { grant: approval });
    assert_eq!(next(&warden).await, warden::Command::Spent { grant: approval, ok: true });
    warden.report(&Report::Spend { grant: approval });
    assert_eq!(next(&warden).await, warden::Command::Spent { grant: approval, ok: false });
    let late = world.host.deny(approval, no("")).await.unwrap_err();
    assert_eq!(late.status(), 409);
    assert_eq!(world.host.approve(99, yes(Span::Once)).await.unwrap_err().status(), 404);
}

/// acme's approvals as the next control reads them.
async fn after_a_crash(world: World) -> (World, Vec<(u64, String)>) {
    let World { disk, dir, .. } = world;
    let next = over(disk, dir).await;
    let all = ApprovalsQuery { all: true, ..ApprovalsQuery::default() };
    let rows = next.host.approvals(&all).await.unwrap();
    (next, rows.into_iter().map(|row| (row.id, row.state)).collect())
}

#[tokio::test]
async fn a_yes_for_once_to_what_is_held_is_on_disk_as_used_before_its_use_and_can_be_taken_back_until_then() {
    let (world, warden) = running().await;
    let approval = asked(&warden).await;
    world.host.approve(approval, yes(Span::Once)).await.unwrap();
    let listed = world.host.approvals(&ApprovalsQuery::default()).await.unwrap();
    assert_eq!(listed.iter().map(|row| row.state.as_str()).collect::<Vec<_>>(), ["granted"]);
    assert!(matches!(next(&warden).await, warden::Command::Grant(_)));
    world.host.revoke(approval).await.unwrap();
    assert_eq!(next(&warden).await, warden::Command::Revoke { grant: approval });
    warden.report(&Report::Spend { grant: approval });
    assert_eq!(next(&warden).await, warden::Command::Spent { grant: approval, ok: false });
    let second = asked(&warden).await;
    world.host.approve(second, yes(Span::Once)).await.unwrap();
    // Nothing can be written any more, and the use needs nothing written.
    assert!(matches!(next(&warden).await, warden::Command::Grant(_)));
    world.disk.1.store(true, Ordering::Relaxed);
    warden.report(&Report::Spend { grant: second });
    assert_eq!(next(&warden).await, warden::Command::Spent { grant: second, ok: true });
    world.disk.1.store(false, Ordering::Relaxed);
    let (_next, rows) = after_a_crash(world).await;
    assert_eq!(rows, [(approval, "revoked".to_owned()), (second, "used".to_owned())]);
}

#[tokio::test]
async fn a_yes_for_once_that_a_crash_came_before_is_used_and_one_that_nobody_held_for_is_still_there() {
    let (world, warden) = running().await;
    let held = asked(&warden).await;
    world.host.approve(held, yes(Span::Once)).await.unwrap();
    assert!(matches!(next(&warden).await, warden::Command::Grant(_)));
    let host = Place::Name("later.example".parse().unwrap());
    let destination = Destination { host, ..somewhere() };
    let question = Report::Ask { destination: destination.clone(), why: String::new(), request: None };
    warden.report(&question);
    let warden::Command::Waiting { approval: later, .. } = next(&warden).await else { panic!() };
    let mut changes = world.host.watch();
    warden.report(&Report::HoldEnded { destination });
    assert_eq!(changed(&mut changes).await, "hold_ended");
    world.host.approve(later, yes(Span::Once)).await.unwrap();
    let (next, rows) = after_a_crash(world).await;
    assert_eq!(rows, [(held, "used".to_owned()), (later, "granted".to_owned())]);
    let live: Vec<u64> = next.host.live_grants(&acme()).await.iter().map(|grant| grant.id).collect();
    assert_eq!(live, [later]);
}

#[tokio::test]
async fn a_denial_reaches_the_warden_with_its_words_and_a_hold_that_ended_can_still_be_granted() {
    let (world, warden) = running().await;
    let first = asked(&warden).await;
    world.host.deny(first, no("not this one")).await.unwrap();
    let refuse = next(&warden).await;
    assert!(matches!(refuse, warden::Command::Refuse { reason, .. } if reason == "not this one"));
    let second = asked(&warden).await;
    assert_ne!(first, second);
    let mut changes = world.host.watch();
    warden.report(&Report::HoldEnded { destination: somewhere() });
    assert_eq!(changed(&mut changes).await, "hold_ended");
    assert_eq!(world.host.approve(second, yes(Span::ForSeconds(60))).await.unwrap().state, "granted");
    let grant = next(&warden).await;
    assert!(matches!(grant, warden::Command::Grant(g) if matches!(g.span, GrantSpan::Until(_))));
}

#[tokio::test]
async fn always_becomes_a_rule_and_a_policy_without_it_withdraws_the_grant() {
    let (world, warden) = running().await;
    let approval = asked(&warden).await;
    world.host.approve(approval, yes(Span::Always)).await.unwrap();
    assert!(matches!(next(&warden).await, warden::Command::Grant(g) if g.span == GrantSpan::Always));
    let policy = world.host.policy_show(&acme()).await.unwrap();
    assert!(policy.text.contains("api.example.com") && policy.revision == 2, "{policy:?}");
    let host = Arc::clone(&world.host);
    let set = tokio::spawn(async move { host.policy_set(&acme(), "version: 1\n".to_owned(), None).await });
    assert_eq!(next(&warden).await, warden::Command::Revoke { grant: approval });
    let set = set.await.unwrap().unwrap();
    assert_eq!((set.revision, set.in_force), (3, true));
    let bad = world.host.policy_set(&acme(), "version: 1\nwhat: 3\n".to_owned(), None).await.unwrap_err();
    assert!(bad.to_string().contains("line 2") && bad.status() == 422, "{bad}");
    assert_eq!(world.host.policy_show(&acme()).await.unwrap().revision, 3);
}

#[tokio::test]
async fn what_is_installed_while_the_host_runs_is_seen_and_a_changed_configuration_is_recorded() {
    let (world, _warden) = running().await;
    let lock = cofferdam_base::Digest::from_bytes([7; 32]);
    let sealed = world.dir.path().join(format!("cache/openclaw/{lock}"));
    let of_openclaw =
        || world.host.runtimes().unwrap().runtimes.iter().filter(|r| r.what.contains("2026")).count();
    assert_eq!(of_openclaw(), 0);
    std::fs::create_dir_all(&sealed).unwrap();
    let text = format!(r#"{{"version":"2026.9.6","lock":"{lock}","tree":"{lock}"}}"#);
    std::fs::write(sealed.join("sealed.json"), text).unwrap();
    assert_eq!(of_openclaw(), 1);
    let new = NewTenant { id: globex(), runtime: "openclaw".to_owned(), ..new(false) };
    assert_eq!(world.host.create(new).await.unwrap().runtime, format!("openclaw:{lock}"));
    // The second start of the double finds a changed configuration, the first did not.
    assert!(!world.disk.kinds().contains(&"config_drift".to_owned()));
    world.host.restart(&acme(), true).await.unwrap();
    while !world.disk.kinds().contains(&"config_drift".to_owned()) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_is_reachable_is_what_the_guard_lets_through_since_when_it_was_and_the_model() {
    let (world, warden) = running().await;
    let id = acme();
    let host = Arc::clone(&world.host);
    let reader = std::thread::spawn({
        let warden = Arc::clone(&warden);
        move || while !matches!(warden.next(), warden::Command::Models { .. }) {}
    });
    let rule = |name: &str| format!("  - allow: {name}\n");
    let set = |rules: String| host.policy_set(&id, format!("version: 1\nrules:\n{rules}"), None);
    let (one, two) = (rule("one.example"), rule("two.example"));
    set(one.clone()).await.unwrap();
    let first = host.policy_show(&acme()).await.unwrap();
    set(rule("other.example")).await.unwrap();
    let after = host.now();
    while host.now() <= after {
        tokio::task::yield_now().await;
    }
    set(format!("{two}{one}")).await.unwrap();
    let back = host.policy_show(&acme()).await.unwrap();
    let named = ["metadata.google.internal", "127.0.0.1", "192.0.2.1"].map(rule).concat();
    set(format!("{named}{two}{one}{}", rule("1.1.1.1"))).await.unwrap();
    let upstream = Upstream::Url("https://api.example/v1".to_owned());
    let route = ModelRoute::new("main".parse().unwrap(), upstream, "m");
    let main = route.route.clone();
    host.model_set(&acme(), &main, route).await.unwrap();
    blocking(move || reader.join().unwrap()).await;
    let approval = asked(&warden).await;
    world.host.approve(approval, yes(Span::ForSeconds(60))).await.unwrap();
    let all = host.policy_effective(&acme()).await.unwrap().rows;
    let row = |part: &str| all.iter().find(|row| row.destination.contains(part)).unwrap();
    for refused in ["metadata", "127.0.0.1", "192.0.2.1"] {
        assert!(row(refused).verdict == "deny" && row(refused).why.contains("guard"), "{:?}", row(refused));
    }
    for open in ["one.example", "1.1.1.1", "api.example.com"] {
        assert_eq!(row(open).verdict, "allow", "{:?}", row(open));
    }
    // It was there before, was taken out, and came back.
    assert_eq!(row("one.example").since, back.at);
    assert!(first.at < back.at && row("1.1.1.1").since >= back.at);
    let granted = host.approvals(&ApprovalsQuery { tenant: None, all: false }).await.unwrap().remove(0);
    assert!(row("api.example.com").since >= granted.asked && row("api.example.com").until.is_some());
    let model = row("inference.local");
    assert!(model.why.contains("https://api.example/v1") && model.since >= back.at, "{model:?}");
    let explain = |name: &str| {
        let destination = Destination {
            host: name.parse().map_or_else(|_| Place::Address(name.parse().unwrap()), Place::Name),
            ..somewhere()
        };
        host.policy_explain(&id, ExplainRequest { destination, text: None, request: None })
    };
    let metadata = explain("metadata.google.internal").await.unwrap();
    assert!(metadata.verdict == "deny" && metadata.by.starts_with("guard (metadata)"), "{metadata:?}");
    assert_eq!(explain("one.example").await.unwrap().verdict, "allow");
}

#[tokio::test]
async fn what_a_warden_says_reaches_a_person_as_one_plain_line() {
    let (world, warden) = running().await;
    let why = "no rule\u{1b}]0;x\u{7}\nline two \u{202e}".to_owned();
    warden.report(&Report::Ask { destination: somewhere(), why, request: None });
    next(&warden).await;
    let asked = world.host.approvals(&ApprovalsQuery { tenant: None, all: false }).await.unwrap().remove(0);
    assert_eq!(asked.why, r"no rule\u{1b}]0;x\u{7}\u{a}line two \u{202e}");
}

#[tokio::test]
async fn a_tenant_that_cannot_be_struck_from_the_store_ends_no_request_late_and_goes_in_the_end() {
    let world = world().await;
    world.host.create(new(false)).await.unwrap();
    world.disk.4.store(true, Ordering::Relaxed);
    for _ in 0..2 {
        let error = world.host.delete(&acme()).await.unwrap_err();
        assert!(error.status() == 409 && error.to_string().contains("no tenant can be forgotten"), "{error}");
    }
    assert!(world.host.show(&acme()).await.is_ok());
    world.disk.4.store(false, Ordering::Relaxed);
    let tenant = world.host.tenant(&acme()).unwrap();
    tenant.wait(|view| view.struck == Some(Ok(()))).await;
    assert!(matches!(world.host.show(&acme()).await, Err(Error::NotFound { .. })));
    assert!(world.disk.kinds().contains(&"tenant_deleted".to_owned()));
}

#[tokio::test]
async fn what_no_tenant_owns_is_in_the_ledger_before_it_is_killed() {
    let world = beside(Memory::default(), tempfile::tempdir().unwrap(), vec![globex()]).await;
    let (rows, _) = world.host.ledger_tail(9, Some(globex())).await.unwrap();
    let killed: Vec<_> = rows.iter().map(|row| (row.kind.as_str(), row.body["what"].as_str())).collect();
    assert_eq!(killed, [("kill_orphan", Some("cell")), ("kill_orphan", Some("warden"))]);
    let told: Vec<_> = world.commands.try_iter().collect();
    assert!(matches!(
        &told[..],
        [Command::Observe { .. }, Command::KillCell { tenant: one, .. }, Command::StopWarden { tenant: two, .. }]
            if *one == globex() && *two == globex()
    ));
    // What has an owner is left alone.
    world.host.create(new(false)).await.unwrap();
    let World { disk, dir, .. } = world;
    let second = beside(disk, dir, vec![acme()]).await;
    assert_eq!(second.disk.kinds().iter().filter(|kind| *kind == "kill_orphan").count(), 2);
}

#[tokio::test]
async fn the_seventeenth_question_is_refused() {
    let (world, warden) = running().await;
    for number in 0..17 {
        let host = Place::Name(format!("h{number}.example").parse().unwrap());
        let destination = Destination { host, ..somewhere() };
        warden.report(&Report::Ask { destination, why: String::new(), request: None });
    }
    for _ in 0..16 {
        assert!(matches!(next(&warden).await, warden::Command::Waiting { .. }));
    }
    let last = next(&warden).await;
    assert!(matches!(last, warden::Command::Refuse { reason, .. } if reason == "too_many_waiting"));
    assert_eq!(world.host.waiting().await, 16);
}

#[tokio::test]
async fn records_are_acknowledged_once_durable_and_a_gap_shows() {
    let (world, warden) = running().await;
    let record = |seq| {
        Report::Record(Arc::new(Record {
            seq,
            at: Millis(1),
            what: RecordKind::Deny,
            destination: Some(somewhere()),
            by: "default".to_owned(),
            reason: "denied_by_policy".to_owned(),
            request: String::new(),
            seen: None,
            secrets: vec![],
            count: 1,
        }))
    };
    world.disk.1.store(true, Ordering::Relaxed);
    warden.report(&record(1));
    warden.report(&record(4));
    while world.disk.2.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    assert!(!world.disk.kinds().contains(&"deny".to_owned()), "nothing is said to be written that is not");
    world.disk.1.store(false, Ordering::Relaxed);
    let mut through = 0;
    while through < 4 {
        match next(&warden).await {
            warden::Command::Recorded { through: now } => through = now,
            other => panic!("{other:?}"),
        }
    }
    let rows = world.disk.kinds();
    let of = |kind: &str| rows.iter().filter(|row| *row == kind).count();
    assert_eq!((of("deny"), of("gap")), (2, 1), "{rows:?}");
}

fn told(seq: u64, what: RecordKind) -> Report {
    Report::Record(Arc::new(Record {
        seq,
        at: Millis(1),
        what,
        destination: Some(somewhere()),
        by: "default".to_owned(),
        reason: String::new(),
        request: String::new(),
        seen: None,
        secrets: vec!["KEY".parse().unwrap()],
        count: 1,
    }))
}

#[tokio::test]
async fn on_a_full_disk_denials_and_stops_are_recorded_and_an_allow_is_not_acknowledged_until_it_is() {
    let (world, warden) = running().await;
    let of = |kind: &str| world.disk.kinds().iter().filter(|row| *row == kind).count();
    world.disk.3.store(true, Ordering::Relaxed);
    warden.report(&told(1, RecordKind::Allow));
    warden.report(&told(2, RecordKind::Deny));
    while of("deny") == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(of("allow"), 0);
    // What cannot be recorded is refused, and the wire stays.
    warden.report(&Report::Ask { destination: somewhere(), why: String::new(), request: None });
    let refused = next(&warden).await;
    assert!(
        matches!(&refused, warden::Command::Refuse { reason, .. } if reason == "ledger_unavailable"),
        "before any acknowledgement: {refused:?}"
    );
    assert_eq!(world.host.create(NewTenant { id: globex(), ..new(false) }).await.unwrap_err().status(), 500);
    world.disk.3.store(false, Ordering::Relaxed);
    assert_eq!(next(&warden).await, warden::Command::Recorded { through: 2 });
    assert_eq!((of("allow"), of("deny")), (1, 1));
    world.disk.3.store(true, Ordering::Relaxed);
    assert_eq!(world.host.stop(&acme(), true).await.unwrap().state, "stopped");
    world.host.delete(&acme()).await.unwrap();
    assert!(of("tenant_stop") == 1 && of("tenant_deleted") == 1);
}

#[tokio::test]
async fn records_that_are_sent_again_after_a_crash_are_not_doubled_and_a_dead_wardens_tail_is_told_of() {
    let (first, warden) = running().await;
    for seq in 1..=2 {
        warden.report(&told(seq, RecordKind::Deny));
    }
    while next(&warden).await != (warden::Command::Recorded { through: 2 }) {}
    let World { disk, dir, .. } = first;
    let second = over(disk, dir).await;
    let (warden, second) = blocking(move || (second.wardens.recv().unwrap(), second)).await;
    let warden = Arc::new(warden);
    let reader = Arc::clone(&warden);
    blocking(move || reader.ready()).await;
    let of = |kind: &str| second.disk.kinds().iter().filter(|row| *row == kind).count();
    for seq in [1, 2, 3] {
        warden.report(&told(seq, RecordKind::Deny));
    }
    while next(&warden).await != (warden::Command::Recorded { through: 3 }) {}
    assert_eq!((of("deny"), of("gap")), (3, 0));
    second.host.launcher_says(Event::WardenEnded { tenant: acme() }, vec![]);
    while of("warden_ended") == 0 {
        tokio::task::yield_now().await;
    }
    let rows = second.host.ledger_tail(99, Some(acme())).await.unwrap().0;
    assert!(
        rows.iter()
            .filter(|row| row.kind == "deny")
            .all(|row| row.body["secrets"] == serde_json::json!(["KEY"]))
    );
    let ended = rows.iter().find(|row| row.kind == "warden_ended").unwrap();
    assert_eq!((ended.body["after"].as_u64(), ended.body["may_be_lost"].as_bool()), (Some(3), Some(true)));
}

fn used(seq: u64) -> Report {
    Report::Usage(warden::Usage {
        seq,
        request: seq,
        at: Millis(1),
        route: "main".parse().unwrap(),
        model: "m".to_owned(),
        prompt_tokens: 2,
        completion_tokens: 1,
        status: 200,
        estimated: false,
        micros: None,
        user: String::new(),
        agent: String::new(),
    })
}

/// Reads until uses up to this number are said to be counted.
async fn counted(warden: &Arc<Warden>, seq: u64) {
    while next(warden).await != (warden::Command::Counted { through: seq }) {}
}

#[tokio::test]
async fn uses_that_wait_are_counted_in_one_transaction_and_none_is_lost_or_counted_twice() {
    let (world, warden) = running().await;
    world.disk.1.store(true, Ordering::Relaxed);
    warden.report(&used(1));
    while world.disk.2.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    (2..=100).for_each(|seq| warden.report(&used(seq)));
    // Its answer comes after all of them were taken, and before any is said to be counted.
    warden.report(&Report::Ask { destination: somewhere(), why: String::new(), request: None });
    assert!(matches!(next(&warden).await, warden::Command::Refuse { .. }));
    assert_eq!(world.disk.counted(), (0, 0));
    world.disk.1.store(false, Ordering::Relaxed);
    counted(&warden, 100).await;
    let (uses, changes) = world.disk.counted();
    // What came before the disk was first tried, and all that waited behind it.
    assert!(uses == 100 && changes <= 2, "{uses} {changes}");
    (99..=101).for_each(|seq| warden.report(&used(seq)));
    counted(&warden, 101).await;
    assert_eq!(world.disk.counted().0, 101, "what is sent again is answered and not counted again");
}

#[tokio::test]
async fn a_warden_that_follows_one_that_died_begins_with_all_that_was_used_though_the_disk_stood_still() {
    let (world, warden) = running().await;
    world.disk.5.store(true, Ordering::Relaxed);
    warden.report(&used(1));
    let Report::Usage(usage) = used(2) else { unreachable!() };
    let most = warden::Usage { prompt_tokens: 10, ..usage };
    warden.report(&Report::Asking(most));
    until(|| world.disk.2.load(Ordering::Relaxed) > 0).await;
    // It dies, and the next one is there; the disk is tried again and again, and takes nothing.
    world.host.launcher_says(Event::WardenEnded { tenant: acme() }, vec![]);
    drop(warden);
    let (next, world) = blocking(move || (world.wardens.recv().unwrap(), world)).await;
    let before = world.disk.2.load(Ordering::Relaxed);
    until(|| world.disk.2.load(Ordering::Relaxed) > before + 2).await;
    world.disk.5.store(false, Ordering::Relaxed);
    let models = blocking(move || {
        loop {
            if let warden::Command::Models { by_all, .. } = next.next() {
                return by_all;
            }
        }
    });
    assert_eq!(models.await[0].tokens, 3 + 11, "what was used, and the most that was under way");
}

/// Waits for something that comes.
async fn until(done: impl Fn() -> bool) {
    while !done() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_use_at_no_time_that_there_is_ends_the_wire() {
    let (world, warden) = running().await;
    let Report::Usage(usage) = used(1) else { unreachable!() };
    warden.report(&used(1));
    counted(&warden, 1).await;
    warden.report(&Report::Usage(warden::Usage { seq: 2, at: Millis(u64::MAX), ..usage }));
    while world.host.tenant(&acme()).unwrap().seat.link().is_some() {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.disk.counted().0, 1);
}

#[tokio::test]
async fn rows_that_nobody_waits_for_are_counted_while_the_disk_is_full() {
    let (world, _warden) = running().await;
    world.disk.3.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        world.host.observe(Some(&acme()), Kind::ModelSet, serde_json::json!({})).await;
    }
    while world.disk.2.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    world.disk.3.store(false, Ordering::Relaxed);
    while !world.disk.kinds().contains(&"unkept".to_owned()) {
        tokio::task::yield_now().await;
    }
    let rows = world.host.ledger_tail(1, Some(acme())).await.unwrap().0;
    assert_eq!(
        (rows[0].body["counted"].as_u64(), rows[0].body["kind"].as_str()),
        (Some(3), Some("model_set"))
    );
}

#[tokio::test]
async fn asking_again_and_holding_no_longer_is_remembered_and_not_written() {
    let (world, warden) = running().await;
    let approval = asked(&warden).await;
    let rows = || world.disk.kinds().iter().filter(|kind| kind.starts_with("approval")).count();
    assert_eq!(rows(), 1);
    let mut changes = world.host.watch();
    for _ in 0..3 {
        warden.report(&Report::HoldEnded { destination: somewhere() });
        assert_eq!(changed(&mut changes).await, "hold_ended");
        assert_eq!(asked(&warden).await, approval);
        assert_eq!(changed(&mut changes).await, "waiting");
    }
    assert_eq!(rows(), 1, "{:?}", world.disk.kinds());
    warden.report(&Report::HoldEnded { destination: somewhere() });
    changes.recv().await.unwrap();
    let query = ApprovalsQuery { tenant: None, all: false };
    assert_eq!(world.host.approvals(&query).await.unwrap()[0].state, "hold_ended");
    world.host.deny(approval, no("")).await.unwrap();
    assert!(rows() == 2 && world.disk.kinds().contains(&"approval_denied".to_owned()));
}

#[tokio::test]
async fn a_grant_for_ever_whose_rule_is_gone_is_asked_anew_and_does_not_come_back_after_a_crash() {
    let (first, warden) = running().await;
    let approval = asked(&warden).await;
    first.host.approve(approval, yes(Span::Always)).await.unwrap();
    next(&warden).await;
    // A crash between the new policy and what it takes back.
    let row = first.host.row(Some(&acme()), Kind::PolicySet, serde_json::json!({}));
    let set = |disk: &mut dyn crate::disk::Disk| disk.add_policy(&acme(), "version: 1\n", "operator", &row);
    set(&mut first.disk.clone()).unwrap();
    warden.report(&Report::Ask { destination: somewhere(), why: String::new(), request: None });
    assert_eq!(next(&warden).await, warden::Command::Revoke { grant: approval });
    let warden::Command::Waiting { approval: asked_anew, .. } = next(&warden).await else { panic!() };
    assert_ne!(asked_anew, approval, "the old yes does not answer");
    first.host.approve(asked_anew, yes(Span::Always)).await.unwrap();
    while !matches!(next(&warden).await, warden::Command::Grant(_)) {}
    set(&mut first.disk.clone()).unwrap();
    let World { disk, dir, .. } = first;
    let second = over(disk, dir).await;
    let query = ApprovalsQuery { tenant: None, all: false };
    assert!(second.host.approvals(&query).await.unwrap().is_empty());
    assert!(second.disk.kinds().contains(&"approval_revoked".to_owned()));
    let warden = Arc::new(blocking(move || second.wardens.recv().unwrap()).await);
    let reader = Arc::clone(&warden);
    blocking(move || reader.ready()).await;
    assert_ne!(asked(&warden).await, asked_anew);
}

#[tokio::test]
async fn a_secret_reaches_its_warden_sealed_and_is_never_shown() {
    let (world, warden) = running().await;
    let name: cofferdam_base::SecretName = "KEY".parse().unwrap();
    let value = SecretValue { value: "hunter2".to_owned(), purpose: None, binding: None };
    world.host.secret_set(&acme(), name.clone(), value).await.unwrap();
    let warden::Command::Secrets { secrets } = next(&warden).await else { panic!() };
    assert_eq!((secrets.len(), secrets[0].version), (1, 1));
    assert!(!format!("{secrets:?}").contains("hunter2"));
    world.host.secret_remove(&acme(), &name).await.unwrap();
    assert_eq!(next(&warden).await, warden::Command::Secrets { secrets: vec![] });
    assert_eq!(world.host.secret_remove(&acme(), &name).await.unwrap_err().status(), 404);
}

#[tokio::test]
async fn a_warden_that_claims_another_tenant_is_given_up_and_started_anew() {
    let (world, warden) = running().await;
    let other = cofferdam_base::TenantId::try_from("globex").unwrap();
    warden.report(&Report::Hello { tenant: other, boot: 1 });
    let again = blocking(move || world.wardens.recv().unwrap()).await;
    blocking(move || again.ready()).await;
}

#[tokio::test]
async fn the_edge_gets_everything_between_begin_and_synced_and_then_each_change() {
    let (world, _warden) = running().await;
    let token = NewToken { tenant: acme(), subject: "ann".to_owned(), role: Role::Member, ttl_seconds: 60 };
    let revoked = world.host.token_issue(token.clone()).await.unwrap();
    world.host.token_revoke(revoked.row.jti.clone()).await.unwrap();
    let (edge, theirs) = pair().unwrap();
    world.host.launcher_says(Event::EdgeWire {}, vec![theirs]);
    let edge = Arc::new(Channel::from(edge));
    let recv = || {
        let edge = Arc::clone(&edge);
        blocking(move || edge.recv::<Config>().unwrap().unwrap().0)
    };
    let mut messages = vec![];
    while messages.last() != Some(&Config::Synced {}) {
        messages.push(recv().await);
    }
    assert_eq!(messages[0], Config::Begin {});
    assert!(matches!(&messages[1], Config::Issuer { keys, .. } if keys.len() == 1));
    assert!(matches!(&messages[2], Config::Tenant(route) if route.state == "running"));
    assert!(matches!(&messages[3], Config::Revoked { jti, .. } if *jti == revoked.row.jti));
    let issued = world.host.token_issue(token).await.unwrap();
    world.host.token_revoke(issued.row.jti.clone()).await.unwrap();
    assert!(matches!(recv().await, Config::Revoked { jti, .. } if jti == issued.row.jti));
}

#[tokio::test]
async fn after_a_crash_what_was_wanted_comes_back_and_live_grants_are_sent_again() {
    let (first, warden) = running().await;
    let approval = asked(&warden).await;
    first.host.approve(approval, yes(Span::ForSeconds(600))).await.unwrap();
    let World { disk, dir, .. } = first;
    let second = over(disk, dir).await;
    let warden = blocking(move || second.wardens.recv().unwrap()).await;
    let warden = Arc::new(warden);
    loop {
        match next(&warden).await {
            warden::Command::Grant(grant) => break assert_eq!(grant.id, approval),
            warden::Command::Ready {} => panic!("no grant before ready"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn another_master_key_starts_nothing_and_changes_nothing() {
    let (first, _warden) = running().await;
    let World { disk, dir, .. } = first;
    let before = disk.kinds().len();
    let (launcher, theirs) = pair().unwrap();
    let parts = Parts {
        facts: facts(dir.path()),
        disk: Box::new(disk.clone()),
        master: another_key(),
        issuer: Issuer::open(&dir.path().join("issuer.key")).unwrap(),
        launcher,
    };
    let error = begin(parts).await.unwrap_err();
    assert_eq!(error.exit(), crate::EXIT_KEY, "{error}");
    assert_eq!(disk.kinds().len(), before);
    let wire = Channel::from(theirs);
    assert!(
        blocking(move || wire.recv::<Command>().unwrap().is_none()).await,
        "the launcher was told nothing"
    );
}

#[tokio::test]
async fn a_full_disk_refuses_a_wish_and_nothing_happens() {
    let world = world().await;
    world.disk.1.store(true, Ordering::Relaxed);
    assert_eq!(world.host.create(new(true)).await.unwrap_err().status(), 500);
    assert!(world.host.show(&acme()).await.is_err());
    world.disk.1.store(false, Ordering::Relaxed);
    world.host.create(new(false)).await.unwrap();
    assert_eq!(world.host.create(new(false)).await.unwrap_err().status(), 409);
}
