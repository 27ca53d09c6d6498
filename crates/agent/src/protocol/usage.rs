//! Parameters of `usage.*`, `sessions.usage` and `logs.tail`.

use serde::Deserialize;

/// `logs.tail`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tail {
    #[serde(default)]
    pub cursor: Option<u64>,
    #[serde(default)]
    pub limit: Option<u32>,
    #[serde(default)]
    pub max_bytes: Option<u32>,
}

/// Which days are meant, and whose.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(
    dead_code,
    reason = "a session has one transcript after another under one key, so it is grouped by that"
)]
pub struct Usage {
    #[serde(default)]
    pub start_date: Option<String>,
    #[serde(default)]
    pub end_date: Option<String>,
    #[serde(default)]
    pub days: Option<u32>,
    #[serde(default)]
    pub range: Option<String>,
    /// Whose days: `utc`, `gateway`'s, which are the same here, or `specific`.
    #[serde(default)]
    pub mode: Option<String>,
    #[serde(default)]
    pub utc_offset: Option<String>,
    #[serde(default)]
    pub time_zone: Option<String>,
    #[serde(default)]
    pub agent_id: Option<String>,
    #[serde(default)]
    pub agent_scope: Option<String>,
    #[serde(default)]
    pub key: Option<String>,
    #[serde(default)]
    pub limit: Option<u32>,
    #[serde(default)]
    group_by: Option<String>,
    #[serde(default)]
    include_historical: Option<bool>,
    #[serde(default)]
    pub include_context_weight: Option<bool>,
}
