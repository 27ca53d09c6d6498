//! `chat.*`, `agent` and `agent.wait`.

use super::{Answer, lost};
use crate::{
    AGENT, BELOW, MAIN_SESSION,
    gateway::{Active, Gateway, Said, Taken, shown},
    ids::uuid,
    images::{Attachment, attached},
    protocol::{
        Fault,
        params::{self, Agent, ChatAbort, ChatSend, History, Inject, Queue, Wait, is_message},
    },
    server::Client,
    store::{Message, Role, Run, RunState},
    turn::Wish,
};
use serde_json::{Value, json, value::RawValue};
use std::{sync::Arc, time::Duration};

/// How long `agent.wait` waits if it is not told.
const PATIENCE: u64 = 30_000;
/// Messages of a history, if nobody says how many.
const USUAL: u32 = 200;
/// Messages of it that wait: upstream's schema has no more.
const PENDING: u32 = 20;
/// And so many bytes of them.
const HISTORY: usize = 6 * 1024 * 1024;

/// The one agent that there is.
pub(super) fn is_ours(agent: Option<&str>) -> Result<(), Fault> {
    match agent {
        None | Some(AGENT) => Ok(()),
        Some(other) => Err(Fault::invalid(format!("unknown agent: {other}"))),
    }
}

/// A key of a session, in full.
pub(crate) fn is_session_key(key: &str) -> bool {
    key.strip_prefix(BELOW).is_some_and(|rest| !rest.is_empty()) && key.len() <= 512
}

pub(super) fn is_key(key: &str) -> Result<(), Fault> {
    if is_session_key(key) || key == "main" || key == "global" {
        Ok(())
    } else {
        Err(Fault::invalid(format!("unknown session key: {key}")))
    }
}

/// `main` is short for the main session.
pub(super) fn full_key(key: String) -> String {
    if key == "main" || key == "global" { MAIN_SESSION.to_owned() } else { key }
}

pub(super) fn send(
    gateway: &Arc<Gateway>,
    client: &Client,
    params: Option<&RawValue>,
) -> Result<Value, Fault> {
    let asked: ChatSend = params::read("chat.send", params)?;
    is_ours(asked.agent_id.as_deref())?;
    is_key(&asked.session_key)?;
    let key = full_key(asked.session_key);
    if let Some(leaf) = asked.expected_leaf_entry_id {
        let session = gateway.session(&key).map_err(lost)?;
        let last = gateway.store.messages(&session.id, 1, 0).map_err(lost)?;
        if last.last().is_none_or(|message| message.id != leaf) {
            return Err(Fault::invalid("the session has gone on since: read it again"));
        }
    }
    let plain = asked.suppress_command_interpretation;
    super::is_free(&asked.idempotency_key)?;
    if !plain
        && gateway.run(&asked.idempotency_key).map_err(lost)?.is_none()
        && let Some(text) = super::approvals::typed(gateway, client, &asked.message)
    {
        let (active, taken) = gateway.answered(&key, &asked.idempotency_key, text).map_err(lost)?;
        return Ok(json!({ "runId": active.id, "status": status(taken) }));
    }
    let wish = Wish { thinking: asked.thinking, plain, patience_ms: asked.timeout_ms, ..Wish::default() };
    let said = said(asked.message, &asked.attachments)?;
    let (active, taken) = gateway.send(&key, &asked.idempotency_key, said, asked.queue_mode, wish)?;
    Ok(json!({ "runId": active.id, "status": status(taken) }))
}

/// A message with what is beside it.
fn said(text: String, attachments: &[Attachment]) -> Result<Said, Fault> {
    Ok(Said { text, images: attached(attachments).map_err(Fault::invalid)?, ..Said::default() })
}

pub(super) fn status(taken: Taken) -> &'static str {
    match taken {
        Taken::Started => "started",
        Taken::Queued => "queued",
        Taken::Steered => "steered",
        Taken::Known(RunState::Running) => "in_flight",
        Taken::Known(RunState::Done) => "ok",
        Taken::Known(RunState::Failed | RunState::Aborted) => "error",
    }
}

