//! `channels.*`: what they take.

use serde::Deserialize;

/// `channels.status`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "what is told is always as of now, but clients send them")]
pub struct Status {
    #[serde(default)]
    probe: Option<bool>,
    #[serde(default)]
    timeout_ms: Option<u64>,
    #[serde(default)]
    pub channel: Option<String>,
}

/// `channels.pairing.list`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pairing {
    #[serde(default)]
    pub channel: Option<String>,
    #[serde(default)]
    pub account_id: Option<String>,
}

/// `channels.pairing.approve` and `channels.pairing.dismiss`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Decide {
    pub channel: String,
    pub account_id: String,
    pub request_id: String,
    #[serde(default)]
    pub notify: Option<bool>,
}
