//! One packet in, one packet out: the two system calls below every wire.
//!
//! Blocking or not is said with each call (`MSG_DONTWAIT`), never with `O_NONBLOCK`: that flag belongs to the
//! open file description, which both ends of a hand-over share.

use super::{ChannelError, MAX_DESCRIPTORS, Packet};
use cofferdam_base::ipc::MAX_PACKET;
use rustix::{
    io::Errno,
    net::{
        self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sockopt,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    cell::RefCell,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
};

/// May a call wait for the other end?
#[derive(Clone, Copy)]
pub(super) enum Wait {
    Block,
    Never,
}

/// Room that few packets have to grow beyond.
const USUAL: usize = 16 * 1024;

thread_local! {
    // One buffer a thread: a packet is parsed before the next is read, and a packet may be 128 KiB. The one
    // byte more tells a packet that fits from one that does not.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; MAX_PACKET + 1]);
}

pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (a, b) = net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    for end in [&a, &b] {
        sockopt::set_socket_send_buffer_size(end, 2 * MAX_PACKET)?;
        // The kernel caps what it is asked for; a wire on which the longest packet does not fit is none.
        if sockopt::socket_send_buffer_size(end)? < MAX_PACKET + 4096 {
            return Err(io::Error::other(
                "net.core.wmem_max is too small for a packet between processes: set it to 262144 or more",
            ));
        }
    }
    Ok((a, b))
}

pub(super) fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, ChannelError> {
    let mut packet = Vec::with_capacity(USUAL);
    serde_json::to_writer(&mut packet, message)?;
    if packet.len() > MAX_PACKET { Err(ChannelError::TooLong(packet.len())) } else { Ok(packet) }
}

pub(super) fn send(
    socket: BorrowedFd<'_>,
    packet: &[u8],
    descriptors: &[BorrowedFd<'_>],
    wait: Wait,
) -> Result<(), ChannelError> {
    if descriptors.len() > MAX_DESCRIPTORS {
        return Err(ChannelError::TooManyDescriptors(descriptors.len()));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(ChannelError::TooManyDescriptors(descriptors.len()));
    }
    let flags = SendFlags::NOSIGNAL
        | match wait {
            Wait::Block => SendFlags::empty(),
            Wait::Never => SendFlags::DONTWAIT,
        };
    loop {
        match net::sendmsg(socket, &[IoSlice::new(packet)], &mut control, flags) {
            Ok(sent) if sent == packet.len() => return Ok(()),
            Ok(_) => return Err(ChannelError::CutOff),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Err(ChannelError::WouldBlock),
            Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => return Err(ChannelError::Closed),
            Err(errno) => return Err(io::Error::from(errno).into()),
        }
    }
}

/// What becomes of a packet whose descriptors did not all find room in this process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// It ends the wire.
    Ends,
    /// It comes without any.
    Bare,
}

pub(super) fn recv<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
    wait: Wait,
    loss: Loss,
) -> Result<Option<Packet<T>>, ChannelError> {
    BUFFER.with_borrow_mut(|buffer| {
        let Some((length, descriptors)) = recv_bytes(socket, buffer, wait, loss)? else { return Ok(None) };
        let message = serde_json::from_slice(&buffer[..length])?;
        Ok(Some((message, descriptors)))
    })
}

/// Any return but the good one drops, and so closes, the descriptors that came.
fn recv_bytes(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    wait: Wait,
    loss: Loss,
) -> Result<Option<(usize, Vec<OwnedFd>)>, ChannelError> {
    let flags = RecvFlags::CMSG_CLOEXEC
        | match wait {
            Wait::Block => RecvFlags::empty(),
            Wait::Never => RecvFlags::DONTWAIT,
        };
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = match net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
            Ok(received) => received,
            // The peer left without reading all that we sent. What it had sent itself is still to be read,
            // and the kernel reports the reset once only.
            Err(Errno::INTR | Errno::CONNRESET) => continue,
            Err(Errno::AGAIN) => return Err(ChannelError::WouldBlock),
            Err(errno) => return Err(io::Error::from(errno).into()),
        };
        let mut descriptors: Vec<OwnedFd> = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                _ => None,
            })
            .flatten()
            .collect();
        if received.flags.contains(ReturnFlags::TRUNC) || received.bytes > MAX_PACKET {
            return Err(ChannelError::CutOff);
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            if loss == Loss::Ends {
                return Err(ChannelError::CutOff);
            }
            descriptors.clear();
        }
        // No message is an empty packet, so an empty read is the end of the wire.
        if received.bytes == 0 {
            return Ok(None);
        }
        return Ok(Some((received.bytes, descriptors)));
    }
}
