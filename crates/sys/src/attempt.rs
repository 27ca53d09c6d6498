//! System calls made to see whether they are refused.
//!
//! The threat: a seal that is believed. What is called here does nothing where it is allowed; what might do
//! something is called in a child of its own ([`call`]), which is gone afterwards.

use crate::process::{self, Forked};
use std::{
    io::{self, Read, Write},
    time::Duration,
};

/// A call that is on no allow-list of ours, with arguments that make nothing: the errno, 0 if it was made.
pub fn unlisted() -> i32 {
    // SAFETY: no entries and no parameters: the kernel refuses the null pointer.
    errno(unsafe { libc::syscall(libc::SYS_io_uring_setup, 0, 0) })
}

/// A call that is refused by name, with arguments that change nothing: the errno, 0 if it was made.
pub fn dangerous() -> i32 {
    // SAFETY: no flag, so no namespace.
    errno(unsafe { libc::syscall(libc::SYS_unshare, 0) })
}

/// A socket of a family that no cell has: the errno, 0 if it was made. It is closed again.
pub fn family() -> i32 {
    // SAFETY: numbers only.
    let made = unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    let code = errno(libc::c_long::from(made));
    if code == 0 {
        // SAFETY: the kernel has just made it for us.
        unsafe { libc::close(made) };
    }
    code
}

fn errno(result: libc::c_long) -> i32 {
    if result < 0 { io::Error::last_os_error().raw_os_error().unwrap_or(0) } else { 0 }
}

/// `ioctl`.
pub const IOCTL: i64 = libc::SYS_ioctl;
/// `setns`.
pub const SETNS: i64 = libc::SYS_setns;
/// `setsockopt`.
pub const SETSOCKOPT: i64 = libc::SYS_setsockopt;

/// The hard limit of a resource by its number; `u64::MAX` is none.
pub fn hard_limit(resource: u32) -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes the structure.
    process::check(unsafe { libc::getrlimit(resource, &raw mut limit) })?;
    Ok(limit.rlim_max)
}

/// One argument of a call.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Argument {
    /// A number, an address of nothing among them.
    Number(u64),
    /// The address of a text that ends with a NUL.
    Text(String),
    /// The address of so many bytes, which may be written to.
    Bytes(Vec<u8>),
}

/// What became of a call in a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Made {
    /// It returned this.
    Returned(i64),
    /// It failed with this errno.
    Failed(i32),
    /// It ended the child, with this signal, or with 0.
    Ended(u8),
    /// It did not return in time; the child was killed.
    Waits,
}

/// Makes a call in a child, which is killed if it does not return within a moment. Nothing of it is left but what
/// it did to the system.
pub fn call(number: i64, arguments: &[Argument]) -> io::Result<Made> {
    let (mut says, mut tells) = io::pipe()?;
    match process::fork()? {
        Forked::Child => {
            drop(says);
            let made = make(number, arguments);
            // The parent reads it, or is gone.
            let _ = tells.write_all(&made.to_ne_bytes());
            process::exit(0)
        }
        Forked::Parent(child) => {
            drop(tells);
            let mut polled = [rustix::event::PollFd::new(&says, rustix::event::PollFlags::IN)];
            let patience = rustix::event::Timespec::try_from(Duration::from_millis(200)).ok();
            let waits = rustix::event::poll(&mut polled, patience.as_ref())? == 0;
            if waits {
                rustix::process::kill_process(child, rustix::process::Signal::KILL)?;
            }
            let mut bytes = [0; 8];
            let told = says.read_exact(&mut bytes).is_ok();
            let status = rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty())?;
            let signal = status.and_then(|(_, status)| status.terminating_signal()).unwrap_or(0);
            Ok(match (i64::from_ne_bytes(bytes), told) {
                (value, true) if (-4095..0).contains(&value) => {
                    Made::Failed(i32::try_from(-value).unwrap_or(0))
                }
                (value, true) => Made::Returned(value),
                (_, false) if waits => Made::Waits,
                (_, false) => Made::Ended(u8::try_from(signal).unwrap_or(0)),
            })
        }
    }
}

/// The result, or minus the errno. In a child that does nothing else.
fn make(number: i64, arguments: &[Argument]) -> i64 {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    let mut raw = [0_u64; 6];
    for (slot, argument) in raw.iter_mut().zip(arguments) {
        let bytes = match argument {
            Argument::Number(number) => {
                *slot = *number;
                continue;
            }
            Argument::Text(text) => [text.as_bytes(), &[0]].concat(),
            Argument::Bytes(bytes) => bytes.clone(),
        };
        kept.push(bytes);
        *slot = kept.last_mut().map_or(0, |bytes| bytes.as_mut_ptr() as u64);
    }
    // SAFETY: whatever it does to this process's memory, the process ends with it; it has one thread, and the
    // texts and bytes live until then.
    let result = unsafe { libc::syscall(number, raw[0], raw[1], raw[2], raw[3], raw[4], raw[5]) };
    if result < 0 { -i64::from(errno(result)) } else { result }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_call_tells_what_became_of_it() {
        assert!(matches!(call(libc::SYS_getpid, &[]).unwrap(), Made::Returned(pid) if pid > 0));
        let close = call(libc::SYS_close, &[Argument::Number(9999)]).unwrap();
        assert_eq!(close, Made::Failed(libc::EBADF));
        assert_eq!(call(libc::SYS_exit, &[Argument::Number(0)]).unwrap(), Made::Ended(0));
        assert_eq!(call(libc::SYS_pause, &[]).unwrap(), Made::Waits);
        let open = call(libc::SYS_open, &[Argument::Text("/dev/null".into()), Argument::Number(0)]);
        assert!(matches!(open.unwrap(), Made::Returned(_)));
        let mut name = vec![0; 390];
        name.resize(390, 0);
        assert_eq!(call(libc::SYS_uname, &[Argument::Bytes(name)]).unwrap(), Made::Returned(0));
    }

    #[test]
    fn unsealed_the_three_questions_are_not_refused_by_us() {
        assert_ne!(unlisted(), libc::ENOSYS);
        assert_eq!(dangerous(), 0);
        assert_ne!(family(), libc::EPERM);
    }
}
