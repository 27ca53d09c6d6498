//! Datagrams that know both ends: the resolver answers from the very address that was asked.
//!
//! The sockets are [`DnsUdp4`](cofferdam_base::ipc::warden::Listener::DnsUdp4) and its IPv6 twin, on which
//! packet information is switched on.

use rustix::net::SocketAddrAny;
use std::{
    io,
    mem::{MaybeUninit, size_of},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, BorrowedFd},
};

/// What came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Bytes of the buffer that it fills.
    pub length: usize,
    /// Who sent it.
    pub from: SocketAddr,
    /// The address (of this end) to which it was sent.
    pub to: IpAddr,
}

/// Room for the one control message of either family, aligned as the kernel wants it.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Receives one datagram, without waiting if the socket is non-blocking. One longer than the buffer is an
/// `InvalidData` error, and so is one without packet information; both are consumed.
pub fn udp_recv_from_to(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Datagram> {
    let mut name = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut control = Control([0; 64]);
    let mut vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all-zero is a valid msghdr: null pointers with zero lengths.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_name = name.as_mut_ptr().cast();
    message.msg_namelen = length_of::<libc::sockaddr_storage>();
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len();
    // SAFETY: every pointer in the header is to memory of the length beside it, which lives through the call.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    let length = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    if message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a datagram is longer than its buffer"));
    }
    // SAFETY: zeroed storage, of which the kernel wrote `msg_namelen` bytes.
    let from = unsafe { SocketAddrAny::read(name.as_ptr().cast(), message.msg_namelen) };
    let from = SocketAddr::try_from(from).map_err(io::Error::from)?;
    let to = destination(&message)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a datagram has no packet information"))?;
    Ok(Datagram { length, from, to })
}

/// The destination in the header's control messages.
fn destination(message: &libc::msghdr) -> Option<IpAddr> {
    // SAFETY: the kernel filled the control buffer and set its length; the CMSG functions stay inside it.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: not null, so it points at a whole header inside the control buffer.
        let (level, kind, length) =
            unsafe { ((*header).cmsg_level, (*header).cmsg_type, (*header).cmsg_len) };
        // SAFETY: the data follows a whole header; it is read below only as far as `cmsg_len` says.
        let data = unsafe { libc::CMSG_DATA(header) };
        if (level, kind) == (libc::SOL_IP, libc::IP_PKTINFO) && length >= control_length::<libc::in_pktinfo>()
        {
            // SAFETY: the message holds a whole in_pktinfo, of which every bit pattern is valid.
            let info = unsafe { data.cast::<libc::in_pktinfo>().read_unaligned() };
            return Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()).into());
        }
        if (level, kind) == (libc::SOL_IPV6, libc::IPV6_PKTINFO)
            && length >= control_length::<libc::in6_pktinfo>()
        {
            // SAFETY: the message holds a whole in6_pktinfo, of which every bit pattern is valid.
            let info = unsafe { data.cast::<libc::in6_pktinfo>().read_unaligned() };
            return Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
        }
        // SAFETY: `header` is a header of this message.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    None
}

/// Sends one datagram whose source is `from`, an address of the socket's own family.
pub fn udp_send_from(socket: BorrowedFd<'_>, payload: &[u8], from: IpAddr, to: SocketAddr) -> io::Result<()> {
    let target = SocketAddrAny::from(to);
    let mut control = Control([0; 64]);
    let mut vector = libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
    // SAFETY: all-zero is a valid msghdr: null pointers with zero lengths.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_name = target.as_ptr().cast_mut().cast();
    message.msg_namelen = target.addr_len();
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len();
    message.msg_controllen = match from {
        IpAddr::V4(address) => {
            let spec = libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) };
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: spec,
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            push(&message, libc::SOL_IP, libc::IP_PKTINFO, info)
        }
        IpAddr::V6(address) => {
            let ipi6_addr = libc::in6_addr { s6_addr: address.octets() };
            push(
                &message,
                libc::SOL_IPV6,
                libc::IPV6_PKTINFO,
                libc::in6_pktinfo { ipi6_addr, ipi6_ifindex: 0 },
            )
        }
    };
    // SAFETY: every pointer in the header is to memory of the length beside it, which lives through the call.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    match usize::try_from(sent) {
        Ok(length) if length == payload.len() => Ok(()),
        Ok(_) => Err(io::Error::other("a datagram was cut off")),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Writes one control message into the header's empty control buffer, and returns how much of it is used.
fn push<T>(message: &libc::msghdr, level: i32, kind: i32, data: T) -> usize {
    // SAFETY: the control buffer is 64 aligned bytes, room for a header and either packet information, so
    // the first header is not null and its data fits behind it.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(message);
        (*header).cmsg_level = level;
        (*header).cmsg_type = kind;
        (*header).cmsg_len = control_length::<T>();
        libc::CMSG_DATA(header).cast::<T>().write_unaligned(data);
        libc::CMSG_SPACE(length_of::<T>()) as usize
    }
}

/// The length of a control message that holds a `T`.
fn control_length<T>() -> usize {
    // SAFETY: only computes.
    unsafe { libc::CMSG_LEN(length_of::<T>()) as usize }
}

#[allow(clippy::cast_possible_truncation)] // Structures are a few bytes long.
const fn length_of<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}
