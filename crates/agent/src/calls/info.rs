//! `health`, `status`, `models.list` and `commands.list`.

use super::lost;
use crate::{
    AGENT,
    commands::{COMMANDS, Command},
    cron::heartbeat,
    gateway::Gateway,
    protocol::Fault,
    skills::Called,
};
use serde_json::{Value, json};
use std::sync::Arc;

/// Sessions in a summary.
const RECENT: u32 = 5;

pub(super) fn defaults(gateway: &Gateway) -> Value {
    let tokens = gateway.config().agents.defaults.limits().window;
    json!({ "modelProvider": "cofferdam", "model": "default", "contextTokens": tokens })
}

fn summary(gateway: &Gateway) -> Result<Value, Fault> {
    let now = gateway.now();
    let sessions = gateway.store.recent(RECENT).map_err(lost)?;
    let count = gateway.store.session_count().map_err(lost)?;
    let recent: Vec<Value> = sessions
        .iter()
        .map(|it| json!({ "key": it.key, "updatedAt": it.updated_at, "age": now.saturating_sub(it.updated_at) }))
        .collect();
    Ok(json!({ "path": crate::STATE, "count": count, "recent": recent }))
}

/// As in `hello-ok` and the method of this name.
pub(crate) fn health(gateway: &Arc<Gateway>) -> Result<Value, Fault> {
    let sessions = summary(gateway)?;
    let channels = gateway.channels.shown();
    let heartbeat = heartbeat::summary(&gateway.config());
    let seconds = heartbeat["everyMs"].as_u64().unwrap_or(0) / 1000;
    Ok(json!({
        "ok": true,
        "ts": gateway.now(),
        "durationMs": 0,
        "plugins": { "loaded": [], "errors": [] },
        "channels": channels.iter().map(|(name, account)| (name.clone(), json!({
            "configured": true, "accountId": account["accountId"], "running": true, "connected": account["connected"],
        }))).collect::<serde_json::Map<_, _>>(),
        "channelOrder": channels.iter().map(|it| &it.0).collect::<Vec<_>>(),
        "channelLabels": channels.iter().map(|it| (it.0.clone(), it.0.clone().into())).collect::<serde_json::Map<_, _>>(),
        "heartbeatSeconds": seconds,
        "defaultAgentId": AGENT,
        "agents": [{ "agentId": AGENT, "isDefault": true, "heartbeat": heartbeat, "sessions": sessions }],
        "sessions": sessions,
    }))
}

pub(super) fn status(gateway: &Arc<Gateway>) -> Result<Value, Fault> {
    let sessions = gateway.store.recent(RECENT).map_err(lost)?;
    let count = gateway.store.session_count().map_err(lost)?;
    let recent: Vec<Value> = sessions.iter().map(|session| super::sessions::row(gateway, session)).collect();
    Ok(json!({
        "runtimeVersion": env!("CARGO_PKG_VERSION"),
        "heartbeat": { "defaultAgentId": AGENT, "agents": [] },
        "channelSummary": [],
        "queuedSystemEvents": [],
        "tasks": { "total": 0, "active": 0, "terminal": 0, "failures": 0 },
        "sessions": {
            "paths": [crate::STATE], "count": count, "defaults": defaults(gateway), "recent": recent,
            "byAgent": [{ "agentId": AGENT, "path": crate::STATE, "count": count, "recent": recent }],
        },
    }))
}

pub(super) fn models(gateway: &Gateway) -> Value {
    let window = gateway.config().agents.defaults.limits().window;
    json!({ "models": [{
        "id": "default", "name": "Cofferdam route", "provider": "cofferdam", "contextWindow": window,
        "available": true, "supportsTools": true, "input": ["text", "image"],
    }]})
}

pub(super) fn commands(gateway: &Gateway) -> Result<Value, Fault> {
    let one = |command: &Command| {
        let Command { name, description, category, takes } = command;
        json!({
            "name": name, "textAliases": [format!("/{name}")], "description": description, "category": category,
            "source": "native", "scope": "text", "acceptsArgs": takes,
        })
    };
    let mut all: Vec<Value> = COMMANDS.iter().map(one).collect();
    let skill = |Called { name, skill }: &Called<'_>| {
        json!({
            "name": name, "textAliases": [format!("/{name}")], "description": skill.front.description,
            "category": "tools", "source": "skill", "scope": "text", "acceptsArgs": true,
            "skillDisplayName": skill.name, "skillModelVisible": skill.front.model_invocable,
        })
    };
    let skills =
        gateway.with_skills(|found, config| found.commands(config).iter().map(skill).collect::<Vec<_>>());
    all.extend(skills.map_err(super::skills::unread)?);
    Ok(json!({ "commands": all }))
}
