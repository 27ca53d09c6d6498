//! The command line's end of the control socket: HTTP/1 over a Unix socket, one connection a request.

use super::failure::{Exit, Failure};
use bytes::Bytes;
use cofferdam_control::api::types::ErrorBody;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Body, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use std::path::PathBuf;
use tokio::net::UnixStream;

/// A host, by its control socket.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    socket: PathBuf,
}

impl Client {
    pub(crate) const fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    pub(crate) async fn fetch<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.call(Method::GET, path, None::<&()>).await
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, Failure> {
        let request = request(method, path, body)?;
        let bytes =
            self.send(request).await?.into_body().collect().await.map_err(Failure::could_not)?.to_bytes();
        serde_json::from_slice(&bytes).map_err(|error| {
            Failure::could_not(format!("the host's answer is not what this version reads: {error}"))
        })
    }

    /// Sends a request and hands every chunk of the answer on as it comes.
    pub(crate) async fn stream(
        &self,
        path: &str,
        mut each: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut body = self.send(request(Method::GET, path, None::<&()>)?).await?.into_body();
        while let Some(frame) = body.frame().await {
            if let Some(data) = frame.map_err(Failure::could_not)?.data_ref() {
                each(data)?;
            }
        }
        Ok(())
    }

    /// Sends a request; an answer that is an error becomes a failure.
    pub(crate) async fn send<B>(&self, request: Request<B>) -> Result<Response<Incoming>, Failure>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(&error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(Failure::could_not)?;
        tokio::spawn(connection.with_upgrades());
        let response = sender.send_request(request).await.map_err(Failure::could_not)?;
        let status = response.status();
        if status.is_success() || status == http::StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let bytes = response.into_body().collect().await.map_err(Failure::could_not)?.to_bytes();
        Err(match serde_json::from_slice::<ErrorBody>(&bytes) {
            Ok(body) => Failure::answered(status, body.error),
            Err(_) => Failure::could_not(format!("the host answered {status}")),
        })
    }

    fn unreachable(&self, error: &std::io::Error) -> Failure {
        let message = format!("no host answers at {}: {error}", self.socket.display());
        let mend = match error.kind() {
            std::io::ErrorKind::PermissionDenied => "run as root, or as the user who started the host",
            _ => "start one with: cofferdam serve (or name its directory with --data-dir)",
        };
        Failure::new(Exit::Usage, "no_host", message, mend)
    }
}

fn request(
    method: Method,
    path: &str,
    body: Option<&impl Serialize>,
) -> Result<Request<Full<Bytes>>, Failure> {
    let bytes = body.map(serde_json::to_vec).transpose().map_err(Failure::could_not)?.unwrap_or_default();
    Request::builder()
        .method(method)
        .uri(format!("/api/v1/{path}"))
        .header(http::header::HOST, "cofferdam")
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::new(bytes.into()))
        .map_err(Failure::could_not)
}
