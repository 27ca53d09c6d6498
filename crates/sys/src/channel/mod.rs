//! The internal wires: `SOCK_SEQPACKET` socket pairs that carry one JSON document and descriptors a packet.
//!
//! It owns framing and the transport of descriptors; which message may be sent on which wire, and how many
//! descriptors ride with it, is said in [`cofferdam_base::ipc`] and checked by the receiver with [`exactly`].
//! The threat: a peer that was broken by hostile bytes and now sends packets that are too long, cut off,
//! unparsable, or loaded with descriptors. Each of these is an error after which the wire must be dropped;
//! descriptors that nobody takes are closed, and none is ever inherited by a child.

mod named;
mod wire;

pub use named::{Listener, connect};

use cofferdam_base::ipc::MAX_PACKET;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};
use tokio::io::{Interest, unix::AsyncFd};

/// The most descriptors that one packet carries.
pub const MAX_DESCRIPTORS: usize = 64;

/// Why a wire ended, or a packet did not go out. All but [`ChannelError::WouldBlock`] end the wire.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// Nothing to read, or the peer has not read what it was sent; only from the `try_` functions.
    #[error("the wire's other end is not ready")]
    WouldBlock,
    /// Sending to a peer that is gone.
    #[error("the wire's other end is closed")]
    Closed,
    /// A packet of our own is longer than [`MAX_PACKET`]; nothing was sent.
    #[error("a packet of {0} bytes is longer than the wire's limit of {MAX_PACKET}")]
    TooLong(usize),
    /// A packet of our own has more than [`MAX_DESCRIPTORS`] descriptors; nothing was sent.
    #[error("a packet with {0} descriptors is over the wire's limit of {MAX_DESCRIPTORS}")]
    TooManyDescriptors(usize),
    /// The peer sent a packet that is too long, or whose descriptors did not all arrive.
    #[error("a packet arrived cut off")]
    CutOff,
    /// A packet is not the JSON document that this wire carries.
    #[error("a packet does not parse: {0}")]
    Format(#[from] serde_json::Error),
    /// A packet carries another number of descriptors than its message says.
    #[error("a packet carries {found} descriptors where its message says {expected}")]
    Descriptors {
        /// What the message says.
        expected: usize,
        /// What came.
        found: usize,
    },
    /// The system call failed.
    #[error("the wire broke: {0}")]
    Io(#[from] io::Error),
}

/// A packet: the message and its descriptors, in the order in which they were sent.
pub type Packet<T> = (T, Vec<OwnedFd>);

/// The two ends of a new wire, close-on-exec and blocking, with room for a whole packet each way.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    wire::pair()
}

/// The descriptors of a packet whose message says `N` of them; any other number closes them all.
pub fn exactly<const N: usize>(descriptors: Vec<OwnedFd>) -> Result<[OwnedFd; N], ChannelError> {
    descriptors
        .try_into()
        .map_err(|surplus: Vec<OwnedFd>| ChannelError::Descriptors { expected: N, found: surplus.len() })
}

/// One end of a wire, for threads and poll loops.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Sends one packet, waiting for room.
    pub fn send<T: Serialize>(
        &self,
        message: &T,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        wire::send(self.0.as_fd(), &wire::encode(message)?, descriptors, wire::Wait::Block)
    }

    /// Sends one packet if there is room; [`ChannelError::WouldBlock`] if there is none.
    pub fn try_send<T: Serialize>(
        &self,
        message: &T,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        wire::send(self.0.as_fd(), &wire::encode(message)?, descriptors, wire::Wait::Never)
    }

    /// The next packet, waiting for it; none if the peer closed its end.
    pub fn recv<T: DeserializeOwned>(&self) -> Result<Option<Packet<T>>, ChannelError> {
        wire::recv(self.0.as_fd(), wire::Wait::Block, wire::Loss::Ends)
    }

    /// The next packet if there is one; [`ChannelError::WouldBlock`] if there is none yet.
    pub fn try_recv<T: DeserializeOwned>(&self) -> Result<Option<Packet<T>>, ChannelError> {
        wire::recv(self.0.as_fd(), wire::Wait::Never, wire::Loss::Ends)
    }

    /// The socket itself, to be handed on.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }
}

impl From<OwnedFd> for Channel {
    fn from(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// One end of a wire, for tasks. One task may send while another receives; a packet is never split, so
/// several senders are sound too, and a dropped future has sent (or taken) a whole packet or nothing.
#[derive(Debug)]
pub struct AsyncChannel(AsyncFd<OwnedFd>);

impl AsyncChannel {
    /// Takes one end of a wire into the current tokio runtime.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        // SAFETY: the AsyncFd owns the descriptor, and nothing here closes or replaces it before `into_fd`.
        Ok(Self(unsafe { AsyncFd::register_with_interest(socket, interest) }?))
    }

    /// Sends one packet, waiting for room.
    pub async fn send<T: Serialize>(
        &self,
        message: &T,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        let packet = wire::encode(message)?;
        loop {
            let mut ready = self.0.writable().await?;
            match wire::send(self.0.as_fd(), &packet, descriptors, wire::Wait::Never) {
                Err(ChannelError::WouldBlock) => ready.clear_ready(),
                outcome => return outcome,
            }
        }
    }

    /// Waits until there is a packet, or the end.
    pub async fn readable(&self) -> io::Result<()> {
        self.0.readable().await?.retain_ready();
        Ok(())
    }

    /// The next packet, waiting for it; none if the peer closed its end.
    pub async fn recv<T: DeserializeOwned>(&self) -> Result<Option<Packet<T>>, ChannelError> {
        self.next(wire::Loss::Ends).await
    }

    /// Like [`recv`](Self::recv), but a packet whose descriptors did not all find room in this process comes
    /// without any: for a process that strangers can bring to its limit, and that must outlive it.
    pub async fn recv_or_bare<T: DeserializeOwned>(&self) -> Result<Option<Packet<T>>, ChannelError> {
        self.next(wire::Loss::Bare).await
    }

    async fn next<T: DeserializeOwned>(&self, loss: wire::Loss) -> Result<Option<Packet<T>>, ChannelError> {
        loop {
            let mut ready = self.0.readable().await?;
            match wire::recv(self.0.as_fd(), wire::Wait::Never, loss) {
                Err(ChannelError::WouldBlock) => ready.clear_ready(),
                outcome => return outcome,
            }
        }
    }

    /// The socket itself, to be handed on.
    pub fn into_fd(self) -> OwnedFd {
        self.0.into_inner()
    }
}

impl AsFd for AsyncChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests;
