//! One run: a message, the model's answers, and the tools that it calls until it calls none.
//!
//! Each message of it is on disk before the next step, the last answer before the end is told: once, however it comes.

mod compact;
pub mod context;
pub(crate) mod fixed;
pub mod model;
mod past;
mod retry;

pub(crate) use compact::asked as compact_asked;

use crate::{
    cron,
    gateway::{Active, Compacted, Gateway},
    mcp,
    store::{Error, Message, Role, Run, RunState, Session},
    tools::{self, Bench, Output},
};
use compact::Room;
use model::{Answer, Call, Failed, Piece};
use retry::Retries;
use serde_json::{Value, json};
use std::sync::Arc;

/// How many times a run may ask the model.
const STEPS: usize = 64;
/// And how many calls of one answer run at once.
const TOGETHER: usize = 8;

/// How a run ended.
#[derive(Debug)]
enum End {
    Done(Answer),
    Aborted,
    Failed(Failed),
}

/// What begins a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// How hard the model thinks, for this run alone.
    pub thinking: Option<String>,
    /// More for the model's beginning.
    pub more: Option<String>,
    /// A slash at its beginning means nothing.
    pub plain: bool,
    /// How long it may take, in milliseconds.
    pub patience_ms: Option<u64>,
    /// It is a heartbeat.
    pub heartbeat: bool,
    /// Its answer goes elsewhere than to whoever writes meanwhile: what they write is a turn of its own.
    pub apart: bool,
    /// The run that waits for it, and that hears it even so.
    pub awaited_by: Option<String>,
    /// A stranger began it: it has no tools, and is told nothing of the workspace but who the agent is.
    pub stranger: bool,
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
        () = late(patience) => End::Failed(Failed::new("timeout", "the run took longer than it was given")),
        end = steps => end.unwrap_or_else(End::Failed),
    };
    finish(&gateway, &active, end);
}

/// A run that compacts its session. None: it was stopped.
pub(crate) async fn compact(
    gateway: &Arc<Gateway>,
    active: &Arc<Active>,
    focus: Option<&str>,
) -> Option<Compacted> {
    gateway.agent_event(active, "lifecycle", json!({ "phase": "start", "startedAt": active.started_at }));
    let outcome = tokio::select! {
        biased;
        () = active.stop.cancelled() => None,
        outcome = compact::alone(gateway, active, focus) => Some(outcome),
    };
    let end = match &outcome {
        Some(outcome) => {
            End::Done(Answer { text: outcome.said(), stop: "stop".to_owned(), ..Answer::default() })
        }
        None => End::Aborted,
    };
    finish(gateway, active, end);
    outcome
}

async fn late(patience: Option<std::time::Duration>) {
    match patience {
        Some(patience) => tokio::time::sleep(patience).await,
        None => std::future::pending().await,
    }
}

async fn steps(gateway: &Arc<Gateway>, active: &Arc<Active>, wish: &Wish) -> Result<End, Failed> {
    let (mut retries, mut room) = (Retries::default(), Room::default());
    mcp::ready(gateway).await;
    cron::hear(gateway, active).map_err(lost)?;
    for step in 0..STEPS {
        let (session, past) = room.past(gateway, active, &mut retries, step).await?;
        let system = if wish.stranger {
            fixed::for_strangers(gateway)
        } else {
            fixed::system(gateway, wish.more.as_deref())
        };
        let system = system.map_err(|error| Failed::new("unknown", error.to_string()))?;
        let thinking = wish.thinking.clone().or_else(|| gateway.thinking_of(&session));
        let tools = if wish.stranger { Vec::new() } else { tools::offered(gateway, &session.id) };
        let body = context::request(&gateway.model_of(&session), &system, &past, thinking.as_deref(), tools);
        if step == 0 {
            gateway.status(active, "starting_model");
        }
        let tell = |piece| gateway.piece(active, piece);
        let answer = match retry::ask(gateway, active, &mut retries, body.into(), tell).await {
            Err(failed) if failed.kind == "context_length" && active.partial().is_none() => {
                room.make(gateway, active, &mut retries, failed).await?;
                continue;
            }
            answered => answered?,
        };
        gateway.tell_text(active, true);
        let message = Message::new(&session, Some(&active.id), Role::Assistant, said(&answer), gateway.now());
        gateway.append(&session, message).map_err(lost)?;
        active.begin_answer();
        gateway.used(active, &answer).map_err(lost)?;
        if answer.calls.is_empty() {
            // What was said meanwhile is read before the run ends.
            if !gateway.steer(active).map_err(lost)? {
                return Ok(End::Done(answer));
            }
            continue;
        }
        if wish.stranger {
            return Err(Failed::new("unknown", "the model called a tool where there is none"));
        }
        for (call, output) in call_all(gateway, active, &answer.calls).await {
            let body = result(call, &output);
            let result = Message::new(&session, Some(&active.id), Role::ToolResult, body, gateway.now());
            gateway.append(&session, result).map_err(lost)?;
        }
        gateway.steer(active).map_err(lost)?;
    }
    Err(Failed::new("unknown", format!("the run asked the model {STEPS} times and is no further")))
}

