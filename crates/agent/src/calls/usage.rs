//! `usage.*`, `sessions.usage` and `logs.tail`: what was used, and what the gateway said of itself.
//!
//! Tokens are counted here and money is not: prices are the warden's. Every sum says so by the number of requests whose
//! cost is missing in it.

use super::{
    chat::{full_key, is_key, is_ours},
    lost,
};
use crate::{
    calendar::{self, DAY},
    config::secret,
    gateway::Gateway,
    log,
    protocol::{
        Fault, params,
        usage::{Tail, Usage},
    },
    store::Used,
};
use serde_json::{Value, json, value::RawValue};
use std::collections::BTreeMap;

/// Days, if nobody says which.
const USUAL: u64 = 30;
/// Days at most.
const MOST: u64 = 36_600;
/// Sessions, if nobody says how many.
const SESSIONS: usize = 50;

/// A sum.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    requests: u64,
    input: u64,
    output: u64,
}

impl Sum {
    fn of<'a>(used: impl IntoIterator<Item = &'a Used>) -> Self {
        let mut sum = Self::default();
        for used in used {
            sum.add(used);
        }
        sum
    }

    fn add(&mut self, used: &Used) {
        self.requests = self.requests.saturating_add(used.requests);
        self.input = self.input.saturating_add(used.input);
        self.output = self.output.saturating_add(used.output);
    }

    fn tokens(self) -> u64 {
        self.input.saturating_add(self.output)
    }

    /// As clients read it.
    fn shown(self) -> Value {
        json!({
            "input": self.input, "output": self.output, "cacheRead": 0, "cacheWrite": 0, "totalTokens": self.tokens(),
            "totalCost": 0, "inputCost": 0, "outputCost": 0, "cacheReadCost": 0, "cacheWriteCost": 0,
            "missingCostEntries": self.requests,
        })
    }
}

/// Sums by whatever they are about.
fn sums<'a, K: Ord>(used: impl Iterator<Item = &'a Used>, of: impl Fn(&Used) -> K) -> BTreeMap<K, Sum> {
    let mut out: BTreeMap<K, Sum> = BTreeMap::new();
    for used in used {
        out.entry(of(used)).or_default().add(used);
    }
    out
}

/// Which days are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Days {
    /// In milliseconds; a day begins when it does at this distance from UTC.
    from: u64,
    to: u64,
    offset: i64,
}

impl Days {
    fn of(asked: &Usage, now: u64) -> Result<Self, Fault> {
        let offset = offset(asked)?;
        let at = |local: u64| local.saturating_add_signed(-offset);
        match (&asked.start_date, &asked.end_date) {
            (Some(start), Some(end)) => {
                let day = |field: &str, text: &str| {
                    calendar::start_of(text).ok_or_else(|| {
                        Fault::invalid(format!("invalid {field}: expected a valid YYYY-MM-DD calendar date"))
                    })
                };
                let (start, end) = (day("startDate", start)?, day("endDate", end)?);
                if start > end {
                    return Err(Fault::invalid("startDate must not be after endDate"));
                }
                Ok(Self { from: at(start), to: at(end + DAY), offset })
            }
            (None, None) => {
                let tomorrow = (now.saturating_add_signed(offset) / DAY + 1) * DAY;
                let days = match asked.range.as_deref() {
                    Some("all") => return Ok(Self { from: 0, to: at(tomorrow), offset }),
                    Some("7d") => 7,
                    Some("90d") => 90,
                    Some("1y") => 365,
                    Some("30d") => 30,
                    Some(other) => return Err(Fault::invalid(format!("invalid range: {other}"))),
                    None => asked.days.map_or(USUAL, u64::from).clamp(1, MOST),
                };
                Ok(Self { from: at(tomorrow.saturating_sub(days * DAY)), to: at(tomorrow), offset })
            }
            _ => Err(Fault::invalid("startDate and endDate must be provided together")),
        }
    }

    /// The day of a moment.
    fn day(self, at: u64) -> String {
        calendar::date(at.saturating_add_signed(self.offset))
    }
}

/// How far from UTC, in milliseconds.
fn offset(asked: &Usage) -> Result<i64, Fault> {
    if asked.mode.as_deref() != Some("specific") {
        return Ok(0);
    }
    if let Some(text) = asked.utc_offset.as_deref().filter(|text| !text.trim().is_empty()) {
        return minutes(text.trim())
            .map(|minutes| minutes * 60_000)
            .ok_or_else(|| Fault::invalid("invalid utcOffset: expected UTC-12:00 through UTC+14:00"));
    }
    match asked.time_zone.as_deref() {
        None | Some("UTC" | "Etc/UTC" | "GMT") => Ok(0),
        // A cell knows no zones.
        Some(_) => Err(Fault::invalid("time zones are not known here: give utcOffset, as in UTC+02:00")),
    }
}

