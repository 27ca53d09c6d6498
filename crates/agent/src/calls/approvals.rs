//! `exec.approval.*`, `exec.approvals.*` and `plugin.approval.*`: what is asked, by whom it is answered, and the list.
//!
//! The table of methods lets in who may approve. In hosted use the edge lets no client ask (`*.approval.request`), adds the
//! host's own questions to `plugin.approval.list` and answers for those itself; their ids are refused here.

use super::{Answer, lost};
use crate::{
    AGENT,
    config::consent::Document,
    gateway::{Decision, Gateway, Kind, Question},
    protocol::{Fault, params},
    server::Client,
    tools::{document, plain},
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

/// How long a question waits, if nobody says: of commands, of plugins, and at most of plugins, in milliseconds.
const EXEC: u64 = 1_800_000;
const PLUGIN: u64 = 120_000;
const PLUGIN_MOST: u64 = 600_000;
/// Where the list is, as clients show it.
const PLACE: &str = "/sandbox/.cofferdam/agent.db#exec_approvals";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ById {
    id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resolve {
    id: String,
    decision: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// `exec.approval.request`, as far as it is served: for commands of this gateway.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AskExec {
    id: Option<String>,
    command: String,
    command_argv: Option<Vec<String>>,
    env: Option<BTreeMap<String, String>>,
    cwd: Option<String>,
    host: Option<String>,
    security: Option<String>,
    ask: Option<String>,
    warning_text: Option<String>,
    unavailable_decisions: Option<Vec<Decision>>,
    agent_id: Option<String>,
    resolved_path: Option<String>,
    session_key: Option<String>,
    session_id: Option<String>,
    run_id: Option<String>,
    tool_call_id: Option<String>,
    turn_source_channel: Option<String>,
    turn_source_to: Option<String>,
    turn_source_account_id: Option<String>,
    turn_source_thread_id: Option<Value>,
    timeout_ms: Option<u64>,
    #[serde(default)]
    two_phase: bool,
}

/// `plugin.approval.request`
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AskPlugin {
    plugin_id: Option<String>,
    title: String,
    description: String,
    detail: Option<String>,
    severity: Option<Severity>,
    tool_name: Option<String>,
    tool_call_id: Option<String>,
    allowed_decisions: Option<Vec<Decision>>,
    agent_id: Option<String>,
    session_key: Option<String>,
    turn_source_channel: Option<String>,
    turn_source_to: Option<String>,
    turn_source_account_id: Option<String>,
    turn_source_thread_id: Option<Value>,
    timeout_ms: Option<u64>,
    #[serde(default)]
    two_phase: bool,
}

#[derive(Clone, Copy, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    Info,
    Warning,
    Critical,
}

pub(super) fn ask_exec(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Answer {
    let asked: AskExec = match params::read("exec.approval.request", params) {
        Ok(asked) => asked,
        Err(fault) => return Answer::Now(Err(fault)),
    };
    if asked.command.trim().is_empty() {
        return Answer::Now(Err(Fault::invalid("command is required")));
    }
    if asked.host.as_deref() == Some("node") {
        return Answer::Now(Err(Fault::invalid("there are no nodes here")));
    }
    let unavailable = asked.unavailable_decisions.unwrap_or_default();
    let always = asked.ask.as_deref() != Some("always") && !unavailable.contains(&Decision::AllowAlways);
    let allowed: Vec<_> =
        Decision::ALL.into_iter().filter(|decision| always || *decision != Decision::AllowAlways).collect();
    let shown = |text: Option<String>| text.map(|text| plain(&text));
    let request = json!({
        "command": plain(&asked.command), "commandArgv": asked.command_argv,
        "envKeys": asked.env.map(|env| env.into_keys().collect::<Vec<_>>()), "cwd": shown(asked.cwd), "nodeId": null,
        "host": shown(asked.host), "security": asked.security, "ask": asked.ask, "warningText": shown(asked.warning_text),
        "allowedDecisions": allowed, "agentId": asked.agent_id, "resolvedPath": shown(asked.resolved_path),
        "sessionKey": asked.session_key, "sessionId": asked.session_id, "runId": asked.run_id,
        "toolCallId": asked.tool_call_id, "turnSourceChannel": asked.turn_source_channel,
        "turnSourceTo": asked.turn_source_to, "turnSourceAccountId": asked.turn_source_account_id,
        "turnSourceThreadId": asked.turn_source_thread_id,
    });
    let patience = Duration::from_millis(asked.timeout_ms.unwrap_or(EXEC).min(EXEC));
    begin(gateway, gateway.ask(Kind::Exec, asked.id, request, allowed, patience), asked.two_phase)
}

pub(super) fn ask_plugin(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Answer {
    let asked: AskPlugin = match params::read("plugin.approval.request", params) {
        Ok(asked) => asked,
        Err(fault) => return Answer::Now(Err(fault)),
    };
    for (name, text, most) in [
        ("title", Some(&asked.title), 80),
        ("description", Some(&asked.description), 512),
        ("detail", asked.detail.as_ref(), 16_384),
    ] {
        if text.is_some_and(|text| text.is_empty() || text.chars().count() > most) {
            return Answer::Now(Err(Fault::invalid(format!("`{name}` has 1 to {most} characters"))));
        }
    }
    let mut allowed = asked.allowed_decisions.unwrap_or_else(|| Decision::ALL.to_vec());
    // Somebody can always say no.
    if !allowed.contains(&Decision::Deny) {
        allowed.push(Decision::Deny);
    }
    let request = json!({
        "pluginId": asked.plugin_id, "title": plain(&asked.title), "description": plain(&asked.description), "scope": null,
        "detail": asked.detail.map(|text| plain(&text)), "severity": asked.severity, "toolName": asked.tool_name,
        "toolCallId": asked.tool_call_id, "allowedDecisions": allowed, "agentId": asked.agent_id,
        "sessionKey": asked.session_key, "runId": null, "turnSourceChannel": asked.turn_source_channel,
        "turnSourceTo": asked.turn_source_to, "turnSourceAccountId": asked.turn_source_account_id,
        "turnSourceThreadId": asked.turn_source_thread_id,
    });
    let patience = Duration::from_millis(asked.timeout_ms.unwrap_or(PLUGIN).min(PLUGIN_MOST));
    begin(gateway, gateway.ask(Kind::Plugin, None, request, allowed, patience), asked.two_phase)
}

/// Answers once it has ended, and before that it is asked, if that is wanted.
fn begin(gateway: &Gateway, asked: Result<Arc<Question>, Fault>, two_phase: bool) -> Answer {
    let question = match asked {
        Ok(question) => question,
        Err(fault) => return Answer::Now(Err(fault)),
    };
    let route = if gateway.has_approvers() { "approval-client" } else { "none" };
    let accepted = json!({
        "status": "accepted", "id": question.id, "deliveryRoute": route, "createdAtMs": question.created_at,
        "expiresAtMs": question.expires_at,
    });
    let end = Box::pin(async move {
        let decision = question.ended().await.decision;
        Ok(json!({
            "id": question.id, "decision": decision, "createdAtMs": question.created_at,
            "expiresAtMs": question.expires_at,
        }))
    });
    if two_phase { Answer::Twice(accepted, end) } else { Answer::Later(end) }
}

pub(super) fn list(gateway: &Gateway, kind: Kind, params: Option<&RawValue>) -> Result<Value, Fault> {
    let Nothing {} = params::read(&format!("{}.approval.list", kind.name()), params)?;
    Ok(gateway.questions(kind).iter().map(|question| question.row()).collect())
}

pub(super) fn get(gateway: &Gateway, params: Option<&RawValue>) -> Result<Value, Fault> {
    let asked: ById = params::read("exec.approval.get", params)?;
    let question = gateway.question(Some(Kind::Exec), &asked.id)?;
    let request = &question.request;
    Ok(json!({
        "id": question.id, "commandText": request["command"], "commandPreview": null,
        "allowedDecisions": question.allowed, "host": request["host"], "nodeId": null, "agentId": request["agentId"],
        "expiresAtMs": question.expires_at,
    }))
}

pub(super) fn wait(gateway: &Gateway, kind: Kind, params: Option<&RawValue>) -> Answer {
    let missing = || Fault::invalid("approval expired or not found");
    let asked: ById = match params::read(&format!("{}.approval.waitDecision", kind.name()), params) {
        Ok(asked) => asked,
        Err(fault) => return Answer::Now(Err(fault)),
    };
    if let Some(question) = gateway.known_question(kind, &asked.id) {
        return Answer::Later(Box::pin(async move {
            let end = question.ended().await;
            Ok(json!({
                "id": question.id, "decision": end.decision, "createdAtMs": question.created_at,
                "expiresAtMs": question.expires_at, "terminalReason": end.reason,
            }))
        }));
    }
    // One of an earlier gateway: that nobody answered it is said, and what was answered has been acted on, or never will.
    let over = gateway.store.over(&asked.id).map_err(lost);
    Answer::Now(over.and_then(|over| {
        let over =
            over.filter(|over| over.kind == kind.name() && over.decision.is_none()).ok_or_else(missing)?;
        Ok(json!({
            "id": asked.id, "decision": null, "createdAtMs": over.created_at, "expiresAtMs": over.expires_at,
            "terminalReason": over.reason,
        }))
    }))
}

pub(super) fn resolve(
    gateway: &Gateway,
    client: &Client,
    kind: Kind,
    params: Option<&RawValue>,
) -> Result<Value, Fault> {
    let asked: Resolve = params::read(&format!("{}.approval.resolve", kind.name()), params)?;
    let named = |decision: &Decision| decision.name() == asked.decision;
    let decision = Decision::ALL.into_iter().find(named).ok_or_else(|| Fault::invalid("invalid decision"))?;
    gateway.resolve(Some(kind), &asked.id, decision, client.user())?;
    Ok(json!({ "ok": true }))
}

/// What `/approve` answers when a client types it; none: the text is another.
pub(super) fn typed(gateway: &Gateway, client: &Client, text: &str) -> Option<String> {
    let rest = text.trim().strip_prefix("/approve")?;
    if !rest.is_empty() && !rest.starts_with(char::is_whitespace) {
        return None;
    }
    if !client.may(cofferdam_base::Scope::Approvals) {
        return Some("/approve requires operator.approvals.".to_owned());
    }
    let mut words = rest.split_whitespace();
    let (Some(id), Some(word), None) = (words.next(), words.next(), words.next()) else {
        return Some("Say what and how: /approve ID allow-once|allow-always|deny.".to_owned());
    };
    let Some(decision) = Decision::typed(word) else {
        return Some(format!("{word:?} is none of allow-once, allow-always and deny."));
    };
    Some(match gateway.resolve(None, id, decision, client.user()) {
        Ok(Some(question)) => format!("Approval {}: {}.", question.id, decision.name()),
        Ok(None) => format!("Approval {id} was answered so already."),
        Err(fault) => format!("Approval {id}: {}.", fault.message),
    })
}

fn unreadable(why: String) -> Fault {
    Fault::unavailable(format!("exec approvals: {why}"))
}

fn hash(raw: &str) -> String {
    let mut hasher = DefaultHasher::new();
    raw.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

pub(super) fn policy(gateway: &Gateway, params: Option<&RawValue>) -> Result<Value, Fault> {
    let Nothing {} = params::read("exec.approvals.get", params)?;
    let raw = gateway.store.exec_approvals().map_err(lost)?;
    let file = document(gateway).map_err(unreadable)?;
    let (security, ask) = file.narrowed(gateway.config().tools.exec.knobs());
    Ok(json!({
        "path": PLACE, "exists": raw.is_some(), "hash": hash(raw.as_deref().unwrap_or_default()), "file": file,
        "resolvedDefaults": { "security": security, "ask": ask, "askFallback": "deny", "autoAllowSkills": false },
    }))
}

pub(super) fn set_policy(gateway: &Gateway, params: Option<&RawValue>) -> Result<Value, Fault> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Set {
        file: Box<RawValue>,
        base_hash: Option<String>,
    }
    let Set { file, base_hash } = params::read("exec.approvals.set", params)?;
    let raw = gateway.store.exec_approvals().map_err(lost)?;
    let again = "re-run exec.approvals.get and retry";
    match (&raw, base_hash) {
        (Some(_), None) => return Err(Fault::invalid(format!("exec approvals base hash required; {again}"))),
        (_, Some(base)) if base != hash(raw.as_deref().unwrap_or_default()) => {
            return Err(Fault::invalid(format!("exec approvals changed since last load; {again}")));
        }
        _ => {}
    }
    let invalid = |why: String| Fault::invalid(format!("invalid exec.approvals.set params: {why}"));
    let mut document = Document::parse(file.get()).map_err(invalid)?;
    for entry in document.agents.get_mut(AGENT).into_iter().flat_map(|rules| &mut rules.allowlist) {
        entry.id.get_or_insert_with(crate::ids::uuid);
    }
    let text = serde_json::to_string(&document).map_err(|error| unreadable(error.to_string()))?;
    gateway.store.put_exec_approvals(&text).map_err(lost)?;
    policy(gateway, None)
}
