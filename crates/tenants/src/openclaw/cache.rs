//! The shared cache as a directory: who may write there, and the lock under which it is written.
//!
//! The threat: a cache that somebody else owns or may write to, so that they choose what every tenant runs.
//! It is refused with the command that mends it, before anything in it is believed. What is ours is readable
//! by everybody, whatever the umask says: control and cells read it under uids of their own.

use super::Error;
use std::{
    fs::{self, File, Permissions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::Path,
    process::Stdio,
};

/// The only writer of a cache, while it or a process that was lent it lives.
#[derive(Debug)]
pub(super) struct Guard {
    file: File,
}

impl Guard {
    /// The lock for a child, as an empty standard input: if we are killed, nobody writes to the cache before
    /// the child has ended too.
    pub(super) fn lent(&self) -> Result<Stdio, Error> {
        self.file.try_clone().map(Stdio::from).map_err(Error::io(LOCK))
    }
}

/// Makes the cache if it is not there, and waits until nobody else writes to it.
pub(super) fn lock(cache: &Path) -> Result<Guard, Error> {
    let file = lock_file(cache)?;
    file.lock().map_err(Error::io(cache.join(LOCK)))?;
    Ok(Guard { file })
}

/// The same without waiting; none if somebody writes to it.
pub(super) fn try_lock(cache: &Path) -> Result<Option<Guard>, Error> {
    let file = lock_file(cache)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Guard { file })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(Error::io(cache.join(LOCK))(error)),
    }
}

const LOCK: &str = "install.lock";

fn lock_file(cache: &Path) -> Result<File, Error> {
    make_dir(cache)?;
    let path = cache.join(LOCK);
    let open = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    open.map_err(Error::io(&path))
}

/// Makes a directory that is not there, with what is missing above it; checks one that is. In both cases
/// everybody can read it afterwards.
pub(super) fn make_dir(path: &Path) -> Result<(), Error> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(Error::io(parent))?;
    }
    match fs::DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => check(path)?,
        other => other.map_err(Error::io(path))?,
    }
    let mode = fs::symlink_metadata(path).map_err(Error::io(path))?.mode() & 0o7777;
    // One that root made and a user only reads is as root wants it.
    if mode & 0o555 != 0o555 {
        fs::set_permissions(path, Permissions::from_mode(0o755)).map_err(Error::io(path))?;
    }
    Ok(())
}

/// Writes a file that everybody may read.
pub(super) fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(Error::io(path))?;
    fs::set_permissions(path, Permissions::from_mode(0o644)).map_err(Error::io(path))
}

/// Refuses a file or directory that belongs to anybody but us and root, or that others may write to.
pub(super) fn check(path: &Path) -> Result<(), Error> {
    let meta = fs::symlink_metadata(path).map_err(Error::io(path))?;
    let unsafe_ = |what: String, mend: String| {
        Err(Error::Unsafe { path: path.to_owned(), what, mend: format!("{mend} {}", path.display()) })
    };
    if meta.is_symlink() {
        return unsafe_("is a link".to_owned(), "rm".to_owned());
    }
    if !trusted(meta.uid()) {
        let me = rustix::process::geteuid().as_raw();
        return unsafe_(format!("belongs to uid {}", meta.uid()), format!("chown -R {me}"));
    }
    if meta.mode() & 0o022 != 0 {
        return unsafe_("may be written by others".to_owned(), "chmod go-w".to_owned());
    }
    Ok(())
}

/// May this uid say what tenants run?
pub(super) fn trusted(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_that_others_may_write_or_own_is_refused_with_the_mend() {
        let outer = tempfile::tempdir().unwrap();
        let cache = outer.path().join("above/cache");
        drop(lock(&cache).unwrap());
        fs::set_permissions(&cache, Permissions::from_mode(0o775)).unwrap();
        let error = lock(&cache).unwrap_err().to_string();
        assert!(error.contains(&format!("chmod go-w {}", cache.display())), "{error}");
        fs::set_permissions(&cache, Permissions::from_mode(0o755)).unwrap();
        drop(lock(&cache).unwrap());
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can give a directory away");
            return;
        }
        std::os::unix::fs::chown(&cache, Some(65_534), None).unwrap();
        let error = lock(&cache).unwrap_err().to_string();
        assert!(error.contains("belongs to uid 65534") && error.contains("chown -R 0"), "{error}");
    }

    #[test]
    fn what_is_made_in_a_cache_is_readable_by_everybody_again_and_again() {
        let outer = tempfile::tempdir().unwrap();
        let cache = outer.path().join("cache");
        fs::DirBuilder::new().mode(0o700).create(&cache).unwrap();
        make_dir(&cache).unwrap();
        assert_eq!(fs::metadata(&cache).unwrap().mode() & 0o7777, 0o755);
        let file = cache.join("sealed.json");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        write(&file, "{}").unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o644);
    }

    #[test]
    fn two_never_write_at_one_time() {
        let cache = tempfile::tempdir().unwrap();
        let guard = lock(cache.path()).unwrap();
        assert!(try_lock(cache.path()).unwrap().is_none());
        drop(guard);
        assert!(try_lock(cache.path()).unwrap().is_some());
    }
}
