//! The digest of a directory tree, so that an installed runtime can be proved to be what was sealed.
//!
//! One line an entry, sorted by path: kind, mode, SHA-256 of the content (files) or target (links), path.
//! The tree's digest is the SHA-256 of these lines. An owner is no part of it: whatever belongs to anybody but
//! us and root is refused.

use super::{
    Error,
    cache::{check, trusted},
    lock::sha256,
};
use aws_lc_rs::digest::{Context, SHA256};
use cofferdam_base::Digest;
use std::{
    fs,
    io::Read,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Hashes every entry below `root`. Anything but files, directories and links is refused.
pub fn digest(root: &Path) -> Result<Digest, Error> {
    check(root)?;
    let mut paths = Vec::new();
    list(root, &mut paths)?;
    paths.sort();
    let lines = hash_all(root, &paths)?;
    Ok(sha256(lines.concat().as_bytes()))
}

/// Takes every write permission from files and directories below and including `root`.
pub fn make_read_only(root: &Path) -> Result<(), Error> {
    let mut paths = Vec::new();
    list(root, &mut paths)?;
    for path in paths.iter().map(|path| root.join(path)).chain([root.to_owned()]) {
        let meta = fs::symlink_metadata(&path).map_err(Error::io(&path))?;
        if !meta.is_symlink() {
            // Readable by every tenant, executable where it was so for its owner.
            let execute = if meta.is_dir() || meta.permissions().mode() & 0o100 != 0 { 0o111 } else { 0 };
            fs::set_permissions(&path, fs::Permissions::from_mode(0o444 | execute))
                .map_err(Error::io(&path))?;
        }
    }
    Ok(())
}

/// Removes a tree, read-only or not. No error if it is not there.
pub fn remove(root: &Path) -> Result<(), Error> {
    let mut paths = Vec::new();
    match fs::symlink_metadata(root) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io(root)(error)),
        Ok(_) => {}
    }
    list(root, &mut paths)?;
    for path in paths.iter().map(|path| root.join(path)).chain([root.to_owned()]) {
        if fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir()) {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(Error::io(&path))?;
        }
    }
    fs::remove_dir_all(root).map_err(Error::io(root))
}

fn list(root: &Path, out: &mut Vec<PathBuf>) -> Result<(), Error> {
    let mut pending = vec![PathBuf::new()];
    while let Some(relative) = pending.pop() {
        let dir = root.join(&relative);
        for entry in fs::read_dir(&dir).map_err(Error::io(&dir))? {
            let entry = entry.map_err(Error::io(&dir))?;
            let path = relative.join(entry.file_name());
            if entry.file_type().map_err(Error::io(&dir))?.is_dir() {
                pending.push(path.clone());
            }
            out.push(path);
        }
    }
    Ok(())
}

/// One line a path, in the order of `paths`, hashed on every core.
fn hash_all(root: &Path, paths: &[PathBuf]) -> Result<Vec<String>, Error> {
    let next = AtomicUsize::new(0);
    let lines = Mutex::new(vec![String::new(); paths.len()]);
    let work = || {
        let (mut own, mut buffer) = (Vec::new(), vec![0; 256 * 1024]);
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(path) = paths.get(index) else { break };
            own.push((index, line(root, path, &mut buffer)?));
        }
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, line) in own {
            lines[index] = line;
        }
        Ok(())
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().unwrap_or_else(|_| {
                Err(Error::Tree { path: root.into(), why: "a hashing thread died".into() })
            })
        })
    })?;
    Ok(lines.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn line(root: &Path, relative: &Path, buffer: &mut [u8]) -> Result<String, Error> {
    let path = root.join(relative);
    let meta = fs::symlink_metadata(&path).map_err(Error::io(&path))?;
    if !trusted(meta.uid()) {
        return Err(Error::Tree { path, why: format!("it belongs to uid {}", meta.uid()) });
    }
    let mode = meta.permissions().mode() & 0o7777;
    let (kind, digest) = if meta.is_symlink() {
        let target = fs::read_link(&path).map_err(Error::io(&path))?;
        ('l', Some(sha256(target.as_os_str().as_encoded_bytes())))
    } else if meta.is_file() {
        ('f', Some(content(&path, buffer).map_err(Error::io(&path))?))
    } else if meta.is_dir() {
        ('d', None)
    } else {
        return Err(Error::Tree { path, why: "an entry is neither file, directory nor link".to_owned() });
    };
    let digest = digest.map_or_else(|| "-".to_owned(), |digest| digest.to_string());
    Ok(format!("{kind} {mode:04o} {digest} {}\n", relative.display()))
}

fn content(path: &Path, buffer: &mut [u8]) -> std::io::Result<Digest> {
    let (mut file, mut context) = (fs::File::open(path)?, Context::new(&SHA256));
    loop {
        match file.read(buffer)? {
            0 => break,
            count => context.update(&buffer[..count]),
        }
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    Ok(Digest::from_bytes(out))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/file"), "content").unwrap();
        std::os::unix::fs::symlink("b/file", dir.path().join("a/link")).unwrap();
        dir
    }

    #[test]
    fn equal_trees_have_equal_digests_and_any_change_shows() {
        let (one, two) = (tree(), tree());
        let before = digest(one.path()).unwrap();
        assert_eq!(before, digest(two.path()).unwrap());

        fs::write(two.path().join("a/b/file"), "Content").unwrap();
        assert_ne!(before, digest(two.path()).unwrap(), "content");
        fs::write(two.path().join("a/b/file"), "content").unwrap();
        assert_eq!(before, digest(two.path()).unwrap());

        fs::set_permissions(two.path().join("a/b/file"), fs::Permissions::from_mode(0o755)).unwrap();
        assert_ne!(before, digest(two.path()).unwrap(), "mode");
        fs::write(one.path().join("new"), "").unwrap();
        assert_ne!(before, digest(one.path()).unwrap(), "addition");
    }

    #[test]
    fn what_belongs_to_somebody_else_is_no_part_of_a_tree() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can give a file away");
            return;
        }
        let dir = tree();
        for part in ["a/b/file", "a/link", "a", ""] {
            let path = dir.path().join(part);
            std::os::unix::fs::lchown(&path, Some(65_534), None).unwrap();
            let error = digest(dir.path()).unwrap_err().to_string();
            assert!(error.contains("belongs to uid 65534"), "{part}: {error}");
            std::os::unix::fs::lchown(&path, Some(0), None).unwrap();
        }
        digest(dir.path()).unwrap();
    }

    #[test]
    fn a_read_only_tree_can_still_be_removed() {
        let dir = tree();
        make_read_only(dir.path()).unwrap();
        let mode = fs::metadata(dir.path().join("a/b/file")).unwrap().permissions().mode();
        assert_eq!(mode & 0o222, 0);
        remove(&dir.path().join("a")).unwrap();
        remove(&dir.path().join("a")).unwrap();
    }
}
