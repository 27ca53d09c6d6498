//! `cron.*`, `wake`, `last-heartbeat` and `set-heartbeats`.

use super::{
    chat::{full_key, is_key, is_ours},
    lost,
};
use crate::{
    MAIN_SESSION,
    cron::{self, Definition, Job, Refused, WakeMode},
    gateway::Gateway,
    protocol::{Fault, params},
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use std::sync::Arc;

/// Rows of one answer.
const PAGE: u32 = 200;
/// Runs of one answer, if nobody says how many.
const USUAL: u32 = 50;

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Invalid(why) => Self::invalid(why),
            Refused::Unavailable(why) => Self::unavailable(why),
            Refused::Lost(error) => lost(error),
        }
    }
}

/// A job by its id, under one of the two names that it has.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Named {
    #[serde(alias = "jobId")]
    id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Listed {
    #[serde(default)]
    include_disabled: bool,
    #[serde(default)]
    limit: Option<u32>,
    #[serde(default)]
    offset: u32,
    #[serde(default)]
    query: Option<String>,
    #[serde(default)]
    enabled: Option<String>,
    #[serde(default)]
    schedule_kind: Option<String>,
    #[serde(default)]
    last_run_status: Option<String>,
    #[serde(default)]
    trigger: Option<String>,
    #[serde(default)]
    sort_by: Option<String>,
    #[serde(default)]
    sort_dir: Option<String>,
    #[serde(default)]
    agent_id: Option<String>,
    #[serde(default)]
    compact: bool,
    #[serde(default)]
    include_delivery_previews: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Changed {
    #[serde(alias = "jobId")]
    id: String,
    patch: Value,
    #[serde(default)]
    expected_config_revision: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Forced {
    #[serde(alias = "jobId")]
    id: String,
    #[serde(default)]
    mode: Option<String>,
    #[serde(default)]
    expected_process_instance_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Runs {
    #[serde(default)]
    agent_id: Option<String>,
    #[serde(default)]
    scope: Option<String>,
    #[serde(default, alias = "jobId")]
    id: Option<String>,
    #[serde(default)]
    run_id: Option<String>,
    #[serde(default)]
    limit: Option<u32>,
    #[serde(default)]
    offset: u32,
    #[serde(default)]
    statuses: Vec<String>,
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    delivery_statuses: Vec<String>,
    #[serde(default)]
    delivery_status: Option<String>,
    #[serde(default)]
    query: Option<String>,
    #[serde(default)]
    sort_dir: Option<String>,
}

/// Fields that nobody knows are passed over by upstream's schema, and by this.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wake {
    mode: WakeMode,
    text: String,
    #[serde(default)]
    session_key: Option<String>,
    #[serde(default)]
    agent_id: Option<String>,
}

#[derive(Deserialize)]
struct Heartbeats {
    enabled: bool,
}

fn found(gateway: &Gateway, id: &str) -> Result<Job, Fault> {
    gateway.store.job(id).map_err(lost)?.ok_or_else(|| missing(id))
}

fn missing(id: &str) -> Fault {
    Fault::invalid(format!("cron job not found: {id}. List automations and retry with a current job id."))
        .with(json!({ "code": "CRON_JOB_NOT_FOUND", "jobId": id }))
}

pub(super) fn status(gateway: &Arc<Gateway>) -> Result<Value, Fault> {
    let enabled = gateway.config().cron.enabled;
    let jobs = gateway.store.jobs().map_err(lost)?;
    let next = jobs.iter().filter_map(|job| job.state.next_run_at_ms).min().filter(|_| enabled);
    Ok(json!({
        "enabled": enabled, "triggersEnabled": false, "storePath": crate::STATE, "storage": "sqlite",
        "sqlitePath": crate::STATE, "jobs": jobs.len(), "nextWakeAtMs": next,
    }))
}

pub(super) fn list(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Result<Value, Fault> {
    let asked: Listed = params::read("cron.list", params)?;
    is_ours(asked.agent_id.as_deref())?;
    let mut jobs = gateway.store.jobs().map_err(lost)?;
    let revision: u64 = jobs.iter().map(|job| job.revision).sum();
    jobs.retain(|job| wanted(&asked, job));
    match asked.sort_by.as_deref() {
        Some("name") => jobs.sort_by(|a, b| a.definition.name.cmp(&b.definition.name)),
        Some("updatedAtMs") => jobs.sort_by_key(|job| job.updated_at),
        // As the store gives them.
        _ => {}
    }
    if asked.sort_dir.as_deref() == Some("desc") {
        jobs.reverse();
    }
    let total = jobs.len();
    let offset = (asked.offset as usize).min(total);
    let usual = u32::try_from(total).unwrap_or(PAGE).max(1);
    let limit = asked.limit.unwrap_or(usual).clamp(1, PAGE) as usize;
    let page: Vec<Job> = jobs.into_iter().skip(offset).take(limit).collect();
    let next = offset + page.len();
    let mut answer = json!({
        "jobs": page.iter().map(|job| row(job, asked.compact)).collect::<Vec<_>>(),
        "snapshotRevision": format!("{total}.{revision}"), "total": total, "offset": offset, "limit": limit,
        "hasMore": next < total, "nextOffset": (next < total).then_some(next),
    });
    if !asked.compact && asked.include_delivery_previews != Some(false) {
        answer["deliveryPreviews"] = page.iter().map(|job| (job.id.clone(), preview(job))).collect();
    }
    Ok(answer)
}

fn wanted(asked: &Listed, job: &Job) -> bool {
    let enabled = match asked.enabled.as_deref() {
        Some("all") => true,
        Some("enabled") => job.definition.enabled,
        Some("disabled") => !job.definition.enabled,
        _ => asked.include_disabled || job.definition.enabled,
    };
    let is = |asked: &Option<String>, value: &str| {
        asked.as_deref().is_none_or(|asked| asked == "all" || asked == value)
    };
    let Definition { name, display_name, description, .. } = &job.definition;
    let text = [Some(&job.id), Some(name), display_name.as_ref(), description.as_ref()];
    let holds = |query: &String| {
        text.into_iter().flatten().any(|text| text.to_lowercase().contains(&query.trim().to_lowercase()))
    };
    enabled
        && is(&asked.schedule_kind, job.definition.schedule.kind())
        && is(&asked.last_run_status, job.state.last_run_status.as_deref().unwrap_or("unknown"))
        && is(&asked.trigger, "unconditional")
        && asked.query.as_ref().is_none_or(holds)
}

fn row(job: &Job, compact: bool) -> Value {
    let mut row = if compact {
        let (state, iso) = (&job.state, |at: Option<u64>| at.map(cron::schedule::iso));
        json!({
            "id": job.id, "name": job.definition.name, "updatedAtMs": job.updated_at,
            "enabled": job.definition.enabled, "scheduleKind": job.definition.schedule.kind(),
            "schedule": job.definition.schedule, "nextRunAt": iso(state.next_run_at_ms),
            "nextRunAtMs": state.next_run_at_ms, "lastRunAt": iso(state.last_run_at_ms),
            "lastRunAtMs": state.last_run_at_ms, "lastRunStatus": state.last_run_status,
            "lastRunError": state.last_error,
        })
    } else {
        job.view()
    };
    row["effectiveAgentId"] = crate::AGENT.into();
    row
}

/// In words, who hears of it.
fn preview(job: &Job) -> Value {
    let announced = match &job.definition.delivery {
        Some(delivery) => delivery.mode == cron::DeliveryMode::Announce,
        None => job.definition.session_target == "isolated",
    };
    if let Some((channel, to)) = job.definition.destination() {
        json!({ "label": format!("announce -> {channel}:{to}"), "detail": "its answer is sent there" })
    } else if announced {
        json!({ "label": "announce -> main session", "detail": "its answer is put into the main session" })
    } else {
        json!({ "label": "not requested", "detail": "its answer stays in its own session" })
    }
}

pub(super) fn get(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Result<Value, Fault> {
    let Named { id } = params::read("cron.get", params)?;
    Ok(found(gateway, &id)?.view())
}

pub(super) fn add(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Result<Value, Fault> {
    let job = cron::add(gateway, params::read("cron.add", params)?)?;
    let mut answer = job.view();
    answer["deliveryPreview"] = preview(&job);
    Ok(answer)
}

pub(super) fn update(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Result<Value, Fault> {
    let asked: Changed = params::read("cron.update", params)?;
    let job = found(gateway, &asked.id)?;
    if asked.expected_config_revision.is_some_and(|expected| expected != job.revision.to_string()) {
        let why = "cron job definition no longer matches the loaded version; review the latest version before retrying";
        return Err(Fault::invalid(why));
    }
    if !asked.patch.is_object() {
        return Err(Fault::invalid("invalid cron.update params: `patch` is no object"));
    }
    Ok(cron::update(gateway, job, &asked.patch)?.view())
}

pub(super) fn remove(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Result<Value, Fault> {
    let Named { id } = params::read("cron.remove", params)?;
    cron::remove(gateway, &found(gateway, &id)?)?;
    Ok(json!({ "ok": true, "removed": true }))
}

pub(super) fn run(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Result<Value, Fault> {
    let asked: Forced = params::read("cron.run", params)?;
    let job = found(gateway, &asked.id)?;
    if asked.expected_process_instance_id.is_some_and(|expected| expected != gateway.boot) {
        return Err(Fault::invalid("invalid cron.run params: Gateway process changed after preflight"));
    }
    let due = job.state.next_run_at_ms.is_some_and(|at| at <= gateway.now());
    let why_not = match asked.mode.as_deref() {
        Some("due") if !due => Some("not-due"),
        Some("if-enabled") if !job.definition.enabled => Some("disabled"),
        None | Some("due" | "if-enabled" | "force") => None,
        Some(other) => {
            return Err(Fault::invalid(format!("invalid cron.run params: unknown mode {other:?}")));
        }
    };
    let answer = match why_not {
        Some(reason) => json!({ "ok": true, "ran": false, "reason": reason }),
        None => match cron::force(gateway, job)? {
            Ok(run) => json!({ "ok": true, "enqueued": true, "runId": run }),
            Err(reason) => json!({ "ok": true, "ran": false, "reason": reason }),
        },
    };
    let mut answer = answer;
    answer["processInstanceId"] = gateway.boot.as_str().into();
    Ok(answer)
}

pub(super) fn runs(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Result<Value, Fault> {
    let asked: Runs = params::read("cron.runs", params)?;
    is_ours(asked.agent_id.as_deref())?;
    if asked.scope.as_deref() == Some("job") && asked.id.is_none() {
        return Err(Fault::invalid("invalid cron.runs params: missing id"));
    }
    let id = asked.id.as_ref().filter(|_| asked.scope.as_deref() != Some("all"));
    let mut entries = gateway.store.cron_entries().map_err(lost)?;
    if let Some(id) = id
        && !entries.iter().any(|entry| entry["jobId"] == **id)
    {
        found(gateway, id)?;
    }
    let among = |all: &[String], one: &Option<String>, value: &Value| {
        let one = one.as_deref().filter(|one| *one != "all");
        let value = value.as_str().unwrap_or_default();
        if all.is_empty() { one.is_none_or(|one| one == value) } else { all.iter().any(|it| it == value) }
    };
    let query = asked.query.as_deref().map(|query| query.trim().to_lowercase());
    entries.retain(|entry| {
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_lowercase();
        id.is_none_or(|id| entry["jobId"] == **id)
            && asked.run_id.as_ref().is_none_or(|run| entry["runId"] == **run)
            && among(&asked.statuses, &asked.status, &entry["status"])
            && among(&asked.delivery_statuses, &asked.delivery_status, &entry["deliveryStatus"])
            && query.as_ref().is_none_or(|query| {
                ["summary", "error", "jobId", "jobName"].iter().any(|key| text(key).contains(query))
            })
    });
    if asked.sort_dir.as_deref() == Some("asc") {
        entries.reverse();
    }
    let total = entries.len();
    let offset = (asked.offset as usize).min(total);
    let limit = asked.limit.unwrap_or(USUAL).clamp(1, PAGE) as usize;
    let page: Vec<Value> = entries.into_iter().skip(offset).take(limit).collect();
    let next = offset + page.len();
    Ok(json!({
        "entries": page, "total": total, "offset": offset, "limit": limit, "hasMore": next < total,
        "nextOffset": (next < total).then_some(next),
    }))
}

pub(super) fn wake(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Result<Value, Fault> {
    let asked: Wake = params::read("wake", params)?;
    is_ours(asked.agent_id.as_deref())?;
    params::is_message(&asked.text)?;
    let key = match asked.session_key {
        Some(key) => {
            is_key(&key)?;
            full_key(key)
        }
        None => MAIN_SESSION.to_owned(),
    };
    if cron::wake(gateway, &key, asked.text.trim(), asked.mode)? {
        return Ok(json!({ "ok": true }));
    }
    Err(Fault::unavailable(format!("{} events wait for this session already", cron::EVENTS)))
}

pub(super) fn last_heartbeat(gateway: &Gateway) -> Value {
    gateway.timer.last()
}

/// Until the next start, as upstream.
pub(super) fn set_heartbeats(gateway: &Gateway, params: Option<&RawValue>) -> Result<Value, Fault> {
    let Heartbeats { enabled } = params::read("set-heartbeats", params)?;
    gateway.timer.set_silent(!enabled);
    Ok(json!({ "ok": true, "enabled": enabled }))
}
