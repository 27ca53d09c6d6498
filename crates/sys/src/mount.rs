//! Mounts by descriptor: made detached, restricted, and attached below a root that nobody sees yet.
//!
//! The threat: a path that is swapped while it is mounted. Sources are opened once, restricted while still
//! detached, and travel as descriptors; targets are relative to the new root's descriptor.

use crate::process::{check, check_long};
use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    mount::{self, FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags},
};
use std::{
    io,
    mem::size_of,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

pub use rustix::mount::MountAttrFlags as Attributes;

/// A detached copy of the tree at an absolute path, with these attributes added throughout. Symbolic links
/// are followed only if the caller says so: where the path is the host's own and not ours.
pub fn copy(path: &Path, follow: bool, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let resolve = if follow { ResolveFlags::NO_MAGICLINKS } else { ResolveFlags::NO_SYMLINKS };
    let source =
        rustix::fs::openat2(rustix::fs::CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?;
    copy_of(source.as_fd(), attributes)
}

/// A detached copy of the tree at an open path, with these attributes added throughout.
pub fn copy_of(source: BorrowedFd<'_>, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = mount::open_tree(source, "", flags)?;
    if !attributes.is_empty() {
        restrict(tree.as_fd(), attributes, true)?;
    }
    Ok(tree)
}

/// A new detached file system. An option without a value is a flag.
pub fn create(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        if value.is_empty() {
            mount::fsconfig_set_flag(&context, *key)?;
        } else {
            mount::fsconfig_set_string(&context, *key, *value)?;
        }
    }
    mount::fsconfig_create(&context)?;
    Ok(mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Attaches a detached tree at a path below a directory; no link on the way is followed.
pub fn attach(tree: BorrowedFd<'_>, root: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let target = rustix::fs::openat2(root, target, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(mount::move_mount(tree, "", &target, "", flags)?)
}

/// Attaches a detached tree at an absolute path of this mount namespace.
pub fn attach_at(tree: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
    Ok(mount::move_mount(tree, "", rustix::fs::CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// `struct mount_attr` of `<linux/mount.h>`.
#[repr(C)]
#[derive(Default)]
struct Attr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// Adds attributes to a mount, or to all of a tree.
pub fn restrict(tree: BorrowedFd<'_>, attributes: MountAttrFlags, recursive: bool) -> io::Result<()> {
    set(tree, &Attr { set: u64::from(attributes.bits()), ..Attr::default() }, recursive)
}

/// Cuts this mount namespace off: no mount event goes out or comes in.
pub fn make_private() -> io::Result<()> {
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    set(root.as_fd(), &Attr { propagation: libc::MS_PRIVATE, ..Attr::default() }, true)
}

fn set(tree: BorrowedFd<'_>, attr: &Attr, recursive: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is empty, and the structure has the size that is given.
    check_long(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<Attr>(),
        )
    })
}

/// Makes an attached tree the root of this mount namespace, and lets go of the old root and all below it.
pub fn become_root(root: BorrowedFd<'_>) -> io::Result<()> {
    rustix::process::fchdir(root)?;
    rustix::process::pivot_root(".", ".")?;
    // The old root now lies over the new one, at ".".
    mount::unmount(".", mount::UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    Ok(())
}

/// Moves this process into a cgroup namespace rooted at its cgroups.
pub fn unshare_cgroup() -> io::Result<()> {
    // SAFETY: changes the view of cgroups only.
    check(unsafe { libc::unshare(libc::CLONE_NEWCGROUP) })
}
