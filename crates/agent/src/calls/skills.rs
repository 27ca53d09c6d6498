//! `skills.*`

use super::chat::is_ours;
use crate::{
    AGENT,
    gateway::Gateway,
    protocol::{Fault, params},
    skills::Found,
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Status {
    #[serde(default)]
    agent_id: Option<String>,
    #[serde(default)]
    #[expect(dead_code, reason = "skills are the same in each session, but clients send it")]
    session_key: Option<String>,
}

/// One skill: it is switched on or off. Keys and environments of skills are not built.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Update {
    skill_key: String,
    enabled: bool,
}

pub(super) fn unread(error: std::io::Error) -> Fault {
    Fault::unavailable(error.to_string())
}

pub(super) fn status(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Result<Value, Fault> {
    let asked: Status = params::read("skills.status", params)?;
    is_ours(asked.agent_id.as_deref())?;
    let (skills, broken) = gateway.with_skills(Found::status).map_err(unread)?;
    Ok(json!({
        "workspaceDir": gateway.workspace, "managedSkillsDir": gateway.managed_skills(), "agentId": AGENT,
        "skills": skills, "broken": broken,
    }))
}

pub(super) fn update(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Result<Value, Fault> {
    let Update { skill_key, enabled } = params::read("skills.update", params)?;
    let is_key = |found: &Found, _: &_| found.skills.iter().any(|skill| skill.key() == skill_key);
    if !gateway.with_skills(is_key).map_err(unread)? {
        return Err(Fault::invalid(format!("unknown skill: {skill_key}")));
    }
    gateway.switch_skill(&skill_key, enabled).map_err(|error| Fault::unavailable(error.to_string()))?;
    Ok(json!({ "ok": true, "skillKey": skill_key, "config": { "enabled": enabled } }))
}
