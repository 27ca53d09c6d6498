//! Parameters of `config.*`.

use serde::Deserialize;
use serde_json::Value;

/// `config.get` and `config.schema`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Get {}

/// `config.schema.lookup`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lookup {
    pub path: String,
}

/// `config.set`, `config.apply` and `config.patch`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "they say where to tell of a restart and when, and a change here needs none")]
pub struct Change {
    /// JSON5: the whole, or what is merged into it.
    pub raw: String,
    /// Of what it was made.
    #[serde(default)]
    pub base_hash: Option<String>,
    #[serde(default)]
    session_key: Option<String>,
    #[serde(default)]
    delivery_context: Option<Value>,
    #[serde(default)]
    note: Option<String>,
    #[serde(default)]
    restart_delay_ms: Option<u64>,
    /// Lists that may lose entries by a patch.
    #[serde(default)]
    pub replace_paths: Vec<String>,
}
