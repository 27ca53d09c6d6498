//! `cron`: are there jobs, and how many.

use super::{heartbeat::duration, is_default};
use serde::{Deserialize, Serialize};

/// The shortest retention, in milliseconds.
const SHORTEST: u64 = 60_000;

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
    /// How long past runs of jobs that have a turn of their own can be read.
    #[serde(skip_serializing_if = "is_default")]
    pub session_retention: Retention,
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

/// How long something is kept. Source of the default: upstream's own.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Retention {
    /// `false`: for ever.
    Ever(bool),
    /// `24h`, or `7d`.
    For(String),
}

impl Default for Retention {
    fn default() -> Self {
        Self::For("24h".to_owned())
    }
}

impl Retention {
    /// In milliseconds; none: for ever.
    pub(crate) fn ms(&self) -> Option<u64> {
        match self {
            Self::Ever(_) => None,
            Self::For(text) => duration(text),
        }
    }

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Ever(false) => Ok(()),
            Self::For(text) if duration(text).is_some_and(|kept| kept >= SHORTEST) => Ok(()),
            Self::Ever(true) | Self::For(_) => {
                Err("cron.sessionRetention: false, or a duration of a minute or more (24h, 7d)".to_owned())
            }
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { jobs: 50, shortest_interval_ms: 60_000, runs_per_hour: 60, concurrent_runs: 2 }
    }
}

impl Cron {
    pub(super) fn check(&self) -> Result<(), String> {
        self.session_retention.check()?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retention_is_a_duration_or_false_and_anything_else_is_refused_by_its_key() {
        let read = |text: &str| serde_json::from_str::<Cron>(&format!(r#"{{"sessionRetention":{text}}}"#));
        let kept = |text: &str| read(text).map(|cron| cron.check().map(|()| cron.session_retention.ms()));
        for (text, ms) in [("\"24h\"", Some(86_400_000)), ("\"7d\"", Some(604_800_000)), ("false", None)] {
            assert_eq!(kept(text).ok(), Some(Ok(ms)), "{text}");
        }
        for bad in ["true", "\"soon\"", "\"5s\"", "\"\""] {
            assert!(matches!(kept(bad), Ok(Err(why)) if why.starts_with("cron.sessionRetention")), "{bad}");
        }
        assert!(read("5").is_err());
        assert_eq!(Cron::default().session_retention.ms(), Some(86_400_000));
    }
}
