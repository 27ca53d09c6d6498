//! npm as a subprocess: its ordinary client, install scripts always off.

use super::Error;
use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

/// Runs npm in `dir`. What it prints is kept for the error only.
pub(super) fn run(dir: &Path, what: &'static str, arguments: &[&str]) -> Result<Vec<u8>, Error> {
    #[expect(clippy::disallowed_methods, reason = "runtimes are installed by their own package client")]
    let output = Command::new("npm")
        .args(arguments)
        .args(["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"])
        .current_dir(dir)
        .stdin(Stdio::null())
        .output();
    match output {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::NoNpm),
        Err(source) => Err(Error::Io { path: "npm".into(), source }),
        Ok(Output { status, stdout, .. }) if status.success() => Ok(stdout),
        Ok(Output { stderr, .. }) => Err(Error::Npm { what, stderr: end_of(&stderr) }),
    }
}

/// The last 2,000 characters: npm puts the cause at the end.
fn end_of(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let skip = text.chars().count().saturating_sub(2000);
    text.trim().chars().skip(skip).collect()
}
