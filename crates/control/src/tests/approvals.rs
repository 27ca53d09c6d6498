//! Approvals at control: what an answer is bound to, who may give it, and how long it holds.

use super::{
    hubs::{no, running, somewhere, yes},
    world::{Warden, World, acme, blocking, globex, over},
};
use crate::api::types::{
    Alarm, Approval, ApprovalsQuery, Happening, NewTenant, NewToken, SecretValue, Span, Webhook,
};
use cofferdam_base::{
    Digest, Millis, Role, TenantId,
    ipc::{
        asked::RequestShown,
        edge::{Answer, Config, Decision, Message, Refused, Report as Said, YesOf},
        launcher::Event,
        warden::{self, GrantSpan, Record, RecordKind, Report},
    },
};
use cofferdam_sys::channel::{Channel, pair};
use std::sync::Arc;

pub(super) fn get(path: &str) -> RequestShown {
    RequestShown {
        method: "GET".into(),
        url: format!("http://api.example.com/{path}"),
        tool: None,
        arguments: None,
        size: None,
        whole: None,
    }
}

pub(super) async fn asked_by(warden: &Arc<Warden>, path: &str) -> u64 {
    let request = Some(get(path));
    warden.report(&Report::Ask { destination: somewhere(), why: "no rule".to_owned(), request });
    match next(warden).await {
        warden::Command::Waiting { approval, .. } => approval,
        other => panic!("{other:?}"),
    }
}

/// The next command but for what is said of records, which comes in no order with anything.
async fn next(warden: &Arc<Warden>) -> warden::Command {
    loop {
        let command = super::hubs::next(warden).await;
        if !matches!(command, warden::Command::Recorded { .. }) {
            return command;
        }
    }
}

async fn all(world: &World) -> Vec<Approval> {
    world.host.approvals(&ApprovalsQuery { tenant: None, all: true }).await.unwrap()
}

async fn one(world: &World, id: u64) -> Approval {
    all(world).await.into_iter().find(|row| row.id == id).unwrap()
}

/// An edge: what it was told, and what it says.
pub(super) struct Edge(Arc<Channel>);

impl Edge {
    pub(super) async fn of(world: &World) -> Self {
        let (ours, theirs) = pair().unwrap();
        world.host.launcher_says(Event::EdgeWire {}, vec![theirs]);
        let edge = Self(Arc::new(Channel::from(ours)));
        while edge.told().await != (Config::Synced {}) {}
        edge
    }

    async fn told(&self) -> Config {
        let wire = Arc::clone(&self.0);
        blocking(move || wire.recv::<Config>().unwrap().unwrap().0).await
    }

    /// What the edge would show of this approval: it is told when it is new.
    pub(super) async fn shown(&self, id: u64) -> Digest {
        self.seen(id).await.0
    }

    /// The same, and whose yes it says that counts.
    async fn seen(&self, id: u64) -> (Digest, YesOf) {
        loop {
            if let Config::Asked { question, yes_of, .. } = self.told().await
                && question.approval == id
            {
                let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &question.bytes());
                return (Digest::from_bytes(digest.as_ref().try_into().unwrap()), yes_of);
            }
        }
    }

    pub(super) async fn answers(
        &self,
        token: &str,
        tenant: TenantId,
        approval: u64,
        shown: Digest,
        decision: Decision,
    ) -> Option<Refused> {
        let answer = Answer { op: 5, token: token.to_owned(), tenant, approval, shown, decision };
        self.0.send(&Message::Answer(answer), &[]).unwrap();
        loop {
            if let Config::Answered { op: 5, refused } = self.told().await {
                return refused;
            }
        }
    }
}

pub(super) async fn token(world: &World, tenant: TenantId, role: Role) -> String {
    let new = NewToken { tenant, subject: format!("{role}-ann"), role, ttl_seconds: 60 };
    world.host.token_issue(new).await.unwrap().token
}

