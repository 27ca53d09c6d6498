//! Installing a locked release into the shared cache: fetch, complete, prove, seal, rename into place.
//!
//! The cache holds `openclaw/<digest of the lock>/` with `tree/` (read-only) and `sealed.json`. It is
//! written under an exclusive lock, by rename, so that a reader finds a whole tree or none.

use super::{Error, LIFECYCLE_PENDING, lock::Lock, npm, tree};
use cofferdam_base::Digest;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// A sealed tree in the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Installed {
    /// The upstream release.
    pub version: String,
    /// The digest of its lock, which is also its name in the cache.
    pub lock: Digest,
    /// The digest of the sealed tree.
    pub tree: Digest,
}

/// How far an installation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Packages unpacked, of how many.
    Fetch(usize, usize),
    /// Upstream's package lifecycle runs in a cell without network.
    Complete,
    /// The tree is hashed.
    Seal,
}

/// Installs what the lock names, unless the cache has it already. `complete` runs upstream's package
/// lifecycle over the staging copy that it is given.
pub fn install(
    cache: &Path,
    lock: &Lock,
    progress: &(dyn Fn(Progress) + Sync),
    complete: &dyn Fn(&Path) -> Result<(), Error>,
) -> Result<Installed, Error> {
    make_dir(cache)?;
    let guard_path = cache.join("install.lock");
    let guard = fs::File::create(&guard_path).map_err(Error::io(&guard_path))?;
    guard.lock().map_err(Error::io(&guard_path))?;

    let home = home(cache, lock.digest());
    if let Ok(installed) = read_seal(&home) {
        return Ok(installed);
    }
    // Whatever is here was left by an installation that did not end: we hold the lock.
    let staging = cache.join("staging");
    tree::remove(&staging)?;
    tree::remove(&home)?;
    let packages = staging.join("tree");
    make_dir(&packages)?;
    write(&packages.join("package.json"), lock.manifest())?;
    write(&packages.join("package-lock.json"), lock.text())?;
    fetch(&packages, lock, progress)?;

    progress(Progress::Complete);
    complete(&packages)?;
    if fs::symlink_metadata(packages.join(LIFECYCLE_PENDING)).is_ok() {
        return Err(Error::Lifecycle(format!("{LIFECYCLE_PENDING} is still there")));
    }

    progress(Progress::Seal);
    tree::make_read_only(&packages)?;
    let installed =
        Installed { version: lock.version().to_owned(), lock: lock.digest(), tree: tree::digest(&packages)? };
    let seal = serde_json::to_string(&installed).map_err(|error| Error::Lifecycle(error.to_string()))?;
    write(&staging.join("sealed.json"), &seal)?;
    if let Some(parent) = home.parent() {
        make_dir(parent)?;
    }
    fs::rename(&staging, &home).map_err(Error::io(&home))?;
    Ok(installed)
}

/// What the cache says is installed under this lock; not yet proved, see [`verify`].
pub fn find(cache: &Path, lock: Digest) -> Result<Installed, Error> {
    read_seal(&home(cache, lock))
}

/// Every sealed release in the cache, by version. What is no sealed release is skipped: it says nothing of
/// the others.
pub fn list(cache: &Path) -> Result<Vec<Installed>, Error> {
    let dir = cache.join("openclaw");
    let entries = match fs::read_dir(&dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(Error::io(&dir))?,
    };
    let mut all = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io(&dir))?.path();
        match read_seal(&path) {
            Ok(installed) => all.push(installed),
            Err(error) => tracing::warn!(%error, "{} is no sealed release", path.display()),
        }
    }
    all.sort_by(|a, b| a.version.cmp(&b.version));
    Ok(all)
}

/// Hashes the installed tree and compares it with its seal.
pub fn verify(cache: &Path, lock: Digest) -> Result<Installed, Error> {
    let installed = find(cache, lock)?;
    let path = tree_path(cache, lock);
    let found = tree::digest(&path)?;
    if found == installed.tree {
        Ok(installed)
    } else {
        Err(Error::Tree { path, why: format!("its digest is {found}, not {}", installed.tree) })
    }
}

/// Where the tree of this lock is.
pub fn tree_path(cache: &Path, lock: Digest) -> PathBuf {
    home(cache, lock).join("tree")
}

/// Makes a lock for a release that has none yet. It is kept in the cache for [`Lock::find`].
pub fn make_lock(cache: &Path, version: &str) -> Result<Lock, Error> {
    super::lock::check_version(version)?;
    let staging = cache.join(format!("lock-{version}.new"));
    tree::remove(&staging)?;
    make_dir(&staging)?;
    let manifest = Lock::bundled()?.manifest().replace(super::PINNED, version);
    write(&staging.join("package.json"), &manifest)?;
    npm::run(
        &staging,
        "resolving the tree",
        &["install", "--package-lock-only", "--omit-lockfile-registry-resolved"],
    )?;
    let path = staging.join("package-lock.json");
    let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
    let lock = Lock::parse(version, &manifest, &text)?;
    let dir = Lock::dir(cache, version);
    if let Some(parent) = dir.parent() {
        make_dir(parent)?;
    }
    tree::remove(&dir)?;
    fs::rename(&staging, &dir).map_err(Error::io(&dir))?;
    Ok(lock)
}

/// When this release of a package was published, as the registry says it (RFC 3339).
pub fn published(cache: &Path, package: &str, version: &str) -> Result<String, Error> {
    let what = "asking for the age of a package";
    let out = npm::run(cache, what, &["view", package, "time", "--json"])?;
    let times: std::collections::BTreeMap<String, String> =
        serde_json::from_slice(&out).map_err(|error| Error::Npm { what, stderr: error.to_string() })?;
    times
        .get(version)
        .cloned()
        .ok_or_else(|| Error::Npm { what, stderr: format!("{package}@{version} has no publication time") })
}

fn fetch(packages: &Path, lock: &Lock, progress: &(dyn Fn(Progress) + Sync)) -> Result<(), Error> {
    let total = lock.packages().len();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let there = |package: &&super::lock::Package| packages.join(&package.path).exists();
                progress(Progress::Fetch(lock.packages().iter().filter(there).count(), total));
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        // npm checks each archive against the lock's integrity before it unpacks it.
        let result = npm::run(packages, "installing", &["ci", "--omit=dev"]);
        done.store(true, Ordering::Relaxed);
        result.map(drop)
    })
}

fn home(cache: &Path, lock: Digest) -> PathBuf {
    cache.join("openclaw").join(lock.to_string())
}

fn read_seal(home: &Path) -> Result<Installed, Error> {
    let path = home.join("sealed.json");
    let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
    serde_json::from_str(&text).map_err(|error| Error::Tree { path, why: error.to_string() })
}

fn make_dir(path: &Path) -> Result<(), Error> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(Error::io(path))
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(Error::io(path))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_stray_entry_hides_no_sealed_release() {
        let cache = tempfile::tempdir().unwrap();
        assert_eq!(list(cache.path()).unwrap(), []);
        let lock = Digest::from_bytes([1; 32]);
        let there = Installed { version: "2026.9.6".to_owned(), lock, tree: Digest::from_bytes([2; 32]) };
        fs::create_dir_all(home(cache.path(), lock)).unwrap();
        fs::create_dir_all(cache.path().join("openclaw/half")).unwrap();
        fs::write(cache.path().join("openclaw/stray"), "").unwrap();
        let sealed = home(cache.path(), lock).join("sealed.json");
        fs::write(sealed, serde_json::to_string(&there).unwrap()).unwrap();
        assert_eq!(list(cache.path()).unwrap(), [there]);
    }
}
