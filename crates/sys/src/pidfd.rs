//! Processes by descriptor: signalled, waited for and joined without ever meaning another by mistake.

use rustix::{
    process::{Pid, Signal, WaitId, WaitIdOptions},
    thread::ThreadNameSpaceType,
};
use std::{io, mem::MaybeUninit, os::fd::BorrowedFd};

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this exit status.
    Exit(u8),
    /// By this signal.
    Signal(u8),
}

impl Ended {
    /// As a shell says it: the status, or 128 and the signal.
    pub fn code(self) -> u8 {
        match self {
            Self::Exit(code) => code,
            Self::Signal(signal) => 128_u8.saturating_add(signal),
        }
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exit(code) => write!(f, "exit {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// Reaps a child, waiting for it.
pub fn wait(child: BorrowedFd<'_>) -> io::Result<Ended> {
    loop {
        match rustix::process::waitid(WaitId::PidFd(child), WaitIdOptions::EXITED) {
            Ok(status) => match status.as_ref().and_then(ended) {
                Some(ended) => return Ok(ended),
                None => return Err(io::Error::other("a child neither ran nor ended")),
            },
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Reaps a child if it has ended.
pub fn try_wait(child: BorrowedFd<'_>) -> io::Result<Option<Ended>> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    Ok(rustix::process::waitid(WaitId::PidFd(child), options)?.as_ref().and_then(ended))
}

/// Some child that has ended and that nobody has reaped, which changes nothing about it: the oldest of them. None
/// if there is none.
pub fn ended_child() -> io::Result<Option<Pid>> {
    let mut told = MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the call writes one `siginfo_t` or nothing, and all zeroes is one that names no process.
    let (result, told) = unsafe {
        let result = libc::waitid(libc::P_ALL, 0, told.as_mut_ptr(), options);
        (result, told.assume_init())
    };
    match crate::process::check(result) {
        // SAFETY: `waitid` fills in the fields of SIGCHLD, or left the zeroes.
        Ok(()) => Ok(Pid::from_raw(unsafe { told.si_pid() })),
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reaps a child by its number if it has ended. Only for one that nobody holds a descriptor of: a number means
/// what it says only as long as its child is not reaped.
pub fn reap(child: Pid) -> io::Result<Option<Ended>> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    Ok(rustix::process::waitid(WaitId::Pid(child), options)?.as_ref().and_then(ended))
}

fn ended(status: &rustix::process::WaitIdStatus) -> Option<Ended> {
    let byte = |value: i32| u8::try_from(value).unwrap_or(u8::MAX);
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Some(Ended::Exit(byte(code))),
        (None, Some(signal)) => Some(Ended::Signal(byte(signal))),
        (None, None) => None,
    }
}

/// Signals a process. One that has ended already is no error.
pub fn signal(process: BorrowedFd<'_>, signal: Signal) -> io::Result<()> {
    match rustix::process::pidfd_send_signal(process, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Joins every namespace of a cell's process. The pid namespace is that of children made from now on.
pub fn join_cell(process: BorrowedFd<'_>) -> io::Result<()> {
    let all = ThreadNameSpaceType::USER
        | ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::PROCESS_ID
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::CONTROL_GROUP;
    Ok(rustix::thread::move_into_thread_name_spaces(process, all)?)
}

/// Joins only the user and network namespaces of a cell's process.
pub fn join_network(process: BorrowedFd<'_>) -> io::Result<()> {
    let both = ThreadNameSpaceType::USER | ThreadNameSpaceType::NETWORK;
    Ok(rustix::thread::move_into_thread_name_spaces(process, both)?)
}
