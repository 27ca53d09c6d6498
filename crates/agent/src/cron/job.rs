//! What a job is, in upstream's words. What is not served of them is refused by its name.

use super::schedule::Schedule;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The longest text of a job, in bytes.
const LONGEST: usize = 16 * 1024;
/// The longest name.
const LONGEST_NAME: usize = 200;
/// What upstream calls a channel and is the main session here.
const SESSIONS: [&str; 2] = ["last", "webchat"];

/// What somebody asks for.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Definition {
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) display_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    #[serde(default = "yes")]
    pub(crate) enabled: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) delete_after_run: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) agent_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) session_key: Option<String>,
    pub(crate) schedule: Schedule,
    pub(crate) session_target: String,
    pub(crate) wake_mode: WakeMode,
    pub(crate) payload: Payload,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) delivery: Option<Delivery>,
    /// Only `false`: nobody is alerted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failure_alert: Option<Value>,
}

const fn yes() -> bool {
    true
}

/// When a session hears of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WakeMode {
    /// In a turn that begins now.
    #[default]
    Now,
    /// In its next turn.
    NextHeartbeat,
}

/// What a job does.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub(crate) enum Payload {
    /// The main session hears this.
    SystemEvent { text: String },
    /// A turn of its own.
    AgentTurn {
        message: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        model: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        thinking: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_seconds: Option<f64>,
    },
}

/// Who hears the answer of a turn: `announce` puts it into the main session, or sends it to a known conversation of a
/// channel.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Delivery {
    pub(crate) mode: DeliveryMode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) channel: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) to: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) best_effort: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DeliveryMode {
    None,
    Announce,
}

/// Which session a job's turn is of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// This one.
    Session(String),
    /// The job's own, which begins anew each time.
    Isolated,
}

impl Definition {
    /// Can it be done as it says? The error names the key.
    pub(crate) fn check(&self, now: u64, shortest: u64) -> Result<(), String> {
        let named = |key: &str, text: &str, most: usize| match text.trim() {
            "" => Err(format!("{key} must not be blank")),
            _ if text.len() > most => Err(format!("{key}: longer than {most} bytes")),
            _ => Ok(()),
        };
        named("name", &self.name, LONGEST_NAME)?;
        for (key, text) in [("displayName", &self.display_name), ("sessionKey", &self.session_key)] {
            text.as_deref().map_or(Ok(()), |text| named(key, text, LONGEST_NAME))?;
        }
        if self.description.as_ref().is_some_and(|text| text.len() > LONGEST) {
            return Err(format!("description: longer than {LONGEST} bytes"));
        }
        match &self.payload {
            Payload::SystemEvent { text } => named("payload.text", text, LONGEST)?,
            Payload::AgentTurn { message, timeout_seconds, .. } => {
                named("payload.message", message, LONGEST)?;
                if timeout_seconds.is_some_and(|seconds| !(0.0..=86_400.0).contains(&seconds)) {
                    return Err("payload.timeoutSeconds: from 0 to 86400".to_owned());
                }
            }
        }
        if self.agent_id.as_deref().is_some_and(|agent| agent != crate::AGENT) {
            return Err("agentId: there is one agent, main".to_owned());
        }
        if self.failure_alert.as_ref().is_some_and(|alert| *alert != false) {
            return Err("failureAlert: not built: leave it out, or say false".to_owned());
        }
        if let Some(Delivery { channel, to, .. }) = &self.delivery {
            for (key, text) in [("delivery.channel", channel), ("delivery.to", to)] {
                text.as_deref().map_or(Ok(()), |text| named(key, text, LONGEST_NAME))?;
            }
            match (channel.as_deref().filter(|channel| !SESSIONS.contains(channel)), to) {
                (Some(channel), None) => {
                    return Err(format!("delivery.to: which conversation of {channel:?}?"));
                }
                (None, Some(_)) => {
                    return Err("delivery.channel: which channel is `to` a conversation of?".to_owned());
                }
                _ => {}
            }
        }
        let main = self.session_target == "main";
        match &self.payload {
            Payload::SystemEvent { .. } if !main => {
                return Err("sessionTarget: a systemEvent is for `main`".to_owned());
            }
            Payload::AgentTurn { .. } if main => {
                return Err("sessionTarget: an agentTurn is for `isolated` or `session:KEY`".to_owned());
            }
            Payload::SystemEvent { .. } if self.delivery.is_some() && self.destination().is_none() => {
                return Err("delivery: of a systemEvent only to a channel".to_owned());
            }
            Payload::SystemEvent { .. }
                if self.delivery.is_some() && self.wake_mode == WakeMode::NextHeartbeat =>
            {
                return Err("delivery: with wakeMode `now`: else nothing is answered".to_owned());
            }
            _ => {}
        }
        self.target()?;
        self.schedule.check(now, shortest)
    }

