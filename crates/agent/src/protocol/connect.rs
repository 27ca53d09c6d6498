//! The handshake: what a client says of itself, and what it is told.

use super::{
    Fault, MAX_BUFFERED, MAX_PAYLOAD, TICK_MS, VERSION,
    device::{Auth, Device},
    methods,
};
use cofferdam_base::Scope;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Programs that may connect.
const CLIENTS: [&str; 17] = [
    "cli",
    "fingerprint",
    "gateway-client",
    "node-host",
    "openclaw-android",
    "openclaw-browser-copilot",
    "openclaw-control-ui",
    "openclaw-ios",
    "openclaw-linux",
    "openclaw-macos",
    "openclaw-probe",
    "openclaw-tui",
    "openclaw-watchos",
    "openclaw-worker",
    "test",
    "webchat",
    "webchat-ui",
];
/// What they may be.
const MODES: [&str; 8] = ["backend", "cli", "node", "probe", "test", "ui", "webchat", "worker"];

/// The parameters of `connect`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "clients send more than is used here, and a field that nobody knows is refused")]
pub struct Connect {
    min_protocol: u32,
    max_protocol: u32,
    /// Who connects.
    pub client: Client,
    /// What it understands.
    #[serde(default)]
    pub caps: BTreeSet<String>,
    #[serde(default)]
    pub(super) role: Option<String>,
    /// What it wants to be allowed; what nobody knows is left out.
    #[serde(default)]
    pub scopes: Option<Vec<String>>,
    #[serde(default)]
    locale: Option<String>,
    #[serde(default)]
    user_agent: Option<String>,
    #[serde(default)]
    path_env: Option<String>,
    #[serde(default)]
    permissions: BTreeMap<String, bool>,
    #[serde(default)]
    commands: Vec<String>,
    /// Of which session models are wanted with the greeting: a client asks for them by itself.
    #[serde(default)]
    model_catalog: Option<Value>,
    #[serde(default)]
    pub auth: Option<Auth>,
    /// The device that it proves to be.
    #[serde(default)]
    pub device: Option<Device>,
}

/// Who connects.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "as above")]
pub struct Client {
    /// The program.
    pub id: String,
    /// Its version.
    pub version: String,
    /// The system that it runs on.
    pub platform: String,
    /// What it is.
    pub mode: String,
    /// As a person named it.
    #[serde(default)]
    pub display_name: Option<String>,
    #[serde(default)]
    build_id: Option<String>,
    /// The kind of machine that it runs on.
    #[serde(default)]
    pub device_family: Option<String>,
    #[serde(default)]
    model_identifier: Option<String>,
    #[serde(default)]
    time_zone: Option<String>,
    /// Which of several of it.
    #[serde(default)]
    pub instance_id: Option<String>,
}

impl Connect {
    /// Reads and judges them. Who it is was settled by the edge before.
    pub fn parse(params: &str) -> Result<Self, Fault> {
        let connect: Self = serde_json::from_str(params)
            .map_err(|error| Fault::invalid(format!("invalid connect params: {error}")))?;
        let Self { min_protocol, max_protocol, client, role, .. } = &connect;
        if !(*min_protocol..=*max_protocol).contains(&VERSION) {
            return Err(Fault::invalid("protocol mismatch").with(json!({
                "code": "PROTOCOL_MISMATCH",
                "clientMinProtocol": min_protocol,
                "clientMaxProtocol": max_protocol,
                "expectedProtocol": VERSION,
            })));
        }
        if !CLIENTS.contains(&client.id.as_str()) || !MODES.contains(&client.mode.as_str()) {
            return Err(Fault::invalid("invalid connect params: `client` is none that is known"));
        }
        if role.as_ref().is_some_and(|role| role != "operator") {
            return Err(Fault::invalid("this gateway serves the role operator only: it has no nodes"));
        }
        Ok(connect)
    }

