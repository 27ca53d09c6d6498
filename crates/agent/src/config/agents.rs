//! `agents`: what a session begins with.

use super::{
    Channels, Heartbeat,
    compaction::{Compaction, Limits},
    is_default,
    subagents::Subagents,
};
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
    /// How many tokens its conversation may have.
    #[serde(skip_serializing_if = "is_default")]
    pub context_tokens: Option<u64>,
    /// What is done before there are more.
    #[serde(skip_serializing_if = "is_default")]
    pub compaction: Compaction,
    /// What of its work it may give away.
    #[serde(skip_serializing_if = "is_default")]
    pub subagents: Subagents,
}

impl Defaults {
    pub(crate) fn limits(&self) -> Limits {
        self.compaction.limits(self.context_tokens)
    }
}

impl Agents {
    /// Is each value one that is known?
    pub(super) fn check(&self, channels: &Channels) -> Result<(), String> {
        self.defaults.heartbeat.as_ref().map_or(Ok(()), |heartbeat| heartbeat.check(channels))?;
        self.defaults.subagents.check()?;
        self.defaults.compaction.check(self.defaults.context_tokens)?;
        match &self.defaults.thinking_default {
            Some(level) if !LEVELS.contains(&&**level) => {
                Err(format!("agents.defaults.thinkingDefault: {level:?} is none of {}", LEVELS.join(", ")))
            }
            _ => Ok(()),
        }
    }
}
