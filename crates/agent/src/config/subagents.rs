//! `agents.defaults.subagents`: how many, how deep, and with which model.

use super::is_default;
use crate::commands::LEVELS;
use serde::{Deserialize, Serialize};

/// The section.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Subagents {
    /// How deep they are nested.
    #[serde(skip_serializing_if = "is_default")]
    pub max_spawn_depth: Option<u32>,
    /// Of one session at once.
    #[serde(skip_serializing_if = "is_default")]
    pub max_children_per_agent: Option<usize>,
    /// Of all sessions at once.
    #[serde(skip_serializing_if = "is_default")]
    pub max_concurrent: Option<usize>,
    /// Their model, if not that of whoever asks for one.
    #[serde(skip_serializing_if = "is_default")]
    pub model: Option<String>,
    /// How much it thinks.
    #[serde(skip_serializing_if = "is_default")]
    pub thinking: Option<String>,
    /// How long a run may take; 0: as long as it does.
    #[serde(skip_serializing_if = "is_default")]
    pub run_timeout_seconds: Option<u64>,
}

impl Subagents {
    pub(super) fn check(&self) -> Result<(), String> {
        let no = |key: &str, what: &str| Err(format!("agents.defaults.subagents.{key}: {what}"));
        if self.max_spawn_depth.is_some_and(|depth| !(1..=5).contains(&depth)) {
            return no("maxSpawnDepth", "from 1 to 5");
        }
        if self.max_children_per_agent.is_some_and(|most| !(1..=20).contains(&most)) {
            return no("maxChildrenPerAgent", "from 1 to 20");
        }
        if self.max_concurrent.is_some_and(|most| !(1..=64).contains(&most)) {
            return no("maxConcurrent", "from 1 to 64");
        }
        match &self.thinking {
            Some(level) if !LEVELS.contains(&&**level) => {
                no("thinking", &format!("{level:?} is none of {}", LEVELS.join(", ")))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn depth(&self) -> u32 {
        self.max_spawn_depth.unwrap_or(2)
    }

    pub(crate) fn per_session(&self) -> usize {
        self.max_children_per_agent.unwrap_or(5)
    }

    pub(crate) fn in_all(&self) -> usize {
        self.max_concurrent.unwrap_or(8)
    }
}