fn lost(error: Error) -> Failed {
    Failed::new("unknown", error.to_string())
}

fn gone(key: &str) -> Failed {
    Failed::new("unknown", format!("the session {key} is gone"))
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

/// What a tool gave, as a message.
fn result(call: &Call, output: &Output) -> Value {
    let mut details = output.details.clone();
    let mut content = vec![json!({ "type": "text", "text": output.text })];
    content.extend(details.as_object_mut().and_then(|details| details.remove("image")));
    json!({
        "toolCallId": call.id, "toolName": call.name, "isError": output.is_error, "details": details,
        "content": content,
    })
}

/// Runs the calls of one answer: together if all of them may be, else one after another. Their order stays.
async fn call_all<'a>(
    gateway: &Arc<Gateway>,
    active: &Arc<Active>,
    calls: &'a [Call],
) -> Vec<(&'a Call, Output)> {
    let together = calls.iter().all(|call| tools::is_parallel(gateway, &call.name));
    let one = |call: &'a Call| async move { (call, call_one(gateway, active, call).await) };
    let mut out = Vec::new();
    for part in calls.chunks(if together { TOGETHER } else { 1 }) {
        out.extend(futures_util::future::join_all(part.iter().map(one)).await);
    }
    out
}

async fn call_one(gateway: &Arc<Gateway>, active: &Arc<Active>, call: &Call) -> Output {
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
    let bench = Bench { gateway, run: Some(active), call: id };
    let output = bench.run(name, &call.arguments).await;
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

/// What was shown of an answer that never came to its end, as a message.
fn broken(active: &Active, end: &End, text: &str) -> Value {
    let (stop, origin) = match end {
        End::Failed(Failed { kind: "timeout", .. }) => ("aborted", "timeout"),
        End::Failed(_) => ("error", "error"),
        End::Done(_) | End::Aborted => ("aborted", "rpc"),
    };
    let mut body = json!({
        "content": [{ "type": "text", "text": text }], "stopReason": stop,
        "openclawAbort": { "aborted": true, "origin": origin, "runId": active.id },
    });
    if let End::Failed(failed) = end {
        body["errorMessage"] = failed.said.as_str().into();
    }
    body
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
    let cut = active.partial();
    let kept = gateway.store.session(&active.session_key).and_then(|session| {
        let Some(session) = session else { return Ok(()) };
        if let Some(text) = cut.as_deref().filter(|_| session.id == active.session_id) {
            let message =
                Message::new(&session, Some(&active.id), Role::Assistant, broken(active, &end, text), now);
            gateway.append(&session, message)?;
        }
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
            let mut event = json!({ "state": "aborted", "stopReason": "aborted" });
            if let Some(text) = cut {
                event["message"] = json!({ "role": "assistant", "timestamp": now,
                    "content": [{ "type": "text", "text": text }] });
            }
            gateway.chat_event(active, event);
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
    /// A piece of an answer, told as it comes. Is it one that is not taken back?
    fn piece(&self, active: &Active, piece: Piece) -> bool {
        match piece {
            Piece::Text(delta) => {
                active.grow(&delta);
                self.tell_text(active, false);
                true
            }
            Piece::Thought(delta) => {
                self.agent_event(active, "thinking", json!({ "delta": delta }));
                false
            }
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
