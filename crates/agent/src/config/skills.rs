//! `skills`: which instructions the agent is offered, and from where.

use super::is_default;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

/// The most directories beside the usual ones.
const DIRS: usize = 16;

/// The section.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Skills {
    /// Of the skills that the operator offers these alone; none or an empty list: all of them.
    #[serde(skip_serializing_if = "is_default")]
    pub allow_bundled: Option<Vec<String>>,
    /// Where else they are.
    #[serde(skip_serializing_if = "is_default")]
    pub load: Load,
    /// How much of them a model is told.
    #[serde(skip_serializing_if = "is_default")]
    pub limits: Limits,
    /// By their keys.
    #[serde(skip_serializing_if = "is_default")]
    pub entries: BTreeMap<String, Entry>,
}

/// Where else skills are.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Load {
    /// Looked through last.
    #[serde(skip_serializing_if = "is_default")]
    pub extra_dirs: Vec<PathBuf>,
}

/// How much of them a model is told.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// How many.
    #[serde(skip_serializing_if = "is_default")]
    pub max_skills_in_prompt: Option<usize>,
    /// In how many characters.
    #[serde(skip_serializing_if = "is_default")]
    pub max_skills_prompt_chars: Option<usize>,
}

/// One skill.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Entry {
    /// `false`: it is offered to nobody.
    #[serde(skip_serializing_if = "is_default")]
    pub enabled: Option<bool>,
}

impl Skills {
    /// Is each value one that is known?
    pub(super) fn check(&self) -> Result<(), String> {
        let dirs = &self.load.extra_dirs;
        if dirs.len() > DIRS {
            return Err(format!("skills.load.extraDirs: at most {DIRS} directories"));
        }
        match dirs.iter().find(|dir| !dir.is_absolute()) {
            Some(dir) => Err(format!("skills.load.extraDirs: {} is relative: write it whole", dir.display())),
            None => Ok(()),
        }
    }
}
