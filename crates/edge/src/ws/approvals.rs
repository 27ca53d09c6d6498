//! Approvals in one client's own socket: shown beside what its gateway says, and answered before it hears of it.
//!
//! The frames are those of upstream's `plugin.approval` family, so that stock clients show them as their own.
//! Few are shown at a time, the others follow as these are answered. The threats: a client whose role may not
//! approve, which sees none and answers none; a page that a cell made, which runs in a browser with its user's
//! token: a socket that a page opened can say no and never yes; and ids of ours on their way into a cell.

use super::{frame::FrameError, json::Request, relay::Shared, requests::failed, sift::Finder};
use crate::{
    approvals::{Asked, Card, PREFIX},
    check::{Check, keeps},
    edge::Edge,
    token::Verified,
};
use cofferdam_base::{
    Role, Scope,
    ipc::edge::{Decision, Refused},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{io::AsyncWrite, sync::Notify};

/// So many are shown at a time; a list shows all.
const AT_A_TIME: usize = 3;
/// So many lists may be awaited from the cell at a time.
const LISTS: usize = 16;
/// The longest parameters of an answer.
const ANSWER: usize = 4096;
/// The longest description that upstream's clients take, in characters; the rest is in the detail.
const DESCRIPTION: usize = 512;

/// One client's approvals.
pub(super) struct Desk<'a> {
    edge: &'a Edge,
    token: &'a Verified,
    /// The token's text, for control; only of those who may approve.
    text: Option<&'a str>,
    /// As whom its owner says yes.
    role: Role,
    /// Was the socket opened by a page? Pages come from the cell.
    page: bool,
    inner: Mutex<Inner>,
    nudge: Notify,
}

#[derive(Default)]
struct Inner {
    /// Did the gateway's hello pass?
    greeted: bool,
    /// The session that the client looks at.
    session: Option<String>,
    shown: BTreeMap<u64, Shown>,
    /// Requests for lists that the cell has not answered.
    lists: Vec<String>,
}

struct Shown {
    id: String,
    asked: Arc<Asked>,
    /// Was the client told, and under which session?
    told: bool,
    session: Option<String>,
}

impl<'a> Desk<'a> {
    pub(super) fn new(edge: &'a Edge, token: &'a Verified, text: &'a str, page: bool) -> Self {
        let may = token.scopes.contains(&Scope::Approvals) || token.scopes.contains(&Scope::Admin);
        let text = Some(text).filter(|_| may || !keeps(Check::Approvers));
        let role = if token.scopes.contains(&Scope::Admin) { Role::Admin } else { Role::Approver };
        Self { edge, token, text, role, page, inner: Mutex::default(), nudge: Notify::new() }
    }

    /// Something that the gateway said has passed: the first is its hello.
    pub(super) fn greeted(&self) {
        let mut inner = self.lock();
        if !inner.greeted {
            inner.greeted = true;
            self.nudge.notify_one();
        }
    }

    /// A frame of the cell that looks like one of ours.
    pub(super) fn forged(&self) {
        self.edge.report("forged", self.token, "forged_approval");
    }

