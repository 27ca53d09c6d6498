//! Heartbeats: turns of the main session that nobody asks for, and of which nobody hears if there is nothing to say.

use super::keeper::{Ended, Waiting};
use crate::{
    MAIN_SESSION,
    channels::Link,
    config::{Config, Heartbeat},
    gateway::Gateway,
    store::{Error, RunState},
    turn::{Wish, context::HEARTBEAT as FILE},
};
use cofferdam_base::Scope;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::{
    io::Read as _,
    sync::{Arc, PoisonError, atomic::Ordering},
};

/// How the ids of their runs begin.
pub(crate) const RUN: &str = "heartbeat:";
/// When the last one was.
const MARK: &str = "heartbeat";
/// How much of it is shown, in bytes.
const SHOWN: u64 = 16 * 1024;
/// An answer that says that there is nothing to say.
const OK: &str = "HEARTBEAT_OK";
/// And upstream's other one.
const SILENT: &str = "NO_REPLY";
/// How much may stand beside it. Source: upstream's own default.
const BESIDE: usize = 300;
/// The longest that one takes, in seconds. Source: upstream's own default.
const PATIENCE: u64 = 600;
const PROMPT: &str = "This is a heartbeat: nobody wrote. Do what HEARTBEAT.md says, if it is there; do not take up tasks \
     of old conversations again. If nothing needs attention, answer HEARTBEAT_OK.";

/// How one ended.
pub(super) struct Outcome {
    run: String,
    /// The channel that hears of it.
    channel: Option<String>,
    state: RunState,
    said: String,
    took: u64,
}

fn configured(config: &Config) -> Option<(&Heartbeat, u64)> {
    let heartbeat = config.agents.defaults.heartbeat.as_ref()?;
    Some((heartbeat, heartbeat.every_ms()?))
}

/// As `health` shows it.
pub(crate) fn summary(config: &Config) -> Value {
    let (heartbeat, every) = configured(config).unzip();
    let text = |pick: fn(&Heartbeat) -> &Option<String>| heartbeat.and_then(|it| pick(it).as_deref());
    json!({
        "enabled": every.is_some(), "every": text(|it| &it.every).unwrap_or("0m"), "everyMs": every,
        "prompt": text(|it| &it.prompt).unwrap_or(PROMPT), "target": text(|it| &it.target).unwrap_or("last"),
        "ackMaxChars": BESIDE,
    })
}

/// Begins one if it is due; gives the time of the next.
pub(super) fn tick(gateway: &Arc<Gateway>, waiting: &Waiting) -> Result<Option<u64>, Error> {
    let (config, now) = (gateway.config(), gateway.now());
    let Some((heartbeat, every)) = configured(&config) else { return Ok(None) };
    let last = gateway.store.mark(MARK)?.unwrap_or(gateway.started_at);
    let due = last.saturating_add(every);
    if due > now {
        return Ok(Some(due));
    }
    // On disk before it begins: it is not made up for.
    gateway.store.set_mark(MARK, now)?;
    match beat(gateway, heartbeat, now)? {
        Ok(begun) => waiting.push(begun),
        Err(reason) => tell(gateway, json!({ "status": "skipped", "reason": reason })),
    }
    Ok(Some(now.saturating_add(every)))
}

type Begun = futures_util::future::BoxFuture<'static, Ended>;

fn beat(
    gateway: &Arc<Gateway>,
    heartbeat: &Heartbeat,
    now: u64,
) -> Result<Result<Begun, &'static str>, Error> {
    if gateway.timer.silent.load(Ordering::Relaxed) {
        return Ok(Err("disabled"));
    }
    if !awake(heartbeat, now) {
        return Ok(Err("quiet-hours"));
    }
    if gateway.busy() {
        return Ok(Err("requests-in-flight"));
    }
    let file = content(gateway);
    if file.as_deref().is_some_and(is_empty) && gateway.store.events(MAIN_SESSION)?.is_empty() {
        return Ok(Err("empty-heartbeat-file"));
    }
    let hears = match heartbeat.destination() {
        None => None,
        // Nobody would hear what it costs to find out.
        Some((channel, to)) => match hears(gateway, channel, to)? {
            None => return Ok(Err("no-target")),
            known => known,
        },
    };
    let channel = hears.as_ref().map(|(link, _)| link.channel.name().to_owned());
    let prompt = heartbeat.prompt.as_deref().unwrap_or(PROMPT);
    let text =
        file.map_or_else(|| prompt.to_owned(), |file| format!("{prompt}\n\n## {FILE}\n{}", file.trim()));
    let patience_ms = Some(heartbeat.timeout_seconds.unwrap_or(PATIENCE).saturating_mul(1000));
    let wish = Wish { plain: true, heartbeat: true, patience_ms, ..Wish::default() };
    let id = format!("{RUN}{now}");
    let active = match super::turn(gateway, MAIN_SESSION, &id, &text, wish, hears) {
        Ok(active) => active,
        Err(fault) => {
            tracing::warn!(why = fault.message, "a heartbeat does not begin");
            return Ok(Err("requests-in-flight"));
        }
    };
    Ok(Ok(Box::pin(async move {
        let run = active.ended().await;
        let took = run.ended_at.unwrap_or(run.started_at).saturating_sub(run.started_at);
        let said = run.said.or(run.error).unwrap_or_default();
        Ended::Heartbeat(Outcome { run: run.id, channel, state: run.state, said, took })
    })))
}

/// A conversation that is known on a channel that runs.
fn hears(gateway: &Gateway, channel: &str, to: &str) -> Result<Option<(Link, String)>, Error> {
    let Some(link) = gateway.channels.get(channel) else { return Ok(None) };
    Ok(link.knows(to)?.then(|| (link, to.to_owned())))
}

