//! The listeners of a cell, opened inside its network namespace before anything else runs there.
//!
//! None of them shares its port: no `SO_REUSEADDR`, no `SO_REUSEPORT`, wildcard addresses. A cell that tries
//! to bind a more specific address at the same port is refused by the kernel.

use super::{
    SocketError,
    dial::of_namespace,
    option::{option_int, set_option},
};
use cofferdam_base::ipc::warden::Listener;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// Where captured connections arrive.
pub const CAPTURE_PORT: u16 = 15001;
/// Where the cell asks for names.
pub const DNS_PORT: u16 = 53;
/// The explicit proxy.
pub const PROXY_PORT: u16 = 3128;

const BACKLOG: i32 = 1024;

/// Opens all listeners in this thread's network namespace, in the order of [`Listener::ALL`].
pub fn listeners() -> io::Result<[OwnedFd; Listener::ALL.len()]> {
    let mut opened = Vec::with_capacity(Listener::ALL.len());
    for listener in Listener::ALL {
        opened.push(listen(listener)?);
    }
    opened.try_into().map_err(|_| io::Error::other("a listener is missing"))
}

/// Opens one listener in this thread's network namespace: close-on-exec and non-blocking.
/// Needs CAP_NET_ADMIN and CAP_NET_BIND_SERVICE over the namespace.
pub fn listen(listener: Listener) -> io::Result<OwnedFd> {
    let (address, udp) = address_of(listener);
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let (kind, protocol) =
        if udp { (SocketType::DGRAM, ipproto::UDP) } else { (SocketType::STREAM, ipproto::TCP) };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(family, kind, flags, Some(protocol))?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    match listener {
        Listener::Capture4 => set_option(socket.as_fd(), libc::SOL_IP, libc::IP_TRANSPARENT, 1)?,
        Listener::Capture6 => set_option(socket.as_fd(), libc::SOL_IPV6, libc::IPV6_TRANSPARENT, 1)?,
        Listener::DnsUdp4 => set_option(socket.as_fd(), libc::SOL_IP, libc::IP_PKTINFO, 1)?,
        Listener::DnsUdp6 => {
            set_option(socket.as_fd(), libc::SOL_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
            // IPv6 lets an answer leave from an address that only a local route makes ours on this condition.
            sockopt::set_ipv6_freebind(&socket, true)?;
        }
        Listener::DnsTcp | Listener::Proxy => {}
    }
    net::bind(&socket, &address)?;
    if !udp {
        net::listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}

/// Proves that a received descriptor is this listener of this namespace: protocol, address and all.
pub fn proven_listener(
    socket: BorrowedFd<'_>,
    listener: Listener,
    netns_cookie: u64,
) -> Result<(), SocketError> {
    let (address, udp) = address_of(listener);
    let (kind, protocol) =
        if udp { (SocketType::DGRAM, libc::IPPROTO_UDP) } else { (SocketType::STREAM, libc::IPPROTO_TCP) };
    let is = || -> io::Result<bool> {
        Ok(sockopt::socket_type(socket)? == kind
            && option_int(socket, libc::SOL_SOCKET, libc::SO_PROTOCOL)? == protocol
            && super::is_listening(socket)? != udp
            && super::local_address(socket)? == address)
    };
    match is() {
        Ok(true) => of_namespace(socket, netns_cookie),
        Ok(false) => Err(SocketError::NotListener(listener)),
        Err(error) => Err(error.into()),
    }
}

/// Where a listener is bound, and whether it is one of UDP.
const fn address_of(listener: Listener) -> (SocketAddr, bool) {
    const ANY4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    const ANY6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    match listener {
        Listener::Capture4 => (SocketAddr::new(ANY4, CAPTURE_PORT), false),
        Listener::Capture6 => (SocketAddr::new(ANY6, CAPTURE_PORT), false),
        Listener::DnsUdp4 => (SocketAddr::new(ANY4, DNS_PORT), true),
        Listener::DnsUdp6 => (SocketAddr::new(ANY6, DNS_PORT), true),
        Listener::DnsTcp => (SocketAddr::new(LOCAL, DNS_PORT), false),
        Listener::Proxy => (SocketAddr::new(LOCAL, PROXY_PORT), false),
    }
}
