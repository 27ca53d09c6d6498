//! `getsockopt` and `setsockopt` for the options that `rustix` does not have.

use std::{
    ffi::c_int,
    io,
    mem::{MaybeUninit, size_of},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

/// `SO_NETNS_COOKIE` of `<asm-generic/socket.h>`.
pub(crate) const SO_NETNS_COOKIE: c_int = 71;
/// `SO_PEERPIDFD` of `<asm-generic/socket.h>`, Linux 6.5.
pub(crate) const SO_PEERPIDFD: c_int = 77;

/// Reads an option that is a 64-bit number.
pub(crate) fn option_u64(socket: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<u64> {
    // SAFETY: every bit pattern is a u64.
    unsafe { read(socket, level, name) }
}

/// Reads an option that is an `int`.
pub(crate) fn option_int(socket: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<c_int> {
    // SAFETY: every bit pattern is an int.
    unsafe { read(socket, level, name) }
}

/// The peer's process, user and group (`SO_PEERCRED`). The process is 0 where our pid namespace has none.
pub(crate) fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<libc::ucred> {
    // SAFETY: a ucred is three numbers.
    unsafe { read(socket, libc::SOL_SOCKET, libc::SO_PEERCRED) }
}

/// A descriptor of the peer's process (`SO_PEERPIDFD`).
pub(crate) fn peer_pidfd(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let descriptor = option_int(socket, libc::SOL_SOCKET, SO_PEERPIDFD)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Sets an option that is an `int`.
pub(crate) fn set_option(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    let length = socklen::<c_int>();
    // SAFETY: the pointer is to an int that lives through the call, and the length is its size.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(&value).cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// # Safety
///
/// Every bit pattern must be a valid `T`.
unsafe fn read<T: Copy>(socket: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut length = socklen::<T>();
    // SAFETY: the pointers are to a T and to its length, and both live through the call.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut length)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if length != socklen::<T>() {
        return Err(io::Error::other("a socket option has another size than expected"));
    }
    // SAFETY: zeroed, then written by the kernel, and the caller vouches for every bit pattern.
    Ok(unsafe { value.assume_init() })
}

#[allow(clippy::cast_possible_truncation)] // Options are a few bytes long.
const fn socklen<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}
