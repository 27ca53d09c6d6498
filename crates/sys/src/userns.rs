//! User namespaces: the one uid and gid that a cell has.

use std::{fs, io};

/// Moves this process, which must have one thread, into a new user namespace and a new network in it, over
/// which it has every capability. It has no id there until one is mapped.
pub fn unshare_with_network() -> io::Result<()> {
    use rustix::thread::UnshareFlags;
    // SAFETY: neither flag touches the table of descriptors or the address space.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNET) }?)
}

/// Maps one uid and gid of a new user namespace. `deny_groups` is what the kernel wants of a writer without
/// privilege.
pub fn map_one(pid: i32, inner: u32, uid: u32, gid: u32, deny_groups: bool) -> io::Result<()> {
    if deny_groups {
        fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
    }
    fs::write(format!("/proc/{pid}/gid_map"), format!("{inner} {gid} 1"))?;
    fs::write(format!("/proc/{pid}/uid_map"), format!("{inner} {uid} 1"))
}
