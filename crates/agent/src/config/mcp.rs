//! `mcp`: servers whose tools the agent may call.

use super::is_default;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::BTreeMap, time::Duration};

/// The most servers.
const SERVERS: usize = 32;
/// The longest name of one: half of what a tool's name may have, less the two signs between them.
const NAME: usize = 30;

/// The section.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Mcp {
    /// By their names.
    #[serde(skip_serializing_if = "is_default")]
    pub servers: BTreeMap<String, Server>,
}

/// One server: a command in the cell, or a URL.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Server {
    /// `false`: it is left alone.
    #[serde(skip_serializing_if = "is_default")]
    pub enabled: Option<bool>,
    /// The program.
    #[serde(skip_serializing_if = "is_default")]
    pub command: Option<String>,
    /// Its arguments.
    #[serde(skip_serializing_if = "is_default")]
    pub args: Vec<String>,
    /// More for its environment: texts, numbers and booleans.
    #[serde(skip_serializing_if = "is_default")]
    pub env: BTreeMap<String, Value>,
    /// Where it runs, if not in the workspace.
    #[serde(skip_serializing_if = "is_default")]
    pub cwd: Option<String>,
    /// Where it answers over streamable HTTP.
    #[serde(skip_serializing_if = "is_default")]
    pub url: Option<String>,
    /// `stdio` or `streamable-http`.
    #[serde(skip_serializing_if = "is_default")]
    pub transport: Option<String>,
    /// Sent with each request. Placeholders of secrets, never secrets: the warden puts those in.
    #[serde(skip_serializing_if = "is_default")]
    pub headers: BTreeMap<String, Value>,
    /// How long it may take to begin.
    #[serde(skip_serializing_if = "is_default")]
    pub connection_timeout_ms: Option<u64>,
    /// How long it may be silent about a request.
    #[serde(skip_serializing_if = "is_default")]
    pub request_timeout_ms: Option<u64>,
    /// Several of its tools may run at once.
    #[serde(skip_serializing_if = "is_default")]
    pub supports_parallel_tool_calls: bool,
    /// Which of its tools are offered.
    #[serde(skip_serializing_if = "is_default")]
    pub tool_filter: ToolFilter,
}

/// Names of tools; `*` stands for any signs.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ToolFilter {
    /// These alone.
    #[serde(skip_serializing_if = "is_default")]
    pub include: Vec<String>,
    /// All but these.
    #[serde(skip_serializing_if = "is_default")]
    pub exclude: Vec<String>,
}

impl Mcp {
    /// The servers that are not switched off.
    pub(crate) fn enabled(&self) -> impl Iterator<Item = (&String, &Server)> {
        self.servers.iter().filter(|(_, server)| server.enabled != Some(false))
    }

    /// Is each value one that is known?
    pub(super) fn check(&self) -> Result<(), String> {
        if self.servers.len() > SERVERS {
            return Err(format!("mcp.servers: at most {SERVERS} servers"));
        }
        for (name, server) in &self.servers {
            is_name(name)
                .and_then(|()| server.check())
                .map_err(|why| format!("mcp.servers.{name}: {why}"))?;
        }
        Ok(())
    }
}

/// Its tools are called `NAME__TOOL`, so that a name must be told from what follows it.
fn is_name(name: &str) -> Result<(), String> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let good = name.len() <= NAME
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(known)
        && !name.contains("__")
        && !name.ends_with('_');
    if good {
        return Ok(());
    }
    Err(format!(
        "a server's name has at most {NAME} letters, digits, `-` and `_`, begins with a letter, and has no `__` in it"
    ))
}

