//! `agents`: what a session begins with.

use super::{Heartbeat, is_default};
use crate::commands::LEVELS;
use serde::{Deserialize, Serialize};

/// The section.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Agents {
    /// Of every session that says nothing else.
    #[serde(skip_serializing_if = "is_default")]
    pub defaults: Defaults,
}

/// What holds where a session says nothing.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Defaults {
    /// A model of the tenant's routes.
    #[serde(skip_serializing_if = "is_default")]
    pub model: Option<String>,
    /// How much it thinks.
    #[serde(skip_serializing_if = "is_default")]
    pub thinking_default: Option<String>,
    /// Turns that nobody asks for.
    #[serde(skip_serializing_if = "is_default")]
    pub heartbeat: Option<Heartbeat>,
}

impl Agents {
    /// Is each value one that is known?
    pub(super) fn check(&self) -> Result<(), String> {
        self.defaults.heartbeat.as_ref().map_or(Ok(()), Heartbeat::check)?;
        match &self.defaults.thinking_default {
            Some(level) if !LEVELS.contains(&&**level) => {
                Err(format!("agents.defaults.thinkingDefault: {level:?} is none of {}", LEVELS.join(", ")))
            }
            _ => Ok(()),
        }
    }
}