/// `chat.history`, and `chat.startup`, with which a page begins.
pub(super) fn history(
    gateway: &Arc<Gateway>,
    method: &str,
    params: Option<&RawValue>,
) -> Result<Value, Fault> {
    let asked: History = params::read(method, params)?;
    is_key(&asked.session_key)?;
    let key = full_key(asked.session_key);
    let (limit, skip) = (asked.limit.unwrap_or(USUAL).clamp(1, 1000), asked.offset.unwrap_or(0));
    let max = asked.max_chars.map(|max| max as usize);
    let session = gateway.store.session(&key).map_err(lost)?;
    let (messages, total) = match &session {
        Some(session) => {
            let found = gateway.store.messages(&session.id, limit, skip).map_err(lost)?;
            (found, gateway.store.count(&session.id).map_err(lost)?)
        }
        None => (Vec::new(), 0),
    };
    // The newest, as far as there is room for them in one frame.
    let mut room = asked.max_bytes.map_or(HISTORY, |most| most.clamp(1, HISTORY));
    let mut rows = Vec::new();
    for message in messages.iter().rev() {
        let row = shown(message, max);
        room = room.saturating_sub(row.to_string().len());
        if room == 0 && !rows.is_empty() {
            break;
        }
        rows.push(row);
    }
    rows.reverse();
    let seen = u64::from(skip) + rows.len() as u64;
    let mut answer = json!({
        "sessionKey": key,
        "sessionId": session.as_ref().map(|session| &session.id),
        "messages": rows,
        "activity": [],
        "pendingInputs": pending(gateway, &key, max)?,
        "defaults": super::info::defaults(gateway),
        "sessionInfo": session.as_ref().map(|session| super::sessions::row(gateway, session)),
        "hasMore": seen < total,
        "totalMessages": total,
    });
    if seen < total {
        answer["nextOffset"] = seen.into();
    }
    if let Some(active) = gateway.running(&key) {
        answer["inFlightRun"] = json!({ "runId": active.id, "text": active.text() });
    }
    Ok(answer)
}

/// What was accepted and waits for its turn.
fn pending(gateway: &Gateway, key: &str, max_chars: Option<usize>) -> Result<Value, Fault> {
    let (waiting, total) = gateway.store.waiting(key, PENDING).map_err(lost)?;
    let one = |message: &Message| {
        let mut item = json!({
            "id": message.id, "message": shown(message, max_chars), "acceptedAt": message.at, "state": "queued",
        });
        if let Some(run) = &message.run {
            item["runId"] = run.as_str().into();
        }
        item
    };
    Ok(json!({ "items": waiting.iter().map(one).collect::<Vec<_>>(), "total": total }))
}

