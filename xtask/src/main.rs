//! One verb for each thing that people do with this repository; CI calls the same verbs.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a command line tool")]
#![expect(clippy::disallowed_methods, reason = "it starts cargo, npm and the peers that it measures")]

mod bench;
mod compare;
mod deps;
mod fuzz;
mod lengths;
mod mutants;
mod programs;
mod run;
mod test;

use anyhow::{Context, Result, bail};
use std::process::Command;

const USAGE: &str = "\
cargo xtask <verb>

  test [FILTER]   every test; what it needs it installs (real OpenClaw included)
  mutants         leaves out each protection of a cell and each check of guard, egress, inference and edge,
                  alone, and prints how many are missed: all, or it fails
  fuzz [--seconds N] [--if-possible] [TARGET...]
                  every parser against what libFuzzer thinks of, 60 seconds each; new inputs stay in target/
  lint            formatting, check-deps, lengths, clippy, deny.toml (installs cargo-deny)
  check-deps      crate edges follow ARCHITECTURE.md
  bench cell      cell start against bubblewrap
  bench edge      the edge against nginx
  bench egress    what leaves a cell, against squid, tinyproxy and mitmproxy; verdicts, approvals, policies
  bench inference the way to a model, against LiteLLM
  bench kill      how soon a killed tenant stands still and is cut off
  bench native [--quick] [--tenants N,N] [--turns N]
                  the native gateway at 1, 100 and 1,000 tenants and in 100,000 turns, beside real OpenClaw
  compare [--write]
                  the battery of `prove` in a cell, under bubblewrap and under runc, as root; --write puts the
                  table into docs/comparison.md
  lengths         no file past 600 lines of code, tests apart
";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rest = arguments.get(1..).unwrap_or_default();
    match arguments.first().map(String::as_str) {
        Some("test") => test::run(rest),
        Some("mutants") => mutants::run(),
        Some("fuzz") => fuzz::run(rest),
        Some("bench") => bench::run(rest),
        Some("compare") => compare::run(rest),
        Some("lint") => lint(),
        Some("check-deps") => deps::check(),
        Some("lengths") => lengths::check(),
        Some("help" | "--help" | "-h") => {
            print!("{USAGE}");
            Ok(())
        }
        _ => bail!("{USAGE}"),
    }
}

fn lint() -> Result<()> {
    run::cargo(&["fmt", "--all", "--check"])?;
    deps::check()?;
    lengths::check()?;
    run::cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])?;
    deny()
}

/// `deny.toml`, but for advisories: their database is not in a registry.
fn deny() -> Result<()> {
    let tools = run::root().join("target/tools");
    let deny = tools.join("bin/cargo-deny");
    if !deny.is_file() {
        let at = tools.to_str().context("the repository's path is not UTF-8")?;
        run::cargo(&["install", "cargo-deny@0.20.2", "--locked", "--quiet", "--debug", "--root", at])?;
    }
    let mut check = Command::new(deny);
    check.args(["--log-level", "error", "check", "bans", "licenses", "sources"]);
    run::run(check.current_dir(run::root()))
}
