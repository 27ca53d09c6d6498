//! Which commands may be run, and of which a person is asked: the two knobs, and the document of `exec.approvals.*`.
//!
//! The document can only narrow what the configuration says. What of upstream's is not heeded is an error.

use regex_lite::Regex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How a generated entry says exactly what it lets run: argument vector, redirections and directory, as JSON behind this.
pub const EXACT: &str = "exact:";
/// The longest list.
const ENTRIES: usize = 512;

/// What may be run at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// Nothing.
    Deny,
    /// What the list has.
    Allowlist,
    /// Everything. The cell is the boundary.
    #[default]
    Full,
}

/// Of what a person is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ask {
    /// Of nothing.
    #[default]
    Off,
    /// Of what the list does not have.
    OnMiss,
    /// Of everything.
    Always,
}

/// Both knobs in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "upstream's names")]
pub enum Mode {
    Deny,
    Allowlist,
    Ask,
    Full,
}

impl Mode {
    /// The knobs that it stands for.
    pub fn knobs(self) -> (Security, Ask) {
        match self {
            Self::Deny => (Security::Deny, Ask::Off),
            Self::Allowlist => (Security::Allowlist, Ask::Off),
            Self::Ask => (Security::Allowlist, Ask::OnMiss),
            Self::Full => (Security::Full, Ask::Off),
        }
    }
}

/// What `exec.approvals.set` writes.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Document {
    /// 1.
    pub version: u32,
    /// For all agents.
    #[serde(default, skip_serializing_if = "super::is_default")]
    pub defaults: Rules,
    /// For one.
    #[serde(default, skip_serializing_if = "super::is_default")]
    pub agents: BTreeMap<String, Rules>,
}

impl Default for Document {
    fn default() -> Self {
        Self { version: 1, defaults: Rules::default(), agents: BTreeMap::new() }
    }
}

/// What holds for an agent.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Rules {
    /// At most.
    #[serde(skip_serializing_if = "super::is_default")]
    pub security: Option<Security>,
    /// At least.
    #[serde(skip_serializing_if = "super::is_default")]
    pub ask: Option<Ask>,
    /// What becomes of a question that nobody answers: `deny`.
    #[serde(skip_serializing_if = "super::is_default")]
    pub ask_fallback: Option<Fallback>,
    /// Not here: false.
    #[serde(skip_serializing_if = "super::is_default")]
    pub auto_allow_skills: bool,
    /// What may be run.
    #[serde(skip_serializing_if = "super::is_default")]
    pub allowlist: Vec<Entry>,
}

/// What nobody answers is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fallback {
    /// It is not run.
    Deny,
}

/// Something that may be run.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Entry {
    /// Of the gateway's or the client's making.
    #[serde(skip_serializing_if = "super::is_default")]
    pub id: Option<String>,
    /// A program: its path, or its name alone if it is found on the PATH; `*`, `**` and `?` as in upstream's.
    pub pattern: String,
    /// What its arguments, joined by spaces, must match; or exactly what it lets run ([`EXACT`]).
    #[serde(skip_serializing_if = "super::is_default")]
    pub arg_pattern: Option<String>,
    /// `allow-always`, if an answer made it.
    #[serde(skip_serializing_if = "super::is_default")]
    pub source: Option<Source>,
    /// When it was used, as clients keep it.
    #[serde(skip_serializing_if = "super::is_default")]
    pub last_used_at: Option<f64>,
    /// Likewise.
    #[serde(skip_serializing_if = "super::is_default")]
    pub last_used_command: Option<String>,
    /// Likewise.
    #[serde(skip_serializing_if = "super::is_default")]
    pub last_resolved_path: Option<String>,
    /// What an answer let run, for people.
    #[serde(skip_serializing_if = "super::is_default")]
    pub command_text: Option<String>,
}

/// Where an entry comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// From an answer.
    AllowAlways,
}

impl Entry {
    /// Its pattern of arguments, if it has one that is no exact one.
    pub fn arguments(&self) -> Result<Option<Regex>, String> {
        match self.arg_pattern.as_deref() {
            None => Ok(None),
            Some(exact) if exact.starts_with(EXACT) => Ok(None),
            Some(pattern) => match Regex::new(pattern) {
                Ok(pattern) => Ok(Some(pattern)),
                Err(error) => Err(format!("argPattern {pattern:?} cannot be read here: {error}")),
            },
        }
    }
}

impl Document {
    /// Reads one; the error says what is wrong.
    pub fn parse(raw: &str) -> Result<Self, String> {
        let document: Self = serde_json::from_str(raw).map_err(|error| error.to_string())?;
        if document.version != 1 {
            return Err("version: 1 is the one that is known".to_owned());
        }
        if let Some(agent) = document.agents.keys().find(|agent| *agent != crate::AGENT) {
            return Err(format!("agents.{agent}: there is one agent, {}", crate::AGENT));
        }
        for rules in document.agents.values().chain([&document.defaults]) {
            if rules.auto_allow_skills {
                return Err("autoAllowSkills: no skill is let run what its author likes".to_owned());
            }
            if rules.allowlist.len() > ENTRIES {
                return Err(format!("allowlist: at most {ENTRIES} entries"));
            }
            for entry in &rules.allowlist {
                if entry.pattern.trim().is_empty() {
                    return Err("allowlist: a pattern is empty".to_owned());
                }
                entry.arguments()?;
            }
        }
        if !document.defaults.allowlist.is_empty() {
            return Err("defaults.allowlist: a list is an agent's".to_owned());
        }
        Ok(document)
    }

    /// The rules of the one agent.
    pub fn rules(&self) -> Option<&Rules> {
        self.agents.get(crate::AGENT)
    }

    /// The stricter of what the configuration says and what this says.
    pub fn narrowed(&self, (security, ask): (Security, Ask)) -> (Security, Ask) {
        let both = [Some(&self.defaults), self.rules()];
        both.into_iter().flatten().fold((security, ask), |(security, ask), rules| {
            (security.min(rules.security.unwrap_or(security)), ask.max(rules.ask.unwrap_or(ask)))
        })
    }
}
