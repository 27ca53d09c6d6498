//! Network namespaces: making them, entering them, telling them apart.
//!
//! A thread, not a process, is in a network namespace; [`inside`] therefore works on a thread of its own and
//! leaves the caller where it is. A socket stays in the namespace in which it was made, whoever holds it:
//! [`cookie`] names that namespace, and a cell can forge neither.

use rustix::thread::{LinkNameSpaceType, UnshareFlags};
use std::{
    fs::File,
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

/// The network namespace of this thread.
pub fn current() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

/// Moves this thread into a network namespace. Needs CAP_SYS_ADMIN over it and in our own user namespace.
pub fn enter(netns: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::thread::move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))?)
}

/// Moves this thread into a new, empty network namespace.
pub fn unshare() -> io::Result<()> {
    // SAFETY: CLONE_NEWNET changes the thread's network namespace only; it does not touch the table of
    // descriptors or the address space, which is what makes other flags unsound.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?)
}

/// A new, empty network namespace that lives as long as the descriptor, a process or a socket in it.
pub fn create() -> io::Result<OwnedFd> {
    on_own_thread(|| {
        unshare()?;
        current()
    })
}

/// Does something on a thread inside this namespace. Sockets made there stay there.
pub fn inside<T: Send>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    on_own_thread(|| {
        enter(netns)?;
        Ok(work())
    })
}

/// The cookie of the network namespace in which a socket was made (`SO_NETNS_COOKIE`): never used twice while
/// the machine is up.
pub fn cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    crate::socket::option_u64(socket, libc::SOL_SOCKET, crate::socket::SO_NETNS_COOKIE)
}

/// The cookie of the namespace of this thread.
pub fn current_cookie() -> io::Result<u64> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    cookie(std::os::fd::AsFd::as_fd(&socket))
}

/// A panic of the work is passed on; a thread that cannot be made is an error.
fn on_own_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use std::{net::UdpSocket, os::fd::AsFd};

    #[test]
    fn a_socket_keeps_the_namespace_in_which_it_was_made() {
        let netns = create().unwrap();
        let before = current_cookie().unwrap();
        let (socket, inner) =
            inside(netns.as_fd(), || (UdpSocket::bind("0.0.0.0:0").unwrap(), current_cookie().unwrap()))
                .unwrap();
        assert_ne!(inner, before);
        assert_eq!(cookie(socket.as_fd()).unwrap(), inner);
        assert_eq!(current_cookie().unwrap(), before, "the caller stays where it was");
    }

    #[test]
    fn what_is_no_network_namespace_is_not_entered() {
        let user = File::open("/proc/self/ns/user").unwrap();
        assert!(inside(user.as_fd(), || ()).is_err());
        let ours = current().unwrap();
        inside(ours.as_fd(), || ()).unwrap();
    }
}