/// `UTC+5:30`
fn minutes(text: &str) -> Option<i64> {
    let rest = text.strip_prefix("UTC")?;
    let sign = if rest.starts_with('-') { -1 } else { 1 };
    let (hours, minutes) = rest.strip_prefix(['+', '-'])?.split_once(':').unwrap_or((&rest[1..], "0"));
    let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
    let all = sign * (hours * 60 + minutes);
    ((0..60).contains(&minutes) && hours >= 0 && (-720..=840).contains(&all) && all % 15 == 0).then_some(all)
}

/// No provider tells the gateway of its limits.
pub(super) fn status(gateway: &Gateway) -> Value {
    json!({ "updatedAt": gateway.now(), "providers": [] })
}

pub(super) fn cost(gateway: &Gateway, params: Option<&RawValue>) -> Result<Value, Fault> {
    let asked: Usage = params::read("usage.cost", params)?;
    is_ours(asked.agent_id.as_deref())?;
    let days = Days::of(&asked, gateway.now())?;
    let used = gateway.store.usage(days.from, days.to).map_err(lost)?;
    let total = Sum::of(&used);
    let daily: Vec<Value> = sums(used.iter(), |used| days.day(used.at))
        .into_iter()
        .map(|(day, sum)| {
            let mut shown = sum.shown();
            shown["date"] = day.into();
            shown
        })
        .collect();
    Ok(json!({
        "updatedAt": gateway.now(), "days": (days.to - days.from) / DAY, "daily": daily, "totals": total.shown(),
    }))
}

pub(super) fn sessions(gateway: &Gateway, params: Option<&RawValue>) -> Result<Value, Fault> {
    let asked: Usage = params::read("sessions.usage", params)?;
    is_ours(asked.agent_id.as_deref())?;
    if asked.include_context_weight == Some(true) {
        return Err(Fault::invalid(
            "what a context consists of is not measured here: leave includeContextWeight out",
        ));
    }
    let days = Days::of(&asked, gateway.now())?;
    let key = asked.key.map(|key| is_key(&key).map(|()| full_key(key))).transpose()?;
    let mut used = gateway.store.usage(days.from, days.to).map_err(lost)?;
    used.retain(|used| key.as_ref().is_none_or(|key| used.session_key == *key));
    let known = gateway.store.sessions().map_err(lost)?;
    let mut rows = Vec::new();
    for session in known.iter().filter(|it| key.as_ref().is_none_or(|key| it.key == *key)) {
        let own: Vec<&Used> = used.iter().filter(|used| used.session_key == session.key).collect();
        if own.is_empty() && key.is_none() {
            continue;
        }
        let mut row = json!({
            "key": session.key, "sessionId": session.id, "scope": "instance", "updatedAt": session.updated_at,
            "agentId": crate::AGENT, "modelProvider": "cofferdam", "model": gateway.model_of(session),
            "usage": usage_of(&own, days), "hasContextWeight": false,
        });
        if let Some(label) = &session.label {
            row["label"] = label.as_str().into();
        }
        rows.push(row);
    }
    rows.truncate(asked.limit.map_or(SESSIONS, |limit| limit as usize));
    let total = Sum::of(&used);
    let counted = sums(used.iter(), |used| used.session_key.clone()).len();
    Ok(json!({
        "updatedAt": gateway.now(), "startDate": days.day(days.from), "endDate": days.day(days.to - 1),
        "sessions": rows, "totals": total.shown(), "aggregates": aggregates(&used, days, total, counted),
        "creatorOptions": [],
    }))
}

/// What a session used; null if nothing.
fn usage_of(used: &[&Used], days: Days) -> Value {
    let (Some(first), Some(last)) = (used.first(), used.last()) else { return Value::Null };
    let mut shown = Sum::of(used.iter().copied()).shown();
    let by_day = sums(used.iter().copied(), |used| days.day(used.at));
    shown["firstActivity"] = first.at.into();
    shown["lastActivity"] = last.at.into();
    shown["activityDates"] = by_day.keys().cloned().collect();
    shown["dailyBreakdown"] = by_day.into_iter().map(|(day, sum)| daily(&day, sum)).collect();
    shown["modelUsage"] = by_model(&sums(used.iter().copied(), |used| used.model.clone()));
    shown
}

fn daily(day: &str, sum: Sum) -> Value {
    let mut shown = sum.shown();
    shown["date"] = day.into();
    shown["tokens"] = sum.tokens().into();
    shown["cost"] = 0.into();
    shown
}

