//! How a gateway is set up: one JSON file in upstream's words, as far as this gateway heeds them.
//!
//! A key that nobody heeds is an error: whoever wrote it believes that it works. A file that cannot be read keeps the
//! gateway from starting; none at all is the default of everything.

mod agents;
mod compaction;
mod subagents;

pub use agents::Agents;
pub(crate) use compaction::Limits;

use crate::tools::{replace, text_within};
use serde::{Deserialize, Serialize};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
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
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Config {
    /// Reads one; the error says which key is wrong.
    pub fn parse(raw: &str) -> Result<Self, Error> {
        let config: Self = serde_json::from_str(raw).map_err(|error| Error::Unread(error.to_string()))?;
        config.agents.check().map_err(Error::Unread)?;
        Ok(config)
    }
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
}

/// One state of it.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    /// As it was written; none: there is no file.
    #[allow(dead_code, reason = "`config.*` comes next")]
    pub(crate) raw: Option<Arc<str>>,
    pub(crate) config: Arc<Config>,
}

#[allow(dead_code, reason = "`config.*` comes next")]
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
        Ok(Self { path, now: watch::Sender::new(loaded) })
    }

    pub(crate) fn current(&self) -> Arc<Config> {
        Arc::clone(&self.now.borrow().config)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// As it is, and whenever it changes.
    pub(crate) fn watch(&self) -> watch::Receiver<Loaded> {
        self.now.subscribe()
    }

    /// Puts another in its place: on disk, then in force. What cannot be read changes nothing.
    pub(crate) fn replace(&self, raw: &str) -> Result<(), Error> {
        let config = Arc::new(Config::parse(raw)?);
        replace(&self.path, raw).map_err(|why| Error::Io { path: self.path.clone(), why })?;
        self.now.send_replace(Loaded { raw: Some(raw.into()), config });
        Ok(())
    }
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
            (r#"{"gateway":{}}"#, "unknown field `gateway`"),
            (r#"{"agents":{"defaults":{"thinkingDefault":"very"}}}"#, "thinkingDefault"),
        ] {
            let error = none.replace(bad).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        assert!(watch.borrow_and_update().config.agents.defaults.model.is_some());
        assert_eq!(open().unwrap().current(), none.current(), "what was refused changed nothing");
        std::fs::write(&path, "no").unwrap();
        let error = open().unwrap_err().to_string();
        assert!(error.contains("config.json") && error.contains("mend it"), "{error}");
    }
}
