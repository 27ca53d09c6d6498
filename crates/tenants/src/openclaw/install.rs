//! Installing a locked release into the shared cache: fetch, complete, prove, seal, rename into place.
//!
//! The cache holds `openclaw/<digest of the lock>/` with `tree/` (read-only) and `sealed.json`. It is
//! written under an exclusive lock, by rename, so that a reader finds a whole tree or none.

use super::{
    Error, LIFECYCLE_PENDING,
    cache::{self, make_dir, write},
    lock::{Lock, Package},
    npm, seal, tree,
};
use cofferdam_base::Digest;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    os::{fd::BorrowedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
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

/// Installs what the lock names, unless the cache has it already, every byte as it was sealed; what was changed
/// since is replaced. Gives up once `stop` becomes readable.
/// `complete` runs upstream's package lifecycle over the staging copy that it is given.
pub fn install(
    cache: &Path,
    lock: &Lock,
    stop: BorrowedFd<'_>,
    progress: &(dyn Fn(Progress) + Sync),
    complete: &dyn Fn(&Path) -> Result<(), Error>,
) -> Result<Installed, Error> {
    let guard = cache::lock(cache)?;
    let home = home(cache, lock.digest());
    if let Ok(installed) = verify(cache, lock.digest()) {
        return Ok(installed);
    }
    clear(cache)?;
    tree::remove(&home)?;
    let staging = cache.join(STAGING);
    let installed = stage(&staging, &guard, lock, stop, progress, complete).and_then(|installed| {
        if let Some(parent) = home.parent() {
            make_dir(parent)?;
        }
        fs::rename(&staging, &home).map_err(Error::io(&home))?;
        Ok(installed)
    });
    if installed.is_err() {
        // The first error is what the caller must know; what stays is removed by the next installation.
        let _ = tree::remove(&staging);
    }
    installed
}

/// Removes what an installer that was killed left in this cache, unless somebody installs right now.
pub fn sweep(cache: &Path) -> Result<(), Error> {
    match fs::symlink_metadata(cache) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        // Somebody else's, who sweeps it.
        Ok(meta) if meta.uid() != rustix::process::geteuid().as_raw() => return Ok(()),
        other => other.map_err(Error::io(cache))?,
    };
    match cache::try_lock(cache)? {
        Some(_guard) => clear(cache),
        None => Ok(()),
    }
}

/// The caller holds the lock: whatever is here was left by an installation that did not end.
fn clear(cache: &Path) -> Result<(), Error> {
    let staging = cache.join(STAGING);
    let whole = fs::canonicalize(cache).map_err(Error::io(cache))?;
    seal::sweep_groups(&whole.join(STAGING).join(TREE))?;
    tree::remove(&staging)
}

fn stage(
    staging: &Path,
    guard: &cache::Guard,
    lock: &Lock,
    stop: BorrowedFd<'_>,
    progress: &(dyn Fn(Progress) + Sync),
    complete: &dyn Fn(&Path) -> Result<(), Error>,
) -> Result<Installed, Error> {
    let packages = staging.join(TREE);
    make_dir(staging)?;
    make_dir(&packages)?;
    write(&packages.join("package.json"), lock.manifest())?;
    write(&packages.join("package-lock.json"), lock.text())?;
    fetch(&packages, guard, lock, stop, progress)?;

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
    write(&staging.join(SEAL), &seal)?;
    if is_readable(stop)? {
        return Err(Error::Interrupted);
    }
    Ok(installed)
}

fn is_readable(stop: BorrowedFd<'_>) -> Result<bool, Error> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut polled = [PollFd::from_borrowed_fd(stop, PollFlags::IN)];
    let none = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&none))
        .map(|ready| ready > 0)
        .map_err(|errno| Error::io("the wish to stop")(errno.into()))
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

/// Proves what is installed under this lock: nobody else could write to it, its seal is of this very lock, and
/// every byte and mode of its tree is what was sealed. Half a second for 650 MB that are in memory.
pub fn verify(cache: &Path, lock: Digest) -> Result<Installed, Error> {
    let home = home(cache, lock);
    for path in [cache, &cache.join("openclaw"), &home, &home.join(SEAL)] {
        cache::check(path)?;
    }
    let installed = read_seal(&home)?;
    let path = tree_path(cache, lock);
    if installed.lock != lock {
        return Err(Error::Tree { path, why: format!("its seal is that of {}", installed.lock) });
    }
    let found = tree::digest(&path)?;
    if found == installed.tree {
        Ok(installed)
    } else {
        Err(Error::Tree { path, why: format!("its digest is {found}, not {}", installed.tree) })
    }
}

/// Where the tree of this lock is.
pub fn tree_path(cache: &Path, lock: Digest) -> PathBuf {
    home(cache, lock).join(TREE)
}

