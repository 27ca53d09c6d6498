//! The launcher: the only privileged process. It starts, ends and restarts everything else, and does what
//! control tells it within its own configuration.
//!
//! It parses nothing from a network or a tenant. Its loop is one thread, without an async runtime, because
//! its children inherit what it is. The threats and the answers to them are said in `core` and `plan`.

mod children;
mod core;
mod effects;
mod guard;
mod kill;
mod linux;
mod logs;
mod machine;
mod placeholders;
mod plan;
mod run;
mod strays;
#[cfg(test)]
mod tests;
mod wires;

pub use children::CONTROL_GIVES_UP;
pub use effects::{Cell, Effects, Ended, Launched, Part, Process};
pub use linux::Linux;
pub use machine::{Engine, Machine};
pub use plan::{Boot, CellSpec, PartSpec, instance};
pub use strays::Companion;

use self::core::Core;
use crate::{
    Error,
    config::{self, HostConfig, Profile},
    data::{DataDir, Lock},
};
use cofferdam_base::ipc::kill::SOCKET;
use std::{
    os::{fd::BorrowedFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
    time::Instant,
};

/// The host's name servers, where the configuration names none.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// A host that nobody else serves: checked, locked, and not yet started.
#[derive(Debug)]
pub struct Host {
    /// What control is told.
    pub boot: Boot,
    /// The layout on disk.
    pub data: DataDir,
    lock: Lock,
}

impl Boot {
    /// Reads the configuration of a data directory. `cache` is where the shared cache is if the configuration does
    /// not say.
    pub fn read(data_dir: &Path, cache: PathBuf, builtin_model: bool) -> Result<Self, Error> {
        let mut config = HostConfig::load(&data_dir.join(config::FILE))?;
        let root = rustix::process::geteuid().is_root();
        let strict = match config.profile {
            None => root,
            Some(Profile::Rootless) if root => {
                return Err(Error::Refused(
                    "profile rootless is for those who are not root: start the host as another user"
                        .to_owned(),
                ));
            }
            Some(Profile::Strict) if !root => {
                return Err(Error::Refused("profile strict needs root: start the host with sudo".to_owned()));
            }
            Some(profile) => profile == Profile::Strict,
        };
        config.profile = Some(if strict { Profile::Strict } else { Profile::Rootless });
        if config.egress.nameservers.is_empty() {
            config.egress.nameservers = config::nameservers_of_the_host(Path::new(RESOLV_CONF))?;
        }
        if let Some(roots) = &config.egress.extra_roots {
            crate::trust::extra(roots.as_path())?;
        }
        let cache_dir = config.cache.dir.clone().map_or(cache, PathBuf::from);
        // Control can only ever see a cache that is there when it confines itself. One that cannot be made is
        // an empty one: nothing can be installed in it either.
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(&cache_dir);
        if let Err(error) = made {
            tracing::warn!(%error, "the cache {} cannot be made", cache_dir.display());
        }
        let data_dir = std::path::absolute(data_dir).map_err(Error::io(data_dir))?;
        Ok(Self { data_dir, cache_dir, config, strict, builtin_model })
    }
}

impl Host {
    /// Reads the configuration, checks the layout and takes the lock. `cache` is where the shared cache is
    /// if the configuration does not say.
    pub fn open(data_dir: &Path, cache: PathBuf, builtin_model: bool) -> Result<Self, Error> {
        let boot = Boot::read(data_dir, cache, builtin_model)?;
        let data = DataDir::open(&boot.data_dir, boot.owners())?;
        let lock = data.lock()?;
        Ok(Self { boot, data, lock })
    }

    /// Serves until `stop` becomes readable, then ends everything. Before this, what an earlier launcher
    /// left has been swept.
    pub fn serve(self, engine: impl Engine, stop: BorrowedFd<'_>) -> Result<(), Error> {
        let Self { boot, data, lock } = self;
        let (listen, builtin_model) = (boot.config.edge.listen, boot.builtin_model);
        // Before anything runs that could have to be killed.
        let door =
            kill::Door::open(&boot.data_dir.join(SOCKET)).map_err(Error::io(boot.data_dir.join(SOCKET)))?;
        let guard = guard::Guard::raise(&boot)?;
        let machine = Machine::new(boot, data, engine);
        let started = Core::start(machine, listen, builtin_model, Instant::now());
        let mut core =
            started.map_err(|failure| Error::Start { what: "the host".to_owned(), why: failure.message })?;
        core.door = Some(door);
        let outcome = run::run(&mut core, stop);
        drop(core);
        drop(guard);
        // Held to the last: nobody else may start on what still ends.
        drop(lock);
        outcome
    }
}