    /// The conversation of a channel that hears its answer: channel, and where there.
    pub(crate) fn destination(&self) -> Option<(&str, &str)> {
        let Delivery { mode, channel, to, .. } = self.delivery.as_ref()?;
        let channel = channel.as_deref().filter(|channel| !SESSIONS.contains(channel))?;
        (*mode == DeliveryMode::Announce).then_some((channel, to.as_deref()?))
    }

    /// Where its turn is.
    pub(crate) fn target(&self) -> Result<Target, String> {
        let own = |key: &str| {
            let key =
                if key.starts_with("agent:") { key.to_owned() } else { format!("{}{key}", crate::BELOW) };
            crate::calls::is_session_key(&key).then_some(Target::Session(key))
        };
        let given = self.session_key.as_deref();
        match (&*self.session_target, given) {
            ("isolated", _) => Ok(Target::Isolated),
            ("main", None) => Ok(Target::Session(crate::MAIN_SESSION.to_owned())),
            ("main" | "current", Some(key)) => {
                own(key).ok_or_else(|| format!("sessionKey: unknown session key: {key}"))
            }
            ("current", None) => Err("sessionTarget: `current` needs `sessionKey`".to_owned()),
            (target, _) => target
                .strip_prefix("session:")
                .and_then(own)
                .ok_or_else(|| format!("sessionTarget: unknown target: {target}")),
        }
    }

    /// Is it forgotten once it ran?
    pub(crate) fn once(&self) -> bool {
        matches!(self.schedule, Schedule::At { .. }) && self.delete_after_run != Some(false)
    }
}

/// What happened so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct State {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) next_run_at_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) running_at_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_run_at_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_run_status: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_duration_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_delivery_status: Option<String>,
    #[serde(default)]
    pub(crate) consecutive_errors: u64,
}

/// A job.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) created_at: u64,
    pub(crate) updated_at: u64,
    /// How often it was changed.
    pub(crate) revision: u64,
    pub(crate) definition: Definition,
    pub(crate) state: State,
}

impl Job {
    /// Its next time after this one, if it waits for any.
    pub(crate) fn schedule(&mut self, after: u64) {
        let Definition { schedule, enabled, .. } = &self.definition;
        let next = schedule.next(after, self.created_at, &self.id);
        self.state.next_run_at_ms = next.filter(|_| *enabled);
    }

    /// As events show it.
    pub(crate) fn shown(&self) -> Value {
        let mut out = json!(self.definition);
        out["id"] = self.id.as_str().into();
        out["createdAtMs"] = self.created_at.into();
        out["updatedAtMs"] = self.updated_at.into();
        out["state"] = json!(self.state);
        out
    }

    /// As methods show it.
    pub(crate) fn view(&self) -> Value {
        let mut out = self.shown();
        out["configRevision"] = self.revision.to_string().into();
        let State {
            next_run_at_ms, last_run_at_ms, last_run_status, last_error, last_delivery_status, ..
        } = &self.state;
        let fields = [
            ("nextRunAtMs", json!(next_run_at_ms)),
            ("lastRunAtMs", json!(last_run_at_ms)),
            ("lastRunStatus", json!(last_run_status)),
            ("lastRunError", json!(last_error)),
            ("lastDeliveryStatus", json!(last_delivery_status)),
        ];
        for (key, value) in fields.into_iter().filter(|(_, value)| !value.is_null()) {
            out[key] = value;
        }
        out
    }
}
