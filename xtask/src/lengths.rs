//! File lengths: a file past 600 lines of code is two things. Tests do not count.

use crate::run;
use anyhow::{Context, Result, bail};
use std::{path::Path, process::Command};

const LIMIT: usize = 600;

pub(crate) fn check() -> Result<()> {
    let listed = run::output(
        Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"])
            .current_dir(run::root()),
    )?;
    let listed = String::from_utf8(listed)?;
    let mut lengths = Vec::new();
    for file in listed.lines().filter(|file| !is_test(file)) {
        let path = run::root().join(file);
        if path.exists() {
            lengths.push((code_lines(&path)?, file));
        }
    }
    lengths.sort_unstable();
    let at = |share: usize| lengths.get(lengths.len().saturating_sub(1) * share / 100).map_or(0, |row| row.0);
    let total: usize = lengths.iter().map(|row| row.0).sum();
    println!(
        "lengths: {} files, {total} lines of code, median {}, 90 % below {}, longest {}",
        lengths.len(),
        at(50),
        at(90),
        at(100)
    );
    let long: Vec<_> = lengths.iter().filter(|row| row.0 > LIMIT).collect();
    if !long.is_empty() {
        bail!("past {LIMIT} lines: {long:?}");
    }
    Ok(())
}

fn is_test(file: &str) -> bool {
    file.starts_with("tests/") || file.contains("/tests/") || file.ends_with("/tests.rs")
}

/// Lines before the test module.
fn code_lines(path: &Path) -> Result<usize> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count())
}
