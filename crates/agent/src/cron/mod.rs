//! Work that begins by itself: jobs at their times, heartbeats, and events that sessions wait to hear.
//!
//! It owns the one timer of the gateway, which sleeps until something is due. A run is claimed on disk before it begins,
//! under an id that begins one run at most, so whatever is killed in between runs once or is told as cut off. The
//! threats are a job that costs without end, which quotas bound, and one that an injected prompt made: jobs are off
//! unless whoever owns the configuration turns them on.

pub(crate) mod heartbeat;
mod job;
mod keeper;
pub(crate) mod past;
mod run;
pub(crate) mod schedule;

pub(crate) use job::{Definition, DeliveryMode, Job, Payload, State, Target, WakeMode};
pub(crate) use keeper::{Timer, keep};
pub(crate) use schedule::Schedule;

use crate::{
    channels::{self, Link},
    config,
    gateway::{Active, Gateway},
    ids::uuid,
    protocol::{Fault, params::Queue},
    store::{CronRun, Error, Message, Reply, Role},
    turn::Wish,
};
use cofferdam_base::Scope;
use serde_json::{Value, json};
use std::{fmt::Write as _, sync::Arc};

/// Events that one session may wait to hear.
pub(crate) const EVENTS: u32 = 32;
/// An hour, in milliseconds.
const HOUR: u64 = 3_600_000;

/// Why a job is not made, changed or run.
#[derive(Debug)]
pub(crate) enum Refused {
    /// What was asked for is wrong; it names the key.
    Invalid(String),
    /// Not now.
    Unavailable(String),
    /// The state.
    Lost(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Lost(error)
    }
}

/// Are there jobs at all? The error names the key.
fn on(config: &config::Cron) -> Result<(), Refused> {
    if config.enabled {
        return Ok(());
    }
    Err(Refused::Unavailable("jobs are off: set `cron.enabled` to true".to_owned()))
}

/// The channel over which a job's answer goes, if it goes over one: to a conversation that is known, like all that the
/// agent writes.
fn reachable(gateway: &Gateway, definition: &Definition) -> Result<Option<(Link, String)>, Refused> {
    let Some((channel, to)) = definition.destination() else { return Ok(None) };
    let link = gateway.channels.get(channel);
    let link = link.ok_or_else(|| {
        Refused::Invalid(format!("delivery.channel: there is no channel {channel:?}: see channels.status"))
    })?;
    if !link.knows(to)? {
        let why = format!("delivery.to: {to} is nobody's conversation that is known on {channel}");
        return Err(Refused::Invalid(why));
    }
    Ok(Some((link, to.to_owned())))
}

/// Begins a turn whose answer goes to this conversation of a channel, if one is given.
fn turn(
    gateway: &Arc<Gateway>,
    key: &str,
    id: &str,
    message: &str,
    wish: Wish,
    hears: Option<(Link, String)>,
) -> Result<Arc<Active>, Fault> {
    let lost = |error: Error| Fault::unavailable(error.to_string());
    let wish = Wish { apart: hears.is_some(), ..wish };
    let reply = hears.map(|(link, chat)| {
        let channel = link.channel.name().to_owned();
        (link, Reply { run: id.to_owned(), channel, chat })
    });
    // Owed before it begins: an answer that nobody waits for is found by the next start.
    if let Some((_, reply)) = &reply {
        gateway.store.owe(reply, gateway.now()).map_err(lost)?;
    }
    let sent = gateway.send(key, id, message, Queue::Followup, wish);
    match (&sent, reply) {
        (Ok(_), Some((link, reply))) => channels::pay(link, reply),
        (Err(_), Some((_, reply))) => gateway.store.paid(&reply.run).map_err(lost)?,
        (_, None) => {}
    }
    sent.map(|(active, _)| active)
}

/// Makes a job.
pub(crate) fn add(gateway: &Gateway, definition: Definition) -> Result<Job, Refused> {
    let (config, now) = (&gateway.config().cron, gateway.now());
    on(config)?;
    definition.check(now, config.limits.shortest_interval_ms).map_err(Refused::Invalid)?;
    if definition.enabled {
        reachable(gateway, &definition)?;
    }
    let most = config.limits.jobs;
    if gateway.store.jobs()?.len() >= most as usize {
        let why = format!("there are {most} jobs already, as many as `cron.limits.jobs` allows");
        return Err(Refused::Unavailable(why));
    }
    let (id, state) = (uuid(), State::default());
    let mut job = Job { id, created_at: now, updated_at: now, revision: 1, definition, state };
    first(&mut job, now);
    gateway.store.put_job(&job)?;
    tell(gateway, json!({ "jobId": job.id, "action": "added", "job": job.shown() }), &job);
    gateway.timer.poke();
    Ok(job)
}

/// A moment that is just over is due at once; it was in the future when it was said.
fn first(job: &mut Job, now: u64) {
    job.schedule(now);
    if let Schedule::At { at } = &job.definition.schedule
        && job.definition.enabled
    {
        job.state.next_run_at_ms = schedule::moment(at);
    }
}