#[tokio::test]
async fn an_answer_at_the_edge_counts_with_an_approvers_token_and_the_hash_of_what_stands() {
    let (world, warden) = running().await;
    let other = NewTenant {
        id: globex(),
        runtime: "command:echo".to_owned(),
        limits: None,
        start: false,
        wait: false,
    };
    world.host.create(other).await.unwrap();
    let edge = Edge::of(&world).await;
    let id = asked_by(&warden, "walls").await;
    let shown = edge.shown(id).await;
    let approver = token(&world, acme(), Role::Approver).await;
    let member = token(&world, acme(), Role::Member).await;
    let foreign = token(&world, globex(), Role::Admin).await;
    let revoked = {
        let new = NewToken { tenant: acme(), subject: "bob".into(), role: Role::Admin, ttl_seconds: 60 };
        let issued = world.host.token_issue(new).await.unwrap();
        world.host.token_revoke(issued.row.jti).await.unwrap();
        issued.token
    };
    let mut changed = approver.clone().into_bytes();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    let changed = String::from_utf8(changed).unwrap();
    let probe = world.host.probe_token(&world.host.tenant(&acme()).unwrap()).unwrap();
    let wrong = Digest::from_bytes([9; 32]);
    for (token, tenant, shown, code) in [
        (member.as_str(), acme(), shown, "may_not_approve"),
        (foreign.as_str(), acme(), shown, "token_other_tenant"),
        (foreign.as_str(), globex(), shown, "not_found"),
        (revoked.as_str(), acme(), shown, "token_revoked"),
        (changed.as_str(), acme(), shown, "token"),
        (probe.as_str(), acme(), shown, "token_revoked"),
        ("", acme(), shown, "token"),
        (approver.as_str(), acme(), wrong, "approval_stale"),
    ] {
        let refused = edge.answers(token, tenant, id, shown, Decision::AllowOnce).await.unwrap();
        assert_eq!(refused.code, code, "{refused:?}");
        assert_eq!(one(&world, id).await.state, "waiting", "{code}");
    }
    assert_eq!(edge.answers(&approver, acme(), id, shown, Decision::AllowOnce).await, None);
    let row = one(&world, id).await;
    assert_eq!((row.state.as_str(), row.approver.as_str()), ("granted", "approver-ann"));
    let grant = next(&warden).await;
    assert!(matches!(&grant, warden::Command::Grant(g) if g.request == Some(get("walls"))), "{grant:?}");
    let ledger = world.host.ledger_tail(1, Some(acme())).await.unwrap().0.remove(0);
    assert_eq!((ledger.kind.as_str(), &ledger.body["by"]), ("approval_granted", &"approver-ann".into()));
    let late = edge.answers(&approver, acme(), id, shown, Decision::Deny).await.unwrap();
    assert_eq!(late.code, "approval_over");
}

#[tokio::test]
async fn an_edge_is_told_what_waits_at_its_start_and_each_change() {
    let (world, warden) = running().await;
    let id = asked_by(&warden, "walls").await;
    let (ours, theirs) = pair().unwrap();
    world.host.launcher_says(Event::EdgeWire {}, vec![theirs]);
    let edge = Edge(Arc::new(Channel::from(ours)));
    let mut before = vec![];
    while before.last() != Some(&Config::Synced {}) {
        before.push(edge.told().await);
    }
    let waits = |it: &Config| matches!(it, Config::Asked { question, .. } if question.approval == id);
    assert!(before.iter().any(waits), "{before:?}");
    world.host.deny(id, no("no")).await.unwrap();
    loop {
        if let Config::AskedNoMore { approval, outcome, by, .. } = edge.told().await {
            break assert_eq!((approval, outcome.as_str(), by.as_str()), (id, "denied", "operator"));
        }
    }
}

#[tokio::test]
async fn an_answer_to_a_question_under_an_older_policy_is_refused_and_what_is_held_has_a_new_number() {
    let (world, warden) = running().await;
    let id = asked_by(&warden, "walls").await;
    let host = Arc::clone(&world.host);
    let text = "version: 1\ndefault: ask\nrules:\n  - allow: one.example\n".to_owned();
    let set = tokio::spawn(async move { host.policy_set(&acme(), text, None).await });
    let again = match next(&warden).await {
        warden::Command::Waiting { approval, .. } => approval,
        other => panic!("{other:?}"),
    };
    // Only the double of a warden that somebody reads reports a policy in force.
    let reader = Arc::clone(&warden);
    set.await.unwrap().unwrap();
    assert_ne!(again, id);
    for refused in [
        world.host.approve(id, yes(Span::Once)).await.unwrap_err(),
        world.host.approve(id, yes(Span::Always)).await.unwrap_err(),
        world.host.deny(id, no("no")).await.unwrap_err(),
    ] {
        let error = refused.body().error;
        assert_eq!((refused.status(), error.code.as_str()), (409, "approval_stale"), "{error:?}");
        assert!(error.mend.contains("approvals list --tenant acme"), "{error:?}");
    }
    let (old, new) = (one(&world, id).await, one(&world, again).await);
    assert_eq!(
        (old.state.as_str(), old.revision, new.state.as_str(), new.revision),
        ("stale", 1, "waiting", 2)
    );
    assert_eq!(new.request, old.request);
    world.host.approve(again, yes(Span::ForSeconds(60))).await.unwrap();
    assert!(matches!(next(&reader).await, warden::Command::Grant(g) if g.id == again && g.request.is_none()));
    // And a yes is over when the policy moves.
    let host = Arc::clone(&world.host);
    let set =
        tokio::spawn(
            async move { host.policy_set(&acme(), "version: 1\ndefault: ask\n".to_owned(), None).await },
        );
    assert_eq!(next(&reader).await, warden::Command::Revoke { grant: again });
    set.await.unwrap().unwrap();
    assert_eq!(one(&world, again).await.state, "stale");
    assert!(world.disk.kinds().contains(&"approval_stale".to_owned()));
}

