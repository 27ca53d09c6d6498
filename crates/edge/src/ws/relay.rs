//! Frames from one side to the other: heads made anew, payloads as they come, nothing gathered.
//!
//! A relay ends when either side hangs up, breaks the rules of frames, or when the token or the cell is gone.

use super::{
    MESSAGE, Upgrade,
    frame::{FrameError, Head, Opcode, Order, Reader, Sender, Writer},
};
use crate::{edge::Edge, token::Verified};
use bytes::Bytes;
use std::{future::Future, pin::pin, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Mutex,
    time,
};

/// How long the other side may take to answer a close.
const FAREWELL: Duration = Duration::from_secs(5);

/// How one direction ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// A close frame was passed on.
    Closed,
    /// The side hung up.
    Left,
}

/// What is written between messages and within: locked for one message at a time.
pub(super) type Shared<W> = Mutex<Writer<W>>;

/// Relays for a `command` runtime.
pub(super) async fn command(
    upgrade: &Upgrade,
    token: &Verified,
    (mut client, client_read): (TcpStream, Bytes),
    (mut cell, cell_read): (TcpStream, Bytes),
    generation: u64,
) {
    let (from_client, to_client) = client.split();
    let (from_cell, to_cell) = cell.split();
    let to_client = Mutex::new(Writer::new(to_client));
    let to_cell = Mutex::new(Writer::new(to_cell));
    let mut client = Reader::new(from_client, Sender::Client, client_read);
    let mut cell = Reader::new(from_cell, Sender::Server, cell_read);
    let up = pump(&mut client, &to_cell, Opcode::is_data);
    let down = pump(&mut cell, &to_client, Opcode::is_data);
    run(&upgrade.edge, token, generation, up, down, &to_client).await;
}

/// Runs both directions until the relay must end, and tells the client why if it can.
pub(super) async fn run<W: AsyncWrite + Unpin>(
    edge: &Edge,
    token: &Verified,
    generation: u64,
    up: impl Future<Output = Result<End, FrameError>>,
    down: impl Future<Output = Result<End, FrameError>>,
    to_client: &Shared<W>,
) {
    let relaying = async {
        let (mut up, mut down) = (pin!(up), pin!(down));
        tokio::select! {
            end = &mut up => after(end, down).await,
            end = &mut down => after(end, up).await,
        }
    };
    let farewell = match edge.while_good(token, Some(generation), relaying).await {
        Ok(farewell) => farewell,
        Err(reason) => Some(doomed(edge, token, reason)),
    };
    if let Some((code, reason)) = farewell {
        say_goodbye(to_client, code, reason).await;
    }
}

/// Reports the end of a socket whose token or cell is gone, and what the client is told.
pub(super) fn doomed(edge: &Edge, token: &Verified, reason: &'static str) -> (u16, &'static str) {
    edge.report("closed", token, reason);
    if reason == "cell_gone" { (1012, reason) } else { (1008, reason) }
}

/// One direction ended; after a close the other may still answer it.
async fn after(
    end: Result<End, FrameError>,
    other: impl Future<Output = Result<End, FrameError>>,
) -> Option<(u16, &'static str)> {
    match end {
        Ok(End::Closed) => {
            // The answer's own end makes no difference any more.
            let _ = time::timeout(FAREWELL, other).await;
            None
        }
        Ok(End::Left) | Err(FrameError::Io(_)) => Some((1001, "the other side hung up")),
        Err(FrameError::Protocol(why)) => Some((1002, why)),
        Err(FrameError::TooLong) => Some((1009, "the message is too long")),
        Err(FrameError::Slow) => Some((1008, "the message was not finished in time")),
        Err(FrameError::Crowded) => Some((1013, "too many long messages at a time: try again later")),
    }
}

/// Closes with a reason, unless a frame was left unfinished.
pub(super) async fn say_goodbye<W: AsyncWrite + Unpin>(to: &Shared<W>, code: u16, reason: &str) {
    if let Ok(mut writer) = to.try_lock()
        && !writer.is_inside_a_frame()
    {
        // A client that does not read is not waited for.
        let _ = time::timeout(Duration::from_millis(500), writer.close(code, reason)).await;
    }
}

