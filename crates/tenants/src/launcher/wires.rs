//! The launcher's end of a wire: it never waits for the peer.
//!
//! What a peer does not read at once is queued, up to a limit; a peer that lets the queue fill is broken.
//! Owns no meaning of any message.

use cofferdam_sys::channel::{Channel, ChannelError, Packet, pair};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// More packets than this wait for nobody.
const QUEUE: usize = 4096;
/// Nor do more bytes.
const QUEUE_BYTES: usize = 32 << 20;

/// One end, and what waits to be sent on it.
#[derive(Debug)]
pub(crate) struct Wire {
    channel: Channel,
    queue: VecDeque<(Box<RawValue>, Vec<OwnedFd>)>,
    /// Of all that is queued.
    bytes: usize,
    broken: bool,
}

/// The wire is of no use any more; its peer is to be ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken(pub(crate) String);

impl Wire {
    /// A new wire, and the end for the peer.
    pub(crate) fn new() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = pair()?;
        Ok((Self { channel: Channel::from(ours), queue: VecDeque::new(), bytes: 0, broken: false }, theirs))
    }

    /// Sends or queues. A failure shows at the next [`Wire::receive`].
    pub(crate) fn send(&mut self, message: &impl Serialize, descriptors: Vec<OwnedFd>) {
        match serde_json::value::to_raw_value(message) {
            Ok(raw) if self.queue.len() < QUEUE && self.bytes <= QUEUE_BYTES => {
                self.bytes += raw.get().len();
                self.queue.push_back((raw, descriptors));
                self.flush();
            }
            _ => self.broken = true,
        }
    }

    /// Sends what fits of what is queued.
    pub(crate) fn flush(&mut self) {
        while let Some((raw, descriptors)) = self.queue.front() {
            let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
            match self.channel.try_send(raw, &borrowed) {
                Ok(()) => {
                    self.bytes = self.bytes.saturating_sub(raw.get().len());
                    self.queue.pop_front();
                }
                Err(ChannelError::WouldBlock) => return,
                Err(_) => {
                    self.broken = true;
                    self.queue.clear();
                    self.bytes = 0;
                    return;
                }
            }
        }
    }

    /// The next packet; none if there is none yet.
    pub(crate) fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<Packet<T>>, Broken> {
        if self.broken {
            return Err(Broken("what was sent was not taken".to_owned()));
        }
        match self.channel.try_recv() {
            Ok(Some(packet)) => Ok(Some(packet)),
            Ok(None) => Err(Broken("its wire was closed".to_owned())),
            Err(ChannelError::WouldBlock) => Ok(None),
            Err(error) => Err(Broken(error.to_string())),
        }
    }

    /// Is something waiting to be sent?
    pub(crate) fn is_waiting(&self) -> bool {
        !self.queue.is_empty()
    }

    /// How many packets wait to be sent.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.len()
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_peer_that_does_not_read_is_waited_for_by_the_queue_and_then_given_up() {
        let (mut wire, theirs) = Wire::new().unwrap();
        let long = "x".repeat(10_000);
        wire.send(&long, vec![]);
        for _ in 0..QUEUE / 2 {
            wire.send(&long, vec![]);
        }
        assert!(wire.is_waiting());
        assert_eq!(wire.receive::<String>().unwrap().map(|(text, _)| text), None);
        let peer = Channel::from(theirs);
        for _ in 0..=QUEUE / 2 {
            wire.flush();
            assert_eq!(peer.recv::<String>().unwrap().unwrap().0, long);
        }
        assert!(!wire.is_waiting());
        for _ in 0..QUEUE * 2 {
            wire.send(&long, vec![]);
        }
        assert!(wire.receive::<String>().is_err());
    }

    #[test]
    fn garbage_and_a_closed_end_break_the_wire() {
        let (mut wire, theirs) = Wire::new().unwrap();
        Channel::from(theirs.try_clone().unwrap()).send(&3, &[]).unwrap();
        assert!(wire.receive::<String>().is_err());
        drop(theirs);
        assert_eq!(wire.receive::<String>().unwrap_err(), Broken("its wire was closed".to_owned()));
    }
}
