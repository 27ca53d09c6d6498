//! One run of a job, from its claim to its end.

use super::{
    Definition, DeliveryMode, Job, Payload, Refused, Target, WakeMode,
    keeper::{Ended, Waiting},
    tell,
};
use crate::{
    gateway::{Active, Gateway},
    store::{CronEnd, CronRun, Error, Message, Role, RunState, Session},
    turn::Wish,
};
use serde_json::{Value, json};
use std::{future::ready, sync::Arc};

/// Of an answer, what a list of runs shows.
const SUMMARY: usize = 2000;
/// An answer that says that there is nothing to say.
const SILENT: [&str; 2] = ["NO_REPLY", "HEARTBEAT_OK"];

/// How it ended.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Why it failed; none: it did not.
    error: Option<String>,
    said: Option<String>,
    /// What the main session hears at its next turn.
    event: Option<(String, String)>,
    session: Option<(String, String)>,
    model: Option<String>,
    tokens: (u64, u64),
    /// It was begun for a channel, which says what comes of it.
    to_channel: bool,
}

impl Outcome {
    fn failed(why: impl Into<String>) -> Self {
        Self { error: Some(why.into()), ..Self::default() }
    }
}

/// Begins a run that was claimed, or finds the one that it began before the gateway was killed.
pub(super) fn begin(gateway: &Arc<Gateway>, claimed: CronRun, waiting: &Waiting) {
    match started(gateway, &claimed) {
        Ok(Some((active, to_channel))) => waiting.push(Box::pin(async move {
            let outcome = Outcome { to_channel, ..ended(&active).await };
            Ended::Cron(claimed, outcome)
        })),
        Ok(None) => {
            let outcome = queued(gateway, &claimed);
            waiting.push(Box::pin(ready(Ended::Cron(claimed, outcome))));
        }
        Err(why) => {
            waiting.push(Box::pin(ready(Ended::Cron(claimed, Outcome::failed(why)))));
        }
    }
}

/// The turn of a run, and whether a channel waits for it; none: it has none, a session hears of it at its next one.
fn started(gateway: &Arc<Gateway>, claimed: &CronRun) -> Result<Option<(Arc<Active>, bool)>, String> {
    let lost = |error: Error| error.to_string();
    if let Some(known) = gateway.run(&claimed.id).map_err(lost)? {
        return Ok(Some((known, gateway.store.owed_by(&claimed.id).map_err(lost)?.is_some())));
    }
    if !gateway.config().cron.enabled {
        return Err("jobs were turned off (`cron.enabled`) before its run began".to_owned());
    }
    let job = gateway.store.job(&claimed.job).map_err(lost)?;
    let job = job.ok_or("the job was removed before its run began")?;
    let hears = super::reachable(gateway, &job.definition).map_err(|refused| match refused {
        Refused::Invalid(why) | Refused::Unavailable(why) => why,
        Refused::Lost(error) => error.to_string(),
    })?;
    let (message, wish) = match &job.definition.payload {
        Payload::SystemEvent { .. } if job.definition.wake_mode == WakeMode::NextHeartbeat => {
            return Ok(None);
        }
        Payload::SystemEvent { text } => {
            (format!("Scheduled reminder, now due: {text}\n\nTell the user."), Wish::default())
        }
        Payload::AgentTurn { message, thinking, timeout_seconds, .. } => {
            let wish = Wish {
                thinking: thinking.clone(),
                patience_ms: timeout_seconds.map(millis),
                ..Wish::default()
            };
            (format!("[cron:{} {}] {message}", job.id, job.definition.name), wish)
        }
    };
    let key = match job.definition.target()? {
        Target::Session(key) => key,
        Target::Isolated => isolated(gateway, &job).map_err(lost)?,
    };
    let payload =
        json!({ "jobId": job.id, "action": "started", "job": job.shown(), "runAtMs": claimed.started_at });
    tell(gateway, payload, &job);
    let wish = Wish { plain: true, ..wish };
    let to_channel = hears.is_some();
    let sent = super::turn(gateway, &key, &claimed.id, &message, wish, hears);
    sent.map(|active| Some((active, to_channel))).map_err(|fault| fault.message)
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it was checked to be within a day"
)]
fn millis(seconds: f64) -> u64 {
    (seconds * 1000.0) as u64
}

/// The job's own session, which begins anew.
fn isolated(gateway: &Gateway, job: &Job) -> Result<String, Error> {
    let key = format!("agent:main:cron:{}", job.id);
    let session = gateway.reset(&key)?;
    super::past::forget(gateway, &key);
    let Payload::AgentTurn { model, .. } = &job.definition.payload else { return Ok(key) };
    let label = Some(format!("Cron: {}", job.definition.name));
    gateway.store.put_session(&Session { model: model.clone(), label, ..session })?;
    Ok(key)
}

/// One whose text waits for the next turn of its session.
fn queued(gateway: &Gateway, claimed: &CronRun) -> Outcome {
    let job = match gateway.store.job(&claimed.job) {
        Ok(Some(job)) => job,
        Ok(None) => return Outcome::failed("the job was removed before its run began"),
        Err(error) => return Outcome::failed(error.to_string()),
    };
    let Definition { payload: Payload::SystemEvent { text }, .. } = &job.definition else {
        return Outcome::failed("the job was changed before its run began");
    };
    match job.definition.target() {
        Ok(Target::Session(key)) => {
            Outcome { said: Some(text.clone()), event: Some((key, text.clone())), ..Outcome::default() }
        }
        Ok(Target::Isolated) => Outcome::failed("the job was changed before its run began"),
        Err(why) => Outcome::failed(why),
    }
}

