//! What `/hooks/wake` and `/hooks/agent` are asked: upstream's fields; what is not served of them is refused.

use crate::{config::SessionMode, cron::WakeMode};
use serde_json::Value;

/// The longest text, in bytes.
const LONGEST: usize = 64 * 1024;

/// What a session is to hear.
pub(super) struct Woken {
    pub(super) text: String,
    pub(super) mode: WakeMode,
    pub(super) agent: Option<String>,
    pub(super) session: Option<String>,
    pub(super) trusted: bool,
}

/// A turn.
pub(super) struct Turn {
    pub(super) message: String,
    pub(super) name: String,
    pub(super) agent: Option<String>,
    pub(super) session: Option<String>,
    pub(super) mode: SessionMode,
    pub(super) model: Option<String>,
    pub(super) thinking: Option<String>,
    pub(super) timeout_seconds: Option<u64>,
    /// A caller's words are in its session's key.
    pub(super) asked: bool,
    pub(super) trusted: bool,
}

/// A text of the payload; an empty one, or another thing, is an error.
fn text(payload: &Value, key: &str) -> Result<Option<String>, String> {
    match &payload[key] {
        Value::Null => Ok(None),
        Value::String(text) if !text.trim().is_empty() => Ok(Some(text.trim().to_owned())),
        _ => Err(format!("{key} must be a non-empty string")),
    }
}

fn required(payload: &Value, key: &str) -> Result<String, String> {
    let text = payload[key].as_str().map(str::trim).filter(|text| !text.is_empty());
    let text = text.ok_or_else(|| format!("{key} required"))?;
    if text.len() > LONGEST {
        return Err(format!("{key} is longer than {LONGEST} bytes"));
    }
    Ok(text.to_owned())
}

impl Woken {
    pub(super) fn read(payload: &Value) -> Result<Self, String> {
        let mode = if payload["mode"] == "next-heartbeat" { WakeMode::NextHeartbeat } else { WakeMode::Now };
        let woken = Self {
            text: required(payload, "text")?,
            mode,
            agent: text(payload, "agentId")?,
            session: text(payload, "sessionKey")?,
            trusted: false,
        };
        woken.whole()
    }

    /// Does it hold together?
    pub(super) fn whole(self) -> Result<Self, String> {
        if self.text.is_empty() {
            return Err("text required".to_owned());
        }
        if self.mode == WakeMode::NextHeartbeat && self.session.is_some() {
            return Err("sessionKey requires mode=now".to_owned());
        }
        Ok(self)
    }
}

impl Turn {
    pub(super) fn read(payload: &Value) -> Result<Self, String> {
        for key in ["channel", "to", "accountId"] {
            if !payload[key].is_null() {
                return Err(format!("{key}: a hook writes to no channel yet"));
            }
        }
        if payload["waitForCompletion"] == true {
            return Err("waitForCompletion: ask `agent.wait` for the run".to_owned());
        }
        let mode = match &payload["sessionMode"] {
            Value::Null => SessionMode::Isolated,
            mode => serde_json::from_value(mode.clone())
                .map_err(|_| "sessionMode must be isolated or persistent".to_owned())?,
        };
        let name = payload["name"].as_str().map(str::trim).filter(|name| !name.is_empty());
        Ok(Self {
            message: required(payload, "message")?,
            name: name.unwrap_or("Hook").to_owned(),
            agent: text(payload, "agentId")?,
            session: payload["sessionKey"]
                .as_str()
                .map(|key| key.trim().to_owned())
                .filter(|key| !key.is_empty()),
            mode,
            model: text(payload, "model")?,
            thinking: text(payload, "thinking")?,
            timeout_seconds: payload["timeoutSeconds"].as_u64().filter(|seconds| *seconds > 0),
            asked: true,
            trusted: false,
        })
    }
}
