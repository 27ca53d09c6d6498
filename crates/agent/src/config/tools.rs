//! `tools`: what a model may call, and what commands may use.

use super::{
    Web,
    consent::{Ask, Mode, Security},
    is_default,
};
use crate::tools::is_known;
use serde::{Deserialize, Deserializer, Serialize};

/// The section.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Tools {
    /// The web.
    #[serde(skip_serializing_if = "is_default")]
    pub web: Web,
    /// What there is at all; none: everything.
    #[serde(skip_serializing_if = "is_default")]
    pub profile: Option<Profile>,
    /// Of that, only these; empty: all of it.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "some")]
    pub allow: Vec<String>,
    /// Beside the profile, these.
    #[serde(skip_serializing_if = "is_default")]
    pub also_allow: Vec<String>,
    /// But not these, whatever else is said.
    #[serde(skip_serializing_if = "is_default")]
    pub deny: Vec<String>,
    /// Commands.
    #[serde(skip_serializing_if = "is_default")]
    pub exec: Exec,
}

/// A list that lets nothing in would read like one that is not there.
fn some<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let list = Vec::deserialize(from)?;
    if list.is_empty() {
        return Err(serde::de::Error::custom("tools.allow is empty: leave it out, or deny \"*\""));
    }
    Ok(list)
}

/// Which tools there are at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "upstream's names")]
pub enum Profile {
    Minimal,
    Coding,
    Messaging,
    Full,
}

impl Profile {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Minimal, Self::Coding, Self::Messaging, Self::Full];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Minimal => "minimal",
            Self::Coding => "coding",
            Self::Messaging => "messaging",
            Self::Full => "full",
        }
    }
}

/// `tools.exec`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Exec {
    /// What may be run, and of what a person is asked, in one word; else the two that follow.
    #[serde(skip_serializing_if = "is_default")]
    pub mode: Option<Mode>,
    /// What may be run; none: everything.
    #[serde(skip_serializing_if = "is_default")]
    pub security: Option<Security>,
    /// Of what a person is asked; none: of nothing.
    #[serde(skip_serializing_if = "is_default")]
    pub ask: Option<Ask>,
    /// MiB of memory of its own that each process of a command may have. Not upstream's: it has no such cap.
    pub memory_mb: u64,
    /// A command makes no process if its cell has so many. Not upstream's either.
    pub processes: u64,
}

impl Default for Exec {
    fn default() -> Self {
        Self { mode: None, security: None, ask: None, memory_mb: 1024, processes: 256 }
    }
}

impl Exec {
    /// What may be run, and of what a person is asked.
    pub fn knobs(&self) -> (Security, Ask) {
        let one = || (self.security.unwrap_or_default(), self.ask.unwrap_or_default());
        self.mode.map_or_else(one, Mode::knobs)
    }
}

impl Tools {
    /// Is each value one that is known?
    pub(super) fn check(&self) -> Result<(), String> {
        if !self.allow.is_empty() && !self.also_allow.is_empty() {
            return Err("tools.allow and tools.alsoAllow exclude each other".to_owned());
        }
        let lists = [("allow", &self.allow), ("alsoAllow", &self.also_allow), ("deny", &self.deny)];
        for (list, entries) in lists {
            if let Some(unknown) = entries.iter().find(|entry| !is_known(entry)) {
                return Err(format!("tools.{list}: {unknown:?} names no tool and no group"));
            }
        }
        let Exec { mode, security, ask, .. } = &self.exec;
        if mode.is_some() && (security.is_some() || ask.is_some()) {
            return Err("tools.exec: mode, or security and ask, and not both".to_owned());
        }
        if !(16..=1 << 20).contains(&self.exec.memory_mb) {
            return Err("tools.exec.memoryMb: 16 to 1048576".to_owned());
        }
        if !(8..=1 << 16).contains(&self.exec.processes) {
            return Err("tools.exec.processes: 8 to 65536".to_owned());
        }
        self.web.check()
    }
}
