//! One run: a message, the model's answers, and the tools that it calls until it calls none.
//!
//! Each message of it is on disk before the next step, the last answer before the end is told: once, however it comes.

pub mod context;
pub mod model;

use crate::{
    gateway::{Active, Gateway},
    store::{Message, Role, Run, RunState, Session},
    tools::{self, Output},
};
use model::{Answer, Call, Failed, Piece};
use serde_json::{Value, json};
use std::sync::Arc;

/// How many times a run may ask the model.
const STEPS: usize = 64;

/// How a run ended.
#[derive(Debug)]
enum End {
    Done(Answer),
    Aborted,
    Failed(Failed),
}

/// What begins a run.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// How hard the model thinks, for this run alone.
    pub thinking: Option<String>,
    /// More for the model's beginning.
    pub more: Option<String>,
    /// A slash at its beginning means nothing.
    pub plain: bool,
    /// How long it may take, in milliseconds.
    pub patience_ms: Option<u64>,
}

/// Runs it to its end. Its first message is in the store already.
pub(crate) async fn run(gateway: Arc<Gateway>, active: Arc<Active>, wish: Wish) {
    gateway.status(&active, "preparing_context");
    gateway.agent_event(&active, "lifecycle", json!({ "phase": "start", "startedAt": active.started_at }));
    let steps = steps(&gateway, &active, &wish);
    let patience = wish.patience_ms.filter(|ms| *ms > 0).map(std::time::Duration::from_millis);
    let end = tokio::select! {
        biased;
        () = active.stop.cancelled() => End::Aborted,
        () = late(patience) => End::Failed(Failed {
            kind: "timeout", said: "the run took longer than it was given".to_owned(), status: None,
        }),
        end = steps => end.unwrap_or_else(End::Failed),
    };
    finish(&gateway, &active, end);
}

async fn late(patience: Option<std::time::Duration>) {
    match patience {
        Some(patience) => tokio::time::sleep(patience).await,
        None => std::future::pending().await,
    }
}

async fn steps(gateway: &Gateway, active: &Active, wish: &Wish) -> Result<End, Failed> {
    let lost = |error: crate::store::Error| Failed { kind: "unknown", said: error.to_string(), status: None };
    for step in 0..STEPS {
        let session = gateway.store.session(&active.session_key).map_err(lost)?;
        let session = session.ok_or_else(|| gone(&active.session_key))?;
        let past = gateway.store.messages(&session.id, context::PAST, 0).map_err(lost)?;
        let past =
            context::fitting(past, || gateway.store.last_said(&session.id, Role::User)).map_err(lost)?;
        let system = context::system(&gateway.workspace, gateway.now(), wish.more.as_deref());
        let thinking = wish.thinking.as_deref().or(session.thinking.as_deref());
        let body = context::request(session.model.as_deref().unwrap_or("default"), &system, &past, thinking);
        if step == 0 {
            gateway.status(active, "starting_model");
        }
        active.begin_answer();
        let answer = gateway.model.ask(body, |piece| gateway.piece(active, piece)).await?;
        gateway.tell_text(active, true);
        let message = Message::new(&session, Some(&active.id), Role::Assistant, said(&answer), gateway.now());
        gateway.append(&session, message).map_err(lost)?;
        gateway.used(active, &answer).map_err(lost)?;
        if answer.calls.is_empty() {
            // What was said meanwhile is read before the run ends.
            if !gateway.steer(active).map_err(lost)? {
                return Ok(End::Done(answer));
            }
            continue;
        }
        for (call, output) in call_all(gateway, active, &answer.calls).await {
            let body = json!({
                "toolCallId": call.id, "toolName": call.name, "isError": output.is_error, "details": output.details,
                "content": [{ "type": "text", "text": output.text }],
            });
            let result = Message::new(&session, Some(&active.id), Role::ToolResult, body, gateway.now());
            gateway.append(&session, result).map_err(lost)?;
        }
        gateway.steer(active).map_err(lost)?;
    }
    Err(Failed {
        kind: "unknown",
        said: format!("the run asked the model {STEPS} times and is no further"),
        status: None,
    })
}

fn gone(key: &str) -> Failed {
    Failed { kind: "unknown", said: format!("the session {key} is gone"), status: None }
}

/// An answer as a message.
fn said(answer: &Answer) -> Value {
    let mut content = Vec::new();
    if !answer.text.is_empty() {
        content.push(json!({ "type": "text", "text": answer.text }));
    }
    for call in &answer.calls {
        // What cannot be read stays as it was written, so that the model sees its mistake.
        let arguments: Value =
            serde_json::from_str(&call.arguments).unwrap_or_else(|_| call.arguments.clone().into());
        content.push(json!({ "type": "toolCall", "id": call.id, "name": call.name, "arguments": arguments }));
    }
    json!({
        "content": content, "model": answer.model, "stopReason": answer.stop,
        "usage": { "input": answer.input_tokens, "output": answer.output_tokens },
    })
}