/// A lock that was made for a release that had none, before anybody relies on it. Unless it is published it
/// is gone when this is dropped.
#[derive(Debug)]
pub struct Draft {
    lock: Lock,
    staging: PathBuf,
    home: PathBuf,
    _guard: cache::Guard,
}

impl Draft {
    /// Resolves the tree of a release that has no lock yet.
    pub fn make(cache: &Path, version: &str, stop: BorrowedFd<'_>) -> Result<Self, Error> {
        super::lock::check_version(version)?;
        let guard = cache::lock(cache)?;
        let staging = cache.join(format!("lock-{version}.new"));
        tree::remove(&staging)?;
        make_dir(&staging)?;
        let manifest = Lock::bundled()?.manifest().replace(super::PINNED, version);
        let made = write(&staging.join("package.json"), &manifest).and_then(|()| {
            let arguments = ["install", "--package-lock-only", "--omit-lockfile-registry-resolved"];
            npm::run(&staging, "resolving the tree", &arguments, guard.lent()?, stop)?;
            let path = staging.join("package-lock.json");
            let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
            write(&path, &text)?;
            Lock::parse(version, &manifest, &text)
        });
        match made {
            Ok(lock) => Ok(Self { lock, staging, home: Lock::dir(cache, version), _guard: guard }),
            Err(error) => {
                // As in an installation.
                let _ = tree::remove(&staging);
                Err(error)
            }
        }
    }

    /// The lock itself.
    pub fn lock(&self) -> &Lock {
        &self.lock
    }

    /// Keeps it in the cache, where [`Lock::find`] finds it.
    pub fn publish(self) -> Result<Lock, Error> {
        if let Some(parent) = self.home.parent() {
            make_dir(parent)?;
        }
        tree::remove(&self.home)?;
        fs::rename(&self.staging, &self.home).map_err(Error::io(&self.home))?;
        Ok(self.lock.clone())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // A published one has been moved away; one that stays is removed by the next.
        let _ = tree::remove(&self.staging);
    }
}

/// When this release of a package was published, as the registry says it (RFC 3339).
pub fn published(cache: &Path, package: &str, version: &str, stop: BorrowedFd<'_>) -> Result<String, Error> {
    let what = "asking for the age of a package";
    let out = npm::run(cache, what, &["view", package, "time", "--json"], Stdio::null(), stop)?;
    let times: std::collections::BTreeMap<String, String> =
        serde_json::from_slice(&out).map_err(|error| Error::Npm { what, stderr: error.to_string() })?;
    times
        .get(version)
        .cloned()
        .ok_or_else(|| Error::Npm { what, stderr: format!("{package}@{version} has no publication time") })
}

/// The youngest of these packages and when it was published; none of none.
pub fn youngest(
    cache: &Path,
    packages: &[&Package],
    stop: BorrowedFd<'_>,
) -> Result<Option<(String, Package)>, Error> {
    /// The registry is asked for so many at one time.
    const AT_ONCE: usize = 8;
    let next = AtomicUsize::new(0);
    let work = || {
        let mut youngest = None;
        while let Some(package) = packages.get(next.fetch_add(1, Ordering::Relaxed)) {
            // RFC 3339 in UTC: the order of the texts is that of the moments.
            let at = published(cache, &package.name, &package.version, stop)?;
            youngest = youngest.max(Some((at, (*package).clone())));
        }
        Ok(youngest)
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE.min(packages.len())).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_fold(None, |youngest: Option<(String, Package)>, worker| {
            let died = |_| Err(Error::Lifecycle("a thread that asked for ages died".to_owned()));
            Ok(youngest.max(worker.join().unwrap_or_else(died)?))
        })
    })
}

fn fetch(
    packages: &Path,
    guard: &cache::Guard,
    lock: &Lock,
    stop: BorrowedFd<'_>,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<(), Error> {
    let total = lock.packages().len();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let there = |package: &&Package| packages.join(&package.path).exists();
                progress(Progress::Fetch(lock.packages().iter().filter(there).count(), total));
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        // npm checks each archive against the lock's integrity before it unpacks it.
        let result = npm::run(packages, "installing", &["ci", "--omit=dev"], guard.lent()?, stop);
        done.store(true, Ordering::Relaxed);
        result.map(drop)
    })
}

fn home(cache: &Path, lock: Digest) -> PathBuf {
    cache.join("openclaw").join(lock.to_string())
}

fn read_seal(home: &Path) -> Result<Installed, Error> {
    let path = home.join(SEAL);
    let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
    serde_json::from_str(&text).map_err(|error| Error::Tree { path, why: error.to_string() })
}

/// What is being installed, and what has been.
const STAGING: &str = "staging";
const TREE: &str = "tree";
const SEAL: &str = "sealed.json";

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
