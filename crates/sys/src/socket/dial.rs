//! Streams into a cell: made unconnected inside its namespace, marked, proved, bound and connected outside.

use super::option::{option_int, set_option};
use cofferdam_base::ipc::warden::Listener;
use rustix::{
    io::Errno,
    net::{self, AddressFamily, SocketFlags, SocketType, ipproto, sockopt},
};
use std::{
    io,
    net::{SocketAddrV4, TcpStream},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// Why a received descriptor is refused.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Not an IPv4 or IPv6 stream socket of TCP proper.
    #[error("a received descriptor is not a TCP socket")]
    NotTcp,
    /// It listens.
    #[error("a received socket is listening")]
    Listening,
    /// It is bound to a peer already.
    #[error("a received socket is connected already")]
    Connected,
    /// It is not the listener that it is said to be.
    #[error("a received socket is not the listener {0:?}")]
    NotListener(Listener),
    /// It was made in another network namespace than the one that was named.
    #[error("a received socket belongs to network namespace {found}, not {expected}")]
    OtherNamespace {
        /// The cookie that was named.
        expected: u64,
        /// The socket's.
        found: u64,
    },
    /// The system call failed.
    #[error("a received socket cannot be examined: {0}")]
    Io(#[from] io::Error),
}

/// A new unconnected IPv4 TCP socket of this thread's network namespace, close-on-exec, non-blocking, whose
/// packets bear the mark. Needs CAP_NET_ADMIN or CAP_NET_RAW over the namespace, which nothing in a cell has.
pub fn marked_stream(mark: u32) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_MARK, mark.cast_signed())?;
    Ok(socket)
}

/// Proves that a received descriptor is a TCP socket of this namespace that neither listens nor is connected.
pub fn fresh_stream(socket: BorrowedFd<'_>, netns_cookie: u64) -> Result<(), SocketError> {
    let domain = sockopt::socket_domain(socket).map_err(|errno| match errno {
        Errno::NOTSOCK => SocketError::NotTcp,
        other => SocketError::Io(other.into()),
    })?;
    let tcp = (domain == AddressFamily::INET || domain == AddressFamily::INET6)
        && sockopt::socket_type(socket).map_err(io::Error::from)? == SocketType::STREAM
        && option_int(socket, libc::SOL_SOCKET, libc::SO_PROTOCOL)? == libc::IPPROTO_TCP;
    if !tcp {
        return Err(SocketError::NotTcp);
    }
    if super::is_listening(socket)? {
        return Err(SocketError::Listening);
    }
    match net::getpeername(socket) {
        Err(Errno::NOTCONN) => {}
        Ok(_) => return Err(SocketError::Connected),
        Err(errno) => return Err(io::Error::from(errno).into()),
    }
    of_namespace(socket, netns_cookie)
}

/// Proves that a socket was made in this namespace.
pub(super) fn of_namespace(socket: BorrowedFd<'_>, expected: u64) -> Result<(), SocketError> {
    let found = crate::netns::cookie(socket)?;
    if found == expected { Ok(()) } else { Err(SocketError::OtherNamespace { expected, found }) }
}

/// Binds to a source address (any port) and starts to connect; the stream is non-blocking and may still be
/// connecting: it is writable once it is, and `take_error` says how that went.
pub fn start_connect(socket: OwnedFd, source: SocketAddrV4, target: SocketAddrV4) -> io::Result<TcpStream> {
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(true)?;
    net::bind(&stream, &source)?;
    match net::connect(&stream, &target) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(stream),
        Err(errno) => Err(errno.into()),
    }
}

/// [`start_connect`], finished by tokio.
pub async fn connect_through(
    socket: OwnedFd,
    source: SocketAddrV4,
    target: SocketAddrV4,
) -> io::Result<tokio::net::TcpStream> {
    let stream = tokio::net::TcpStream::from_std(start_connect(socket, source, target)?)?;
    stream.writable().await?;
    match stream.take_error()? {
        None => Ok(stream),
        Some(error) => Err(error),
    }
}