    /// Shows what is asked, as it comes and goes, for as long as the socket lasts.
    pub(super) async fn show<W: AsyncWrite + Unpin>(&self, to: &Shared<W>) -> Result<Infallible, FrameError> {
        let mut changed = self.edge.state.watch();
        loop {
            for event in self.due() {
                to.lock().await.text(event.to_string().as_bytes()).await?;
            }
            tokio::select! {
                alive = changed.changed() => {
                    // The state outlives its watchers.
                    if alive.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
                () = self.nudge.notified() => {}
            }
        }
    }

    /// The events that bring the client up to date.
    fn due(&self) -> Vec<Value> {
        let mut inner = self.lock();
        if self.text.is_none() || !inner.greeted {
            return Vec::new();
        }
        let tenant = &self.token.claims.tid;
        let waiting = self.sync(&mut inner);
        let mut events = Vec::new();
        let gone: Vec<u64> = inner.shown.keys().copied().filter(|id| !waiting.contains(id)).collect();
        for approval in gone {
            let Some(shown) = inner.shown.remove(&approval) else { continue };
            if shown.told {
                let ended = self.edge.state.ended(tenant, approval);
                events.push(over(&shown, ended.as_ref(), self.edge.state.now().0));
            }
        }
        let Inner { session, shown, .. } = &mut *inner;
        let more = shown.len().saturating_sub(AT_A_TIME);
        // What was told stays; what is told next is the oldest.
        let mut free = AT_A_TIME.saturating_sub(shown.values().filter(|it| it.told).count());
        for shown in shown.values_mut() {
            if !shown.told {
                if free == 0 {
                    continue;
                }
                free -= 1;
            }
            if !shown.told || shown.session != *session {
                (shown.told, shown.session) = (true, session.clone());
                let payload = record(shown, session.as_deref(), more, &self.allowed(&shown.asked));
                events.push(
                    json!({ "type": "event", "event": "plugin.approval.requested", "payload": payload }),
                );
            }
        }
        // Looked at last: a question that came after a revocation is not shown to whom it revoked.
        if self.edge.doomed(self.token, None).is_some() { Vec::new() } else { events }
    }

    /// Gives each question that waits an id, and a new one if it is another now; the numbers of those that wait.
    fn sync(&self, inner: &mut Inner) -> Vec<u64> {
        let waiting = self.edge.state.asked(&self.token.claims.tid);
        for asked in &waiting {
            let approval = asked.question.approval;
            match inner.shown.get_mut(&approval) {
                Some(shown) if shown.asked.digest == asked.digest => shown.asked = Arc::clone(asked),
                _ => {
                    if let Some(id) = self.edge.cards.deal(&self.token.claims.jti, asked) {
                        inner.shown.insert(
                            approval,
                            Shown { id, asked: Arc::clone(asked), told: false, session: None },
                        );
                    }
                }
            }
        }
        waiting.iter().map(|asked| asked.question.approval).collect()
    }

    /// A message of the cell on its way to the client: to a list of approvals ours are added.
    pub(super) fn answer_of_cell(&self, message: Vec<u8>) -> Vec<u8> {
        let mut inner = self.lock();
        if inner.lists.is_empty() {
            return message;
        }
        let Ok(mut frame) = serde_json::from_slice::<Value>(&message) else { return message };
        let asked = |id: &Value| inner.lists.iter().position(|list| *id == **list);
        let (true, Some(at)) = (frame["type"] == "res", asked(&frame["id"])) else { return message };
        inner.lists.remove(at);
        self.sync(&mut inner);
        let Some(rows) = frame["payload"].as_array_mut() else { return message };
        let Inner { session, shown, .. } = &mut *inner;
        for shown in shown.values_mut() {
            (shown.told, shown.session) = (true, session.clone());
            rows.push(record(shown, session.as_deref(), 0, &self.allowed(&shown.asked)));
        }
        frame.to_string().into_bytes()
    }

    /// A request of the client that passed the table: the answer, if it is ours to give.
    pub(super) async fn hears(&self, request: &Request) -> Option<Value> {
        let session = matches!(request.method.as_str(), "chat.history" | "chat.send" | "sessions.describe");
        if session && self.text.is_some() {
            self.looks_at(&request.params);
        }
        if request.method == "plugin.approval.list" && self.text.is_some() {
            let mut inner = self.lock();
            if inner.lists.len() < LISTS {
                inner.lists.push(request.id.clone());
            }
        }
        let ours = Finder::default().finds(&request.params) || request.id.contains(PREFIX);
        if !ours {
            return None;
        }
        let answers = matches!(
            request.method.as_str(),
            "plugin.approval.resolve" | "approval.resolve" | "approval.get"
        );
        if !answers {
            // What is ours stays out of the cell, whatever it is wrapped in.
            return keeps(Check::OurIds).then(|| {
                let message = format!("{PREFIX}… names an approval of the host, which no cell hears of");
                failed(&request.id, "INVALID_REQUEST", &message, json!({ "code": "HOST_APPROVAL" }))
            });
        }
        Some(self.answers(request).await)
    }

    async fn answers(&self, request: &Request) -> Value {
        let id = &request.id;
        let missing =
            || failed(id, "INVALID_REQUEST", "approval not found", json!({ "reason": "APPROVAL_NOT_FOUND" }));
        let params: Value = match request.params.len() {
            0..=ANSWER => serde_json::from_slice(&request.params).unwrap_or_default(),
            _ => Value::Null,
        };
        let (Some(token), Some(name)) = (self.text, params["id"].as_str()) else { return missing() };
        let Some(card) = self.edge.cards.find(&self.token.claims.jti, name) else { return missing() };
        if request.method == "approval.get" {
            let allowed = self.allowed(&card.asked);
            return done(id, &json!({ "approval": presented(name, &card, &allowed, None) }));
        }
        let decision: Result<Decision, _> = serde_json::from_value(params["decision"].clone());
        let Ok(decision) = decision else {
            let message = "a decision is allow-once, allow-always or deny";
            return failed(id, "INVALID_REQUEST", message, json!({ "code": "DECISION" }));
        };
        if self.page && decision != Decision::Deny && keeps(Check::Pages) {
            self.edge.report("refused", self.token, "approval_from_a_page");
            let number = card.asked.question.approval;
            let message = format!(
                "a page that a cell made cannot approve: use a client without a browser, or \
                 cofferdam approvals approve {number}"
            );
            return failed(id, "FORBIDDEN", &message, json!({ "code": "APPROVAL_FROM_A_PAGE" }));
        }
        match self.edge.answers.bring(token, &card.asked, decision).await {
            Ok(()) if request.method == "approval.resolve" => {
                let decided = Some((decision, self.token, self.edge));
                let approval = presented(name, &card, &self.allowed(&card.asked), decided);
                done(id, &json!({ "applied": true, "approval": approval }))
            }
            Ok(()) => done(id, &json!({ "ok": true })),
            Err(Refused { code, message }) => {
                self.edge.report("refused", self.token, "approval_refused");
                failed(id, "INVALID_REQUEST", &message, json!({ "code": code }))
            }
        }
    }

    /// What this client may say to a question: as its person, and no yes from a page.
    fn allowed(&self, asked: &Asked) -> Vec<Decision> {
        let role = if keeps(Check::Decisions) { self.role } else { Role::Admin };
        let mut allowed = asked.yes_of.decisions(role);
        allowed.retain(|decision| !self.page || *decision == Decision::Deny);
        allowed
    }

    /// Which session the client looks at: its overlay shows only what is asked there.
    fn looks_at(&self, params: &[u8]) {
        #[derive(serde::Deserialize)]
        struct Params {
            #[serde(rename = "sessionKey", alias = "key")]
            session: String,
        }
        let Ok(Params { session }) = serde_json::from_slice(params) else { return };
        if session.len() > 256 {
            return;
        }
        let session = if session.contains(':') { session } else { format!("agent:main:{session}") };
        let mut inner = self.lock();
        if inner.session.as_ref() != Some(&session) {
            inner.session = Some(session);
            self.nudge.notify_one();
        }
    }

    // Each change is complete before anything can panic.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn done(id: &str, payload: &Value) -> Value {
    json!({ "type": "res", "id": id, "ok": true, "payload": payload })
}

/// Title, description and all of it.
fn texts(asked: &Asked, more: usize, allowed: &[Decision]) -> (String, String, String) {
    let question = &asked.question;
    let cut = |text: String, most: usize| {
        if text.chars().count() <= most {
            return text;
        }
        text.chars().take(most - 1).chain(['…']).collect()
    };
    let title = cut(format!("Egress {}: {}", question.approval, question.destination), 80);
    let what = match &question.request {
        Some(request) => request.to_string(),
        None => format!("a connection to {}", question.destination),
    };
    let times = if asked.count > 1 { format!(", asked {} times", asked.count) } else { String::new() };
    let others = if more > 0 { format!(" ({more} more wait)") } else { String::new() };
    let means = |decision: &Decision| match decision {
        Decision::AllowOnce if question.request.is_some() => {
            "allow-once lets through this request alone".to_owned()
        }
        Decision::AllowOnce => "allow-once lets through one connection".to_owned(),
        Decision::AllowAlways => format!("allow-always makes a rule for {}", question.destination),
        Decision::Deny if allowed.len() == 1 => "a yes is not to be given here".to_owned(),
        Decision::Deny => "deny refuses it".to_owned(),
    };
    let means = allowed.iter().map(means).collect::<Vec<_>>().join("; ");
    let (why, approval) = (&question.why, question.approval);
    let all = format!(
        "{what}{times}; asked by {why}. {means}. From a terminal: cofferdam approvals approve {approval}"
    );
    (title, cut(format!("{what}{times}{others}"), DESCRIPTION), all)
}

/// The record that events and lists carry.
fn record(shown: &Shown, session: Option<&str>, more: usize, allowed: &[Decision]) -> Value {
    let (title, description, detail) = texts(&shown.asked, more, allowed);
    json!({
        "approvalKind": "plugin", "id": shown.id,
        "request": {
            "pluginId": "cofferdam", "title": title, "description": description, "scope": null,
            "detail": detail, "severity": "warning", "toolName": "network", "toolCallId": null,
            "allowedDecisions": allowed, "agentId": "main", "sessionKey": session, "runId": null,
            "turnSourceChannel": null, "turnSourceTo": null, "turnSourceAccountId": null,
            "turnSourceThreadId": null,
        },
        "createdAtMs": shown.asked.since.0, "expiresAtMs": shown.asked.until.0,
    })
}

/// What `approval.get` and `approval.resolve` give.
fn presented(
    id: &str,
    card: &Card,
    allowed: &[Decision],
    decided: Option<(Decision, &Verified, &Edge)>,
) -> Value {
    let (title, description, _) = texts(&card.asked, 0, allowed);
    let mut approval = json!({
        "id": id, "status": "pending",
        "presentation": {
            "kind": "plugin", "title": title, "description": description, "severity": "warning",
            "pluginId": "cofferdam", "toolName": "network", "agentId": "main",
            "allowedDecisions": allowed,
        },
        "urlPath": format!("/approve/{id}"),
        "createdAtMs": card.asked.since.0, "expiresAtMs": card.asked.until.0,
    });
    if let Some((decision, token, edge)) = decided {
        approval["status"] = if decision == Decision::Deny { "denied" } else { "allowed" }.into();
        approval["decision"] = json!(decision);
        approval["resolvedAtMs"] = edge.state.now().0.into();
        approval["resolver"] = json!({ "kind": "operator", "id": token.claims.sub });
    }
    approval
}

/// The event that takes a question off the screen.
fn over(shown: &Shown, ended: Option<&crate::approvals::Ended>, now: u64) -> Value {
    let (outcome, by) = ended.map_or(("", ""), |ended| (ended.outcome.as_str(), ended.by.as_str()));
    let decision = match outcome {
        "granted" | "used" => "allow-once",
        "denied" => "deny",
        _ => {
            let payload = json!({ "id": shown.id, "reason": outcome });
            return json!({ "type": "event", "event": "plugin.approval.removed", "payload": payload });
        }
    };
    let request = record(shown, None, 0, &[])["request"].take();
    let payload =
        json!({ "id": shown.id, "decision": decision, "resolvedBy": by, "ts": now, "request": request });
    json!({ "type": "event", "event": "plugin.approval.resolved", "payload": payload })
}
