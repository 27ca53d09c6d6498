//! Programs that a test or bench needs, installed from Debian's packages where they are missing.

use crate::run;
use anyhow::{Context, Result};
use std::process::Command;

/// Makes sure that each program (first) is there, or installs its package (second).
pub(crate) fn ensure(programs: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> =
        programs.iter().filter(|(program, _)| !on_path(program)).map(|&(_, package)| package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let install = || {
        run::run(Command::new("apt-get").args(["update", "-q"]))?;
        run::run(Command::new("apt-get").args(["install", "-qy", "--no-install-recommends"]).args(&missing))
    };
    install().with_context(|| format!("install these packages and try again: {}", missing.join(" ")))
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into()]).any(|dir| dir.join(program).is_file())
}