/// Runs the calls of one answer: together if all of them may be, else one after another. Their order stays.
async fn call_all<'a>(gateway: &Gateway, active: &Active, calls: &'a [Call]) -> Vec<(&'a Call, Output)> {
    let together = calls.iter().all(|call| tools::named(&call.name).is_some_and(|about| about.parallel));
    let one = async |call: &'a Call| (call, call_one(gateway, active, call).await);
    if together {
        return futures_util::future::join_all(calls.iter().map(one)).await;
    }
    let mut out = Vec::new();
    for call in calls {
        out.push(one(call).await);
    }
    out
}

async fn call_one(gateway: &Gateway, active: &Active, call: &Call) -> Output {
    let (id, name) = (&call.id, &call.name);
    let item = |phase: &str, status: &str| {
        json!({ "itemId": format!("tool:{id}"), "toolCallId": id, "name": name, "kind": "tool", "title": name,
            "phase": phase, "status": status })
    };
    let arguments: Value = serde_json::from_str(&call.arguments).unwrap_or_default();
    gateway.agent_event(active, "item", item("start", "running"));
    gateway.agent_event(
        active,
        "tool",
        json!({ "phase": "start", "name": name, "toolCallId": id, "args": arguments }),
    );
    let output = gateway.bench().run(name, &call.arguments).await;
    gateway.agent_event(
        active,
        "tool",
        json!({ "phase": "result", "name": name, "toolCallId": id, "isError": output.is_error, "result": {
            "content": [{ "type": "text", "text": output.text }], "details": output.details,
        }}),
    );
    gateway.agent_event(active, "item", item("end", if output.is_error { "failed" } else { "completed" }));
    output
}

/// Keeps how it ended, tells it, and lets the next one of its session begin.
fn finish(gateway: &Arc<Gateway>, active: &Arc<Active>, end: End) {
    let now = gateway.now();
    gateway.tell_text(active, true);
    let mut run = Run { ended_at: Some(now), ..active.row() };
    match &end {
        End::Done(answer) => (run.state, run.said) = (RunState::Done, Some(answer.text.clone())),
        End::Aborted => (run.state, run.error) = (RunState::Aborted, Some("it was stopped".to_owned())),
        End::Failed(failed) => (run.state, run.error) = (RunState::Failed, Some(failed.said.clone())),
    }
    let kept = gateway.store.session(&active.session_key).and_then(|session| {
        let Some(session) = session else { return Ok(()) };
        let last_error = if run.state == RunState::Failed { run.error.clone() } else { None };
        gateway.store.end(&Session { updated_at: now, last_error, ..session }, &run)
    });
    if let Err(error) = kept {
        tracing::error!(%error, run = run.id, "the end of a run is not kept");
    }
    let data = |aborted: bool, stop: &str| {
        json!({ "phase": "end", "startedAt": active.started_at, "endedAt": now, "aborted": aborted,
            "stopReason": stop, "executionSettled": true })
    };
    match end {
        End::Done(answer) => {
            let mut data = data(false, &answer.stop);
            data["terminalReply"] = json!({ "disposition": "visible", "text": answer.text });
            gateway.agent_event(active, "lifecycle", data);
            let message = json!({ "role": "assistant", "timestamp": now,
                "content": [{ "type": "text", "text": answer.text }] });
            gateway.chat_event(
                active,
                json!({ "state": "final", "stopReason": answer.stop, "message": message }),
            );
        }
        End::Aborted => {
            gateway.agent_event(active, "lifecycle", data(true, "aborted"));
            gateway.chat_event(active, json!({ "state": "aborted", "stopReason": "aborted" }));
        }
        End::Failed(failed) => {
            let error = json!({ "phase": "error", "startedAt": active.started_at, "endedAt": now,
                "error": failed.said });
            gateway.agent_event(active, "lifecycle", error);
            let mut event =
                json!({ "state": "error", "errorMessage": failed.said, "errorKind": failed.kind });
            if let Some(status) = failed.status {
                event["errorDetail"] = json!({ "httpStatus": status });
            }
            gateway.chat_event(active, event);
        }
    }
    gateway.ended(active, run);
}

impl Gateway {
    /// A piece of an answer, told as it comes.
    fn piece(&self, active: &Active, piece: Piece) {
        match piece {
            Piece::Text(delta) => {
                active.grow(&delta);
                self.tell_text(active, false);
            }
            Piece::Thought(delta) => self.agent_event(active, "thinking", json!({ "delta": delta })),
        }
    }

    /// Tells what of an answer was not told; not `all`: unless something was just now.
    fn tell_text(&self, active: &Active, all: bool) {
        if let Some((delta, text)) = active.untold(tokio::time::Instant::now(), all) {
            self.agent_event(active, "assistant", json!({ "text": text, "delta": delta }));
            let message = json!({ "role": "assistant", "timestamp": self.now(),
                    "content": [{ "type": "text", "text": text }] });
            self.chat_event(active, json!({ "state": "delta", "deltaText": delta, "message": message }));
        }
    }
}
