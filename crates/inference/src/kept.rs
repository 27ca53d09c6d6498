//! Connections to providers that are used again.
//!
//! It says when one may be: its last answer was read to the end and the provider did not close it. Whose it is,
//! whether its address still stands and how long it waits is decided by who dialled it.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use std::fmt;
use tokio::task::JoinHandle;

use crate::{Error, relay::Stream};

/// A connection to a provider, on which nothing is under way.
pub struct Kept {
    sender: SendRequest<Full<Bytes>>,
    _driver: Driver,
}

/// The task that drives a connection; the two end together.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Who takes a connection back once it is free.
pub type Keeper = Box<dyn FnOnce(Kept) + Send>;

impl Kept {
    pub(crate) async fn new(stream: Box<dyn Stream>) -> Result<Self, Error> {
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(Error::Upstream)?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the provider's connection ended");
            }
        });
        Ok(Self { sender, _driver: Driver(driver) })
    }

    /// Is it still open, as far as anybody knows?
    pub fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Sends a request. One of which nothing was sent, because the provider closed before, is given back.
    pub(crate) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, (hyper::Error, Option<Request<Full<Bytes>>>)> {
        self.sender.try_send_request(request).await.map_err(|mut error| {
            let request = error.take_message();
            (error.into_error(), request)
        })
    }

    /// Can it take another request? Not if its answer was cut off, or the provider is done with it.
    pub(crate) async fn is_free(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("open", &self.is_open()).finish_non_exhaustive()
    }
}