impl Opcode {
    /// Text or binary.
    pub(super) fn is_data(message: Self) -> bool {
        matches!(message, Self::Text | Self::Binary)
    }
}

/// Passes frames on. `allowed` says which messages may pass.
pub(super) async fn pump<R, W>(
    from: &mut Reader<R>,
    to: &Shared<W>,
    allowed: impl Fn(Opcode) -> bool,
) -> Result<End, FrameError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut order = Order::default();
    while let Some(head) = from.head().await? {
        let mut writer = to.lock().await;
        if pass(from, &mut writer, head, &mut order, &allowed).await? {
            return Ok(End::Closed);
        }
        // Between the fragments of a message nobody else may write.
        while order.is_open() {
            let Some(head) = from.head().await? else { return Ok(End::Left) };
            if pass(from, &mut writer, head, &mut order, &allowed).await? {
                return Ok(End::Closed);
            }
        }
    }
    Ok(End::Left)
}

/// Passes one frame on; true if it was a close.
async fn pass<R, W>(
    from: &mut Reader<R>,
    writer: &mut Writer<W>,
    head: Head,
    order: &mut Order,
    allowed: &impl Fn(Opcode) -> bool,
) -> Result<bool, FrameError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    if let Some(message) = order.next(&head, MESSAGE)?
        && !allowed(message)
    {
        return Err(FrameError::Protocol("messages of this kind are not spoken here"));
    }
    let mut remaining = head.length;
    if remaining == 0 {
        writer.frame(&head, &[]).await?;
        return Ok(head.opcode == Opcode::Close);
    }
    let piece = from.piece(remaining).await?;
    remaining -= piece.len() as u64;
    // The client's mask stays on its payload, so the head keeps it too.
    writer.begin(&head, &piece).await?;
    while remaining > 0 {
        let piece = from.piece(remaining).await?;
        remaining -= piece.len() as u64;
        writer.more(&piece).await?;
    }
    writer.done();
    Ok(head.opcode == Opcode::Close)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ws::frame::write_head;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, duplex, sink};

    /// A long frame of a client; counts what was taken of it.
    async fn send(mut client: impl AsyncWrite + Unpin, length: usize, taken: &AtomicUsize) {
        let mut head = Vec::new();
        let mask = Some([0; 4]);
        write_head(&Head { last: true, opcode: Opcode::Binary, mask, length: length as u64 }, &mut head);
        client.write_all(&head).await.unwrap();
        for _ in 0..length / 1024 {
            client.write_all(&[0; 1024]).await.unwrap();
            taken.fetch_add(1024, Ordering::SeqCst);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_cell_that_does_not_read_stops_its_client_and_goes_on_where_it_was() {
        let length = 8 << 20;
        let (client, theirs) = duplex(64 * 1024);
        let (mut cell, to_cell) = duplex(64 * 1024);
        let to_cell = Mutex::new(Writer::new(to_cell));
        let mut from = Reader::new(theirs, Sender::Client, Bytes::new());
        let taken = AtomicUsize::new(0);
        let mut relaying = pin!(pump(&mut from, &to_cell, Opcode::is_data));
        let mut sending = pin!(send(client, length, &taken));
        let stuck = async { tokio::join!(&mut relaying, &mut sending) };
        // The paused clock goes on when nothing else does.
        assert!(time::timeout(Duration::from_hours(1), stuck).await.is_err());
        let held = taken.load(Ordering::SeqCst);
        assert!((1..1 << 20).contains(&held), "{held} bytes are somewhere in between");
        let (mut sink, mut all) = (sink(), (&mut cell).take(length as u64));
        let (ended, (), read) = tokio::join!(relaying, sending, copy(&mut all, &mut sink));
        assert!(matches!(ended, Ok(End::Left)), "{ended:?}");
        assert_eq!((taken.load(Ordering::SeqCst), read.unwrap()), (length, length as u64));
    }
}
