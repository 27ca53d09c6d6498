//! A tree that harms whoever walks it carelessly: what host-side code may find in a tenant's files.

use super::{Outcome, floods::Until};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags};
use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::fs::{PermissionsExt, symlink},
    },
    path::Path,
};

/// More levels than a path may have letters.
const LEVELS: usize = 2500;
/// Larger than any home, and empty.
const SPARSE: u64 = 1 << 40;

/// What can be made of it; the rest is named.
pub(super) fn make(below: &Path, victim: &Path) -> io::Result<Outcome> {
    fs::create_dir_all(below)?;
    let fifo = || rustix::fs::mknodat(CWD, below.join("fifo"), FileType::Fifo, Mode::RWXU, 0);
    let device = || {
        let zero = rustix::fs::makedev(1, 5);
        rustix::fs::mknodat(CWD, below.join("device"), FileType::CharacterDevice, Mode::RWXU, zero)
    };
    let linked = || rustix::fs::linkat(CWD, victim, CWD, below.join("second"), AtFlags::empty());
    let mut lacking = Vec::new();
    for (name, made) in [
        ("link", symlink(victim, below.join("link"))),
        ("directory", fs::create_dir(below.join("swap"))),
        ("swapped link", symlink(victim, below.join("swapped"))),
        ("fifo", fifo().map_err(io::Error::from)),
        ("sparse file", fs::File::create(below.join("sparse")).and_then(|file| file.set_len(SPARSE))),
        ("deep tree", deep(below)),
        ("closed directory", closed(&below.join("closed"), victim)),
        ("device", device().map_err(io::Error::from)),
        ("hard link", linked().map_err(io::Error::from)),
    ] {
        if let Err(error) = made {
            lacking.push(format!("{name}: {error}"));
        }
    }
    Ok(Outcome::success(if lacking.is_empty() {
        "all".into()
    } else {
        format!("without {}", lacking.join(", "))
    }))
}

/// A directory and a link change places, until the standard input ends.
pub(super) fn swap(below: &Path) -> io::Result<Outcome> {
    let until = Until::input_ends();
    let mut swaps = 0_u64;
    while !until.is_over() {
        let flags = RenameFlags::EXCHANGE;
        rustix::fs::renameat_with(CWD, below.join("swap"), CWD, below.join("swapped"), flags)?;
        swaps += 1;
    }
    Ok(Outcome::success(format!("{swaps} swaps")))
}

fn deep(below: &Path) -> io::Result<()> {
    let mut here = OwnedFd::from(fs::File::open(below)?);
    for _ in 0..LEVELS {
        rustix::fs::mkdirat(&here, c"deep", Mode::RWXU)?;
        here = rustix::fs::openat(&here, c"deep", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    }
    Ok(())
}

/// With a link in it, and closed even to its owner.
fn closed(directory: &Path, victim: &Path) -> io::Result<()> {
    fs::create_dir(directory)?;
    symlink(victim, directory.join("link"))?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o000))
}