/// A job's definition as it would be: what is null goes, what is not there stays, of `payload` and `delivery` field by
/// field.
pub(crate) fn patched(job: &Job, patch: &Value) -> Result<Definition, Refused> {
    let mut fields = json!(job.definition);
    for (key, value) in patch.as_object().cloned().unwrap_or_default() {
        let same = fields[&key]["kind"] == value["kind"] || value.get("kind").is_none();
        match (&*key, value) {
            (_, Value::Null) => {
                fields.as_object_mut().map(|fields| fields.remove(&key));
            }
            ("payload" | "delivery", Value::Object(more)) if same && fields[&key].is_object() => {
                let Some(old) = fields[&key].as_object_mut() else { continue };
                old.extend(more);
                old.retain(|_, value| !value.is_null());
            }
            (_, value) => fields[&key] = value,
        }
    }
    serde_json::from_value(fields).map_err(|error| Refused::Invalid(error.to_string()))
}

/// Changes a job to what [`patched`] says.
pub(crate) fn update(gateway: &Gateway, job: Job, patch: &Value) -> Result<Job, Refused> {
    let (config, now) = (&gateway.config().cron, gateway.now());
    let definition = patched(&job, patch)?;
    let rescheduled =
        definition.schedule != job.definition.schedule || definition.enabled && !job.definition.enabled;
    // A time that is over is no reason to refuse another name.
    let (looked_at, shortest) =
        (if rescheduled { now } else { job.created_at }, &config.limits.shortest_interval_ms);
    definition.check(looked_at, *shortest).map_err(Refused::Invalid)?;
    if definition.enabled {
        // A channel that is gone is no reason to refuse another name.
        if rescheduled || definition.delivery != job.definition.delivery {
            reachable(gateway, &definition)?;
        }
        on(config)?;
    }
    let mut job = Job { updated_at: now, revision: job.revision + 1, definition, ..job };
    if rescheduled || !job.definition.enabled {
        first(&mut job, now);
    }
    gateway.store.put_job(&job)?;
    tell(gateway, json!({ "jobId": job.id, "action": "updated", "job": job.shown() }), &job);
    gateway.timer.poke();
    Ok(job)
}

/// Forgets a job. A run of it that is under way goes on to its end.
pub(crate) fn remove(gateway: &Gateway, job: &Job) -> Result<(), Refused> {
    gateway.store.remove_job(&job.id)?;
    tell(gateway, json!({ "jobId": job.id, "action": "removed", "job": job.shown() }), job);
    gateway.timer.poke();
    Ok(())
}

/// Runs a job now, whatever its schedule says; gives the run's id, or why it does not run.
pub(crate) fn force(gateway: &Gateway, job: Job) -> Result<Result<String, &'static str>, Refused> {
    let (config, now) = (&gateway.config().cron, gateway.now());
    on(config)?;
    if gateway.store.open_runs()?.iter().any(|run| run.job == job.id) {
        return Ok(Err("already-running"));
    }
    let most = u64::from(config.limits.runs_per_hour);
    if gateway.store.runs_since(now.saturating_sub(HOUR))?.0 >= most {
        let why = format!("{most} runs began in the last hour, as many as `cron.limits.runsPerHour` allows");
        return Err(Refused::Unavailable(why));
    }
    let run =
        CronRun { id: format!("manual:{}:{now}:{}", job.id, uuid()), job: job.id.clone(), started_at: now };
    gateway.store.claim(&job, &run)?;
    gateway.timer.poke();
    Ok(Ok(run.id))
}

/// Lets a session hear something: at once, in a turn of its own, or at its next one. Gives false if it has so much to
/// hear already.
pub(crate) fn wake(gateway: &Arc<Gateway>, key: &str, text: &str, mode: WakeMode) -> Result<bool, Fault> {
    let lost = |error: Error| Fault::unavailable(error.to_string());
    if mode == WakeMode::NextHeartbeat {
        // A session must be there for a turn of it to be.
        let session = gateway.session(key).map_err(lost)?;
        gateway.store.put_session(&session).map_err(lost)?;
        return gateway.store.put_event(key, text, gateway.now(), EVENTS).map_err(lost);
    }
    let wish = Wish { plain: true, ..Wish::default() };
    let text = format!("System event: {text}");
    gateway.send(key, &format!("wake:{}", uuid()), &text, Queue::Followup, wish)?;
    Ok(true)
}

/// Puts what its session waits to hear behind the message that began a run.
pub(crate) fn hear(gateway: &Gateway, active: &Active) -> Result<(), Error> {
    let events = gateway.store.events(&active.session_key)?;
    if events.is_empty() {
        return Ok(());
    }
    let mut text = "System events since the last turn:".to_owned();
    for (at, event) in events {
        let _ = write!(text, "\n- [{}] {event}", schedule::iso(at));
    }
    let session = gateway.session(&active.session_key)?;
    let message = Message::text(&session, Some(&active.id), Role::User, &text, gateway.now());
    let seq = gateway.store.heard(&session.key, &message)?;
    gateway.tell_message(&session.key, &Message { seq, ..message });
    Ok(())
}

/// Tells clients what became of a job.
fn tell(gateway: &Gateway, mut payload: Value, job: &Job) {
    if let Some(next) = job.state.next_run_at_ms {
        payload["nextRunAtMs"] = next.into();
    }
    gateway.tell("cron", &payload, |client| client.may(Scope::Read));
}
