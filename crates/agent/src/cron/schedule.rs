//! When a job runs: at a time, every so long, or by a cron expression in a time zone.

use croner::Cron;
use jiff::{Timestamp, civil, tz::TimeZone};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// The longest expression.
const LONGEST: usize = 256;
/// How many of its times are looked at for how close they are.
const LOOKED_AT: usize = 8;
/// How far in the future one time may be. Source: upstream's own cap.
const FARTHEST: u64 = 10 * 366 * 24 * 3_600_000;
/// How far in the past: whoever says "now" took a moment to say it.
const LATEST: u64 = 60_000;

/// A schedule, in upstream's words.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub(crate) enum Schedule {
    /// Once.
    At { at: String },
    /// Again and again, counted from the anchor.
    Every {
        every_ms: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        anchor_ms: Option<u64>,
    },
    /// By an expression. Without a time zone: UTC.
    Cron {
        expr: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tz: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stagger_ms: Option<u64>,
    },
}

impl Schedule {
    /// Of which kind.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::At { .. } => "at",
            Self::Every { .. } => "every",
            Self::Cron { .. } => "cron",
        }
    }

    /// Can it be followed, and does it leave so long between two times? The error names the key.
    pub(crate) fn check(&self, now: u64, shortest: u64) -> Result<(), String> {
        let often = |key: &str| {
            format!("schedule.{key}: more often than cron.limits.shortestIntervalMs ({shortest}) allows")
        };
        match self {
            Self::At { at } => {
                let time = moment(at)
                    .ok_or_else(|| format!("Invalid schedule.at: expected ISO-8601 timestamp (got {at})"))?;
                if time.saturating_add(LATEST) < now {
                    return Err(format!("schedule.at is in the past: {at}"));
                }
                if time > now.saturating_add(FARTHEST) {
                    return Err(format!("schedule.at is too far in the future: {at}"));
                }
                Ok(())
            }
            Self::Every { every_ms, .. } if *every_ms < shortest => Err(often("everyMs")),
            Self::Every { every_ms, .. } if *every_ms > FARTHEST => {
                Err("schedule.everyMs: more than ten years".to_owned())
            }
            Self::Every { .. } => Ok(()),
            Self::Cron { expr, tz, .. } => {
                let (cron, zone) = (expression(expr)?, zone(tz.as_deref())?);
                let (mut last, mut time) = (None, now);
                for _ in 0..LOOKED_AT {
                    let Some(next) = following(&cron, &zone, time) else { break };
                    if last.is_some_and(|last| next - last < shortest) {
                        return Err(often("expr"));
                    }
                    (last, time) = (Some(next), next);
                }
                last.map(|_| ()).ok_or_else(|| format!("schedule.expr: {expr:?} never comes"))
            }
        }
    }

    /// The first time after this one; none: it never comes. `created` is the anchor of what has none, and `id` says how
    /// far in its window a staggered job runs.
    pub(crate) fn next(&self, after: u64, created: u64, id: &str) -> Option<u64> {
        match self {
            Self::At { at } => moment(at).filter(|time| *time > after),
            Self::Every { every_ms, anchor_ms } => {
                let (anchor, every) = (anchor_ms.unwrap_or(created), (*every_ms).max(1));
                if after < anchor {
                    return Some(anchor);
                }
                ((after - anchor) / every).checked_add(1)?.checked_mul(every)?.checked_add(anchor)
            }
            Self::Cron { expr, tz, stagger_ms } => {
                let (cron, zone) = (expression(expr).ok()?, zone(tz.as_deref()).ok()?);
                let late = stagger_ms.filter(|window| *window > 0).map_or(0, |window| spread(id) % window);
                Some(following(&cron, &zone, after.saturating_sub(late))?.saturating_add(late))
            }
        }
    }
}

fn expression(expr: &str) -> Result<Cron, String> {
    if expr.len() > LONGEST {
        return Err(format!("schedule.expr: longer than {LONGEST} bytes"));
    }
    Cron::from_str(expr).map_err(|error| format!("schedule.expr: {expr:?}: {error}"))
}

/// A time zone by its name in the IANA database.
pub(crate) fn zone(name: Option<&str>) -> Result<TimeZone, String> {
    let Some(name) = name.map(str::trim).filter(|name| !name.is_empty()) else { return Ok(TimeZone::UTC) };
    TimeZone::get(name).map_err(|_| format!("unknown time zone {name:?}"))
}

fn following(cron: &Cron, zone: &TimeZone, after: u64) -> Option<u64> {
    let after = Timestamp::from_millisecond(i64::try_from(after).ok()?).ok()?.to_zoned(zone.clone());
    let next = cron.find_next_occurrence(&after, false).ok()?;
    u64::try_from(next.timestamp().as_millisecond()).ok()
}

/// ISO 8601, without an offset in UTC, or milliseconds since 1970.
pub(crate) fn moment(text: &str) -> Option<u64> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok();
    }
    let time = text.parse::<Timestamp>().ok().or_else(|| {
        let local = text.parse::<civil::DateTime>().ok()?;
        Some(local.to_zoned(TimeZone::UTC).ok()?.timestamp())
    })?;
    u64::try_from(time.as_millisecond()).ok()
}