#[tokio::test]
async fn a_policy_that_moved_behind_the_back_of_all_makes_an_answer_stale() {
    let (world, warden) = running().await;
    let id = asked_by(&warden, "walls").await;
    // As if control had died between the new policy and what it takes back.
    let row = world.host.row(Some(&acme()), cofferdam_store::ledger::Kind::PolicySet, serde_json::json!({}));
    let disk: &mut dyn crate::disk::Disk = &mut world.disk.clone();
    disk.add_policy(&acme(), "version: 1\ndefault: ask\n", "operator", &row).unwrap();
    let refused = world.host.approve(id, yes(Span::Once)).await.unwrap_err();
    assert_eq!(refused.body().error.code, "approval_stale");
    assert!(matches!(next(&warden).await, warden::Command::Waiting { approval, .. } if approval != id));
}

#[tokio::test]
async fn a_rule_that_one_answer_made_leaves_the_other_questions_their_numbers() {
    let (world, warden) = running().await;
    let first = asked_by(&warden, "walls").await;
    let other = cofferdam_base::Destination { port: 8443.try_into().unwrap(), ..somewhere() };
    warden.report(&Report::Ask { destination: other, why: "no rule".to_owned(), request: None });
    let warden::Command::Waiting { approval: second, .. } = next(&warden).await else { panic!() };
    world.host.approve(first, yes(Span::Always)).await.unwrap();
    assert!(matches!(next(&warden).await, warden::Command::Grant(g) if g.id == first));
    let row = world.host.approve(second, yes(Span::Once)).await.unwrap();
    assert_eq!((row.state.as_str(), row.revision), ("granted", 2));
    assert!(matches!(next(&warden).await, warden::Command::Grant(g) if g.id == second));
}

#[tokio::test]
async fn a_yes_with_the_wrong_hash_grants_nothing_and_with_the_right_one_it_does() {
    let (world, warden) = running().await;
    let id = asked_by(&warden, "walls").await;
    let mut answer = yes(Span::Once);
    answer.shown = Some(Digest::from_bytes([9; 32]));
    let refused = world.host.approve(id, answer.clone()).await.unwrap_err();
    assert_eq!(refused.body().error.code, "approval_stale");
    answer.shown = Some(one(&world, id).await.shown);
    answer.reason = "it is the library".to_owned();
    let row = world.host.approve(id, answer).await.unwrap();
    assert_eq!((row.approver.as_str(), row.answer.as_str()), ("operator", "it is the library"));
}

#[tokio::test]
async fn a_yes_for_a_cells_life_is_over_before_there_is_another_cell() {
    let (world, warden) = running().await;
    let id = asked_by(&warden, "walls").await;
    let row = world.host.approve(id, yes(Span::Cell)).await.unwrap();
    assert_eq!(row.span.as_deref(), Some("cell"));
    let span = GrantSpan::Cell { generation: 1 };
    assert!(
        matches!(next(&warden).await, warden::Command::Grant(g) if g.span == span && g.request.is_none())
    );
    let reader = Arc::clone(&warden);
    let revoked = tokio::spawn(async move { next(&reader).await });
    world.host.restart(&acme(), true).await.unwrap();
    assert_eq!(revoked.await.unwrap(), warden::Command::Revoke { grant: id });
    assert_eq!(one(&world, id).await.state, "expired");
    let rows = world.disk.kinds();
    let at = |kind: &str| rows.iter().rposition(|it| it == kind).unwrap();
    assert!(at("approval_expired") < at("start_cell"), "{rows:?}");
}

