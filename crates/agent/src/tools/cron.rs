//! `cron`: reminders, and turns that begin by themselves. It is offered where the configuration turns jobs on.

use super::{About, Bench, Output, now, permits};
use crate::{
    MAIN_SESSION,
    cron::{self, Definition, Job, Refused, schedule},
    store::{Error, Reply},
};
use serde::Deserialize;
use serde_json::{Value, json};

pub(super) const TOOLS: [About; 1] = [About {
    name: "cron",
    group: "automation",
    label: "Schedule reminders and turns",
    description: "Schedule reminders and turns. add: job; update: id, job (what changes).",
    parameters: r#"{"type":"object","properties":{"action":{"type":"string","enum":["list","add","update","remove","run","runs"]},"id":{"type":"string"},"job":{"type":"object","description":"name; schedule: {kind:in,seconds} | {kind:at,at:ISO 8601} | {kind:every,everyMs} | {kind:cron,expr,tz}; payload: {kind:systemEvent,text} to remind here | {kind:agentTurn,message} for a turn of its own"}},"required":["action"]}"#,
    parallel: false,
    run: |bench, arguments| now(bench, arguments, act),
}];

/// Runs of one answer.
const RUNS: usize = 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    action: Action,
    #[serde(default, alias = "jobId")]
    id: Option<String>,
    #[serde(default, alias = "patch")]
    job: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    List,
    Add,
    Update,
    Remove,
    Run,
    Runs,
}

fn act(bench: &Bench<'_>, asked: &Asked) -> Output {
    match try_act(bench, asked) {
        Ok(text) => Output::ok(text),
        Err(Refused::Invalid(why) | Refused::Unavailable(why)) => Output::error(why),
        Err(Refused::Lost(error)) => Output::error(error.to_string()),
    }
}

fn try_act(bench: &Bench<'_>, asked: &Asked) -> Result<String, Refused> {
    let gateway = bench.gateway;
    match asked.action {
        Action::List => {
            let jobs = gateway.store.jobs()?;
            let lines: Vec<String> = jobs.iter().map(line).collect();
            Ok(if lines.is_empty() { "there are no jobs".to_owned() } else { lines.join("\n") })
        }
        Action::Add => {
            let definition = serde_json::from_value(whole(bench, asked.job.clone())?)
                .map_err(|error| Refused::Invalid(format!("job: {error}")))?;
            may_write(bench, &definition)?;
            Ok(line(&cron::add(gateway, definition)?))
        }
        Action::Update => {
            let patch = timed(gateway.now(), asked.job.clone());
            let job = job(bench, asked)?;
            may_write(bench, &cron::patched(&job, &patch)?)?;
            Ok(line(&cron::update(gateway, job, &patch)?))
        }
        Action::Remove => {
            cron::remove(gateway, &job(bench, asked)?)?;
            Ok("removed".to_owned())
        }
        Action::Run => Ok(match cron::force(gateway, job(bench, asked)?)? {
            Ok(run) => format!("it runs as {run}"),
            Err(why) => format!("it does not run: {why}"),
        }),
        Action::Runs => {
            let entries = gateway.store.cron_entries()?;
            let of = |entry: &&Value| asked.id.as_ref().is_none_or(|id| entry["jobId"] == **id);
            let lines: Vec<String> = entries.iter().filter(of).take(RUNS).map(Value::to_string).collect();
            Ok(if lines.is_empty() { "nothing ran".to_owned() } else { lines.join("\n") })
        }
    }
}

/// The conversation of a channel that the run which calls is to answer.
fn asked_from(bench: &Bench<'_>) -> Result<Option<Reply>, Error> {
    bench.run.map_or(Ok(None), |run| bench.gateway.store.owed_by(&run.id))
}

/// A job writes to who asked for it; to others only where the tool `message` might.
fn may_write(bench: &Bench<'_>, definition: &Definition) -> Result<(), Refused> {
    let Some((channel, to)) = definition.destination() else { return Ok(()) };
    let asked = asked_from(bench)?.is_some_and(|reply| reply.channel == channel && reply.chat == to);
    if asked || permits(&bench.gateway.config().tools, "message", "messaging") {
        return Ok(());
    }
    let why = "delivery: the tools of this agent write to nobody but who asked (`message` is not among them)";
    Err(Refused::Invalid(why.to_owned()))
}

fn job(bench: &Bench<'_>, asked: &Asked) -> Result<Job, Refused> {
    let id = asked.id.as_deref().ok_or_else(|| Refused::Invalid("`id` is missing".to_owned()))?;
    let job = bench.gateway.store.job(id)?;
    job.ok_or_else(|| Refused::Invalid(format!("there is no job {id}: list them")))
}

fn line(job: &Job) -> String {
    let next = job.state.next_run_at_ms.map_or_else(|| "never".to_owned(), schedule::iso);
    let status = job.state.last_run_status.as_deref().unwrap_or("not yet run");
    let definition = json!({ "schedule": job.definition.schedule, "payload": job.definition.payload });
    format!("{} {:?}: next {next}, last {status}; {definition}", job.id, job.definition.name)
}

/// `in` is said as a moment: models do not reckon with clocks.
fn timed(now: u64, mut job: Value) -> Value {
    if job["schedule"]["kind"] == "in"
        && let Some(seconds) = job["schedule"]["seconds"].as_u64()
    {
        let at = now.saturating_add(seconds.saturating_mul(1000));
        job["schedule"] = json!({ "kind": "at", "at": schedule::iso(at) });
    }
    job
}

/// What a model leaves out follows from what it says.
fn whole(bench: &Bench<'_>, job: Value) -> Result<Value, Refused> {
    let mut job = timed(bench.gateway.now(), job);
    if !job.is_object() {
        return Ok(job);
    }
    let event = job["payload"]["kind"] == "systemEvent";
    let text = job["payload"]["text"].as_str().or(job["payload"]["message"].as_str()).unwrap_or_default();
    let name: String = text.chars().take(40).collect();
    let fields = [
        ("name", name),
        ("sessionTarget", if event { "main" } else { "isolated" }.to_owned()),
        ("wakeMode", "now".to_owned()),
    ];
    for (key, value) in fields {
        if job[key].is_null() {
            job[key] = value.into();
        }
    }
    // A reminder comes where it was asked for, unless that begins anew each time.
    let key = bench.run.map(|run| &*run.session_key).filter(|key| *key != MAIN_SESSION);
    if let Some(key) =
        key.filter(|key| event && !key.starts_with("agent:main:cron:") && job["sessionKey"].is_null())
    {
        job["sessionKey"] = key.into();
    }
    // And so does what is said of it, over the channel by which somebody asked.
    if job["delivery"].is_null()
        && job["wakeMode"] == "now"
        && let Some(reply) = asked_from(bench)?
        && let Some(link) = bench.gateway.channels.get(&reply.channel)
        && link.knows(&reply.chat)?
    {
        job["delivery"] = json!({ "mode": "announce", "channel": reply.channel, "to": reply.chat });
    }
    if let Some(fields) = job.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    Ok(job)
}
