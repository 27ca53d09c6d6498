//! `hooks`: what strangers may post, and what becomes of it.

use super::is_default;
use crate::{calls::is_session_key, cron::WakeMode};
use serde::{Deserialize, Serialize};

/// The shortest token that is taken: it is all that keeps strangers out.
const SHORTEST: usize = 16;
/// Keys of sessions that hooks make by themselves.
const OWN: &str = "hook:";

/// The section.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Hooks {
    /// Off unless somebody says so.
    #[serde(skip_serializing_if = "is_default")]
    pub enabled: bool,
    /// What a caller shows.
    #[serde(skip_serializing_if = "is_default")]
    pub token: Option<String>,
    /// Below which path; none: `/hooks`.
    #[serde(skip_serializing_if = "is_default")]
    pub path: Option<String>,
    /// The session of what names none; none: one of its own each time.
    #[serde(skip_serializing_if = "is_default")]
    pub default_session_key: Option<String>,
    /// May a caller name a session?
    #[serde(skip_serializing_if = "is_default")]
    pub allow_request_session_key: bool,
    /// How keys of sessions begin.
    #[serde(skip_serializing_if = "is_default")]
    pub allowed_session_key_prefixes: Option<Vec<String>>,
    /// Which agents; there is one, `main`.
    #[serde(skip_serializing_if = "is_default")]
    pub allowed_agent_ids: Option<Vec<String>>,
    /// The first that matches is what becomes of it.
    #[serde(skip_serializing_if = "is_default")]
    pub mappings: Vec<Mapping>,
}

/// What becomes of what is posted to a path.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Mapping {
    /// A name for logs.
    #[serde(skip_serializing_if = "is_default")]
    pub id: Option<String>,
    /// Of what it is; none: of everything.
    #[serde(rename = "match", skip_serializing_if = "is_default")]
    pub matches: Match,
    /// What it does.
    #[serde(skip_serializing_if = "is_default")]
    pub action: Action,
    /// When the main session hears it.
    #[serde(skip_serializing_if = "is_default")]
    pub wake_mode: WakeMode,
    /// What it is called; a template.
    #[serde(skip_serializing_if = "is_default")]
    pub name: Option<String>,
    /// There is one, `main`.
    #[serde(skip_serializing_if = "is_default")]
    pub agent_id: Option<String>,
    /// Its session; a template.
    #[serde(skip_serializing_if = "is_default")]
    pub session_key: Option<String>,
    /// Does that session begin anew?
    #[serde(skip_serializing_if = "is_default")]
    pub session_mode: SessionMode,
    /// What the agent is asked; a template.
    #[serde(skip_serializing_if = "is_default")]
    pub message_template: Option<String>,
    /// What the main session hears; a template.
    #[serde(skip_serializing_if = "is_default")]
    pub text_template: Option<String>,
    /// Only `false`: a hook writes to no channel yet.
    #[serde(skip_serializing_if = "is_default")]
    pub deliver: Option<bool>,
    /// It comes from somebody whose words are to be followed.
    #[serde(skip_serializing_if = "is_default")]
    pub allow_unsafe_external_content: bool,
    /// A model of the tenant's routes.
    #[serde(skip_serializing_if = "is_default")]
    pub model: Option<String>,
    /// How much it thinks.
    #[serde(skip_serializing_if = "is_default")]
    pub thinking: Option<String>,
    /// How long it may take.
    #[serde(skip_serializing_if = "is_default")]
    pub timeout_seconds: Option<u64>,
}

/// Of what a mapping is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Match {
    /// Below the path of hooks.
    #[serde(skip_serializing_if = "is_default")]
    pub path: Option<String>,
    /// What the payload calls its `source`.
    #[serde(skip_serializing_if = "is_default")]
    pub source: Option<String>,
}

/// What a mapping does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The main session hears it.
    Wake,
    /// A turn of its own.
    #[default]
    Agent,
}

/// Does a session begin anew?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionMode {
    /// It does.
    #[default]
    Isolated,
    /// It goes on.
    Persistent,
}

impl Hooks {
    /// The path below which they are, without a slash at its end.
    pub(crate) fn base(&self) -> String {
        let path = self.path.as_deref().map(str::trim).filter(|path| !path.is_empty()).unwrap_or("/hooks");
        format!("/{}", path.trim_matches('/'))
    }

    /// May a session have this key?
    pub(crate) fn allows_key(&self, key: &str) -> bool {
        let Some(prefixes) = self.prefixes() else { return true };
        let key = key.trim().to_lowercase();
        prefixes.iter().any(|prefix| key.starts_with(prefix))
    }

