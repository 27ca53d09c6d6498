//! `cron`: are there jobs, and how many.

use super::is_default;
use serde::{Deserialize, Serialize};

/// The section.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Cron {
    /// Off unless somebody says so.
    #[serde(skip_serializing_if = "is_default")]
    pub enabled: bool,
    /// What comes again and was missed while the gateway did not run is left out, and does not run once.
    #[serde(skip_serializing_if = "is_default")]
    pub skip_missed_jobs: bool,
    /// Not upstream's: what jobs may cost.
    #[serde(skip_serializing_if = "is_default")]
    pub limits: Limits,
}

/// How much jobs may do.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// So many of them.
    pub jobs: u32,
    /// The shortest time between two runs of one, in milliseconds.
    pub shortest_interval_ms: u64,
    /// Runs of all jobs in an hour.
    pub runs_per_hour: u32,
    /// Runs at once.
    pub concurrent_runs: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { jobs: 50, shortest_interval_ms: 60_000, runs_per_hour: 60, concurrent_runs: 2 }
    }
}

impl Cron {
    pub(super) fn check(&self) -> Result<(), String> {
        let Limits { jobs, shortest_interval_ms, runs_per_hour, concurrent_runs } = self.limits;
        let within = |key: &str, value: u64, least: u64, most: u64| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            Err(format!("cron.limits.{key}: {value} is not from {least} to {most}"))
        };
        within("jobs", jobs.into(), 1, 1000)?;
        within("shortestIntervalMs", shortest_interval_ms, 1000, 86_400_000)?;
        within("runsPerHour", runs_per_hour.into(), 1, 400)?;
        within("concurrentRuns", concurrent_runs.into(), 1, 8)
    }
}
