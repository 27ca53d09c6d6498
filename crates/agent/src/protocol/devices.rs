//! Parameters of `device.*`.

use serde::Deserialize;

/// `device.pair.list`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// `device.pair.approve` and `.reject`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OfRequest {
    pub request_id: String,
}

/// `device.pair.remove`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OfDevice {
    pub device_id: String,
}

/// `device.token.rotate` and `.revoke`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OfToken {
    pub device_id: String,
    pub role: String,
    #[serde(default)]
    pub scopes: Option<Vec<String>>,
}
