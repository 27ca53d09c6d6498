//! `agents.defaults.heartbeat`: turns that nobody asks for.

use super::{Channels, is_default};
use crate::cron::schedule::zone;
use serde::{Deserialize, Serialize};

/// The shortest time between two, in milliseconds.
const SHORTEST: u64 = 60_000;

/// The section. There are none unless `every` says how often.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Heartbeat {
    /// `30m`, for example; a number alone is minutes.
    #[serde(skip_serializing_if = "is_default")]
    pub every: Option<String>,
    /// When there are any.
    #[serde(skip_serializing_if = "is_default")]
    pub active_hours: Option<ActiveHours>,
    /// What the agent is asked.
    #[serde(skip_serializing_if = "is_default")]
    pub prompt: Option<String>,
    /// `last`: what it has to say is shown; `none`: it is only in the conversation; the name of a channel: it goes there,
    /// too.
    #[serde(skip_serializing_if = "is_default")]
    pub target: Option<String>,
    /// To which conversation of that channel.
    #[serde(skip_serializing_if = "is_default")]
    pub to: Option<String>,
    /// How long one may take.
    #[serde(skip_serializing_if = "is_default")]
    pub timeout_seconds: Option<u64>,
}

/// From when to when.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ActiveHours {
    /// `08:00`, for example.
    #[serde(skip_serializing_if = "is_default")]
    pub start: Option<String>,
    /// `24:00` is the end of the day.
    #[serde(skip_serializing_if = "is_default")]
    pub end: Option<String>,
    /// Of the IANA database; none: UTC.
    #[serde(skip_serializing_if = "is_default")]
    pub timezone: Option<String>,
}

impl Heartbeat {
    /// How often, in milliseconds; none: never.
    pub(crate) fn every_ms(&self) -> Option<u64> {
        self.every.as_deref().and_then(duration).filter(|every| *every > 0)
    }

    /// The conversation of a channel that hears what it has to say: channel, and where there.
    pub(crate) fn destination(&self) -> Option<(&str, &str)> {
        let channel = self.target.as_deref().filter(|target| !matches!(*target, "last" | "none"))?;
        Some((channel, self.to.as_deref()?))
    }

    pub(super) fn check(&self, channels: &Channels) -> Result<(), String> {
        let key = |key: &str, why: &str| Err(format!("agents.defaults.heartbeat.{key}: {why}"));
        if let Some(every) = &self.every {
            match duration(every) {
                None => return key("every", "invalid duration (use ms, s, m, h)"),
                Some(1..SHORTEST) => return key("every", "no shorter than 1m"),
                Some(_) => {}
            }
        }
        match (self.target.as_deref().unwrap_or("last"), self.to.as_deref()) {
            ("last" | "none", None) => {}
            ("last" | "none", Some(_)) => return key("target", "which channel is `to` a conversation of?"),
            (channel, _) if !channels.has(channel) => {
                return key("target", "`last`, `none`, or a channel of `channels` that sends");
            }
            (_, to) if to.is_none_or(|to| to.trim().is_empty() || to == "*") => {
                return key("to", "which conversation of that channel?");
            }
            _ => {}
        }
        if self.prompt.as_ref().is_some_and(|prompt| prompt.len() > 8 * 1024) {
            return key("prompt", "longer than 8192 bytes");
        }
        let Some(hours) = &self.active_hours else { return Ok(()) };
        for (name, time) in [("start", &hours.start), ("end", &hours.end)] {
            if time.as_deref().is_some_and(|time| minutes(time).is_none()) {
                return key(&format!("activeHours.{name}"), "a time of the day, as 08:30");
            }
        }
        zone(hours.timezone.as_deref()).map(drop).or_else(|why| key("activeHours.timezone", &why))
    }
}

impl ActiveHours {
    /// Is this minute of the day within them? A window that ends before it begins goes over midnight, and one that
    /// ends when it begins is none.
    pub(crate) fn hold(&self, minute: u32) -> bool {
        let bound = |time: &Option<String>, other: u32| time.as_deref().and_then(minutes).unwrap_or(other);
        let (start, end) = (bound(&self.start, 0), bound(&self.end, 24 * 60));
        if start <= end { (start..end).contains(&minute) } else { minute >= start || minute < end }
    }
}

/// `08:30` in minutes.
fn minutes(time: &str) -> Option<u32> {
    let (hour, minute) = time.split_once(':')?;
    let two = |text: &str| (text.len() == 2).then(|| text.parse::<u32>().ok()).flatten();
    let (hour, minute) = (two(hour)?, two(minute)?);
    let total = hour * 60 + minute;
    (minute < 60 && total <= 24 * 60).then_some(total)
}

/// `1h30m` in milliseconds; without a unit: minutes.
pub(super) fn duration(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    if let Ok(minutes) = rest.parse::<u64>() {
        return minutes.checked_mul(60_000);
    }
    let mut total = 0_u64;
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|character: char| character.is_ascii_digit()).unwrap_or(rest.len());
        let each = match rest[..unit].trim() {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(each)?)?;
        rest = &rest[unit..];
    }
    (!text.trim().is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn durations_and_hours_are_read_or_refused_by_their_key() {
        for (text, ms) in
            [("30m", 1_800_000), ("5", 300_000), ("1h30m", 5_400_000), ("0m", 0), ("90s", 90_000)]
        {
            assert_eq!(duration(text), Some(ms), "{text}");
        }
        for bad in ["", "m", "1x", "1h-", "-1m", "1.5h", "99999999999999999h"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
        let channels: Channels =
            serde_json::from_str(r#"{"webhooks":{"crm":{"replyUrl":"https://a"},"in":{}}}"#).unwrap();
        let check = |json: &str| serde_json::from_str::<Heartbeat>(json).unwrap().check(&channels);
        assert_eq!(check(r#"{"target":"webhook-crm","to":"7"}"#), Ok(()));
        assert_eq!(check(r#"{"every":"30m","activeHours":{"start":"08:00","end":"24:00"}}"#), Ok(()));
        for (json, why) in [
            (r#"{"every":"often"}"#, "heartbeat.every"),
            (r#"{"every":"5s"}"#, "heartbeat.every"),
            (r#"{"target":"telegram","to":"7"}"#, "heartbeat.target"),
            (r#"{"target":"webhook-in","to":"7"}"#, "heartbeat.target"),
            (r#"{"to":"7"}"#, "heartbeat.target"),
            (r#"{"target":"webhook-crm"}"#, "heartbeat.to"),
            (r#"{"target":"webhook-crm","to":"*"}"#, "heartbeat.to"),
            (r#"{"activeHours":{"start":"8:00"}}"#, "activeHours.start"),
            (r#"{"activeHours":{"end":"24:01"}}"#, "activeHours.end"),
            (r#"{"activeHours":{"timezone":"Mars"}}"#, "activeHours.timezone"),
        ] {
            assert!(check(json).unwrap_err().contains(why), "{json}");
        }
    }

    #[test]
    fn active_hours_may_go_over_midnight() {
        let hours = |start: &str, end: &str| ActiveHours {
            start: Some(start.to_owned()),
            end: Some(end.to_owned()),
            timezone: None,
        };
        let day = hours("08:00", "22:00");
        assert!(day.hold(8 * 60) && day.hold(22 * 60 - 1) && !day.hold(22 * 60) && !day.hold(0));
        let night = hours("22:00", "06:00");
        assert!(night.hold(23 * 60) && night.hold(0) && !night.hold(6 * 60) && !night.hold(12 * 60));
        assert!(!hours("09:00", "09:00").hold(9 * 60), "none at all");
        assert!(ActiveHours::default().hold(0));
    }
}
