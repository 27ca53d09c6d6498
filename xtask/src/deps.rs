//! The arrows between our crates, as `ARCHITECTURE.md` draws them. A new edge is a decision, so it fails
//! here until it is written down here.

use crate::run;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{collections::BTreeMap, process::Command};

/// Crate → what it may know of ours. Everything may know `base`.
const EDGES: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("policy", &[]),
    ("sys", &[]),
    ("vault", &[]),
    ("store", &[]),
    ("sandbox", &["policy", "sys"]),
    ("egress", &["policy", "sys"]),
    ("inference", &[]),
    ("agent", &["sys"]),
    ("warden", &["policy", "sys", "vault", "sandbox", "egress", "inference"]),
    ("tenants", &["sys", "sandbox", "store"]),
    ("import", &["sys", "sandbox", "agent"]),
    ("edge", &["policy", "sys", "sandbox"]),
    ("audit", &["policy", "sys", "sandbox"]),
    ("control", &["policy", "sys", "vault", "store", "sandbox", "tenants"]),
];

pub(crate) fn check() -> Result<()> {
    let metadata = run::output(
        Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["metadata", "--format-version=1", "--no-deps", "--locked"])
            .current_dir(run::root()),
    )?;
    let metadata: Value = serde_json::from_slice(&metadata)?;
    let allowed: BTreeMap<_, _> = EDGES.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().context("cargo metadata lists no packages")? {
        let Some(name) = package["name"].as_str().and_then(|name| name.strip_prefix("cofferdam-")) else {
            continue;
        };
        let known =
            allowed.get(name).with_context(|| format!("crate {name} is not in the table of edges"))?;
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let Some(other) = dependency["name"].as_str().and_then(|name| name.strip_prefix("cofferdam-"))
            else {
                continue;
            };
            if other != "base" && !known.contains(&other) {
                wrong.push(format!("{name} → {other}"));
            }
        }
    }
    if !wrong.is_empty() {
        bail!("edges that ARCHITECTURE.md does not have: {}", wrong.join(", "));
    }
    println!("check-deps: {} crates, no new edge", allowed.len());
    Ok(())
}
