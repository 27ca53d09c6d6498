//! The gateway's configuration, written anew before each start.
//!
//! Its shape was found by running upstream: `trusted-proxy` with a pool of opaque identities, so that it
//! never changes when members or roles change (an edit of `identityScopes` kills running turns). The role
//! comes with each connection, as a cap header that the gateway requires.

use super::{Error, PORT};
use crate::config::McpServer;
use cofferdam_base::{MemberId, Scope, Slot, TenantId};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, fs, io::Write as _, os::unix::fs::OpenOptionsExt, path::Path};

/// Identities that a gateway knows from its start: `m001` to `m256`.
pub const IDENTITIES: u16 = MemberId::HIGHEST;
/// The source address of the edge's connections inside a cell.
pub const EDGE_SOURCE: &str = "198.19.255.1";
/// The header that names the member.
pub const USER_HEADER: &str = "x-cofferdam-user";
/// The header that caps the connection's scopes.
pub const SCOPES_HEADER: &str = "x-openclaw-scopes";

/// What a tenant's configuration depends on.
#[derive(Clone, Debug)]
pub struct Gateway<'a> {
    /// Whose.
    pub tenant: &'a TenantId,
    /// Gives the loopback origin.
    pub slot: Slot,
    /// The edge's port.
    pub edge_port: u16,
    /// The domain below which the tenant's host name is.
    pub domain: &'a str,
    /// `http` or `https`, as browsers see the edge.
    pub scheme: &'a str,
    /// The MCP servers that it knows, by name.
    pub mcp: &'a BTreeMap<String, McpServer>,
}

/// The configuration as upstream reads it.
pub fn render(gateway: &Gateway<'_>) -> Value {
    let Gateway { tenant, slot, edge_port, domain, scheme, mcp } = gateway;
    let all: Vec<&str> = Scope::ALL.iter().map(|scope| scope.as_str()).collect();
    let identities: Map<String, Value> =
        (1..=IDENTITIES).map(|number| (identity(number), json!(all))).collect();
    let servers: Map<String, Value> = mcp.iter().map(|(name, server)| (name.clone(), told(server))).collect();
    let mut config = json!({
        "gateway": {
            "mode": "local",
            "port": PORT,
            "bind": "loopback",
            "trustedProxies": [EDGE_SOURCE],
            "auth": {
                "mode": "trusted-proxy",
                "trustedProxy": {
                    "userHeader": USER_HEADER,
                    "requiredHeaders": ["x-forwarded-for", SCOPES_HEADER],
                },
                "identityScopes": identities,
            },
            "controlUi": {
                "allowedOrigins": [
                    format!("{scheme}://{}:{edge_port}", slot.loopback_address()),
                    format!("{scheme}://{tenant}.{domain}:{edge_port}"),
                ],
                "communityInvite": false,
            },
            "http": { "endpoints": { "chatCompletions": { "enabled": true } } },
        },
        "models": {
            "mode": "replace",
            "catalogRefresh": { "enabled": false },
            "providers": { "cofferdam": {
                "baseUrl": "http://inference.local/v1",
                "api": "openai-completions",
                // The warden drops it and adds the tenant's own.
                "apiKey": "cofferdam-placeholder",
                "models": [{
                    "id": "default",
                    "name": "Cofferdam route",
                    "reasoning": false,
                    "input": ["text"],
                    "contextWindow": 128_000,
                    "maxTokens": 8192,
                    "cost": { "input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0 },
                }],
            }},
        },
        "agents": { "defaults": {
            "model": { "primary": "cofferdam/default" },
            "workspace": "/sandbox/workspace",
        }},
        "proxy": { "proxyUrl": "http://127.0.0.1:3128" },
        "update": { "checkOnStart": false },
        "discovery": { "mdns": { "mode": "off" } },
    });
    // What nobody asked for changes no tenant's file.
    if !servers.is_empty() {
        config["mcp"] = json!({ "servers": servers });
    }
    config
}

fn told(server: &McpServer) -> Value {
    match &server.url {
        Some(url) => json!({ "url": url, "transport": "streamable-http" }),
        None => json!({ "command": server.command, "args": server.args, "env": server.env }),
    }
}

/// The name of an identity of the pool: `m001`.
pub fn identity(number: u16) -> String {
    format!("m{number:03}")
}

/// What a write found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drift {
    /// There was no file: the first start.
    New,
    /// The file was as we want it.
    None,
    /// The file was another: somebody else wrote it, or our release did change it.
    Changed,
}

/// Makes `dir/openclaw.json` what [`render`] says, by rename, and tells what was there.
pub fn reassert(dir: &Path, gateway: &Gateway<'_>) -> Result<Drift, Error> {
    let text = format!("{:#}\n", render(gateway));
    let path = dir.join("openclaw.json");
    let drift = match fs::read(&path) {
        Ok(found) if found == text.as_bytes() => return Ok(Drift::None),
        Ok(_) => Drift::Changed,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Drift::New,
        Err(error) => return Err(Error::io(&path)(error)),
    };
    let new = dir.join("openclaw.json.new");
    let write = || {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)
    };
    write().map_err(Error::io(&path))?;
    Ok(drift)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn gateway(tenant: &TenantId) -> Gateway<'_> {
        const NONE: &BTreeMap<String, McpServer> = &BTreeMap::new();
        Gateway { tenant, slot: Slot::FIRST, edge_port: 8471, domain: "localhost", scheme: "http", mcp: NONE }
    }

    #[test]
    fn the_role_header_is_required_and_every_identity_has_all_scopes() {
        let tenant = TenantId::try_from("acme").unwrap();
        let config = render(&gateway(&tenant));
        let auth = &config["gateway"]["auth"];
        assert_eq!(auth["trustedProxy"]["requiredHeaders"][1], SCOPES_HEADER);
        assert_eq!(auth["identityScopes"].as_object().unwrap().len(), usize::from(IDENTITIES));
        assert_eq!(auth["identityScopes"]["m256"].as_array().unwrap().len(), 8);
        assert_eq!(config["gateway"]["controlUi"]["allowedOrigins"][1], "http://acme.localhost:8471");
    }

    #[test]
    fn an_mcp_server_is_a_program_in_the_cell_or_a_url() {
        let tenant = TenantId::try_from("acme").unwrap();
        let inside = McpServer {
            command: Some("node".into()),
            args: vec!["server.js".into()],
            ..McpServer::default()
        };
        let outside = McpServer { url: Some("https://notes.example/mcp".into()), ..McpServer::default() };
        let mcp = BTreeMap::from([("inside".to_owned(), inside), ("outside".to_owned(), outside)]);
        let config = render(&Gateway { mcp: &mcp, ..gateway(&tenant) });
        let servers = &config["mcp"]["servers"];
        assert_eq!(servers["inside"], json!({ "command": "node", "args": ["server.js"], "env": {} }));
        let url = "https://notes.example/mcp";
        assert_eq!(servers["outside"], json!({ "url": url, "transport": "streamable-http" }));
    }

    #[test]
    fn drift_is_seen_and_undone() {
        let tenant = TenantId::try_from("acme").unwrap();
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(reassert(dir.path(), &gateway(&tenant)).unwrap(), Drift::New);
        assert_eq!(reassert(dir.path(), &gateway(&tenant)).unwrap(), Drift::None);
        fs::write(dir.path().join("openclaw.json"), "{}").unwrap();
        assert_eq!(reassert(dir.path(), &gateway(&tenant)).unwrap(), Drift::Changed);
        assert_eq!(reassert(dir.path(), &gateway(&tenant)).unwrap(), Drift::None);
    }
}
