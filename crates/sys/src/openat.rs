//! Paths that a tenant may have written: opened beneath a directory, through no link of any kind.

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::{
    ffi::{CStr, CString, OsStr},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

const SAFELY: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens the directory beneath another.
pub fn directory(parent: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat2(parent, path, DIRECTORY, Mode::empty(), SAFELY)?)
}

/// The same for its owner, who may have taken every permission from it and gets them back.
pub fn own_directory(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let path = Path::new(OsStr::from_bytes(name.to_bytes()));
    let opened = match directory(parent, path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
            directory(parent, path)?
        }
        other => other?,
    };
    rustix::fs::fchmod(&opened, Mode::RWXU)?;
    Ok(opened)
}

/// Removes everything in a directory, however deep, following nothing. Directories that their owner has made
/// unreadable are made readable first.
///
/// Depth costs a name a level, and never more than three descriptors: the way back up is `..`, and proved to
/// be where we came from.
pub fn empty(directory: BorrowedFd<'_>) -> io::Result<()> {
    rustix::fs::fchmod(directory, Mode::RWXU)?;
    let mut here = rustix::fs::openat(directory, c".", DIRECTORY, Mode::empty())?;
    let mut above = Vec::new();
    loop {
        if let Some(name) = full_directory(here.as_fd())? {
            let below = own_directory(here.as_fd(), &name)?;
            above.push((name, identity(&here)?));
            here = below;
        } else {
            let Some((name, parent)) = above.pop() else { return Ok(()) };
            let up = rustix::fs::openat(&here, c"..", DIRECTORY, Mode::empty())?;
            if identity(&up)? != parent {
                return Err(io::Error::other("a directory was moved while it was being removed"));
            }
            rustix::fs::unlinkat(&up, &name, AtFlags::REMOVEDIR)?;
            here = up;
        }
    }
}

/// Removes what can be removed as it is, and names the first directory that is not empty.
fn full_directory(directory: BorrowedFd<'_>) -> io::Result<Option<CString>> {
    loop {
        let mut removed = false;
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => {
                    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
                    FileType::from_raw_mode(stat.st_mode)
                }
                kind => kind,
            };
            let flags = if kind == FileType::Directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            match rustix::fs::unlinkat(directory, name, flags) {
                Ok(()) => removed = true,
                Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(Some(name.to_owned())),
                Err(errno) => return Err(errno.into()),
            }
        }
        // A directory that changes while it is read may hide an entry.
        if !removed {
            return Ok(None);
        }
    }
}

fn identity(directory: &OwnedFd) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(directory)?;
    Ok((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::{
        fs::{self, Permissions},
        os::unix::fs::{PermissionsExt, chown, symlink},
    };

    /// As a tenant: a thread of another uid, for whom modes count.
    fn as_owner<T: Send>(dir: &Path, work: impl FnOnce() -> T + Send) -> T {
        const OWNER: u32 = 1_499_000_001;
        if !rustix::process::geteuid().is_root() {
            return work();
        }
        chown(dir, Some(OWNER), Some(OWNER)).unwrap();
        let body = || {
            let uid = rustix::fs::Uid::from_raw(OWNER);
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            work()
        };
        std::thread::scope(|scope| scope.spawn(body).join().unwrap())
    }

    fn open(path: &Path) -> OwnedFd {
        fs::File::open(path).unwrap().into()
    }

    /// Directories in each other, each with a file, and every third closed to everybody.
    fn nest(top: &Path, levels: u32) {
        let mut here = open(top);
        for level in 0..levels {
            rustix::fs::mkdirat(&here, c"d", Mode::RWXU).unwrap();
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(&here, c"file", flags, Mode::empty()).unwrap();
            let below = directory(here.as_fd(), Path::new("d")).unwrap();
            if level % 3 == 0 {
                rustix::fs::fchmod(&here, Mode::empty()).unwrap();
            }
            here = below;
        }
    }

    #[test]
    fn ten_thousand_levels_closed_to_everybody_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        as_owner(dir.path(), || {
            let opened = open(dir.path());
            nest(dir.path(), 10_000);
            empty(opened.as_fd()).unwrap();
        });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_links_lead_to_stays_and_what_stands_beside_goes() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(other.path().join("kept"), "x").unwrap();
        for name in ["a/b/c", "a/d", "e"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
            symlink(other.path(), dir.path().join(name).join("link")).unwrap();
        }
        for number in 0..3000 {
            fs::write(dir.path().join("e").join(number.to_string()), "").unwrap();
        }
        fs::set_permissions(dir.path().join("a"), Permissions::from_mode(0o000)).unwrap();
        empty(open(dir.path()).as_fd()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(other.path().join("kept").exists());
    }
}
