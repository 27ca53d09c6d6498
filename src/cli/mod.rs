//! The command line: what was typed (`flags`), what it means (here), what is shown (`print`).
//!
//! It owns no state and takes no decision: all but `demo`, `init`, `serve`, `doctor`, `prove` and `runtime` is a
//! request to a running host.

mod approvals;
mod canary;
mod client;
mod commands;
mod doctor;
mod exec;
mod failure;
mod flags;
mod import;
mod kill;
mod models;
mod parse;
mod policy;
mod print;
mod prove;
mod proxy;
mod runtime;
mod tenant;

pub(crate) use client::Client;
pub(crate) use failure::{Exit, Failure};
pub(crate) use flags::DemoRuntime;
pub(crate) use print::line;
pub(crate) use prove::errno;
pub(crate) use runtime::install_with_bar;

use clap::Parser;
use flags::{Command, Flags};
use std::{path::PathBuf, process::ExitCode};

/// Commands of the design that this release does not have yet: a noun, empty for the first word, and what may
/// come behind it.
const NOT_BUILT: &[(&str, &[&str])] = &[
    ("", &["audit", "skill", "context", "advise", "member", "top"]),
    ("tenant", &["hibernate", "wake", "suspend", "upgrade", "backup", "restore", "clone"]),
    ("secret", &["rotate"]),
    ("ledger", &["export"]),
];

/// Reads the command line, does it, and gives the exit code.
pub(crate) fn main() -> ExitCode {
    let flags = Flags::parse();
    let json = flags.json;
    match dispatch(flags) {
        Ok(code) => code,
        Err(failure) => failure.report(json),
    }
}

fn dispatch(flags: Flags) -> Result<ExitCode, Failure> {
    let Flags { data_dir, json, command } = flags;
    match command {
        Command::Demo { runtime } => crate::demo::run(runtime, json),
        Command::Init => crate::serve::init(&data_dir_or_default(data_dir)?, json),
        Command::Serve => crate::serve::serve(&data_dir_or_default(data_dir)?),
        Command::Doctor => doctor::run(data_dir.as_deref(), json),
        Command::Runtime(command) => runtime::run(command, data_dir_or_default(data_dir)?, json),
        Command::Prove(command) => prove::run(&command, || data_dir_or_default(data_dir), json),
        Command::Kill { tenant, all: _, reason } => {
            kill::run(&data_dir_or_default(data_dir)?, tenant, reason, json)
        }
        Command::Other(words) => Err(other("", &words)),
        command => {
            let client = Client::new(data_dir_or_default(data_dir)?.join("run/control.sock"));
            block_on(commands::run(command, &client, json))?
        }
    }
}

/// Runs a future to its end on this thread.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(future))
}

/// A word behind a noun, or the first one, that is no command: one that is to come, or none at all.
fn other(noun: &str, words: &[String]) -> Failure {
    let word = words.first().map_or("", String::as_str);
    let typed: String = format!("{noun} {word}").trim_start().chars().take(64).collect();
    if NOT_BUILT.iter().any(|(of, verbs)| *of == noun && verbs.contains(&word)) {
        let message = format!("`cofferdam {typed}` is not built yet in {}", env!("CARGO_PKG_VERSION"));
        return Failure::new(Exit::Usage, "not_built", message, "see CHANGELOG.md for what this release has");
    }
    let mend = format!("cofferdam {noun} --help lists them").replace("  ", " ");
    Failure::new(Exit::Usage, "no_such_command", format!("there is no command {typed:?}"), mend)
}

fn data_dir_or_default(given: Option<PathBuf>) -> Result<PathBuf, Failure> {
    if let Some(dir) = given {
        return Ok(dir);
    }
    if rustix::process::geteuid().is_root() {
        return Ok("/var/lib/cofferdam".into());
    }
    let xdg = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    xdg.or_else(home).map(|dir| dir.join("cofferdam")).ok_or_else(|| {
        Failure::new(
            Exit::Usage,
            "no_data_dir",
            "neither XDG_DATA_HOME nor HOME is set",
            "give --data-dir DIR",
        )
    })
}

#[cfg(test)]
mod tests;