fn by_model(sums: &BTreeMap<String, Sum>) -> Value {
    let one = |(model, sum): (&String, &Sum)| json!({ "provider": "cofferdam", "model": model, "count": sum.requests, "totals": sum.shown() });
    sums.iter().map(one).collect()
}

fn aggregates(used: &[Used], days: Days, total: Sum, sessions: usize) -> Value {
    let by_day = sums(used.iter(), |used| days.day(used.at));
    let models = sums(used.iter(), |used| used.model.clone());
    let daily_models = sums(used.iter(), |used| (days.day(used.at), used.model.clone()));
    let one = |day: &str, sum: &Sum| json!({ "date": day, "tokens": sum.tokens(), "cost": 0, "messages": 0, "toolCalls": 0, "errors": 0 });
    json!({
        "sessionCount": sessions,
        // What is said in a session is in its transcript, and not counted by days.
        "messages": { "total": 0, "user": 0, "assistant": 0, "toolCalls": 0, "toolResults": 0, "errors": 0 },
        "tools": { "totalCalls": 0, "uniqueTools": 0, "tools": [] },
        "byModel": by_model(&models),
        "byProvider": [{ "provider": "cofferdam", "count": total.requests, "totals": total.shown() }],
        "byAgent": [{ "agentId": crate::AGENT, "totals": total.shown() }],
        "byChannel": [],
        "byCreator": [],
        "dailyLatency": [],
        "modelDaily": daily_models.iter().map(|((day, model), sum)| json!({
            "date": day, "provider": "cofferdam", "model": model, "tokens": sum.tokens(), "cost": 0,
            "count": sum.requests,
        })).collect::<Vec<_>>(),
        "daily": by_day.iter().map(|(day, sum)| one(day, sum)).collect::<Vec<_>>(),
        "costDaily": by_day.iter().map(|(day, sum)| daily(day, *sum)).collect::<Vec<_>>(),
    })
}

pub(super) fn logs(gateway: &Gateway, params: Option<&RawValue>) -> Result<Value, Fault> {
    let asked: Tail = params::read("logs.tail", params)?;
    let (limit, bytes) = (asked.limit.unwrap_or(500), asked.max_bytes.unwrap_or(250_000));
    let tail = log::tail(asked.cursor, limit.clamp(1, 5000) as usize, bytes.clamp(1, 1_000_000) as usize);
    let secrets = secret::all(&gateway.configured().loaded().written());
    let clean = |line: String| secrets.iter().fold(line, |line, secret| line.replace(secret, secret::MARK));
    Ok(json!({
        // There is none: the lines are in memory.
        "file": "memory", "cursor": tail.end, "size": tail.end, "truncated": tail.truncated, "reset": tail.reset,
        "lines": tail.lines.into_iter().map(clean).collect::<Vec<_>>(),
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_day_begins_where_the_asker_is() {
        // 2026-11-22T06:52:25Z
        let now = 1_795_330_345_458;
        let days = |asked: Value| Days::of(&serde_json::from_value(asked).unwrap(), now);
        let text = |days: Days| (calendar::written(days.from), calendar::written(days.to), days.day(now));
        let utc = days(json!({ "range": "7d" })).unwrap();
        assert_eq!(
            text(utc),
            ("2026-11-16T00:00:00.000Z".into(), "2026-11-23T00:00:00.000Z".into(), "2026-11-22".into())
        );
        let west = days(json!({ "days": 1, "mode": "specific", "utcOffset": "UTC-9:45" })).unwrap();
        assert_eq!(
            text(west),
            ("2026-11-21T09:45:00.000Z".into(), "2026-11-22T09:45:00.000Z".into(), "2026-11-21".into())
        );
        let west = json!({ "startDate": "2026-11-01", "endDate": "2026-11-02", "mode": "specific", "utcOffset": "UTC-5" });
        let west = days(west).unwrap();
        assert_eq!(calendar::written(west.from), "2026-11-01T05:00:00.000Z");
        assert_eq!((west.to - west.from) / DAY, 2);
        for (bad, why) in [
            (json!({ "startDate": "2026-11-01" }), "together"),
            (json!({ "startDate": "2026-02-30", "endDate": "2026-03-01" }), "invalid startDate"),
            (json!({ "startDate": "2026-03-02", "endDate": "2026-03-01" }), "must not be after"),
            (json!({ "mode": "specific", "utcOffset": "UTC+15" }), "invalid utcOffset"),
            (json!({ "mode": "specific", "timeZone": "Europe/Zurich" }), "give utcOffset"),
            (json!({ "range": "2d" }), "invalid range"),
        ] {
            let error = days(bad.clone()).unwrap_err().message;
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
