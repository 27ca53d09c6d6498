//! The bodies of a cell's model requests, read into memory that is counted before it is taken.
//!
//! The threat: many long bodies at one time, or bodies in so many small pieces that each weighs more than
//! what it carries. A body is copied, piece by piece, into one buffer; every byte of every buffer is of one
//! tenant's common room.

use bytes::Bytes;
use cofferdam_inference::MAX_BODY;
use http_body_util::BodyExt;
use hyper::body::Body;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What all bodies of a tenant together may take, in KiB. While one is parsed and written anew, it is there
/// twice.
const ROOM: usize = 32 * 1024;
/// How much a body takes at first, in bytes.
const FIRST: usize = 64 * 1024;

/// The room for bodies.
#[derive(Debug)]
pub(crate) struct Intake(Arc<Semaphore>);

/// A body that arrived, and its place in the room.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) bytes: Vec<u8>,
    pub(crate) room: OwnedSemaphorePermit,
}

/// Why a body was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotTaken {
    /// It is longer than [`MAX_BODY`].
    TooLong,
    /// It did not arrive whole.
    Broken,
    /// There is no room for it beside the others.
    NoRoom,
}

impl Default for Intake {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ROOM)))
    }
}

impl Intake {
    /// Reads a body to its end.
    pub(crate) async fn take(&self, mut body: impl Body<Data = Bytes> + Unpin) -> Result<Taken, NotTaken> {
        let mut taken = Taken { bytes: Vec::new(), room: self.room(0)? };
        while let Some(frame) = body.frame().await {
            // What is no data is a trailer, and says nothing here.
            let Ok(data) = frame.map_err(|_| NotTaken::Broken)?.into_data() else { continue };
            let length = taken.bytes.len() + data.len();
            if length > MAX_BODY {
                return Err(NotTaken::TooLong);
            }
            if length > taken.bytes.capacity() {
                let wanted = length.max(2 * taken.bytes.capacity()).clamp(FIRST, MAX_BODY);
                let more = wanted.div_ceil(1024).saturating_sub(taken.room.num_permits());
                taken.room.merge(self.room(more)?);
                taken.bytes.reserve_exact(wanted - taken.bytes.len());
            }
            taken.bytes.extend_from_slice(&data);
        }
        Ok(taken)
    }

    fn room(&self, kib: usize) -> Result<OwnedSemaphorePermit, NotTaken> {
        let kib = u32::try_from(kib).map_err(|_| NotTaken::NoRoom)?;
        Arc::clone(&self.0).try_acquire_many_owned(kib).map_err(|_| NotTaken::NoRoom)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use futures_util::stream;
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;
    use std::convert::Infallible;

    #[tokio::test]
    async fn a_body_in_tiny_pieces_takes_no_more_than_one_in_a_single_piece() {
        let intake = Intake::default();
        let piece = || Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"x")));
        let body = StreamBody::new(stream::iter((0..100_000).map(|_| piece())));
        let taken = intake.take(body).await.unwrap();
        assert_eq!(taken.bytes.len(), 100_000);
        assert!(taken.bytes.capacity() <= 2 * FIRST, "{}", taken.bytes.capacity());
        assert_eq!(intake.0.available_permits(), ROOM - taken.bytes.capacity() / 1024);
        drop(taken);
        assert_eq!(intake.0.available_permits(), ROOM);
    }

    #[tokio::test]
    async fn bodies_get_no_more_room_than_there_is_and_give_it_back() {
        let intake = Intake::default();
        let long = || Full::new(Bytes::from(vec![b'x'; MAX_BODY]));
        let mut taken = Vec::new();
        for _ in 0..3 {
            taken.push(intake.take(long()).await.unwrap());
        }
        assert_eq!(intake.take(long()).await.unwrap_err(), NotTaken::NoRoom);
        taken.pop();
        intake.take(long()).await.unwrap();
        let longer = Full::new(Bytes::from(vec![b'x'; MAX_BODY + 1]));
        assert_eq!(intake.take(longer).await.unwrap_err(), NotTaken::TooLong);
    }
}
