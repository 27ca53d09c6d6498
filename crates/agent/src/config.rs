//! How a gateway is set up: one file of JSON5 in upstream's words, as far as this gateway heeds them.
//!
//! A key that nobody heeds is an error: whoever wrote it believes that it works. A file that cannot be read keeps the
//! gateway from starting; none at all is the default of everything.

mod agents;
pub(crate) mod change;
mod channels;
pub mod consent;
pub(crate) mod mcp;
mod placeholder;
pub(crate) mod schema;
pub mod secret;
mod skills;
mod text;
mod tools;
mod web;

pub use agents::Agents;
pub use channels::{Access, Channels, Discord, DmPolicy, Group, GroupPolicy, Slack, Telegram, Webhook};
pub use mcp::Mcp;
pub use placeholder::Placeholder;
pub use skills::Skills;
pub use tools::{Profile, Tools};
pub use web::{Provider, Search, Web};
mod compaction;
mod cron;
mod heartbeat;
mod hooks;
mod subagents;

pub(crate) use compaction::Limits;

pub use cron::Cron;
pub use heartbeat::Heartbeat;
pub(crate) use hooks::full_key;
pub use hooks::{Action, Hooks, Mapping, SessionMode};

use crate::{ids, tools::text_within};
use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::watch;

/// The longest file, in bytes.
pub const LONGEST: usize = 1024 * 1024;

/// All of it. Each section has a file of its own.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// The agent, and what it begins with.
    #[serde(skip_serializing_if = "is_default")]
    pub agents: Agents,
    /// What the agent may use.
    #[serde(skip_serializing_if = "is_default")]
    pub tools: Tools,
    /// Where people write from outside.
    #[serde(skip_serializing_if = "is_default")]
    pub channels: Channels,
    /// Servers whose tools it may call.
    #[serde(skip_serializing_if = "is_default")]
    pub mcp: Mcp,
    /// Instructions that it may read.
    #[serde(skip_serializing_if = "is_default")]
    pub skills: Skills,
    /// Jobs.
    #[serde(skip_serializing_if = "is_default")]
    pub cron: Cron,
    /// What strangers may post.
    #[serde(skip_serializing_if = "is_default")]
    pub hooks: Hooks,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Config {
    /// Reads one; the error says which key is wrong.
    pub fn parse(raw: &str) -> Result<Self, Error> {
        Ok(Self::of(&read(raw)?)?)
    }

    /// Reads one that was text before.
    pub fn of(value: &Value) -> Result<Self, Issue> {
        let config: Self = serde_path_to_error::deserialize(value).map_err(|error| Issue {
            path: error.path().to_string().trim_start_matches('.').to_owned(),
            message: error.into_inner().to_string(),
        })?;
        config.check().map_err(|said| match said.split_once(": ") {
            Some((path, message)) if !path.contains(' ') => {
                Issue { path: path.to_owned(), message: message.to_owned() }
            }
            _ => Issue { path: String::new(), message: said },
        })?;
        Ok(config)
    }

    /// Is each value one that is known? The error begins with its path, and `: `.
    fn check(&self) -> Result<(), String> {
        let Self { agents, tools, skills, mcp, cron, hooks, channels } = self;
        agents.check(channels)?;
        tools.check()?;
        skills.check()?;
        mcp.check()?;
        cron.check()?;
        hooks.check()?;
        channels.check()
    }
}

/// The text of a configuration as a value: an object.
pub fn read(raw: &str) -> Result<Value, Error> {
    if raw.len() > LONGEST {
        return Err(Error::Unread(format!("it is longer than {LONGEST} bytes")));
    }
    let value = text::read(raw).map_err(Error::Unread)?;
    if value.is_object() { Ok(value) } else { Err(Error::Unread("it is no object".to_owned())) }
}

/// What is wrong with one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{}{message}", if path.is_empty() { String::new() } else { format!("{path}: ") })]
pub struct Issue {
    /// Where.
    pub path: String,
    /// What.
    pub message: String,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file.
    #[error("the gateway's configuration {}: {why}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        why: io::Error,
    },
    /// What it says.
    #[error("{0}")]
    Unread(String),
    /// One of its keys.
    #[error(transparent)]
    Issue(#[from] Issue),
    /// The file that is there.
    #[error(
        "the gateway's configuration {}: {why}; mend it, or remove it to begin with none",
        path.display()
    )]
    Broken {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// The configuration of a gateway that runs, and the file in which it is.
#[derive(Debug)]
pub(crate) struct Configured {
    path: PathBuf,
    now: watch::Sender<Loaded>,
    /// One change at a time.
    changing: Mutex<()>,
    /// Makes names of its states from which nobody can guess a secret that is in them. Of this start: who has an older
    /// name reads it again.
    key: hmac::Key,
}

/// One state of it.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    /// As it was written; none: there is no file.
    pub(crate) raw: Option<Arc<str>>,
    pub(crate) config: Arc<Config>,
}

