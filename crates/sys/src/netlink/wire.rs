//! The netlink socket: send, and read the kernel's answers.

use super::message::{Received, messages};
use rustix::{
    io::Errno,
    net::{self, AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt},
};
use std::{io, os::fd::OwnedFd, time::Duration};

pub(crate) const ACK: u16 = 4;
pub(crate) const REQUEST: u16 = 1;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// The kernel answers at once; a lost answer is an error, not a wait without end.
const PATIENCE: Duration = Duration::from_secs(10);

/// A netlink socket of the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Wire(OwnedFd);

impl From<Wire> for OwnedFd {
    fn from(wire: Wire) -> Self {
        wire.0
    }
}

impl Wire {
    /// None is `NETLINK_ROUTE`, whose number is 0.
    pub(crate) fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let socket =
            net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
        Ok(Self(socket))
    }

    /// Sends messages and waits until the one numbered `last`, which asked for it, is acknowledged. An error
    /// comes with the number of the message that it is about.
    pub(crate) fn acknowledged(&self, bytes: &[u8], last: u32) -> Result<(), (u32, io::Error)> {
        self.send(bytes).map_err(|error| (last, error))?;
        self.read(|received| {
            if received.kind != ERROR {
                return None;
            }
            match status(received.payload) {
                Err(error) => Some(Err((received.sequence, error))),
                Ok(()) if received.sequence == last => Some(Ok(())),
                Ok(()) => None,
            }
        })
        .unwrap_or_else(|error| Err((last, error)))
    }

    /// Sends a dump request and hands each message of the answer to `each`.
    pub(crate) fn dump(&self, bytes: &[u8], mut each: impl FnMut(&Received<'_>)) -> io::Result<()> {
        self.send(bytes)?;
        self.read(|received| match received.kind {
            DONE => Some(Ok(())),
            ERROR => Some(status(received.payload)),
            _ => {
                each(received);
                None
            }
        })?
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        match net::send(&self.0, bytes, SendFlags::empty())? {
            sent if sent == bytes.len() => Ok(()),
            _ => Err(io::Error::other("a netlink request was cut off")),
        }
    }

    /// Reads messages until `end` finds the one that it waits for.
    fn read<T>(&self, mut end: impl FnMut(&Received<'_>) -> Option<T>) -> io::Result<T> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = match net::recv(&self.0, &mut buffer[..], RecvFlags::TRUNC) {
                Err(Errno::INTR) => continue,
                outcome => outcome?.1,
            };
            let Some(bytes) = buffer.get(..length) else {
                return Err(io::Error::other("a netlink answer was cut off"));
            };
            if let Some(found) = messages(bytes).find_map(|received| end(&received)) {
                return Ok(found);
            }
        }
    }
}

/// The errno of an acknowledgement, 0 if all went well.
fn status(payload: &[u8]) -> io::Result<()> {
    let code = payload.first_chunk().map(|code| i32::from_ne_bytes(*code));
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
        None => Err(io::Error::other("a netlink answer was cut off")),
    }
}
