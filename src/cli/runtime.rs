//! `cofferdam runtime`: what can run in cells, installed into the cache that all hosts of this user share.

use super::{Exit, Failure, flags::Runtime, print};
use cofferdam_sys::process;
use cofferdam_tenants::openclaw::{
    self, PINNED,
    install::{self, Installed, Progress},
    lock::{Lock, Package},
    seal,
};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::{
    io::IsTerminal,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    process::ExitCode,
};

pub(super) fn run(command: Runtime, data_dir: PathBuf, json: bool) -> Result<ExitCode, Failure> {
    let cache = crate::serve::cache_dir(&data_dir)?;
    match command {
        Runtime::Other(words) => Err(super::other("runtime", &words)),
        Runtime::Install { what } => install(&what, &cache, json),
        Runtime::List => {
            let all = install::list(&cache).map_err(failure)?;
            if json {
                print::json(&json!({ "runtimes": all }))?;
                return Ok(ExitCode::SUCCESS);
            }
            let row = |one: &Installed| {
                vec![format!("openclaw@{}", one.version), one.lock.to_string(), one.tree.to_string()]
            };
            print::table(&["RUNTIME", "LOCK", "TREE"], all.iter().map(row).collect(), NOTHING)?;
            Ok(ExitCode::SUCCESS)
        }
        Runtime::Verify => {
            let all = install::list(&cache).map_err(failure)?;
            for one in &all {
                install::verify(&cache, one.lock).map_err(failure)?;
                if !json {
                    print::line(&format!("openclaw@{} is what was sealed: {}", one.version, one.tree))?;
                }
            }
            if json {
                print::json(&json!({ "verified": all }))?;
            } else if all.is_empty() {
                print::line(NOTHING)?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

const NOTHING: &str = "nothing is installed; install with: cofferdam runtime install openclaw";

fn install(what: &str, cache: &Path, json: bool) -> Result<ExitCode, Failure> {
    let version = match what.split_once('@') {
        None if what == "openclaw" => PINNED,
        Some(("openclaw", version)) => version,
        _ => {
            let message = format!("{what:?} is no runtime");
            return Err(Failure::new(
                Exit::Usage,
                "no_such_runtime",
                message,
                "use openclaw or openclaw@VERSION",
            ));
        }
    };
    // Heard from the beginning, so that nothing half made stays.
    let stop = process::stop_signal()?;
    let (lock, new) = match Lock::find(version, cache) {
        Err(openclaw::Error::NoLock(_)) => make_lock(version, cache, stop.as_fd(), json)?,
        other => (other.map_err(failure)?, None),
    };
    let installed = install_with_bar(cache, &lock, stop.as_fd())?;
    if json {
        let Installed { version, lock, tree } = installed;
        print::json(&json!({ "version": version, "lock": lock, "tree": tree, "new_lock": new }))?;
    } else {
        print::line(&format!("openclaw@{} is installed and sealed", installed.version))?;
        print::line(&format!("  lock {}", installed.lock))?;
        print::line(&format!("  tree {}", installed.tree))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes the lock of a release that has none, shows what is in it, and only then keeps it.
fn make_lock(
    version: &str,
    cache: &Path,
    stop: BorrowedFd<'_>,
    json: bool,
) -> Result<(Lock, Option<Value>), Failure> {
    let draft = install::Draft::make(cache, version, stop).map_err(failure)?;
    let (lock, known) = (draft.lock(), Lock::bundled().map_err(failure)?);
    let published = install::published(cache, "openclaw", version, stop).map_err(failure)?;
    let is_new = |package: &&Package| !known.packages().contains(package);
    let new: Vec<&Package> = lock.packages().iter().filter(is_new).collect();
    let youngest = install::youngest(cache, &new, stop).map_err(failure)?;
    let document = json!({
        "published": published,
        "youngest": youngest.as_ref().map(|(at, package)| json!({
            "name": package.name, "version": package.version, "published": at,
        })),
        "packages": lock.packages().iter().map(|package| json!({
            "path": package.path, "version": package.version, "integrity": package.integrity,
            "new": is_new(&package),
        })).collect::<Vec<_>>(),
    });
    if !json {
        show(version, lock, &new)?;
        print::line(&format!("  openclaw@{version}, published {published}"))?;
        if let Some((at, package)) = &youngest {
            print::line(&format!("  the youngest: {}@{}, published {at}", package.name, package.version))?;
        }
    }
    Ok((draft.publish().map_err(failure)?, Some(document)))
}

/// A new lock beside the one that ships with this release.
fn show(version: &str, lock: &Lock, new: &[&Package]) -> std::io::Result<()> {
    print::line(&format!("a new lock for openclaw@{version}: {}", lock.digest()))?;
    let rows: Vec<_> = new
        .iter()
        .map(|package| vec![package.path.clone(), package.version.clone(), package.integrity.clone()])
        .collect();
    let count = format!(
        "  {} packages, {} of them not in the lock of openclaw@{PINNED}",
        lock.packages().len(),
        new.len()
    );
    print::table(&["PACKAGE", "VERSION", "INTEGRITY"], rows, "every package is in it")?;
    print::line(&count)
}

/// Installs a lock's tree unless it is there, with a bar on a terminal and plain lines elsewhere.
pub(crate) fn install_with_bar(
    cache: &Path,
    lock: &Lock,
    stop: BorrowedFd<'_>,
) -> Result<Installed, Failure> {
    let there = install::find(cache, lock.digest()).is_ok();
    let bar = if std::io::stderr().is_terminal() {
        let style =
            ProgressStyle::with_template("{msg:28} [{bar:32}] {pos}/{len}").map_err(Failure::could_not)?;
        ProgressBar::new(0).with_style(style.progress_chars("=> "))
    } else {
        if there {
            eprintln!("openclaw@{} is there; comparing it with its seal", lock.version());
        } else {
            eprintln!("installing openclaw@{} once, about a minute", lock.version());
        }
        ProgressBar::hidden()
    };
    let show = |progress| match progress {
        Progress::Fetch(done, total) => {
            bar.set_message(format!("fetching openclaw@{}", lock.version()));
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        }
        Progress::Complete => bar.set_message("completing its lifecycle"),
        Progress::Seal => bar.set_message("hashing and sealing"),
    };
    let complete = |tree: &Path| seal::complete(tree, stop);
    let installed = install::install(cache, lock, stop, &show, &complete).map_err(failure);
    bar.finish_and_clear();
    installed
}

fn failure(error: openclaw::Error) -> Failure {
    let exit = match &error {
        openclaw::Error::Tree { .. } | openclaw::Error::Unsafe { .. } | openclaw::Error::Lifecycle(_) => {
            Exit::Refused
        }
        openclaw::Error::NoLock(_) => Exit::NotFound,
        _ => Exit::Usage,
    };
    Failure::new(exit, "runtime", error.to_string(), "")
}
