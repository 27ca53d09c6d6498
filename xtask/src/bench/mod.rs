//! Benches against peers: the ratio within one run is the figure, absolute times are colour.
//!
//! Every contender runs in each round, in turn, so that whatever else the machine does hits all of them.
//! A gate missed is unfinished work; a moonshot missed is printed beside its figure.

mod cell;
mod client;
mod edge;
mod kill;
mod leaving;
mod native;
mod stats;

use crate::programs;
use anyhow::{Result, bail};

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    match arguments.first().map(String::as_str) {
        Some("cell") => cell::run(),
        Some("edge") => edge::run(),
        Some("egress") => leaving::egress(),
        Some("inference") => leaving::inference(),
        Some("kill") => kill::run(),
        Some("native") => native::run(&arguments[1..]),
        _ => bail!("cargo xtask bench cell|edge|egress|inference|kill|native"),
    }
}

/// Installs the peers that are missing.
fn peers(list: &[(&str, &str)]) -> Result<()> {
    programs::ensure(list)
}
