//! What leaves a cell, against squid, tinyproxy, mitmproxy and LiteLLM: `tests/speed.rs` has the host and the
//! measures; the peers come from Debian and PyPI, into `target/tools`, without a change to the machine.

use crate::run;
use anyhow::{Context, Result};
use std::{fs, path::Path, process::Command};

/// Debian's packages, and what of their libraries a small system lacks.
const DEBIAN: &[&str] = &[
    "squid",
    "squid-common",
    "squid-langpack",
    "libecap3",
    "libltdl7",
    "libtdb1",
    "libnetfilter-conntrack3",
    "libnfnetlink0",
    "tinyproxy-bin",
];
const MITMPROXY: &str = "mitmproxy==11.0.2";
const LITELLM: &str = "litellm[proxy]==1.106.2";

pub(super) fn egress() -> Result<()> {
    or_say("squid and tinyproxy", debian());
    or_say("mitmproxy", python("mitmproxy", MITMPROXY));
    measure("egress", &[])
}

pub(super) fn inference() -> Result<()> {
    or_say("LiteLLM", python("litellm", LITELLM));
    measure("inference", &[])
}

/// The bench says again what is missing, where its row would be.
fn or_say(what: &str, outcome: Result<()>) {
    if let Err(error) = outcome {
        println!("{what} cannot be had: {error:#}");
    }
}

/// Runs one bench of `tests/speed.rs`, told by these variables what to measure.
pub(super) fn measure(test: &str, variables: &[(&str, &str)]) -> Result<()> {
    let test = ["--test", "speed", test, "--", "--ignored", "--exact", "--nocapture"];
    let arguments = [&["test", "--release", "--package", "cofferdam"], &test[..]].concat();
    run::run(run::cargo_command(&arguments).envs(variables.iter().copied()))
}

/// Unpacks Debian's packages; nothing of them is installed or started.
fn debian() -> Result<()> {
    let dir = run::root().join("target/tools/debian");
    let root = dir.join("root");
    if root.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(&dir)?;
    run::run(Command::new("apt-get").args(["update", "-q"]))?;
    run::run(Command::new("apt-get").args(["download", "-q"]).args(DEBIAN).current_dir(&dir))?;
    let unpacked = dir.join("unpacked");
    for entry in fs::read_dir(&dir)? {
        let package = entry?.path();
        if package.extension().is_some_and(|it| it == "deb") {
            run::run(Command::new("dpkg").arg("-x").args([&package, &unpacked]))?;
        }
    }
    fs::rename(unpacked, root).context("the packages are unpacked and cannot be put in their place")
}

/// Installs a program from PyPI into an environment of its own.
fn python(name: &str, requirement: &str) -> Result<()> {
    let dir = run::root().join("target/tools").join(name);
    let done = dir.join("installed");
    if fs::read_to_string(&done).is_ok_and(|it| it == requirement) {
        return Ok(());
    }
    run::run(Command::new("python3").args([Path::new("-m"), Path::new("venv"), &dir]))?;
    run::run(Command::new(dir.join("bin/pip")).args(["install", "--quiet", requirement]))?;
    Ok(fs::write(done, requirement)?)
}