impl Loaded {
    /// As it was written, as a value.
    pub(crate) fn written(&self) -> Value {
        // What is in force was read.
        self.raw.as_deref().and_then(|raw| read(raw).ok()).unwrap_or_else(|| json!({}))
    }
}

impl Configured {
    /// Reads the file, if there is one.
    pub(crate) fn open(path: PathBuf) -> Result<Self, Error> {
        let loaded = match text_within(&path, LONGEST as u64) {
            Ok(raw) => match Config::parse(&raw) {
                Ok(config) => Loaded { raw: Some(raw.into()), config: Arc::new(config) },
                Err(error) => return Err(Error::Broken { path, why: error.to_string() }),
            },
            Err(why) if why.kind() == io::ErrorKind::NotFound => Loaded { raw: None, config: Arc::default() },
            Err(why) => return Err(Error::Io { path, why }),
        };
        let key = hmac::Key::new(hmac::HMAC_SHA256, &ids::random::<32>());
        Ok(Self { path, now: watch::Sender::new(loaded), changing: Mutex::default(), key })
    }

    pub(crate) fn current(&self) -> Arc<Config> {
        Arc::clone(&self.now.borrow().config)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// As it is now, with its text.
    pub(crate) fn loaded(&self) -> Loaded {
        self.now.borrow().clone()
    }

    /// The name of a state.
    pub(crate) fn revision(&self, of: &str) -> String {
        let tag = hmac::sign(&self.key, of.as_bytes());
        format!("hmac-sha256:v1:{}", URL_SAFE_NO_PAD.encode(tag))
    }

    /// Changes it by what comes out of what is there, while nobody else does; none changes nothing.
    pub(crate) fn change<E: From<Error>>(
        &self,
        to: impl FnOnce(&Loaded) -> Result<Option<String>, E>,
    ) -> Result<(), E> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        match to(&self.loaded())? {
            Some(raw) => Ok(self.replace(&raw)?),
            None => Ok(()),
        }
    }

    /// As it is, and whenever it changes.
    pub(crate) fn watch(&self) -> watch::Receiver<Loaded> {
        self.now.subscribe()
    }

    /// Puts another in its place: on disk, then in force. What cannot be read changes nothing.
    fn replace(&self, raw: &str) -> Result<(), Error> {
        let config = Arc::new(Config::parse(raw)?);
        put(&self.path, raw).map_err(|why| Error::Io { path: self.path.clone(), why })?;
        self.now.send_replace(Loaded { raw: Some(raw.into()), config });
        Ok(())
    }
}

/// Writes a file whole or not at all; when this returns, it outlives a loss of power.
fn put(path: &Path, text: &str) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let new = dir.join(format!(".config.{}", ids::uuid()));
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        fs::File::open(dir)?.sync_all()
    })();
    written.inspect_err(|_| {
        // It may be none, and the first error is the one to tell.
        let _ = fs::remove_file(&new);
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_configuration_is_heeded_whole_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let open = || Configured::open(path.clone());
        let none = open().unwrap();
        assert_eq!(*none.current(), Config::default());
        let mut watch = none.watch();
        none.replace(r#"{"agents":{"defaults":{"model":"clever","thinkingDefault":"low"}}}"#).unwrap();
        assert!(watch.has_changed().unwrap());
        assert_eq!(none.current().agents.defaults.model.as_deref(), Some("clever"));
        for (bad, why) in [
            ("{", "EOF"),
            ("[]", "no object"),
            (r#"{"nobodyKnowsThis":{}}"#, "unknown field `nobodyKnowsThis`"),
            (r#"{"agents":{"defaults":{"model":7}}}"#, "agents.defaults.model: "),
            (r#"{"agents":{"defaults":{"thinkingDefault":"very"}}}"#, "agents.defaults.thinkingDefault: "),
        ] {
            let error = none.replace(bad).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        assert!(watch.borrow_and_update().config.agents.defaults.model.is_some());
        assert_eq!(open().unwrap().current(), none.current(), "what was refused changed nothing");
        fs::write(&path, "no").unwrap();
        let error = open().unwrap_err().to_string();
        assert!(error.contains("config.json") && error.contains("mend it"), "{error}");
    }
}
