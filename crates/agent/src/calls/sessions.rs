//! `sessions.*`

use super::{
    Answer,
    chat::{fresh, full_key, is_key, is_ours, status},
    info::defaults,
    lost,
};
use crate::{
    gateway::{Compacted, Gateway, Taken, holds},
    ids::uuid,
    protocol::{
        Fault,
        params::{
            self, Compact, Create, Delete, Keyed, List, Patch, Queue, Reset, SessionAbort, SessionSend,
        },
    },
    server::Client,
    store::{Session, Store},
    turn::Wish,
};
use cofferdam_base::Scope;
use serde_json::{Value, json, value::RawValue};
use std::sync::Arc;

/// Sessions in one list, if nobody says how many.
const USUAL: u32 = 100;
/// The longest label.
const LABEL: usize = 512;

/// A session as clients read it.
pub(super) fn row(gateway: &Gateway, session: &Session) -> Value {
    let active = gateway.running(&session.key);
    let status = match (&active, &session.last_error) {
        (Some(_), _) => "running",
        (None, Some(_)) => "failed",
        (None, None) => "done",
    };
    let mut row = json!({
        "key": session.key,
        "kind": "direct",
        "sessionId": session.id,
        "agentId": crate::AGENT,
        "isMain": session.key == crate::MAIN_SESSION,
        "createdAt": session.created_at,
        "updatedAt": session.updated_at,
        "archived": session.archived_at.is_some(),
        "pinned": session.pinned,
        "unread": false,
        "status": status,
        "hasActiveRun": active.is_some(),
        "activeRunIds": active.iter().map(|active| active.id.as_str()).collect::<Vec<_>>(),
        "inputTokens": session.input_tokens,
        "outputTokens": session.output_tokens,
        "totalTokens": session.context_tokens,
        "totalTokensFresh": true,
        "contextTokens": gateway.config().agents.defaults.limits().window,
        "model": session.model.as_deref().unwrap_or("default"),
        "modelProvider": "cofferdam",
    });
    for (field, value) in [
        ("label", &session.label),
        ("thinkingLevel", &session.thinking),
        ("lastRunError", &session.last_error),
    ] {
        if let Some(value) = value {
            row[field] = value.as_str().into();
        }
    }
    if let Ok(Some(child)) = gateway.store.child(&session.key) {
        row["spawnedBy"] = child.parent_key.as_str().into();
        row["parentSessionKey"] = child.parent_key.into();
        row["spawnDepth"] = child.depth.into();
    }
    if let Some(label) = &session.label {
        row["displayName"] = label.as_str().into();
    }
    if let Some(at) = session.archived_at {
        row["archivedAt"] = at.into();
    }
    row
}

