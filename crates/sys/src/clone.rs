//! Making the first process of a cell, and the processes that join it.
//!
//! The child of [`birth`] is a copy of a process that was executed for nothing else. The threat: a cell whose init
//! carries the launcher's memory or descriptors; it has those of the nursery, which never had any, and keeps four
//! descriptors.

use crate::process::{Forked, check, check_long};
use rustix::process::Pid;
use std::{
    ffi::c_int,
    io,
    mem::size_of,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
};

/// The uid and gid that a cell's processes have inside it.
pub const INNER_ID: u32 = 1000;
/// The namespaces of a cell, the cgroup namespace apart, which is entered once the cgroups are.
pub const CELL_NAMESPACES: c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS;

/// A pid namespace of its own.
pub const NEW_PID: c_int = libc::CLONE_NEWPID;
/// A network namespace of its own.
pub const NEW_NETWORK: c_int = libc::CLONE_NEWNET;
/// An ipc namespace of its own.
pub const NEW_IPC: c_int = libc::CLONE_NEWIPC;
/// A uts namespace of its own.
pub const NEW_UTS: c_int = libc::CLONE_NEWUTS;

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What the first process of a cell is born with.
#[derive(Clone, Copy, Debug)]
pub struct Birth<'a> {
    /// A pipe: the child goes on when it reads a byte, and ends when it reads the end.
    pub gate: BorrowedFd<'a>,
    /// Becomes descriptor 3.
    pub wire: BorrowedFd<'a>,
    /// Become descriptors 0, 1 and 2.
    pub stdio: [BorrowedFd<'a>; 3],
    /// The version 2 cgroup to be born in.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// May drop supplementary groups (the parent was root).
    pub groups: bool,
    /// Which of [`CELL_NAMESPACES`] it shares with its parent: a network that was made for it, and more only in a
    /// throw-away cell of a proof.
    pub shared: c_int,
}

/// `struct clone_args` of `<linux/sched.h>`, version 2.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// What [`birth`] returns: once here, once in the child.
#[derive(Debug)]
pub enum Born<T> {
    /// Here: the child, and its pidfd.
    Here(Pid, OwnedFd),
    /// In the child, with what it made early.
    InChild(T),
}

