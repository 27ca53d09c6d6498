//! `cofferdam runtime`: what can run in cells, installed into the cache that all hosts of this user share.

use super::{Exit, Failure, flags::Runtime, print};
use cofferdam_tenants::openclaw::{
    self, PINNED,
    install::{self, Installed, Progress},
    lock::Lock,
    seal,
};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    process::ExitCode,
};

pub(super) fn run(command: Runtime, data_dir: PathBuf, json: bool) -> Result<ExitCode, Failure> {
    let cache = crate::serve::cache_dir(&data_dir)?;
    match command {
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
            let none = "nothing is installed; install with: cofferdam runtime install openclaw";
            print::table(&["RUNTIME", "LOCK", "TREE"], all.iter().map(row).collect(), none)?;
            Ok(ExitCode::SUCCESS)
        }
        Runtime::Verify => {
            let all = install::list(&cache).map_err(failure)?;
            for one in &all {
                install::verify(&cache, one.lock).map_err(failure)?;
                print::line(&format!("openclaw@{} is what was sealed: {}", one.version, one.tree))?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

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
    let lock = match Lock::find(version, cache) {
        Err(openclaw::Error::NoLock(_)) => make_lock(version, cache, json)?,
        other => other.map_err(failure)?,
    };
    let installed = install_with_bar(cache, &lock)?;
    if json {
        print::json(&installed)?;
    } else {
        print::line(&format!("openclaw@{} is installed and sealed", installed.version))?;
        print::line(&format!("  lock {}", installed.lock))?;
        print::line(&format!("  tree {}", installed.tree))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes the lock of a release that has none and shows what is in it.
fn make_lock(version: &str, cache: &Path, json: bool) -> Result<Lock, Failure> {
    let lock = install::make_lock(cache, version).map_err(failure)?;
    let age = install::published(cache, "openclaw", version).map_err(failure)?;
    if json {
        let packages: Vec<_> = lock
            .packages()
            .iter()
            .map(|package| json!({ "path": package.path, "version": package.version, "integrity": package.integrity }))
            .collect();
        print::json(
            &json!({ "version": version, "lock": lock.digest(), "published": age, "packages": packages }),
        )?;
        return Ok(lock);
    }
    let known = Lock::bundled().map_err(failure)?;
    print::line(&format!(
        "openclaw@{version}, published {age}: {} packages, lock {}",
        lock.packages().len(),
        lock.digest()
    ))?;
    print::line(&format!("other than in openclaw@{PINNED}:"))?;
    for package in lock.packages() {
        if !known.packages().contains(package) {
            print::line(&format!("  {} {} {}", package.path, package.version, package.integrity))?;
        }
    }
    Ok(lock)
}

/// Installs a lock's tree unless it is there, with a bar on a terminal and plain lines elsewhere.
pub(crate) fn install_with_bar(cache: &Path, lock: &Lock) -> Result<Installed, Failure> {
    if let Ok(installed) = install::find(cache, lock.digest()) {
        return Ok(installed);
    }
    let bar = if std::io::stderr().is_terminal() {
        let style =
            ProgressStyle::with_template("{msg:28} [{bar:32}] {pos}/{len}").map_err(Failure::could_not)?;
        ProgressBar::new(0).with_style(style.progress_chars("=> "))
    } else {
        eprintln!("installing openclaw@{} once, about a minute", lock.version());
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
    let installed = install::install(cache, lock, &show, &seal::complete).map_err(failure);
    bar.finish_and_clear();
    installed
}

fn failure(error: openclaw::Error) -> Failure {
    let exit = match &error {
        openclaw::Error::Tree { .. } | openclaw::Error::Lifecycle(_) => Exit::Refused,
        openclaw::Error::NoLock(_) => Exit::NotFound,
        _ => Exit::Usage,
    };
    Failure::new(exit, "runtime", error.to_string(), "")
}
