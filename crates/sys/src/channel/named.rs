//! A wire that is met at a path: whoever may write to the file may connect.
//!
//! Who connected is asked of the kernel (`peer`) by whoever accepts; a path proves nothing.

use super::Channel;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::Path,
};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;

/// Where wires are accepted. Never waits.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Listens at this path, for its owner alone; what an earlier one left there is replaced.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        // Nobody can connect before this socket listens.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        net::listen(&socket, BACKLOG)?;
        Ok(Self(socket))
    }

    /// The next wire, if somebody has connected.
    pub fn accept(&self) -> io::Result<Option<Channel>> {
        match net::accept_with(&self.0, SocketFlags::CLOEXEC) {
            Ok(socket) => Ok(Some(Channel::from(socket))),
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Connects to a wire at this path.
pub fn connect(path: &Path) -> io::Result<Channel> {
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(Channel::from(socket))
}