/// Makes the first process of a cell, in new namespaces, as a child of this process's parent. Returns twice: in
/// the child once its gate has opened and it has its ids, descriptors and nothing else. What needs neither ids nor
/// orders the child does early, before it waits at the gate. For a process with one thread and nothing to hide.
pub fn birth<T>(birth: &Birth<'_>, early: impl FnOnce() -> T) -> io::Result<Born<T>> {
    let mut flags =
        flag(CELL_NAMESPACES & !birth.shared) | flag(libc::CLONE_PIDFD) | flag(libc::CLONE_PARENT);
    let mut pidfd: c_int = -1;
    let mut args = CloneArgs { pidfd: ptr::from_mut(&mut pidfd) as u64, ..CloneArgs::default() };
    if let Some(cgroup) = birth.cgroup {
        flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    args.flags = flags;
    // SAFETY: a plain fork, of a process that has one thread.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, ptr::from_mut(&mut args), size_of::<CloneArgs>()) };
    check_long(pid)?;
    if pid != 0 {
        return parent(pid, pidfd).map(|(pid, pidfd)| Born::Here(pid, pidfd));
    }
    match step_by_step(birth, early) {
        Ok(made) => Ok(Born::InChild(made)),
        // SAFETY: ends the child; the exit status tells the step that failed.
        Err(code) => unsafe { libc::_exit(code) },
    }
}

/// Forks a child that is a sibling of this process: its parent is ours. For the process that has joined a pid
/// namespace, of which only its children become members.
pub fn fork_sibling() -> io::Result<Option<(Pid, OwnedFd)>> {
    let mut pidfd: c_int = -1;
    let mut args = CloneArgs {
        flags: flag(libc::CLONE_PARENT) | flag(libc::CLONE_PIDFD),
        pidfd: ptr::from_mut(&mut pidfd) as u64,
        ..CloneArgs::default()
    };
    // SAFETY: a plain fork of a process that itself came from fork and has one thread.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, ptr::from_mut(&mut args), size_of::<CloneArgs>()) };
    check_long(pid)?;
    if pid == 0 { Ok(None) } else { parent(pid, pidfd).map(Some) }
}

/// Forks, and the child is born in this version 2 cgroup. One that moves itself there waits for the kernel's next grace
/// period, 10 to 20 ms. For a process with one thread: the C library does not know of it.
pub fn fork_into(cgroup: BorrowedFd<'_>) -> io::Result<Forked> {
    let mut args = CloneArgs {
        flags: CLONE_INTO_CGROUP,
        exit_signal: u64::from(libc::SIGCHLD.unsigned_abs()),
        cgroup: u64::from(cgroup.as_raw_fd().unsigned_abs()),
        ..CloneArgs::default()
    };
    // SAFETY: a plain fork, of a process that has one thread.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, ptr::from_mut(&mut args), size_of::<CloneArgs>()) };
    check_long(pid)?;
    if pid == 0 {
        return Ok(Forked::Child);
    }
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.map(Forked::Parent).ok_or_else(|| io::Error::other("clone3 gave no pid"))
}

fn parent(pid: libc::c_long, pidfd: c_int) -> io::Result<(Pid, OwnedFd)> {
    // SAFETY: CLONE_PIDFD has just made it for us.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    Ok((pid.ok_or_else(|| io::Error::other("clone3 gave no pid"))?, pidfd))
}

const fn flag(flag: c_int) -> u64 {
    flag.cast_unsigned() as u64
}

fn step_by_step<T>(birth: &Birth<'_>, early: impl FnOnce() -> T) -> Result<T, c_int> {
    const GATE: c_int = 4;
    // Out of the way of the low numbers first. Nothing of the parent's stays: who waits for its end waits for no child.
    let mut high = [0; 5];
    let all = [birth.stdio[0], birth.stdio[1], birth.stdio[2], birth.wire, birth.gate];
    for (copy, original) in high.iter_mut().zip(all) {
        // SAFETY: numbers only.
        *copy = unsafe { libc::fcntl(original.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 10) };
        check(*copy).map_err(|_| 106)?;
    }
    for (number, copy) in (0..=GATE).zip(&high) {
        // SAFETY: numbers only.
        check(unsafe { libc::dup2(*copy, number) }).map_err(|_| 107)?;
    }
    // SAFETY: closes what nobody in the child uses: its owners are gone with the parent's side.
    check_long(unsafe { libc::syscall(libc::SYS_close_range, GATE + 1, u32::MAX, 0) }).map_err(|_| 108)?;
    let made = early();
    let mut byte = 0_u8;
    // The gate opens when the maps are written.
    // SAFETY: one byte into one byte; and the gate's own number, which nothing else has.
    let opened =
        unsafe { libc::read(GATE, ptr::from_mut(&mut byte).cast(), 1) == 1 && libc::close(GATE) == 0 };
    if !opened {
        return Err(100);
    }
    if birth.groups {
        // SAFETY: no groups; raw, because the C library's own would signal the threads of the parent.
        check_long(unsafe { libc::syscall(libc::SYS_setgroups, 0, ptr::null::<u32>()) }).map_err(|_| 101)?;
    }
    // The ids, with the capabilities of the namespace kept over the change.
    // SAFETY: numbers only.
    unsafe {
        check(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0)).map_err(|_| 102)?;
        check_long(libc::syscall(libc::SYS_setresgid, INNER_ID, INNER_ID, INNER_ID)).map_err(|_| 103)?;
        check_long(libc::syscall(libc::SYS_setresuid, INNER_ID, INNER_ID, INNER_ID)).map_err(|_| 104)?;
    }
    crate::caps::raise_own().map_err(|_| 105)?;
    Ok(made)
}
