//! Skills as this gateway has them now.

use super::Gateway;
use crate::{
    config::{Config, Error},
    skills::{Found, OFFERED, Places},
};
use std::path::{Path, PathBuf};

impl Gateway {
    /// Where those are that somebody installed here.
    pub(crate) fn managed_skills(&self) -> PathBuf {
        self.workspace.with_file_name("skills")
    }

    /// All that are found now.
    pub(crate) fn skills(&self) -> Found {
        let (config, managed) = (self.config(), self.managed_skills());
        let (workspace, offered) = (self.workspace.as_path(), Path::new(OFFERED));
        self.shelf.find(&Places { workspace, managed: &managed, offered, config: &config })
    }

    /// What a text means that calls a skill: `/NAME` and what it is called with.
    pub(crate) fn skill_called(&self, text: &str) -> Option<String> {
        let called = text.trim().strip_prefix('/')?;
        let (name, rest) = called.split_once(char::is_whitespace).unwrap_or((called, ""));
        let (config, found) = (self.config(), self.skills());
        let commands = found.commands(&config);
        let skill = commands.iter().find(|it| it.name == name)?.skill;
        let told = format!(
            "I call the skill {:?}: read {} first, and do what it says for this.",
            skill.name,
            skill.file.display()
        );
        Some(if rest.trim().is_empty() { told } else { format!("{told}\n\n{}", rest.trim()) })
    }

    /// Switches one on or off, in the configuration.
    pub(crate) fn switch_skill(&self, key: &str, enabled: bool) -> Result<(), Error> {
        self.config.change(|loaded| {
            let mut config = Config::clone(&loaded.config);
            config.skills.entries.entry(key.to_owned()).or_default().enabled = Some(enabled);
            serde_json::to_string_pretty(&config).map(Some).map_err(|error| Error::Unread(error.to_string()))
        })
    }
}