/// Is this a time at which there are any?
fn awake(heartbeat: &Heartbeat, now: u64) -> bool {
    let Some(hours) = &heartbeat.active_hours else { return true };
    let moment = i64::try_from(now).ok().and_then(|now| Timestamp::from_millisecond(now).ok());
    let (Some(moment), Ok(zone)) = (moment, super::schedule::zone(hours.timezone.as_deref())) else {
        return false;
    };
    let local = moment.to_zoned(zone);
    hours.hold(u32::from(local.hour().unsigned_abs()) * 60 + u32::from(local.minute().unsigned_abs()))
}

fn content(gateway: &Gateway) -> Option<String> {
    let mut bytes = Vec::new();
    let (file, _) = crate::tools::open(&gateway.workspace.join(FILE)).ok()?;
    file.take(SHOWN).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Does it say nothing to do? Headings, comments, fences and empty items are nothing.
fn is_empty(content: &str) -> bool {
    let mut comment = false;
    content.lines().all(|line| {
        let mut line = line.trim();
        while comment || line.starts_with("<!--") {
            comment = true;
            let Some(end) = line.find("-->") else { return true };
            (comment, line) = (false, line[end + 3..].trim());
        }
        let item = line.strip_prefix(['-', '*', '+']).map(str::trim);
        let empty = item.is_some_and(|item| matches!(item, "" | "[ ]" | "[x]" | "[X]" | "[]"));
        let heading = line.trim_start_matches('#');
        let heading =
            heading.len() < line.len() && (heading.is_empty() || heading.starts_with(char::is_whitespace));
        let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        let fence = line.strip_prefix("```").is_some_and(|rest| rest.bytes().all(word));
        line.is_empty() || empty || heading || fence
    })
}

/// Does an answer say that there is nothing to say?
pub(crate) fn is_ack(said: &str) -> bool {
    let said = said.trim().trim_matches(['*', '`', '~', '_']).trim();
    if said.is_empty() || said == SILENT {
        return true;
    }
    let end = said.trim_end_matches(|character: char| !character.is_alphanumeric() && character != '_');
    let near = said.len() - end.len() <= 4;
    let rest = said.strip_prefix(OK).or_else(|| end.strip_suffix(OK).filter(|_| near));
    rest.is_some_and(|rest| rest.trim().chars().count() <= BESIDE)
}

/// Is a chat event of a heartbeat shown? Only an answer that says something.
pub(crate) fn shows(config: &Config, fields: &Value) -> bool {
    let heartbeat = config.agents.defaults.heartbeat.as_ref();
    let told = heartbeat.is_none_or(|it| it.target.as_deref() != Some("none"));
    let said = fields["message"]["content"][0]["text"].as_str().unwrap_or_default();
    told && fields["state"] == "final" && !is_ack(said)
}

/// What follows from the end of one.
pub(super) fn end(gateway: &Gateway, outcome: Outcome) {
    let Outcome { run, channel, state, said, took } = outcome;
    let mut event = json!({ "durationMs": took, "sessionKey": MAIN_SESSION });
    if state != RunState::Done {
        (event["status"], event["reason"], event["indicatorType"]) =
            ("failed".into(), said.into(), "error".into());
    } else if is_ack(&said) {
        // It costs tokens in each turn from here on, and says nothing.
        if let Err(error) = gateway.store.forget_run(&run) {
            tracing::error!(%error, run, "a heartbeat that said nothing is not forgotten");
        }
        gateway.sessions_changed(MAIN_SESSION, "heartbeat");
        let status = if said.trim().is_empty() { "ok-empty" } else { "ok-token" };
        (event["status"], event["silent"], event["indicatorType"]) =
            (status.into(), true.into(), "ok".into());
    } else {
        if channel.is_some() {
            // The channel has it, and may have to try for a while.
            event["deliveryStatus"] = "unknown".into();
        }
        let channel = channel.unwrap_or_else(|| "webchat".to_owned());
        let preview: String = said.chars().take(200).collect();
        (event["status"], event["preview"], event["channel"]) =
            ("sent".into(), preview.into(), channel.into());
        event["indicatorType"] = "alert".into();
    }
    tell(gateway, event);
}

fn tell(gateway: &Gateway, mut event: Value) {
    event["ts"] = gateway.now().into();
    *gateway.timer.last.lock().unwrap_or_else(PoisonError::into_inner) = event.clone();
    gateway.tell("heartbeat", &event, |client| client.may(Scope::Read));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_headings_and_empty_items_says_nothing() {
        for empty in [
            "",
            "# HEARTBEAT.md\n\n<!-- keep\nthis --> \n- \n* [ ]\n```md\n```\n##\n",
            "<!-- a --> <!-- b -->",
            "- [x]",
        ] {
            assert!(is_empty(empty), "{empty:?}");
        }
        for full in ["- look at the mail", "#hash", "<!-- a --> b", "```\ncode\n```", "look"] {
            assert!(!is_empty(full), "{full:?}");
        }
    }

    #[test]
    fn an_answer_that_only_says_ok_is_known() {
        let long = "x".repeat(301);
        for ok in
            ["HEARTBEAT_OK", " **HEARTBEAT_OK** ", "HEARTBEAT_OK.", "All well. HEARTBEAT_OK!", "NO_REPLY", ""]
        {
            assert!(is_ack(ok), "{ok:?}");
        }
        for said in ["The mail is here.", &format!("HEARTBEAT_OK {long}"), "say HEARTBEAT_OK to me if"] {
            assert!(!is_ack(said), "{said:?}");
        }
    }
}
