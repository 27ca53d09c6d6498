//! A cell's `/proc`: its own processes, nothing that may be written, and of the machine only what programs need.
//!
//! Some forty files and directories that tell of others are covered, the dearest part of a start. So init makes it
//! early, while the launcher still gathers what the cell is built of.

use crate::{
    Protection,
    error::{Layer, LayerFailure},
};
use cofferdam_sys::mount::{self, Attributes};
use rustix::fs::{AtFlags, Mode, OFlags};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

/// Files of `/proc` that tell of the machine's other processes, its identity or its insides: covered by
/// `/dev/null`. Those that only the host's root may read are left: nobody in a cell is that.
const MASKED: [&str; 33] = [
    "kcore",
    "keys",
    "key-users",
    "timer_list",
    "sysrq-trigger",
    "kallsyms",
    "kmsg",
    "sched_debug",
    "schedstat",
    "kpagecount",
    "cmdline",
    "config.gz",
    "modules",
    "cgroups",
    "interrupts",
    "softirqs",
    "diskstats",
    "partitions",
    "mdstat",
    "swaps",
    "vmstat",
    "buddyinfo",
    "pagetypeinfo",
    "zoneinfo",
    "slabinfo",
    "locks",
    "sys/kernel/random/boot_id",
    "sys/fs/file-nr",
    "sys/fs/inode-nr",
    "sys/fs/inode-state",
    "sys/fs/dentry-state",
    "sys/fs/aio-nr",
    "sys/kernel/pty/nr",
];
/// Directories of `/proc` likewise: covered by nothing.
const HIDDEN: [&str; 8] = ["acpi", "scsi", "irq", "bus", "fs", "driver", "pressure", "sys/dev"];

/// What a device has.
const NULL: Attributes = Attributes::MOUNT_ATTR_NOSUID.union(Attributes::MOUNT_ATTR_NOEXEC);

/// All of it, still detached, for a cell that keeps every protection; nothing where the kernel cannot, and whoever
/// makes it later says why.
pub(crate) fn early() -> Option<OwnedFd> {
    let proc = mount(|_| true).ok()?;
    let null = mount::copy(Path::new("/dev/null"), false, NULL).ok()?;
    cover(proc.as_fd(), null.as_fd(), |_| true).ok().map(|()| proc)
}

const SAFE: Attributes =
    Attributes::MOUNT_ATTR_NOSUID.union(Attributes::MOUNT_ATTR_NODEV).union(Attributes::MOUNT_ATTR_NOEXEC);

/// Mounts, detached, the `/proc` of this process's pid namespace.
pub(crate) fn mount(keeps: impl Fn(Protection) -> bool) -> Result<OwnedFd, LayerFailure> {
    if keeps(Protection::PidNamespace) {
        let hidden = [("hidepid", "ptraceable")];
        let options = if keeps(Protection::HiddenProcesses) { &hidden[..] } else { &[] };
        mount::create("proc", options, SAFE).layer("proc")
    } else {
        // Of processes that are not its own a user namespace can only show what is mounted already.
        mount::copy(Path::new("/proc"), false, SAFE).layer("proc")
    }
}

/// Covers what is not a cell's to see or to write. `null` is the device, restricted already; copies are as restricted.
/// A mount that is still detached can be covered from kernel 6.15 on.
pub(crate) fn cover(
    proc: BorrowedFd<'_>,
    null: BorrowedFd<'_>,
    keeps: impl Fn(Protection) -> bool,
) -> Result<(), LayerFailure> {
    if keeps(Protection::ReadOnlySys) {
        let sys = at(proc, "sys")?;
        lay(proc, "sys", &copy(sys.as_fd(), SAFE | Attributes::MOUNT_ATTR_RDONLY)?)?;
    }
    if !keeps(Protection::MaskedProc) {
        return Ok(());
    }
    let others = Mode::RWXO | Mode::RWXG;
    let open_to_others = |name: &&str| {
        rustix::fs::statat(proc, *name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| Mode::from_raw_mode(stat.st_mode).intersects(others))
    };
    for name in MASKED.into_iter().filter(open_to_others) {
        lay(proc, name, &copy(null, Attributes::empty())?)?;
    }
    // One empty file system for all of them.
    let mut hidden = HIDDEN.into_iter().filter(open_to_others);
    let Some(first) = hidden.next() else { return Ok(()) };
    let options = [("size", "4k"), ("nr_inodes", "1"), ("mode", "0555")];
    let nothing = mount::create("tmpfs", &options, SAFE | Attributes::MOUNT_ATTR_RDONLY).layer("proc")?;
    lay(proc, first, &nothing)?;
    let nothing = at(proc, first)?;
    for name in hidden {
        lay(proc, name, &copy(nothing.as_fd(), Attributes::empty())?)?;
    }
    Ok(())
}

fn at(proc: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, LayerFailure> {
    rustix::fs::openat(proc, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).layer("proc")
}

fn copy(of: BorrowedFd<'_>, attributes: Attributes) -> Result<OwnedFd, LayerFailure> {
    mount::copy_of(of, attributes).layer("proc")
}

/// What is not there needs no cover.
fn lay(proc: BorrowedFd<'_>, name: &str, tree: &OwnedFd) -> Result<(), LayerFailure> {
    match mount::attach(tree.as_fd(), proc, Path::new(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.layer("proc"),
    }
}