impl Server {
    fn check(&self) -> Result<(), String> {
        let command = self.command.as_deref().is_some_and(|command| !command.trim().is_empty());
        match (command, &self.url, self.transport.as_deref()) {
            (_, _, Some("sse")) => {
                return Err("transport `sse` is not built: ask the server for streamable-http".to_owned());
            }
            (true, None, None | Some("stdio")) | (false, Some(_), None | Some("streamable-http")) => {}
            _ => return Err("give it a `command` (stdio) or a `url` (streamable-http)".to_owned()),
        }
        if let Some(url) = &self.url {
            is_url(url)?;
        }
        let scalar = |value: &Value| matches!(value, Value::String(_) | Value::Number(_) | Value::Bool(_));
        for (field, values) in [("env", &self.env), ("headers", &self.headers)] {
            if let Some((name, _)) = values.iter().find(|(_, value)| !scalar(value)) {
                return Err(format!("{field}.{name} is no text, number or boolean"));
            }
        }
        for (name, value) in &self.headers {
            let ours =
                ["host", "content-type", "content-length", "accept", "transfer-encoding", "connection"];
            let lower = name.to_ascii_lowercase();
            let name_good = http::HeaderName::from_bytes(name.as_bytes()).is_ok()
                && !ours.contains(&&*lower)
                && !lower.starts_with("mcp-");
            if !name_good || http::HeaderValue::from_str(&text(value)).is_err() {
                return Err(format!("headers.{name} cannot be sent, or is the gateway's own"));
            }
        }
        if self.env.iter().any(|(name, value)| name.contains(['=', '\0']) || text(value).contains('\0')) {
            return Err("env: no `=` in a name, and no zero byte".to_owned());
        }
        let timeouts = [self.connection_timeout_ms, self.request_timeout_ms];
        if timeouts.into_iter().flatten().any(|ms| ms == 0) {
            return Err("a timeout is more than nothing".to_owned());
        }
        Ok(())
    }

    /// How long it may take to begin.
    pub(crate) fn connecting(&self) -> Duration {
        Duration::from_millis(self.connection_timeout_ms.unwrap_or(30_000))
    }

    /// How long it may be silent about a request.
    pub(crate) fn answering(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms.unwrap_or(60_000))
    }
}

/// A value of `env` or `headers` as it is used.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn is_url(url: &str) -> Result<(), String> {
    let uri: http::Uri = url.parse().map_err(|_| format!("{url:?} is no URL"))?;
    match uri.scheme_str() {
        // Over `https` the warden makes the TLS.
        Some("http" | "https") if uri.host().is_some() && !url.contains('@') => Ok(()),
        _ => Err(format!("{url:?} is no http or https URL without a name and a password in it")),
    }
}

impl ToolFilter {
    /// Is a tool of this name offered?
    pub(crate) fn passes(&self, name: &str) -> bool {
        let any = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, name));
        (self.include.is_empty() || any(&self.include)) && !any(&self.exclude)
    }
}

/// `*` stands for any signs.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    false
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_server_that_cannot_be_reached_is_refused_with_the_mend() {
        let read = |server: &str| {
            let all = format!(r#"{{"mcp":{{"servers":{server}}}}}"#);
            Config::parse(&all).map_err(|error| error.to_string())
        };
        for good in [
            r#"{"files":{"command":"npx","args":["-y","x"],"env":{"A":1,"B":true},"cwd":"/sandbox"}}"#,
            r#"{"web":{"url":"http://mcp.example/mcp","transport":"streamable-http","headers":{"Authorization":"Bearer x"}}}"#,
            r#"{"off":{"enabled":false,"command":"x","toolFilter":{"include":["a*"]}}}"#,
        ] {
            read(good).unwrap();
        }
        for (bad, why) in [
            (r#"{"a":{"url":"ftp://mcp.example/mcp"}}"#, "no http"),
            (r#"{"a":{"url":"http://u:p@mcp.example/mcp"}}"#, "without a name"),
            (r#"{"a":{"url":"http://mcp.example/mcp","transport":"sse"}}"#, "streamable-http"),
            (r#"{"a":{}}"#, "give it a `command`"),
            (r#"{"a":{"command":"x","url":"http://b/"}}"#, "give it a `command`"),
            (r#"{"a__b":{"command":"x"}}"#, "no `__`"),
            (r#"{"1":{"command":"x"}}"#, "begins with a letter"),
            (r#"{"a":{"command":"x","auth":"oauth"}}"#, "unknown field `auth`"),
            (r#"{"a":{"url":"http://b/","headers":{"Host":"c"}}}"#, "headers.Host"),
            (r#"{"a":{"url":"http://b/","headers":{"X":["c"]}}}"#, "headers.X"),
            (r#"{"a":{"command":"x","requestTimeoutMs":0}}"#, "more than nothing"),
        ] {
            let error = read(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn a_filter_knows_stars() {
        for (pattern, name, passes) in [
            ("read_*", "read_note", true),
            ("read_*", "xread_note", false),
            ("*note", "read_note", true),
            ("*a*b*", "xxayybzz", true),
            ("*a*b", "ba", false),
            ("read", "read", true),
            ("read", "reads", false),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern, name), passes, "{pattern} {name}");
        }
        let filter = ToolFilter { include: vec!["a*".into()], exclude: vec!["ab".into()] };
        assert!(filter.passes("ac") && !filter.passes("ab") && !filter.passes("b"));
    }
}
