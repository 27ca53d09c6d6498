//! The one timer: it claims what is due, waits for the ends of what runs, and sleeps until the next time.

use super::{HOUR, heartbeat, run};
use crate::{
    gateway::Gateway,
    store::{CronRun, Error},
};
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use serde_json::Value;
use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::Notify;

/// The longest sleep while something is due at all: clocks are set, and a host may have slept.
const LONGEST: Duration = Duration::from_secs(600);
/// How long it sleeps if the state cannot be read.
const LATER: u64 = 60_000;

/// What wakes the keeper, and what is known of it elsewhere.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    poked: Notify,
    /// When something is due next; 0: never.
    due: AtomicU64,
    /// Heartbeats are off until the next start.
    pub(super) silent: AtomicBool,
    pub(super) last: Mutex<Value>,
}

impl Timer {
    /// Something changed.
    pub(crate) fn poke(&self) {
        self.poked.notify_one();
    }

    /// When something is due next.
    pub(crate) fn due(&self) -> Option<u64> {
        Some(self.due.load(Ordering::Relaxed)).filter(|at| *at > 0)
    }

    /// Turns heartbeats off or on, until the next start.
    pub(crate) fn set_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::Relaxed);
    }

    /// What became of the last heartbeat.
    pub(crate) fn last(&self) -> Value {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What ended: a run of a job, or a heartbeat.
pub(super) enum Ended {
    Cron(CronRun, run::Outcome),
    Heartbeat(heartbeat::Outcome),
}

pub(super) type Waiting = FuturesUnordered<BoxFuture<'static, Ended>>;

/// Keeps the time, for as long as the gateway is.
pub(crate) async fn keep(gateway: Arc<Gateway>) -> std::convert::Infallible {
    let (mut begun, mut waiting) = (HashSet::new(), Waiting::new());
    let mut config = gateway.configured().watch();
    if let Err(error) = missed(&gateway) {
        tracing::error!(%error, "jobs that were missed");
    }
    loop {
        config.borrow_and_update();
        let next = tick(&gateway, &mut begun, &mut waiting).unwrap_or_else(|error| {
            tracing::error!(%error, "what is due cannot be read");
            Some(gateway.now().saturating_add(LATER))
        });
        gateway.timer.due.store(next.unwrap_or(0), Ordering::Relaxed);
        tokio::select! {
            () = gateway.timer.poked.notified() => {}
            // Its sender is the gateway's own.
            _ = config.changed() => {}
            () = until(next, gateway.now()) => {}
            Some(ended) = waiting.next() => match ended {
                Ended::Cron(claimed, outcome) => {
                    if run::end(&gateway, &claimed, &outcome) {
                        begun.remove(&claimed.id);
                    }
                }
                Ended::Heartbeat(outcome) => heartbeat::end(&gateway, outcome),
            },
        }
    }
}

async fn until(next: Option<u64>, now: u64) {
    match next {
        // Never less than a moment: what is due and does not begin is not asked for again and again.
        Some(at) => {
            let left = Duration::from_millis(at.saturating_sub(now)).max(Duration::from_millis(10));
            tokio::time::sleep(left.min(LONGEST)).await;
        }
        None => std::future::pending().await,
    }
}

/// What was due while nobody was there runs once, unless the configuration says that it is left out.
fn missed(gateway: &Gateway) -> Result<(), Error> {
    let (config, now) = (gateway.config(), gateway.now());
    if !config.cron.enabled || !config.cron.skip_missed_jobs {
        return Ok(());
    }
    for mut job in gateway.store.due(now)? {
        if !matches!(job.definition.schedule, super::Schedule::At { .. }) {
            tracing::info!(job = job.id, "its time was missed, and it is left out");
            job.schedule(now);
            gateway.store.put_job(&job)?;
        }
    }
    Ok(())
}

/// Begins what is due; gives the next time at which something is.
fn tick(
    gateway: &Arc<Gateway>,
    begun: &mut HashSet<String>,
    waiting: &mut Waiting,
) -> Result<Option<u64>, Error> {
    let beat = heartbeat::tick(gateway, waiting)?;
    let next = if gateway.config().cron.enabled { claim(gateway)? } else { None };
    // What was claimed before the gateway was killed is begun here, too, or its end is told.
    for claimed in gateway.store.open_runs()? {
        if begun.insert(claimed.id.clone()) {
            run::begin(gateway, claimed, waiting);
        }
    }
    Ok([beat, next].into_iter().flatten().min())
}

/// Claims what is due, as far as quotas go.
fn claim(gateway: &Gateway) -> Result<Option<u64>, Error> {
    let (config, now) = (gateway.config(), gateway.now());
    let limits = &config.cron.limits;
    let open = gateway.store.open_runs()?;
    let (mut running, most) = (open.len(), limits.concurrent_runs as usize);
    let (mut hour, first) = gateway.store.runs_since(now.saturating_sub(HOUR))?;
    for job in gateway.store.due(now)? {
        if open.iter().any(|run| run.job == job.id) {
            // Its time comes again when it is done.
            continue;
        }
        if running >= most {
            return Ok(None);
        }
        if hour >= u64::from(limits.runs_per_hour) {
            tracing::warn!(job = job.id, "it waits: `cron.limits.runsPerHour` is reached");
            return Ok(first.map(|first| first.saturating_add(HOUR)));
        }
        let due = job.state.next_run_at_ms.unwrap_or(now);
        let id = format!("cron:{}:{due}", job.id);
        let claimed = CronRun { id, job: job.id.clone(), started_at: now };
        let mut job = job;
        job.state.running_at_ms = Some(now);
        job.schedule(now);
        if gateway.store.claim(&job, &claimed)? {
            (running, hour) = (running + 1, hour + 1);
        }
    }
    // What is due and runs still is asked for when it has ended.
    Ok(gateway.store.next_due(now)?)
}