/// As clients read a time.
pub(crate) fn iso(at: u64) -> String {
    i64::try_from(at)
        .ok()
        .and_then(|at| Timestamp::from_millisecond(at).ok())
        .map_or_else(|| at.to_string(), |time| time.to_string())
}

/// The same number for the same id (FNV-1a).
fn spread(id: &str) -> u64 {
    id.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(text: &str) -> u64 {
        moment(text).unwrap()
    }

    fn cron(expr: &str, tz: Option<&str>) -> Schedule {
        Schedule::Cron { expr: expr.to_owned(), tz: tz.map(str::to_owned), stagger_ms: None }
    }

    #[test]
    fn times_are_read_with_and_without_an_offset() {
        assert_eq!(at("2026-11-26T12:00:00+01:00"), at("2026-11-26T11:00:00Z"));
        assert_eq!(at("2026-11-26T11:00:00"), at("2026-11-26T11:00:00Z"));
        assert_eq!(at("2026-11-26"), at("2026-11-26T00:00:00Z"));
        assert_eq!(iso(at("1795330345458")), "2026-11-22T06:52:25.458Z");
        for bad in ["", "tomorrow", "-5", "1969-01-01T00:00:00Z"] {
            assert_eq!(moment(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_expression_follows_its_time_zone_through_the_change_of_summer_time() {
        let berlin = cron("30 8 * * *", Some("Europe/Berlin"));
        let (one, two) = (at("2026-10-24T12:00:00Z"), at("2026-10-25T12:00:00Z"));
        assert_eq!(berlin.next(one, 0, ""), Some(at("2026-10-25T07:30:00Z")), "in winter");
        assert_eq!(berlin.next(one - 86_400_000, 0, ""), Some(at("2026-10-24T06:30:00Z")), "in summer");
        assert_eq!(berlin.next(two, 0, ""), Some(at("2026-10-26T07:30:00Z")));
        // An hour that is not there, and one that is there twice.
        let gap = cron("30 2 * * *", Some("Europe/Berlin"));
        assert_eq!(gap.next(at("2026-03-29T00:00:00Z"), 0, ""), Some(at("2026-03-29T01:00:00Z")));
        let fold = gap.next(at("2026-10-24T22:00:00Z"), 0, "").unwrap();
        assert_eq!(gap.next(fold, 0, ""), Some(at("2026-10-26T01:30:00Z")), "once: {}", iso(fold));
        assert_eq!(cron("0 12 * * *", None).next(one, 0, ""), Some(two), "strictly after");
    }

    #[test]
    fn intervals_are_counted_from_their_anchor() {
        let every = Schedule::Every { every_ms: 60_000, anchor_ms: None };
        assert_eq!(every.next(1_000, 1_000, ""), Some(61_000));
        assert_eq!(every.next(60_999, 1_000, ""), Some(61_000));
        assert_eq!(every.next(500_000, 1_000, ""), Some(541_000), "what was missed is not made up for");
        let anchored = Schedule::Every { every_ms: 60_000, anchor_ms: Some(700_000) };
        assert_eq!(anchored.next(500_000, 0, ""), Some(700_000));
        assert_eq!(Schedule::Every { every_ms: u64::MAX, anchor_ms: None }.next(5, 1, ""), None);
    }

    #[test]
    fn a_staggered_job_runs_at_its_own_place_in_the_window() {
        let staggered = |id: &str| {
            let schedule =
                Schedule::Cron { expr: "0 * * * *".to_owned(), tz: None, stagger_ms: Some(300_000) };
            let first = schedule.next(at("2026-11-26T11:30:00Z"), 0, id).unwrap();
            assert_eq!(schedule.next(first, 0, id), Some(first + 3_600_000));
            first - at("2026-11-26T12:00:00Z")
        };
        assert!(staggered("a") < 300_000 && staggered("b") < 300_000 && staggered("a") != staggered("b"));
    }

    #[test]
    fn what_cannot_be_followed_is_refused_by_its_key() {
        let now = at("2026-11-26T12:00:00Z");
        let refused = |schedule: &Schedule| schedule.check(now, 60_000).unwrap_err();
        for (expr, why) in [
            ("*/30 * * * * *", "cron.limits.shortestIntervalMs"),
            ("0,1 0 0 1 1 *", "cron.limits.shortestIntervalMs"),
            ("0 0 30 2 *", "never comes"),
            ("every day", "schedule.expr"),
            ("", "schedule.expr"),
            (&"*".repeat(300), "longer than 256 bytes"),
        ] {
            let error = refused(&cron(expr, None));
            assert!(error.contains(why), "{expr}: {error}");
        }
        assert!(refused(&cron("* * * * *", Some("Mars/Base"))).contains("time zone"));
        assert_eq!(cron("* * * * *", Some("America/New_York")).check(now, 60_000), Ok(()));
        assert!(refused(&Schedule::Every { every_ms: 59_999, anchor_ms: None }).contains("everyMs"));
        for (time, why) in
            [("soon", "ISO-8601"), ("2026-11-26T11:58:00Z", "in the past"), ("2040-01-01", "too far")]
        {
            assert!(refused(&Schedule::At { at: time.to_owned() }).contains(why), "{time}");
        }
        assert_eq!(Schedule::At { at: "2026-11-26T11:59:30Z".to_owned() }.check(now, 60_000), Ok(()));
    }
}
