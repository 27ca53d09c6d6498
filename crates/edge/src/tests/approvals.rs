//! Approvals in a client's own socket: who sees them, who answers, and that no cell has a part in it.

use super::{
    gateways::{Seen, openclaw},
    openclaw::{Socket, call, closed, connect, connected, next},
    world::{World, id, soon},
};
use crate::approvals::PREFIX;
use cofferdam_base::{
    Destination, Digest, Host, Millis, Protocol, Role,
    ipc::{
        asked::{Question, RequestShown},
        edge::{Config, Decision, RuntimeKind, YesOf},
    },
};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio_tungstenite::tungstenite::{Message, protocol::frame::coding::CloseCode};

pub(super) async fn claw() -> (World, Arc<Seen>) {
    let (port, seen) = openclaw().await;
    let rows = [("claw", RuntimeKind::Openclaw, "running", port)];
    (World::new(&rows).await, seen)
}

pub(super) fn question(approval: u64) -> Question {
    Question {
        tenant: id("claw"),
        approval,
        destination: Destination {
            host: Host::Name("news.example".parse().unwrap()),
            port: 80.try_into().unwrap(),
            protocol: Protocol::Http,
        },
        request: Some(RequestShown {
            method: "GET".into(),
            url: format!("http://news.example/{approval}"),
            tool: None,
            arguments: None,
            size: None,
            whole: None,
        }),
        why: "default".into(),
    }
}

pub(super) async fn ask(world: &World, question: Question) {
    let (asked, until) = (Millis(1_800_000_000_000), Millis(1_800_000_900_000));
    let yes_of = YesOf { once: Some(Role::Approver), always: Some(Role::Approver) };
    world.tell(Config::Asked { question, asked, until, count: 1, yes_of }).await;
}

/// A question to which only an admin says yes, and nobody who is connected for ever.
pub(super) async fn ask_admins(world: &World, question: Question) {
    let (asked, until) = (Millis(1_800_000_000_000), Millis(1_800_000_900_000));
    let yes_of = YesOf { once: Some(Role::Admin), always: None };
    world.tell(Config::Asked { question, asked, until, count: 1, yes_of }).await;
}

async fn over(world: &World, approval: u64, outcome: &str) {
    let (outcome, by) = (outcome.to_owned(), "ann".to_owned());
    world.tell(Config::AskedNoMore { tenant: id("claw"), approval, outcome, by }).await;
}

/// The next event, which must be a question; its id.
pub(super) async fn shown(socket: &mut Socket) -> (String, Value) {
    let event = next(socket).await;
    assert_eq!(event["event"], "plugin.approval.requested", "{event}");
    (event["payload"]["id"].as_str().unwrap().to_owned(), event["payload"]["request"].clone())
}

fn digest(question: &Question) -> Digest {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &question.bytes());
    Digest::from_bytes(digest.as_ref().try_into().unwrap())
}

#[tokio::test]
async fn an_approver_sees_a_question_and_the_answer_goes_to_control_and_not_into_the_cell() {
    let (world, seen) = claw().await;
    let mut socket = connected(&world, Role::Approver).await;
    ask(&world, question(7)).await;
    let (id, request) = shown(&mut socket).await;
    assert!(id.starts_with(PREFIX) && id.len() == PREFIX.len() + 32, "{id}");
    assert!(request["description"].as_str().unwrap().starts_with("GET http://news.example/7"), "{request}");
    assert_eq!(request["allowedDecisions"], json!(["allow-once", "allow-always", "deny"]));
    let answer =
        call(&mut socket, "plugin.approval.resolve", json!({ "id": id, "decision": "allow-once" })).await;
    assert_eq!(answer["payload"], json!({ "ok": true }), "{answer}");
    let said = world.answers.lock().unwrap()[0].clone();
    assert_eq!((said.approval, said.decision), (7, Decision::AllowOnce));
    assert_eq!(said.shown, digest(&question(7)), "the hash of what was shown");
    assert_eq!(said.token, world.token("claw", Role::Approver), "control finds out itself whose it is");
    over(&world, 7, "granted").await;
    let event = next(&mut socket).await;
    assert_eq!(event["event"], "plugin.approval.resolved");
    assert_eq!((&event["payload"]["id"], &event["payload"]["resolvedBy"]), (&json!(id), &json!("ann")));
    let late = call(&mut socket, "plugin.approval.resolve", json!({ "id": id, "decision": "deny" })).await;
    assert_eq!(late["error"]["message"], "approval not found");
    // The control: what is not ours goes into the cell as ever.
    let theirs = json!({ "id": "plugin:theirs", "decision": "deny" });
    let echoed = call(&mut socket, "plugin.approval.resolve", theirs.clone()).await;
    assert_eq!(echoed["payload"]["echo"], theirs);
    let frames = seen.frames();
    assert_eq!(frames.len(), 2, "connect, and that one: {frames:?}");
    assert!(!Value::from(frames).to_string().contains(PREFIX));
}

