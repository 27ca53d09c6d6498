//! `agents.defaults.compaction`: when the older part of a conversation is replaced by a summary.
//!
//! `reserveTokens` is this gateway's own: upstream has its default fixed.

use super::is_default;
use serde::{Deserialize, Serialize};

/// Tokens of a conversation if nobody says how many its model takes: routes do not say.
const WINDOW: u64 = 128_000;
/// The fewest: what is sent in every turn must have room.
const FEWEST: u64 = 4_000;

/// The section.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Compaction {
    /// Before there is no room left; false: only when a model says that there is none, or a person asks.
    #[serde(skip_serializing_if = "is_default")]
    pub enabled: Option<bool>,
    /// Tokens that are kept free.
    #[serde(skip_serializing_if = "is_default")]
    pub reserve_tokens: Option<u64>,
    /// Tokens of the newest messages, which stay as they are.
    #[serde(skip_serializing_if = "is_default")]
    pub keep_recent_tokens: Option<u64>,
    /// The model that writes the summary, if not the session's.
    #[serde(skip_serializing_if = "is_default")]
    pub model: Option<String>,
    /// How long one request for it may take.
    #[serde(skip_serializing_if = "is_default")]
    pub timeout_seconds: Option<u64>,
    /// What is done before.
    #[serde(skip_serializing_if = "is_default")]
    pub memory_flush: MemoryFlush,
}

/// A silent turn in which the agent keeps in a file what it wants to know later.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MemoryFlush {
    /// Is there one?
    #[serde(skip_serializing_if = "is_default")]
    pub enabled: Option<bool>,
    /// Its model, if not the session's.
    #[serde(skip_serializing_if = "is_default")]
    pub model: Option<String>,
    /// So many tokens before a compaction.
    #[serde(skip_serializing_if = "is_default")]
    pub soft_threshold_tokens: Option<u64>,
}

/// The numbers of a conversation, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) window: u64,
    /// From here on it is compacted.
    pub(crate) threshold: u64,
    /// From here on the agent is reminded to keep what it wants to know.
    pub(crate) flush: u64,
    /// Of the newest messages.
    pub(crate) keep: u64,
}

impl Compaction {
    pub(super) fn check(&self, window: Option<u64>) -> Result<(), String> {
        let at_least = |key: &str, value: Option<u64>, least: u64| match value {
            Some(value) if value < least => Err(format!("agents.defaults.{key}: at least {least}")),
            _ => Ok(()),
        };
        at_least("contextTokens", window, FEWEST)?;
        at_least("compaction.keepRecentTokens", self.keep_recent_tokens, 1)?;
        at_least("compaction.timeoutSeconds", self.timeout_seconds, 1)
    }

    pub(crate) fn limits(&self, window: Option<u64>) -> Limits {
        let window = window.unwrap_or(WINDOW);
        let reserve = self.reserve_tokens.map_or_else(|| (window / 4).min(20_000), |own| own.min(window / 2));
        let threshold = window - reserve;
        let soft = self.memory_flush.soft_threshold_tokens.unwrap_or(4_000);
        let keep = self.keep_recent_tokens.unwrap_or(20_000).min(threshold / 2);
        Limits { window, threshold, flush: threshold.saturating_sub(soft), keep }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_window_keeps_three_quarters_for_the_conversation() {
        let limits = |window, own: Compaction| own.limits(window);
        let usual = Limits { window: 128_000, threshold: 108_000, flush: 104_000, keep: 20_000 };
        assert_eq!(limits(None, Compaction::default()), usual);
        // Upstream's own example.
        let small = Limits { window: 32_768, threshold: 24_576, flush: 20_576, keep: 12_288 };
        assert_eq!(limits(Some(32_768), Compaction::default()), small);
        let greedy = Compaction { reserve_tokens: Some(u64::MAX), ..Compaction::default() };
        assert_eq!(limits(Some(8_000), greedy).threshold, 4_000);
    }
}