async fn ended(active: &Active) -> Outcome {
    let (run, used) = (active.ended().await, active.used());
    let why = || run.error.clone().unwrap_or_else(|| "the run failed".to_owned());
    Outcome {
        error: (run.state != RunState::Done).then(why),
        said: run.said.clone(),
        event: None,
        session: Some((active.session_key.clone(), active.session_id.clone())),
        to_channel: false,
        model: Some(used.model).filter(|model| !model.is_empty()),
        tokens: (used.input, used.output),
    }
}

/// Keeps how a run ended with all that follows from it, and tells it. False: it could not be kept; the run is open
/// still, and is looked at again at the next start.
pub(super) fn end(gateway: &Gateway, claimed: &CronRun, outcome: &Outcome) -> bool {
    let kept = try_end(gateway, claimed, outcome);
    if let Err(error) = &kept {
        tracing::error!(%error, run = claimed.id, "the end of a job's run is not kept");
    }
    kept.is_ok()
}

fn try_end(gateway: &Gateway, claimed: &CronRun, outcome: &Outcome) -> Result<(), Error> {
    let now = gateway.now();
    let mut job = gateway.store.job(&claimed.job)?;
    let status = if outcome.error.is_some() { "error" } else { "ok" };
    let announced = match &job {
        Some(job) => announcement(gateway, job, outcome)?,
        None => None,
    };
    let delivery = match (&announced, outcome.to_channel) {
        (Some(_), _) => "delivered",
        (None, true) if outcome.error.is_some() => "not-delivered",
        // The channel has it, and may have to try for a while.
        (None, true) => "unknown",
        (None, false) => "not-requested",
    };
    let took = now.saturating_sub(claimed.started_at);
    if let Some(job) = &mut job {
        let state = &mut job.state;
        state.running_at_ms = None;
        state.last_run_at_ms = Some(claimed.started_at);
        state.last_run_status = Some(status.to_owned());
        state.last_error.clone_from(&outcome.error);
        state.last_duration_ms = Some(took);
        state.last_delivery_status = Some(delivery.to_owned());
        state.consecutive_errors = if outcome.error.is_some() { state.consecutive_errors + 1 } else { 0 };
        // A moment that is over does not come again.
        if matches!(job.definition.schedule, super::Schedule::At { .. }) && state.next_run_at_ms.is_none() {
            job.definition.enabled = false;
        }
    }
    let over = |job: &Job| job.state.next_run_at_ms.is_none() && job.definition.once();
    let forget = outcome.error.is_none() && job.as_ref().is_some_and(over);
    let mut entry = entry(claimed, outcome, job.as_ref(), (now, took));
    (entry["status"], entry["deliveryStatus"]) = (status.into(), delivery.into());
    entry["completionStatus"] = if status == "ok" { "succeeded" } else { "failed" }.into();
    let end = CronEnd {
        job: job.as_ref(),
        forget,
        said: announced.as_ref().map(|(session, message)| (session, message)),
        event: outcome.event.as_ref().map(|(key, text)| (&**key, &**text)),
    };
    gateway.store.end_cron(claimed, now, &entry, &end)?;
    if let Some((session, message)) = announced {
        gateway.tell_message(&session.key, &message);
        gateway.sessions_changed(&session.key, "message");
    }
    let Some(job) = job else { return Ok(()) };
    entry["job"] = job.shown();
    tell(gateway, entry, &job);
    if forget {
        tell(gateway, json!({ "jobId": job.id, "action": "removed", "job": job.shown() }), &job);
    }
    Ok(())
}

/// What the main session is told of the answer of a turn elsewhere.
fn announcement(
    gateway: &Gateway,
    job: &Job,
    outcome: &Outcome,
) -> Result<Option<(Session, Message)>, Error> {
    let said = outcome.said.as_deref().map(str::trim).filter(|said| !said.is_empty());
    let wanted = match &job.definition.delivery {
        Some(delivery) => delivery.mode == DeliveryMode::Announce,
        // As upstream: a turn of its own is announced, unless its job says otherwise.
        None => job.definition.session_target == "isolated",
    };
    let elsewhere = outcome.session.as_ref().is_some_and(|(key, _)| key != crate::MAIN_SESSION);
    let Some(said) = said.filter(|said| wanted && elsewhere && !outcome.to_channel && !SILENT.contains(said))
    else {
        return Ok(None);
    };
    if outcome.error.is_some() {
        return Ok(None);
    }
    let session = gateway.session(crate::MAIN_SESSION)?;
    let message = Message::text(&session, None, Role::Assistant, said, gateway.now());
    Ok(Some((session, message)))
}

fn entry(claimed: &CronRun, outcome: &Outcome, job: Option<&Job>, (now, took): (u64, u64)) -> Value {
    let mut entry = json!({
        "ts": now, "jobId": claimed.job, "action": "finished", "runId": claimed.id,
        "runAtMs": claimed.started_at, "durationMs": took,
    });
    let summary = outcome.said.as_ref().map(|said| said.chars().take(SUMMARY).collect::<String>());
    let (key, id) = outcome.session.clone().unzip();
    let fields = [
        ("error", json!(outcome.error)),
        ("summary", json!(summary)),
        ("sessionKey", json!(key)),
        ("sessionId", json!(id)),
        ("model", json!(outcome.model)),
        ("jobName", json!(job.map(|job| &job.definition.name))),
        ("nextRunAtMs", json!(job.and_then(|job| job.state.next_run_at_ms))),
    ];
    for (key, value) in fields.into_iter().filter(|(_, value)| !value.is_null()) {
        entry[key] = value;
    }
    if outcome.model.is_some() {
        let (input, output) = outcome.tokens;
        entry["usage"] =
            json!({ "input_tokens": input, "output_tokens": output, "total_tokens": input + output });
    }
    entry
}