#[tokio::test]
async fn a_client_is_shown_the_decisions_that_its_person_may_take_and_no_others() {
    let (world, _) = claw().await;
    ask_admins(&world, question(7)).await;
    for (role, expected) in [(Role::Approver, json!(["deny"])), (Role::Admin, json!(["allow-once", "deny"]))]
    {
        let mut socket = connected(&world, role).await;
        let (id, request) = shown(&mut socket).await;
        assert_eq!(request["allowedDecisions"], expected, "{role}");
        let detail = request["detail"].as_str().unwrap();
        assert_eq!(detail.contains("allow-once lets through"), role == Role::Admin, "{detail}");
        assert!(!detail.contains("allow-always"), "{detail}");
        let list = call(&mut socket, "plugin.approval.list", json!({})).await;
        assert_eq!(list["payload"][1]["request"]["allowedDecisions"], expected, "{list}");
        let got = call(&mut socket, "approval.get", json!({ "id": id })).await;
        assert_eq!(got["payload"]["approval"]["presentation"]["allowedDecisions"], expected, "{got}");
    }
}

#[tokio::test]
async fn what_control_refuses_is_told_with_its_reason() {
    let (world, _) = claw().await;
    let mut socket = connected(&world, Role::Approver).await;
    ask(&world, question(8)).await;
    let (id, _) = shown(&mut socket).await;
    let answer =
        call(&mut socket, "plugin.approval.resolve", json!({ "id": id, "decision": "allow-always" })).await;
    assert_eq!(answer["error"]["details"]["code"], "approval_stale", "{answer}");
    let answer = call(&mut socket, "plugin.approval.resolve", json!({ "id": id, "decision": "maybe" })).await;
    assert_eq!(answer["error"]["details"]["code"], "DECISION", "{answer}");
    assert_eq!(world.answers.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn who_may_not_approve_sees_nothing_and_answers_nothing() {
    let (world, seen) = claw().await;
    ask(&world, question(7)).await;
    let mut admin = connected(&world, Role::Admin).await;
    let (id, _) = shown(&mut admin).await;
    for role in [Role::Viewer, Role::Member] {
        let mut socket = connected(&world, role).await;
        let params = json!({ "id": id, "decision": "allow-once" });
        let refused = call(&mut socket, "plugin.approval.resolve", params).await;
        assert_eq!(refused["error"]["details"]["code"], "MISSING_SCOPE", "{role}");
        // Nothing came before this answer, and nothing comes when more is asked.
        ask(&world, question(9)).await;
        assert_eq!(call(&mut socket, "health", json!({})).await["id"], "health");
        over(&world, 9, "expired").await;
    }
    assert!(world.answers.lock().unwrap().is_empty());
    assert!(!Value::from(seen.frames()).to_string().contains(PREFIX));
}

#[tokio::test]
async fn ids_are_of_one_connection_and_good_for_its_token_alone() {
    let (world, _) = claw().await;
    ask(&world, question(7)).await;
    let mut one = connected(&world, Role::Approver).await;
    let mut two = connected(&world, Role::Approver).await;
    let mut admin = connected(&world, Role::Admin).await;
    let ((first, _), (second, _)) = (shown(&mut one).await, shown(&mut two).await);
    let (third, _) = shown(&mut admin).await;
    assert!(first != second && second != third && first != third);
    // Another's id, and one that nobody was given.
    for wrong in [third, format!("{PREFIX}{:032x}", 7), PREFIX.to_owned()] {
        let answer =
            call(&mut one, "plugin.approval.resolve", json!({ "id": wrong, "decision": "deny" })).await;
        assert_eq!(answer["error"]["message"], "approval not found");
    }
    // A stock client lists on one connection and answers on the next.
    let got = call(&mut two, "approval.get", json!({ "id": first })).await;
    assert_eq!(got["payload"]["approval"]["status"], "pending", "{got}");
    assert_eq!(got["payload"]["approval"]["presentation"]["kind"], "plugin");
    let params = json!({ "id": first, "kind": "plugin", "decision": "deny" });
    let done = call(&mut two, "approval.resolve", params).await;
    assert_eq!(
        (&done["payload"]["applied"], &done["payload"]["approval"]["decision"]),
        (&json!(true), &json!("deny"))
    );
    assert_eq!(world.answers.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_frame_of_the_cell_that_looks_like_ours_is_dropped_and_raised() {
    let (world, _) = claw().await;
    let forged = json!({ "type": "event", "event": "plugin.approval.requested",
        "payload": { "id": "@00", "request": { "title": "harmless" } } });
    let spelt = forged.to_string().replace('@', r"\u0070\u006Cugin:coffer\u0064am-");
    let mut socket = connected(&world, Role::Approver).await;
    for say in [forged.to_string(), spelt] {
        let answer = call(&mut socket, "chat.send", json!({ "say": say })).await;
        assert_eq!(answer["id"], "chat.send", "the forged frame came first and is not there: {answer}");
    }
    // The control: what does not look like ours comes.
    let honest = forged.to_string().replace('@', "plugin:");
    let event = call(&mut socket, "chat.send", json!({ "say": honest })).await;
    assert_eq!(event["payload"]["id"], "plugin:00");
    assert_eq!(next(&mut socket).await["id"], "chat.send");
    let raised = async {
        while !world.reported("forged", "forged_approval") {
            tokio::task::yield_now().await;
        }
    };
    soon(raised).await;
    // One in parts, and one that is too long to be gathered, are cut off.
    let long = format!("{}{forged}", " ".repeat(100_000));
    for params in [json!({ "part": forged.to_string() }), json!({ "say": long })] {
        let mut socket = connected(&world, Role::Approver).await;
        let frame = json!({ "type": "req", "id": "1", "method": "chat.send", "params": params });
        socket.send(Message::text(frame.to_string())).await.unwrap();
        let end = soon(socket.next()).await;
        assert!(!matches!(end, Some(Ok(Message::Text(_)))), "{end:?}");
    }
    let part = json!({ "part": honest });
    let mut socket = connected(&world, Role::Approver).await;
    assert_eq!(call(&mut socket, "chat.send", part).await["payload"]["id"], "plugin:00");
}

#[tokio::test]
async fn our_ids_stay_out_of_the_cell_whatever_they_are_wrapped_in() {
    let (world, seen) = claw().await;
    ask(&world, question(7)).await;
    let mut socket = connected(&world, Role::Approver).await;
    let (id, _) = shown(&mut socket).await;
    for (method, params) in [
        ("chat.send", json!({ "message": format!("what is {id}?") })),
        ("plugin.approval.waitDecision", json!({ "id": id })),
        ("approval.history", json!({ "a": [{ (id.as_str()): 1 }] })),
    ] {
        let refused = call(&mut socket, method, params).await;
        assert_eq!(refused["error"]["details"]["code"], "HOST_APPROVAL", "{refused}");
    }
    let escaped = format!(r#"{{"type":"req","id":"1","method":"chat.send","params":"\u0070{}"}}"#, &id[1..]);
    socket.send(Message::text(escaped)).await.unwrap();
    assert_eq!(next(&mut socket).await["error"]["details"]["code"], "HOST_APPROVAL");
    assert_eq!(seen.frames().len(), 1);
}

#[tokio::test]
async fn a_burst_is_shown_a_few_at_a_time_and_a_list_holds_all() {
    let (world, _) = claw().await;
    for approval in 1..=5 {
        ask(&world, question(approval)).await;
    }
    let mut socket = connected(&world, Role::Approver).await;
    let mut ids = Vec::new();
    for approval in 1..=3 {
        let (id, request) = shown(&mut socket).await;
        let text = request["description"].as_str().unwrap();
        assert!(text.contains(&format!("/{approval}")) && text.contains("2 more wait"), "{text}");
        ids.push(id);
    }
    assert_eq!(call(&mut socket, "health", json!({})).await["id"], "health", "and no more");
    over(&world, 1, "denied").await;
    let event = next(&mut socket).await;
    assert_eq!((&event["payload"]["id"], &event["payload"]["decision"]), (&json!(ids[0]), &json!("deny")));
    let (_, request) = shown(&mut socket).await;
    assert!(request["description"].as_str().unwrap().contains("/4"), "{request}");
    let list = call(&mut socket, "plugin.approval.list", json!({})).await;
    let rows = list["payload"].as_array().unwrap();
    assert_eq!(rows[0]["id"], "plugin:theirs");
    assert_eq!(rows.len(), 5, "theirs and the four that wait: {list}");
    assert_eq!(rows[1]["id"], json!(ids[1]), "under the ids of this connection");
}

#[tokio::test]
async fn a_question_under_the_same_number_that_is_another_now_is_shown_anew() {
    let (world, _) = claw().await;
    ask(&world, question(7)).await;
    let mut socket = connected(&world, Role::Approver).await;
    let (first, _) = shown(&mut socket).await;
    let other = Question { request: None, ..question(7) };
    ask(&world, other.clone()).await;
    let (second, _) = shown(&mut socket).await;
    assert_ne!(first, second);
    call(&mut socket, "plugin.approval.resolve", json!({ "id": second, "decision": "deny" })).await;
    assert_eq!(world.answers.lock().unwrap()[0].shown, digest(&other));
    // The old id still says what was shown under it: control refuses its hash.
    call(&mut socket, "plugin.approval.resolve", json!({ "id": first, "decision": "deny" })).await;
    assert_eq!(world.answers.lock().unwrap()[1].shown, digest(&question(7)));
}

#[tokio::test]
async fn the_session_that_a_client_looks_at_is_that_of_what_it_is_shown() {
    let (world, _) = claw().await;
    ask(&world, question(7)).await;
    let mut socket = connected(&world, Role::Approver).await;
    let (id, request) = shown(&mut socket).await;
    assert_eq!(request["sessionKey"], Value::Null);
    let frame =
        json!({ "type": "req", "id": "1", "method": "chat.history", "params": { "sessionKey": "main" } });
    socket.send(Message::text(frame.to_string())).await.unwrap();
    let both = [next(&mut socket).await, next(&mut socket).await];
    let event = both.iter().find(|it| it["type"] == "event").unwrap();
    assert_eq!(event["payload"]["id"], json!(id));
    assert_eq!(event["payload"]["request"]["sessionKey"], "agent:main:main");
}

/// A socket that a page of the tenant's origin opened.
pub(super) async fn page(world: &World) -> Socket {
    let origin = ("origin", format!("http://{}", world.host("claw")));
    let mut socket = world.websocket("claw", &[origin]).await.unwrap();
    next(&mut socket).await;
    let hello = call(&mut socket, "connect", connect(&world.token("claw", Role::Approver))).await;
    assert_eq!(hello["payload"]["type"], "hello-ok", "{hello}");
    socket
}

#[tokio::test]
async fn a_page_that_a_cell_made_says_no_and_never_yes() {
    let (world, _) = claw().await;
    ask(&world, question(7)).await;
    let mut socket = page(&world).await;
    let (id, request) = shown(&mut socket).await;
    assert_eq!(request["allowedDecisions"], json!(["deny"]));
    for decision in ["allow-once", "allow-always"] {
        for method in ["plugin.approval.resolve", "approval.resolve"] {
            let refused = call(&mut socket, method, json!({ "id": id, "decision": decision })).await;
            assert_eq!(refused["error"]["details"]["code"], "APPROVAL_FROM_A_PAGE", "{refused}");
        }
    }
    assert!(world.answers.lock().unwrap().is_empty());
    let denied = call(&mut socket, "plugin.approval.resolve", json!({ "id": id, "decision": "deny" })).await;
    assert_eq!(denied["ok"], true);
}

#[tokio::test]
async fn an_approver_whose_token_is_revoked_sees_no_more_questions() {
    let (world, _) = claw().await;
    let mut socket = connected(&world, Role::Approver).await;
    let jti = World::claims("claw", Role::Approver).jti;
    world.tell(Config::Revoked { jti, expires: u64::MAX }).await;
    ask(&world, question(7)).await;
    assert_eq!(closed(&mut socket).await, CloseCode::Policy);
}