    /// What it is allowed: what it asks for, as far as `cap` goes.
    pub fn allowed(&self, cap: &BTreeSet<Scope>) -> BTreeSet<Scope> {
        let asked = self.scopes.as_deref().unwrap_or_default();
        cap.iter().copied().filter(|scope| asked.iter().any(|name| name == scope.as_str())).collect()
    }
}

/// What a client is told that is in.
#[derive(Debug)]
pub struct Hello<'a> {
    /// Of this connection.
    pub connection: &'a str,
    /// Of this start of the gateway.
    pub boot: &'a str,
    /// What it is allowed.
    pub scopes: &'a BTreeSet<Scope>,
    /// Who else is connected.
    pub presence: Value,
    /// As `health` says it.
    pub health: Value,
    /// How often presence changed.
    pub presence_version: u64,
    /// Since when, in milliseconds.
    pub uptime_ms: u64,
    /// Of its device, if it got one just now, and when.
    pub token: Option<(String, u64)>,
}

impl Hello<'_> {
    /// The payload of `hello-ok`.
    pub fn payload(self) -> Value {
        let Self { connection, boot, scopes, presence, health, presence_version, uptime_ms, token } = self;
        let names: Vec<&str> = methods::METHODS.iter().map(|row| row.0).collect();
        let scopes: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
        let mut auth = json!({ "role": "operator", "scopes": scopes });
        if let Some((token, since)) = token {
            auth["deviceToken"] = token.into();
            auth["issuedAtMs"] = since.into();
        }
        json!({
            "type": "hello-ok",
            "protocol": VERSION,
            // A page of upstream's reloads when the build is another than its own, unless it is told so.
            "server": {
                "version": env!("CARGO_PKG_VERSION"), "connId": connection, "bootId": boot,
                "controlUiBuildSource": "configured",
            },
            "features": { "methods": names, "events": methods::EVENTS, "capabilities": [] },
            "snapshot": {
                "presence": presence,
                "health": health,
                "stateVersion": { "presence": presence_version, "health": 1 },
                "uptimeMs": uptime_ms,
                "sessionDefaults": {
                    "defaultAgentId": crate::AGENT, "mainKey": "main",
                    "mainSessionKey": crate::MAIN_SESSION, "scope": "per-sender",
                },
            },
            "auth": auth,
            "policy": {
                "maxPayload": MAX_PAYLOAD, "maxBufferedBytes": MAX_BUFFERED, "tickIntervalMs": TICK_MS,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn connect(more: &str) -> Result<Connect, Fault> {
        let client = r#""client":{"id":"cli","version":"1","platform":"linux","mode":"cli"}"#;
        Connect::parse(&format!(r#"{{"minProtocol":4,"maxProtocol":4,{client}{more}}}"#))
    }

    #[test]
    fn a_client_is_allowed_what_it_asks_for_as_far_as_the_edge_says() {
        let asked = connect(r#","scopes":["operator.read","operator.admin","operator.bogus"]"#).unwrap();
        let cap = BTreeSet::from([Scope::Read, Scope::Write]);
        assert_eq!(asked.allowed(&cap), BTreeSet::from([Scope::Read]));
        assert_eq!(connect("").unwrap().allowed(&cap), BTreeSet::new());
    }

    #[test]
    fn strangers_are_told_what_is_wrong() {
        let old = Connect::parse(
            r#"{"minProtocol":2,"maxProtocol":3,"client":{"id":"cli","version":"1","platform":"l","mode":"cli"}}"#,
        );
        assert_eq!(old.unwrap_err().details.unwrap()["code"], "PROTOCOL_MISMATCH");
        for more in [r#","role":"node""#, r#","auth":{"more":"a"}"#, r#","device":{}"#, r#","more":1"#] {
            assert!(connect(more).is_err(), "{more}");
        }
        let stranger = r#"{"minProtocol":4,"maxProtocol":4,"client":{"id":"me","version":"1","platform":"l","mode":"cli"}}"#;
        assert!(Connect::parse(stranger).unwrap_err().message.contains("client"));
    }
}
