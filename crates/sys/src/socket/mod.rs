//! Internet sockets of a cell: the listeners opened inside its namespace, the streams that the edge dials
//! with, and the proofs about descriptors that came over a wire.
//!
//! It owns socket options and address forms; who gets which socket is decided above. The threats: a cell
//! that binds a port before or beside us (so no option that shares a port is ever set), and a peer that
//! hands over a descriptor which is not what it should be (so [`fresh_stream`] proves each one).

mod dial;
mod listen;
mod option;
mod udp;

pub use dial::{SocketError, connect_through, fresh_stream, marked_stream, start_connect};
pub use listen::{CAPTURE_PORT, DNS_PORT, PROXY_PORT, listen, listeners, proven_listener};
pub(crate) use option::{SO_NETNS_COOKIE, option_u64, peer_credentials, peer_pidfd};
pub use udp::{Datagram, udp_recv_from_to, udp_send_from};

use rustix::net::sockopt;
use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
};

/// The socket's identity (`SO_COOKIE`): never used twice while the machine is up, the same for duplicates.
pub fn identity(socket: impl AsFd) -> io::Result<u64> {
    Ok(sockopt::socket_cookie(socket)?)
}

/// The socket's own address: of a captured connection, where its client wanted to go.
pub fn local_address(socket: impl AsFd) -> io::Result<SocketAddr> {
    SocketAddr::try_from(rustix::net::getsockname(socket)?).map_err(io::Error::from)
}

/// Sends small writes at once.
pub fn no_delay(socket: impl AsFd) -> io::Result<()> {
    Ok(sockopt::set_tcp_nodelay(socket, true)?)
}

/// Is this a listening socket?
pub fn is_listening(socket: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(sockopt::socket_acceptconn(socket)?)
}