pub(super) fn abort(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Result<Value, Fault> {
    let asked: ChatAbort = params::read("chat.abort", params)?;
    is_key(&asked.session_key)?;
    let stopped = gateway.abort(&full_key(asked.session_key), asked.run_id.as_deref());
    Ok(json!({ "ok": true, "aborted": !stopped.is_empty(), "runIds": stopped }))
}

pub(super) fn inject(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Result<Value, Fault> {
    let asked: Inject = params::read("chat.inject", params)?;
    is_key(&asked.session_key)?;
    is_message(&asked.message)?;
    let session = gateway.session(&full_key(asked.session_key)).map_err(lost)?;
    let text = match asked.label {
        Some(label) => format!("[{label}]\n\n{}", asked.message),
        None => asked.message,
    };
    gateway.store.put_session(&session).map_err(lost)?;
    let message = Message::text(&session, None, Role::Assistant, &text, gateway.now());
    let id = message.id.clone();
    gateway.append(&session, message).map_err(lost)?;
    Ok(json!({ "ok": true, "messageId": id }))
}

/// Says that it begins, and later how it ended.
pub(super) fn agent(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Answer {
    match begin_agent(gateway, params) {
        Ok((active, taken)) => {
            let accepted = json!({
                "runId": active.id, "sessionKey": active.session_key, "agentId": AGENT,
                "status": if matches!(taken, Taken::Known(_)) { status(taken) } else { "accepted" },
                "acceptedAt": gateway.now(),
            });
            Answer::Twice(accepted, Box::pin(async move { Ok(ended(&active, &active.ended().await)) }))
        }
        Err(fault) => Answer::Now(Err(fault)),
    }
}

fn begin_agent(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Result<(Arc<Active>, Taken), Fault> {
    let asked: Agent = params::read("agent", params)?;
    is_ours(asked.agent_id.as_deref())?;
    let key = match (asked.session_key, asked.session_id) {
        (Some(key), _) => {
            is_key(&key)?;
            full_key(key)
        }
        (None, Some(id)) => {
            let all = gateway.store.sessions().map_err(lost)?;
            let found = all.into_iter().find(|session| session.id == id);
            found
                .map(|session| session.key)
                .ok_or_else(|| Fault::invalid(format!("unknown session: {id}")))?
        }
        (None, None) => MAIN_SESSION.to_owned(),
    };
    let patience_ms = asked.timeout.map(|seconds| seconds.saturating_mul(1000));
    let (thinking, more) = (asked.thinking, asked.extra_system_prompt);
    let wish = Wish { thinking, more, patience_ms, ..Wish::default() };
    // Whoever waits for the end of a run wants one of its own.
    let said = said(asked.message, &asked.attachments)?;
    super::is_free(&asked.idempotency_key)?;
    gateway.send(&key, &asked.idempotency_key, said, Queue::Followup, wish)
}

/// How a run ended, as the second answer of `agent`.
fn ended(active: &Active, run: &Run) -> Value {
    let used = active.used();
    let took = run.ended_at.unwrap_or(run.started_at).saturating_sub(run.started_at);
    let (status, summary) = match run.state {
        RunState::Done => ("ok", "completed"),
        RunState::Aborted => ("error", "aborted"),
        RunState::Running | RunState::Failed => ("error", "failed"),
    };
    let text = run.said.as_deref().or(run.error.as_deref()).unwrap_or_default();
    json!({
        "runId": run.id,
        "status": status,
        "summary": summary,
        "result": {
            "payloads": [{ "text": text, "mediaUrl": null }],
            "meta": {
                "durationMs": took,
                "aborted": run.state == RunState::Aborted,
                "agentMeta": {
                    "sessionId": active.session_id, "provider": "cofferdam", "model": used.model,
                    "usage": { "input": used.input, "output": used.output, "total": used.input + used.output },
                },
            },
        },
    })
}

pub(super) fn wait(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Answer {
    let found = params::read("agent.wait", params).and_then(|asked: Wait| {
        let active = gateway.run(&asked.run_id).map_err(lost)?;
        let active = active.ok_or_else(|| Fault::invalid(format!("unknown run: {}", asked.run_id)))?;
        Ok((active, Duration::from_millis(asked.timeout_ms.unwrap_or(PATIENCE))))
    });
    match found {
        Ok((active, patience)) => Answer::Later(Box::pin(async move {
            let Ok(run) = tokio::time::timeout(patience, active.ended()).await else {
                return Ok(json!({ "runId": active.id, "status": "timeout" }));
            };
            let status = if run.state == RunState::Done { "ok" } else { "error" };
            let mut answer = json!({
                "runId": run.id, "status": status, "startedAt": run.started_at, "endedAt": run.ended_at,
            });
            if let Some(error) = run.error {
                answer["error"] = error.into();
            }
            Ok(answer)
        })),
        Err(fault) => Answer::Now(Err(fault)),
    }
}

/// A run that nobody gave a key.
pub(super) fn fresh(id: Option<String>) -> String {
    id.unwrap_or_else(uuid)
}