pub(super) fn list(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Result<Value, Fault> {
    let asked: List = params::read("sessions.list", params)?;
    let archived = |session: &Session| match &asked.archived {
        Some(Value::String(all)) if all == "all" => true,
        Some(Value::Bool(wanted)) => session.archived_at.is_some() == *wanted,
        _ => session.archived_at.is_none(),
    };
    let has = |text: &str, session: &Session| {
        let text = text.to_lowercase();
        [Some(&session.key), session.label.as_ref()]
            .into_iter()
            .flatten()
            .any(|it| it.to_lowercase().contains(&text))
    };
    let ours = is_ours(asked.agent_id.as_deref()).is_ok();
    let mut found = gateway.store.sessions().map_err(lost)?;
    found.retain(|session| {
        ours && archived(session)
            && asked.search.as_deref().is_none_or(|text| has(text, session))
            && asked.label.as_ref().is_none_or(|label| session.label.as_ref() == Some(label))
    });
    let (total, skip) = (found.len(), asked.offset.unwrap_or(0) as usize);
    let limit = asked.limit.unwrap_or(USUAL) as usize;
    let rows: Vec<Value> = found.iter().skip(skip).take(limit).map(|session| row(gateway, session)).collect();
    let seen = skip.saturating_add(rows.len());
    let mut answer = json!({
        "ts": gateway.now(), "path": crate::STATE, "count": rows.len(), "totalCount": total, "sessions": rows,
        "hasMore": seen < total, "defaults": defaults(gateway),
    });
    if seen < total {
        answer["nextOffset"] = seen.into();
    }
    Ok(answer)
}

fn there(store: &Store, key: &str) -> Result<Session, Fault> {
    let found = store.session(key).map_err(lost)?;
    found.ok_or_else(|| Fault::invalid(format!("unknown session: {key}")))
}

pub(super) fn describe(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Result<Value, Fault> {
    let asked: Keyed = params::read("sessions.describe", params)?;
    is_key(&asked.key)?;
    let found = gateway.store.session(&full_key(asked.key)).map_err(lost)?;
    Ok(json!({ "session": found.map(|session| row(gateway, &session)) }))
}

/// Who read a session and wants to change that one does not change the one after it.
fn is_the_one(session: &Session, expected: Option<&str>) -> Result<(), Fault> {
    if expected.is_some_and(|expected| expected != session.id) {
        return Err(Fault::invalid("the session is another one by now: read it again"));
    }
    Ok(())
}

fn is_label(label: Option<&str>) -> Result<(), Fault> {
    match label {
        Some(label) if label.is_empty() || label.chars().count() > LABEL => {
            Err(Fault::invalid(format!("`label` has 1 to {LABEL} characters")))
        }
        _ => Ok(()),
    }
}

pub(super) fn create(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Result<Value, Fault> {
    let asked: Create = params::read("sessions.create", params)?;
    is_ours(asked.agent_id.as_deref())?;
    is_label(asked.label.as_deref())?;
    let key = match asked.key {
        Some(key) => {
            is_key(&key)?;
            full_key(key)
        }
        None => format!("agent:main:dashboard:{}", uuid()),
    };
    let session = gateway.session(&key).map_err(lost)?;
    let session = Session {
        label: asked.label.or(session.label),
        model: asked.model.or(session.model),
        thinking: asked.thinking_level.or(session.thinking),
        ..session
    };
    gateway.store.put_session(&session).map_err(lost)?;
    gateway.sessions_changed(&key, "create");
    let mut answer = json!({
        "ok": true, "key": key, "sessionId": session.id, "entry": row(gateway, &session), "runStarted": false,
    });
    if let Some(message) = asked.message.filter(|message| !message.trim().is_empty()) {
        let id = fresh(asked.idempotency_key);
        super::is_free(&id)?;
        match gateway.send(&key, &id, &*message, Queue::Followup, Wish::default()) {
            Ok((active, _)) => {
                answer["runStarted"] = true.into();
                answer["runId"] = active.id.as_str().into();
            }
            // The session is there all the same.
            Err(fault) => answer["runError"] = json!({ "code": fault.code, "message": fault.message }),
        }
    }
    Ok(answer)
}

pub(super) fn patch(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Result<Value, Fault> {
    let asked: Patch = params::read("sessions.patch", params)?;
    is_key(&asked.key)?;
    is_label(asked.label.as_ref().and_then(Option::as_deref))?;
    let key = full_key(asked.key);
    let session = there(&gateway.store, &key)?;
    is_the_one(&session, asked.expected_session_id.as_deref())?;
    if asked.archived == Some(true) && key == crate::MAIN_SESSION {
        return Err(Fault::invalid("the main session cannot be archived: reset it"));
    }
    let session = Session {
        label: asked.label.unwrap_or(session.label),
        model: asked.model.unwrap_or(session.model),
        thinking: asked.thinking_level.unwrap_or(session.thinking),
        archived_at: match asked.archived {
            Some(true) => session.archived_at.or_else(|| Some(gateway.now())),
            Some(false) => None,
            None => session.archived_at,
        },
        pinned: asked.pinned.unwrap_or(session.pinned),
        ..session
    };
    gateway.store.put_session(&session).map_err(lost)?;
    gateway.sessions_changed(&key, "patch");
    Ok(json!({ "ok": true, "key": key, "path": crate::STATE, "entry": row(gateway, &session) }))
}

pub(super) fn reset(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Result<Value, Fault> {
    let asked: Reset = params::read("sessions.reset", params)?;
    is_key(&asked.key)?;
    let key = full_key(asked.key);
    let session = gateway.reset(&key).map_err(lost)?;
    Ok(json!({ "ok": true, "key": key, "entry": row(gateway, &session) }))
}

pub(super) fn compact(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Answer {
    let begun = params::read("sessions.compact", params).and_then(|asked: Compact| {
        is_ours(asked.agent_id.as_deref())?;
        is_key(&asked.key)?;
        if asked.max_lines.is_some() {
            return Err(Fault::invalid("`maxLines` cuts a transcript, which stays whole here: leave it out"));
        }
        let key = full_key(asked.key);
        let session = gateway.store.session(&key).map_err(lost)?;
        let begun = session.map(|_| gateway.compact(&key, &uuid(), None, true)).transpose()?;
        Ok((key, begun))
    });
    match begun {
        Err(fault) => Answer::Now(Err(fault)),
        Ok((key, None)) => {
            Answer::Now(Ok(json!({ "ok": true, "key": key, "compacted": false, "reason": "no sessionId" })))
        }
        Ok((key, Some((_, outcome)))) => Answer::Later(Box::pin(async move {
            Ok(match outcome.await {
                Ok(Compacted::Done { before, after }) => json!({ "ok": true, "key": key, "compacted": true,
                    "result": { "tokensBefore": before, "tokensAfter": after } }),
                Ok(Compacted::Nothing) => {
                    json!({ "ok": true, "key": key, "compacted": false, "reason": "nothing to compact" })
                }
                Ok(Compacted::Failed(why)) => {
                    json!({ "ok": false, "key": key, "compacted": false, "reason": why })
                }
                Err(_) => json!({ "ok": false, "key": key, "compacted": false, "reason": "it was stopped" }),
            })
        })),
    }
}

pub(super) fn delete(
    gateway: &Arc<Gateway>,
    client: &Client,
    params: Option<&RawValue>,
) -> Result<Value, Fault> {
    let asked: Delete = params::read("sessions.delete", params)?;
    if asked.archived_only != Some(true) || asked.emit_lifecycle_hooks.is_some() {
        holds(client, Scope::Admin)?;
    }
    is_key(&asked.key)?;
    let key = full_key(asked.key);
    if asked.delete_transcript == Some(false) {
        return Err(Fault::invalid("a session is deleted with its transcript here: archive it instead"));
    }
    let session = gateway.store.session(&key).map_err(lost)?;
    if let Some(session) = &session {
        is_the_one(session, asked.expected_session_id.as_deref())?;
        if asked.archived_only == Some(true) && session.archived_at.is_none() {
            return Err(Fault::invalid("the session is not archived any more: read it again"));
        }
    }
    if key == crate::MAIN_SESSION {
        return Err(Fault::invalid("the main session cannot be deleted: reset it"));
    }
    gateway.abort(&key, None);
    let deleted = gateway.store.remove_session(&key).map_err(lost)?;
    gateway.sessions_changed(&key, "delete");
    Ok(json!({ "ok": true, "key": key, "deleted": deleted, "archived": [] }))
}

pub(super) fn send(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Result<Value, Fault> {
    let asked: SessionSend = params::read("sessions.send", params)?;
    is_ours(asked.agent_id.as_deref())?;
    is_key(&asked.key)?;
    let key = full_key(asked.key);
    there(&gateway.store, &key)?;
    let wish = Wish { thinking: asked.thinking, patience_ms: asked.timeout_ms, ..Wish::default() };
    let id = fresh(asked.idempotency_key);
    super::is_free(&id)?;
    let (active, taken) = gateway.send(&key, &id, &*asked.message, Queue::Steer, wish)?;
    let interrupted = taken == Taken::Steered;
    Ok(
        json!({ "ok": true, "key": key, "runId": active.id, "status": status(taken), "interruptedActiveRun": interrupted }),
    )
}

pub(super) fn abort(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Result<Value, Fault> {
    let asked: SessionAbort = params::read("sessions.abort", params)?;
    let key = match (asked.key, &asked.run_id) {
        (Some(key), _) => {
            is_key(&key)?;
            full_key(key)
        }
        (None, Some(id)) => {
            let found = gateway.run(id).map_err(lost)?;
            found
                .map(|active| active.session_key.clone())
                .ok_or_else(|| Fault::invalid(format!("unknown run: {id}")))?
        }
        (None, None) => return Err(Fault::invalid("invalid sessions.abort params: give `key` or `runId`")),
    };
    let stopped = gateway.abort(&key, asked.run_id.as_deref());
    let aborted = stopped.first();
    let status = if aborted.is_some() { "aborted" } else { "no-active-run" };
    Ok(json!({ "ok": true, "abortedRunId": aborted, "status": status }))
}

pub(super) fn subscribe(client: &Client, on: bool) -> Value {
    client.follow_sessions(on);
    json!({ "subscribed": on })
}

pub(super) fn follow(client: &Client, params: Option<&RawValue>, on: bool) -> Result<Value, Fault> {
    let asked: Keyed = params::read("sessions.messages.subscribe", params)?;
    is_key(&asked.key)?;
    let key = full_key(asked.key);
    if !client.follow(&key, on) {
        return Err(Fault::invalid("this connection follows as many sessions as it may"));
    }
    Ok(json!({ "subscribed": on, "key": key }))
}
