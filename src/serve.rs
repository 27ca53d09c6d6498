//! `cofferdam serve` and `init`: the composition of a host, and where things are when nobody says.

use crate::cli::{Exit, Failure};
use cofferdam_sys::process;
use cofferdam_tenants::{
    Error,
    config::{self, HostConfig},
    data::{DataDir, Owners},
    launcher::{Companion, Host, Linux},
};
use std::{
    io::{IsTerminal, Write as _},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    process::ExitCode,
};
use tracing_subscriber::{
    Layer as _, filter::LevelFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// Runs a host until SIGTERM, SIGINT or SIGHUP.
pub(crate) fn serve(data_dir: &Path) -> Result<ExitCode, Failure> {
    process::close_inherited()?;
    let stop = process::stop_signal()?;
    host(data_dir, None, stop.as_fd())?;
    Ok(ExitCode::SUCCESS)
}

/// The same until `stop` becomes readable. With a demo's guide there is the built-in model, too.
pub(crate) fn host(data_dir: &Path, guide: Option<Companion>, stop: BorrowedFd<'_>) -> Result<(), Failure> {
    let builtin_model = guide.is_some();
    log_to_stderr(None);
    let host = Host::open(data_dir, default_cache_dir()?, builtin_model).map_err(failure)?;
    let engine = Linux::start(&host.boot, guide).map_err(failure)?;
    if !builtin_model {
        let (dir, edge) = (data_dir.display(), host.boot.config.edge.listen);
        eprintln!("cofferdam: the host of {dir} comes up at http://{edge}; Ctrl-C ends it");
    }
    host.serve(engine, stop).map_err(failure)
}

/// Makes a data directory with a commented configuration. A directory that is there is checked and completed,
/// its configuration left alone.
pub(crate) fn init(data_dir: &Path, json: bool) -> Result<ExitCode, Failure> {
    let file = data_dir.join(config::FILE);
    let config = HostConfig::load(&file).map_err(failure)?;
    let root = rustix::process::geteuid().is_root();
    let owners = if root { Owners::Apart(config.uids.base) } else { Owners::OneUser };
    DataDir::create(data_dir, owners).map_err(failure)?;
    let new = match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&file) {
        Ok(mut new) => new.write_all(COMMENTED.as_bytes()).map(|()| true)?,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(error.into()),
    };
    if json {
        let answer = serde_json::json!({ "data_dir": data_dir, "config": file, "config_is_new": new });
        crate::cli::line(&answer.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    crate::cli::line(&format!(
        "{} is ready; start the host with: cofferdam serve --data-dir {0}",
        data_dir.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// The cache that this data directory's configuration names, or the default.
pub(crate) fn cache_dir(data_dir: &Path) -> Result<PathBuf, Failure> {
    let config = HostConfig::load(&data_dir.join(config::FILE)).map_err(failure)?;
    config.cache.dir.map_or_else(default_cache_dir, |dir| Ok(dir.into()))
}

/// `/var/cache/cofferdam` as root, else below the XDG cache directory.
pub(crate) fn default_cache_dir() -> Result<PathBuf, Failure> {
    if rustix::process::geteuid().is_root() {
        return Ok("/var/cache/cofferdam".into());
    }
    let xdg = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    xdg.or_else(home).map(|dir| dir.join("cofferdam")).ok_or_else(|| {
        let message = "neither XDG_CACHE_HOME nor HOME is set";
        Failure::new(Exit::Usage, "no_cache_dir", message, "set [cache] dir in cofferdam.toml")
    })
}

/// Logs of this process and of those it starts, which inherit the descriptor; the native gateway keeps its own besides.
pub(crate) fn log_to_stderr(kept: Option<cofferdam_agent::log::Keep>) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("COFFERDAM_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    // A second call in one process keeps the first one's choice.
    let told = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_filter(filter);
    let kept = kept.map(|kept| kept.with_filter(LevelFilter::INFO));
    let _ = tracing_subscriber::registry().with(told).with(kept).try_init();
}

fn failure(error: Error) -> Failure {
    let exit = match &error {
        Error::Conflict(_) => Exit::Conflict,
        Error::Refused(_) => Exit::Refused,
        _ => Exit::Usage,
    };
    Failure::new(exit, "host", error.to_string(), "")
}

const COMMENTED: &str = include_str!("cofferdam.toml");
