//! Processes by descriptor: signalled, waited for and joined without ever meaning another by mistake.

use rustix::{
    process::{Signal, WaitId, WaitIdOptions},
    thread::ThreadNameSpaceType,
};
use std::{io, os::fd::BorrowedFd};

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