#[tokio::test]
async fn what_is_asked_again_is_one_question_with_a_count_and_another_request_is_another_question() {
    let (world, warden) = running().await;
    let hold = |seq| {
        let destination = Some(somewhere());
        let (by, reason) = (String::new(), String::new());
        Report::Record(Arc::new(Record {
            seq,
            at: Millis(1),
            what: RecordKind::Hold,
            destination,
            by,
            reason,
            request: String::new(),
            seen: None,
            secrets: vec![],
            count: 1,
        }))
    };
    warden.report(&hold(1));
    let id = asked_by(&warden, "walls").await;
    warden.report(&hold(2));
    warden.report(&hold(3));
    // Sent again, because it was not answered: it counts once.
    warden.report(&hold(3));
    assert_eq!(asked_by(&warden, "walls").await, id);
    assert_eq!(one(&world, id).await.count, 3);
    warden.report(&Report::HoldEnded { destination: somewhere() });
    let other = asked_by(&warden, "doors").await;
    assert_ne!(other, id, "it is not what the first number shows");
    assert_eq!(one(&world, other).await.request, Some(get("doors")));
    world.host.approve(id, yes(Span::Once)).await.unwrap();
    assert!(
        matches!(next(&warden).await, warden::Command::Grant(g) if g.id == id && g.request == Some(get("walls")))
    );
}

#[tokio::test]
async fn a_warden_that_shows_what_can_be_read_in_two_ways_is_given_up() {
    let (world, warden) = running().await;
    let request = Some(RequestShown { url: "http://evil\u{202e}/".into(), ..get("x") });
    warden.report(&Report::Ask { destination: somewhere(), why: String::new(), request });
    let wire = Arc::clone(&warden.0);
    blocking(move || while let Ok(Some(_)) = wire.recv::<warden::Command>() {}).await;
    assert!(all(&world).await.is_empty());
}

#[tokio::test]
async fn a_forged_frame_is_in_the_ledger_and_an_alarm() {
    let (world, _warden) = running().await;
    let mut happens = world.host.watch();
    let edge = Edge::of(&world).await;
    let report = Said {
        seq: 1,
        at: Millis(7),
        tenant: Some(acme()),
        what: "forged".into(),
        subject: "ann".into(),
        jti: "j".into(),
        reason: "forged_approval".into(),
        count: 2,
    };
    edge.0.send(&Message::Report(report), &[]).unwrap();
    let alarm = Alarm {
        tenant: Some(acme()),
        at: Millis(7),
        what: "forged_approval".into(),
        subject: "ann".into(),
        count: 2,
    };
    assert_eq!(happens.recv().await.unwrap(), Happening::Alarm(alarm));
    while edge.told().await != (Config::Recorded { through: 1 }) {}
    assert!(world.disk.kinds().contains(&"forged".to_owned()));
}

/// The next thing that the warden is to post; what it is told besides is passed over.
pub(super) async fn to_post(warden: &Arc<Warden>) -> (u64, String) {
    loop {
        if let warden::Command::Post { delivery, url, body, .. } = next(warden).await {
            assert_eq!(url, "https://hooks.example.com/x");
            return (delivery, body);
        }
    }
}

