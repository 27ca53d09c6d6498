//! What the throw-away world of a proof needs, and nothing else does.

use crate::process::{check, check_long};
use std::{ffi::CString, io, os::unix::ffi::OsStrExt, path::Path};

/// Moves this process, which must have one thread, into new mount, network, ipc and uts namespaces, and its children
/// into a new pid namespace; without root into a new user namespace as well.
pub fn unshare(user: bool) -> io::Result<()> {
    let mut flags =
        libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWPID;
    if user {
        flags |= libc::CLONE_NEWUSER;
    }
    // SAFETY: a process of one thread; nothing but its namespaces changes.
    check(unsafe { libc::unshare(flags) })
}

/// Makes a device file like `/dev/zero`. Needs CAP_MKNOD of the host.
pub fn make_zero_device(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: a text that ends with a NUL, and numbers.
    check(unsafe { libc::mknod(path.as_ptr(), libc::S_IFCHR | 0o666, libc::makedev(1, 5)) })
}

/// Makes a segment of shared memory and a set of semaphores, both with this key and for everybody. They stay until
/// their ipc namespace ends.
pub fn make_shared(key: u64) -> io::Result<()> {
    let key = libc::key_t::try_from(key).map_err(io::Error::other)?;
    // SAFETY: numbers only.
    check_long(libc::c_long::from(unsafe { libc::shmget(key, 4096, libc::IPC_CREAT | 0o666) }))?;
    // SAFETY: likewise.
    check_long(libc::c_long::from(unsafe { libc::semget(key, 1, libc::IPC_CREAT | 0o666) }))
}

/// Lets everybody in this thread's network namespace listen at every port.
pub fn open_ports() -> io::Result<()> {
    std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")
}
