//! Paths that a tenant may have written: opened beneath a directory, through no link of any kind.

use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
};

const SAFELY: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// Opens the directory beneath another.
pub fn directory(parent: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat2(parent, path, flags, Mode::empty(), SAFELY)?)
}

/// Removes everything in a directory, however deep, following nothing. Directories that their owner has made
/// unreadable are made readable first.
pub fn empty(directory: BorrowedFd<'_>) -> io::Result<()> {
    use rustix::fs::{AtFlags, Dir, FileType};
    loop {
        let mut left = false;
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            left = true;
            let kind = match entry.file_type() {
                FileType::Unknown => {
                    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
                    FileType::from_raw_mode(stat.st_mode)
                }
                kind => kind,
            };
            if kind == FileType::Directory {
                let path = Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()));
                let below = match self::directory(directory, path) {
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                        rustix::fs::chmodat(directory, name, Mode::RWXU, AtFlags::empty())?;
                        self::directory(directory, path)?
                    }
                    other => other?,
                };
                rustix::fs::fchmod(&below, Mode::RWXU)?;
                empty(std::os::fd::AsFd::as_fd(&below))?;
                rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)?;
            } else {
                rustix::fs::unlinkat(directory, name, AtFlags::empty())?;
            }
        }
        if !left {
            return Ok(());
        }
    }
}

use std::os::unix::ffi::OsStrExt;