#[tokio::test]
async fn a_delivery_is_durable_tried_again_and_outlives_control_and_only_its_warden_ends_it() {
    let (first, warden) = running().await;
    let secret = "HOOK".parse::<cofferdam_base::SecretName>().unwrap();
    let url = "https://hooks.example.com/x".to_owned();
    let webhook = Webhook { url: url.clone(), secret: secret.clone() };
    let refused = first.host.webhook_set(&acme(), Some(webhook.clone())).await.unwrap_err();
    assert_eq!(refused.body().error.code, "no_webhook_secret");
    let value =
        |purpose: &str| SecretValue { value: "k".into(), purpose: Some(purpose.into()), binding: None };
    first.host.secret_set(&acme(), secret.clone(), value("model")).await.unwrap();
    assert!(first.host.webhook_set(&acme(), Some(webhook.clone())).await.is_err(), "of another purpose");
    first.host.secret_set(&acme(), secret, value("webhook")).await.unwrap();
    first.host.webhook_set(&acme(), Some(webhook)).await.unwrap();
    let request = Some(get("walls"));
    warden.report(&Report::Ask { destination: somewhere(), why: "no rule".to_owned(), request });
    let (delivery, body) = to_post(&warden).await;
    assert!(body.contains("api.example.com/walls") && body.contains("\"waiting\""), "{body}");
    // A number that was never given ends nothing.
    warden.report(&Report::Posted { delivery: delivery + 9, error: None });
    warden.report(&Report::Posted { delivery, error: Some("answered 503".into()) });
    let (again, same) = to_post(&warden).await;
    assert_eq!((again, &same), (delivery, &body));
    let set = first.host.webhook_show(&acme()).await.unwrap();
    assert_eq!((set.waiting, set.last_error.as_str()), (1, "answered 503"));
    let World { disk, dir, .. } = first;
    let second = over(disk, dir).await;
    let warden = Arc::new(blocking(move || second.wardens.recv().unwrap()).await);
    let (again, _) = to_post(&warden).await;
    assert_eq!(again, delivery);
    warden.report(&Report::Posted { delivery, error: None });
    while second.host.webhook_show(&acme()).await.unwrap().waiting > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(second.host.webhook_set(&acme(), None).await.unwrap().webhook, None);
}

#[tokio::test]
async fn a_yes_counts_only_of_those_to_whom_the_policy_leaves_it() {
    let (world, warden) = running().await;
    let set = async |text: &'static str, warden: &Arc<Warden>| {
        let host = Arc::clone(&world.host);
        let set = tokio::spawn(async move { host.policy_set(&acme(), text.to_owned(), None).await });
        let reader = Arc::clone(warden);
        // Nothing is said to it but the policy, which it reports in force.
        let read = tokio::task::spawn_blocking(move || reader.next());
        set.await.unwrap().unwrap();
        drop(read);
    };
    let text = "version: 2\napprovers: [admin]\nrules:\n  - ask: api.example.com\n    path: /pay/**\n    approvers: [operator]\n";
    set(text, &warden).await;
    let edge = Edge::of(&world).await;
    let approver = token(&world, acme(), Role::Approver).await;
    let admin = token(&world, acme(), Role::Admin).await;
    let ask = async |path: &str| {
        let request = Some(get(path));
        warden.report(&Report::Ask { destination: somewhere(), why: "default".to_owned(), request });
        loop {
            let waits = |row: &Approval| row.state == "waiting" && row.request == Some(get(path));
            if let Some(row) = all(&world).await.into_iter().find(waits) {
                break row.id;
            }
            tokio::task::yield_now().await;
        }
    };
    let read = ask("read").await;
    let (shown, yes_of) = edge.seen(read).await;
    let admins = YesOf { once: Some(Role::Admin), always: None };
    assert_eq!(yes_of, admins, "for ever is for the operator's paths, too");
    let answers = async |token: &str, id, shown, decision| {
        edge.answers(token, acme(), id, shown, decision).await.map(|refused| (refused.code, refused.message))
    };
    let (code, said) = answers(&approver, read, shown, Decision::AllowOnce).await.unwrap();
    assert!(code == "may_not_approve" && said.contains("to the admin"), "{code}: {said}");
    // For ever is for all that is asked there, and some of that is the operator's alone.
    let (code, said) = answers(&admin, read, shown, Decision::AllowAlways).await.unwrap();
    assert!(code == "may_not_approve" && said.contains("approvals approve"), "{code}: {said}");
    assert_eq!(one(&world, read).await.state, "waiting");
    assert_eq!(answers(&admin, read, shown, Decision::AllowOnce).await, None);
    let pay = ask("pay/all").await;
    let (shown, yes_of) = edge.seen(pay).await;
    assert_eq!(yes_of, YesOf::default(), "that of nobody who is connected");
    let (code, said) = answers(&admin, pay, shown, Decision::AllowOnce).await.unwrap();
    assert!(code == "may_not_approve" && said.contains("to the operator"), "{code}: {said}");
    assert_eq!(one(&world, pay).await.state, "waiting");
    world.host.approve(pay, yes(Span::Once)).await.unwrap();
    assert_eq!(one(&world, pay).await.state, "granted");
    // A no is nobody's privilege among those who may answer.
    let other = ask("pay/more").await;
    let shown = edge.shown(other).await;
    assert_eq!(answers(&approver, other, shown, Decision::Deny).await, None);
    assert_eq!(one(&world, other).await.state, "denied");
}
