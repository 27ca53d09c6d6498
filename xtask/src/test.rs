//! The whole test run, set-up included.

use crate::{programs, run};
use anyhow::{Context, Result};
use std::{path::Path, process::Command};

/// Programs that tests run inside cells or as clients, and the Debian packages that have them.
const PROGRAMS: &[(&str, &str)] = &[
    ("npm", "npm"),
    ("curl", "curl"),
    ("git", "git"),
    ("python3", "python3"),
    ("chromium-headless-shell", "chromium-headless-shell"),
];

pub(crate) fn run(filter: &[String]) -> Result<()> {
    programs::ensure(PROGRAMS)?;
    let schema = protocol_schema()?;
    let mut arguments = vec!["test", "--workspace", "--no-fail-fast"];
    arguments.extend(filter.iter().map(String::as_str));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    run::run(
        Command::new(cargo).args(arguments).env("COFFERDAM_PROTOCOL_SCHEMA", schema).current_dir(run::root()),
    )
}

/// The gateway protocol's schema, with which the edge's method table is compared.
fn protocol_schema() -> Result<std::path::PathBuf> {
    const PACKAGE: &str = "@openclaw/gateway-protocol@2026.9.1";
    let dir = run::root().join("target/npm/gateway-protocol-2026.9.1");
    let installed = dir.join("node_modules/@openclaw/gateway-protocol");
    if !installed.is_dir() {
        std::fs::create_dir_all(&dir)?;
        run::run(
            Command::new("npm")
                .args(["install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-save", "--prefix"])
                .args([dir.as_path(), Path::new(PACKAGE)]),
        )?;
    }
    find(&installed, "protocol.schema.json").with_context(|| format!("{PACKAGE} has no protocol.schema.json"))
}

fn find(dir: &Path, name: &str) -> Option<std::path::PathBuf> {
    std::fs::read_dir(dir).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if path.is_dir() && entry.file_name() != "node_modules" {
            find(&path, name)
        } else {
            (entry.file_name() == name).then_some(path)
        }
    })
}