    /// How keys of sessions begin; none: as they like.
    pub(crate) fn prefixes(&self) -> Option<Vec<String>> {
        let all = self.allowed_session_key_prefixes.as_ref()?.iter();
        let all: Vec<_> =
            all.map(|prefix| prefix.trim().to_lowercase()).filter(|it| !it.is_empty()).collect();
        (!all.is_empty()).then_some(all)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.enabled && self.token.as_deref().is_none_or(|token| token.trim().len() < SHORTEST) {
            return Err(format!("hooks.enabled requires hooks.token, of at least {SHORTEST} characters"));
        }
        let base = self.base();
        if base == "/" {
            return Err("hooks.path may not be '/'".to_owned());
        }
        if ["/v1", "/tools", "/health", "/healthz", "/ready", "/readyz"].iter().any(|taken| {
            base.strip_prefix(taken).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }) {
            return Err(format!("hooks.path: {base} is served already"));
        }
        match &self.default_session_key {
            Some(key) if !self.allows_key(key) => {
                return Err("hooks.defaultSessionKey must match hooks.allowedSessionKeyPrefixes".to_owned());
            }
            Some(key) if full_key(key).is_none() => {
                return Err(format!("hooks.defaultSessionKey: unknown session key: {key}"));
            }
            None if !self.allows_key("hook:example") => {
                return Err(format!(
                    "hooks.allowedSessionKeyPrefixes must include '{OWN}' when hooks.defaultSessionKey is unset"
                ));
            }
            _ => {}
        }
        for (number, mapping) in self.mappings.iter().enumerate() {
            self.check_mapping(mapping).map_err(|why| format!("hooks.mappings[{number}].{why}"))?;
        }
        Ok(())
    }

    fn check_mapping(&self, mapping: &Mapping) -> Result<(), String> {
        if mapping.agent_id.as_deref().is_some_and(|agent| agent != crate::AGENT) {
            return Err("agentId: there is one agent, main".to_owned());
        }
        if mapping.deliver == Some(true) {
            return Err("deliver: a hook writes to no channel yet".to_owned());
        }
        let (key, text) = match mapping.action {
            Action::Wake => ("textTemplate", &mapping.text_template),
            Action::Agent => ("messageTemplate", &mapping.message_template),
        };
        if text.as_deref().is_none_or(|text| text.trim().is_empty()) {
            return Err(format!("{key} is missing"));
        }
        let session = mapping.session_key.as_deref();
        if session.is_some_and(|key| key.contains("{{")) && self.prefixes().is_none() {
            return Err("sessionKey: a template needs hooks.allowedSessionKeyPrefixes".to_owned());
        }
        let persistent = mapping.session_mode == SessionMode::Persistent;
        if persistent && session.or(self.default_session_key.as_deref()).is_none() {
            return Err("sessionMode: `persistent` needs sessionKey or hooks.defaultSessionKey".to_owned());
        }
        Ok(())
    }
}

/// The key of a session in full; none: it is none.
pub(crate) fn full_key(key: &str) -> Option<String> {
    let key = key.trim();
    let key = match key {
        "main" | "global" => crate::MAIN_SESSION.to_owned(),
        _ if key.starts_with("agent:") => key.to_owned(),
        _ => format!("{}{key}", crate::BELOW),
    };
    (is_session_key(&key) && !key.chars().any(char::is_control)).then_some(key)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_strangers_may_post_is_set_up_whole_or_refused() {
        let check = |json: &str| serde_json::from_str::<Hooks>(json).map_err(|it| it.to_string())?.check();
        let token = r#""enabled":true,"token":"0123456789abcdef""#;
        assert_eq!(check(&format!("{{{token}}}")), Ok(()));
        for (json, why) in [
            (r#"{"enabled":true}"#.to_owned(), "requires hooks.token"),
            (r#"{"enabled":true,"token":"short"}"#.to_owned(), "at least 16"),
            (format!(r#"{{{token},"path":"/"}}"#), "may not be '/'"),
            (format!(r#"{{{token},"path":"v1/hooks"}}"#), "served already"),
            (format!(r#"{{{token},"allowedSessionKeyPrefixes":["x:"]}}"#), "must include 'hook:'"),
            (
                format!(r#"{{{token},"defaultSessionKey":"y","allowedSessionKeyPrefixes":["x:"]}}"#),
                "must match",
            ),
            (format!(r#"{{{token},"mappings":[{{}}]}}"#), "mappings[0].messageTemplate"),
            (
                format!(r#"{{{token},"mappings":[{{"action":"wake","messageTemplate":"a"}}]}}"#),
                "mappings[0].textTemplate",
            ),
            (
                format!(
                    r#"{{{token},"mappings":[{{"messageTemplate":"a","sessionKey":"hook:{{{{id}}}}"}}]}}"#
                ),
                "allowedSessionKeyPrefixes",
            ),
            (
                format!(r#"{{{token},"mappings":[{{"messageTemplate":"a","transform":{{"module":"x"}}}}]}}"#),
                "unknown field `transform`",
            ),
            (format!(r#"{{{token},"presets":["gmail"]}}"#), "unknown field `presets`"),
        ] {
            let error = check(&json).unwrap_err();
            assert!(error.contains(why), "{json}: {error}");
        }
    }
}
