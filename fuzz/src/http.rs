//! HTTP heads, both ways: read as the product reads them, made anew as it does, written by the client that it
//! uses, and read once more.
//!
//! The threat is smuggling: a head that is one request to us and another, or two, to whoever gets it.

use bytes::Bytes;
use futures_util::{FutureExt, join};
use http::{HeaderMap, Request, Response, header, request::Parts};
use http_body_util::{BodyExt, Empty, Full, combinators::BoxBody};
use hyper::{
    body::Incoming, client::conn::http1 as client, server::conn::http1 as server, service::service_fn,
};
use hyper_util::rt::TokioIo;
use std::{
    cell::RefCell,
    convert::Infallible,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

type Whole = (Parts, Bytes);

/// Out of a cell.
pub(crate) fn outward(bytes: &[u8]) {
    for (parts, body) in read(&cofferdam_egress::fuzz::reader(), bytes) {
        let Some((onward, destination)) = cofferdam_egress::fuzz::onward(&parts) else { continue };
        let (again, same_body) =
            through(&client::Builder::new(), &cofferdam_egress::fuzz::reader(), &onward, &parts, &body);
        assert_eq!(same_body, body, "another body");
        same_head(&again, &onward);
        let (_, there) = cofferdam_egress::fuzz::onward(&again).expect("what goes on would be let on");
        assert_eq!(there, destination, "another destination");
    }
}

/// Out of a cell, as its lines come: what is read is what would be read without, and the parser follows no further
/// than the lines are followed.
pub(crate) fn lines(bytes: &[u8]) {
    let reader = cofferdam_egress::fuzz::reader();
    let (lined, heads) = cofferdam_egress::fuzz::lined(bytes);
    let (watched, plain) = (read(&reader, &lined), read(&reader, bytes));
    assert!(watched.len() <= plain.len(), "more requests");
    for (ours, theirs) in watched.iter().zip(&plain) {
        assert_eq!((&ours.0.method, &ours.0.uri, &ours.1), (&theirs.0.method, &theirs.0.uri, &theirs.1));
        assert_eq!(ours.0.headers, theirs.0.headers);
    }
    assert!(heads.is_none_or(|heads| watched.len() <= heads), "a head that nobody watched was read");
}

/// Into a cell.
pub(crate) fn inward(bytes: &[u8]) {
    for (parts, body) in read(&cofferdam_edge::fuzz::reader(), bytes) {
        let Some(inward) = cofferdam_edge::fuzz::inward(&parts) else { continue };
        // A gateway's limits are its own.
        let (again, same_body) =
            through(&cofferdam_edge::fuzz::writer(), &server::Builder::new(), &inward, &parts, &body);
        assert_eq!(same_body, body, "another body");
        same_head(&again, &inward);
    }
}

fn same_head(read: &Parts, meant: &Request<()>) {
    assert_eq!(read.method, meant.method());
    assert_eq!(read.uri, *meant.uri());
    assert!(read.uri.authority().is_none(), "an absolute target");
    let plain = |headers: &HeaderMap| {
        let mut rows: Vec<_> =
            headers.iter().map(|(name, value)| (name.clone(), value.as_bytes().to_vec())).collect();
        // How the body is measured is the writer's affair; the bodies are compared.
        rows.retain(|(name, _)| *name != header::CONTENT_LENGTH && *name != header::TRANSFER_ENCODING);
        rows.sort_by(|a, b| (a.0.as_str(), &a.1).cmp(&(b.0.as_str(), &b.1)));
        rows
    };
    assert_eq!(plain(&read.headers), plain(meant.headers()));
    assert_eq!(read.headers.get_all(header::HOST).iter().count(), 1);
}

/// Writes a request and reads it: exactly one.
fn through(
    writer: &client::Builder,
    reader: &server::Builder,
    request: &Request<()>,
    came: &Parts,
    body: &Bytes,
) -> Whole {
    let chunked = came.headers.contains_key(header::TRANSFER_ENCODING);
    let written = written(writer, request.clone().map(|()| streamed(body.clone(), chunked)));
    let mut read = read(reader, &written);
    let one = read.pop().filter(|_| read.is_empty());
    one.unwrap_or_else(|| panic!("not one request: {:?}", String::from_utf8_lossy(&written)))
}

/// A body as the product passes it on: of a known length, or not.
fn streamed(bytes: Bytes, chunked: bool) -> BoxBody<Bytes, Infallible> {
    match (bytes.is_empty(), chunked) {
        (true, false) => Empty::new().boxed(),
        (_, false) => Full::new(bytes).boxed(),
        (_, true) => {
            let once = futures_util::stream::iter([Ok(hyper::body::Frame::data(bytes))]);
            BodyExt::boxed(http_body_util::StreamBody::new(once))
        }
    }
}

thread_local! {
    static RUNTIME: tokio::runtime::Runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
}

/// Every whole request in these bytes.
fn read(reader: &server::Builder, bytes: &[u8]) -> Vec<Whole> {
    let found = Rc::new(RefCell::new(Vec::new()));
    let service = service_fn(|request: Request<Incoming>| {
        let found = Rc::clone(&found);
        async move {
            let (parts, body) = request.into_parts();
            if let Ok(body) = body.collect().await {
                found.borrow_mut().push((parts, body.to_bytes()));
            }
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let client = Client { bytes, patience: 64 };
    let io = TokioIo::new(tokio::io::join(client, tokio::io::sink()));
    // How a connection ends is no matter; what it brought is.
    let _ = RUNTIME.with(|runtime| runtime.block_on(reader.serve_connection(io, service)));
    found.take()
}

/// What the client writes for a request, of which it never hears.
fn written(writer: &client::Builder, request: Request<BoxBody<Bytes, Infallible>>) -> Vec<u8> {
    let wire = Wire::default();
    let writing = async {
        let (mut sender, connection) =
            writer.handshake(TokioIo::new(wire.clone())).await.expect("there is nothing to agree on");
        let (sent, ended) = join!(sender.send_request(request), connection);
        drop((sent, ended));
    };
    RUNTIME.with(|runtime| {
        let _inside = runtime.enter();
        // It waits for an answer for ever; by then all is written.
        let mut writing = Box::pin(writing);
        for _ in 0..4 {
            let _ = writing.as_mut().now_or_never();
        }
    });
    wire.0.take()
}

/// Says these bytes and stays for a while: who hangs up at once is not served.
struct Client<'a> {
    bytes: &'a [u8],
    patience: u8,
}

impl AsyncRead for Client<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.bytes.is_empty() && self.patience > 0 {
            self.patience -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let (now, later) = self.bytes.split_at(self.bytes.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.bytes = later;
        Poll::Ready(Ok(()))
    }
}

/// Takes everything and says nothing.
#[derive(Clone, Default)]
struct Wire(Rc<RefCell<Vec<u8>>>);

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
