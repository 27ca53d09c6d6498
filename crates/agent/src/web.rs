//! Requests to the world, over the cell's explicit proxy.
//!
//! The gateway speaks no TLS: `https` goes to the warden in absolute form, which judges it and makes the TLS. What comes
//! back is a stranger's: it is bounded in length and in time.

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header, response::Parts};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use std::{net::SocketAddr, time::Duration};
use tokio::{net::TcpStream, task::JoinHandle, time::timeout};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::{client::generate_key, derive_accept_key},
        protocol::{Role, WebSocketConfig},
    },
};

/// Who asks, if the request does not say.
pub(crate) const USER_AGENT: &str = concat!("cofferdam-agent/", env!("CARGO_PKG_VERSION"));

/// The longest message of a WebSocket.
const LONGEST_MESSAGE: usize = 4 * 1024 * 1024;

/// The way to the world.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Web {
    /// The cell's explicit proxy.
    pub(crate) proxy: SocketAddr,
}

/// Why there is no answer, in words.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// No address of the web.
    #[error("{0:?} is no http or https address")]
    Address(String),
    /// The proxy is not reached, or the connection broke.
    #[error("it is not reached: {0}")]
    Unreachable(String),
    /// It took too long.
    #[error("it did not answer within {} s", .0.as_secs())]
    Late(Duration),
    /// It said more than is read.
    #[error("it answered more than {0} bytes")]
    Long(usize),
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) head: Parts,
    pub(crate) body: Incoming,
    connection: Connection,
}

/// A connection that ends with its use.
#[derive(Debug)]
pub(crate) struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Web {
    /// Sends a request whose URI is absolute, and gives the head of its answer.
    pub(crate) async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
        patience: Duration,
    ) -> Result<Reply, Error> {
        let host = host_of(request.uri())?;
        request.headers_mut().insert(header::HOST, host);
        let agent = HeaderValue::from_static(USER_AGENT);
        request.headers_mut().entry(header::USER_AGENT).or_insert(agent);
        let unreachable = |error: &dyn std::fmt::Display| Error::Unreachable(error.to_string());
        let asking = async {
            let stream = TcpStream::connect(self.proxy).await.map_err(|error| unreachable(&error))?;
            // A request is one write, and its answer is waited for.
            let _ = stream.set_nodelay(true);
            let (mut sender, connection) =
                http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(&error))?;
            let connection = Connection(tokio::spawn(async move {
                // How it ended is seen by whoever reads the answer.
                let _ = connection.with_upgrades().await;
            }));
            let answer = sender.send_request(request).await.map_err(|error| unreachable(&error))?;
            let (head, body) = Response::into_parts(answer);
            Ok(Reply { head, body, connection })
        };
        timeout(patience, asking).await.unwrap_or(Err(Error::Late(patience)))
    }
}

/// A WebSocket to the world.
pub(crate) type Socket = WebSocketStream<TokioIo<Upgraded>>;

impl Web {
    /// Opens a WebSocket. `ws` and `wss` addresses are asked for as `http` and `https`.
    pub(crate) async fn websocket(&self, url: &str, patience: Duration) -> Result<Socket, Error> {
        let rest = url.strip_prefix("ws").ok_or_else(|| Error::Address(url.to_owned()))?;
        let key = generate_key();
        let request = Request::get(format!("http{rest}"))
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, &key)
            .body(Full::default())
            .map_err(|_| Error::Address(url.to_owned()))?;
        let Reply { head, body, connection } = self.send(request, patience).await?;
        let accept = head.headers.get(header::SEC_WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes);
        let agreed = accept == Some(derive_accept_key(key.as_bytes()).as_bytes());
        if head.status != StatusCode::SWITCHING_PROTOCOLS || !agreed {
            return Err(Error::Unreachable(format!("it agreed to no WebSocket ({})", head.status)));
        }
        let upgraded = hyper::upgrade::on(Response::from_parts(head, body)).await;
        let upgraded = upgraded.map_err(|error| Error::Unreachable(error.to_string()))?;
        // It ended when it was taken over.
        drop(connection);
        let config = WebSocketConfig::default()
            .max_message_size(Some(LONGEST_MESSAGE))
            .max_frame_size(Some(LONGEST_MESSAGE));
        Ok(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, Some(config)).await)
    }
}

impl Reply {
    /// The answer, and what keeps its connection.
    pub(crate) fn parts(self) -> (Response<Incoming>, Connection) {
        (Response::from_parts(self.head, self.body), self.connection)
    }

    /// The whole body, of at most so many bytes.
    pub(crate) async fn whole(self, most: usize, patience: Duration) -> Result<(Parts, Vec<u8>), Error> {
        let (parts, bytes, cut) = self.begin(most, patience).await?;
        if cut { Err(Error::Long(most)) } else { Ok((parts, bytes)) }
    }

    /// The body's first bytes, at most so many, and whether there were more.
    pub(crate) async fn begin(
        self,
        most: usize,
        patience: Duration,
    ) -> Result<(Parts, Vec<u8>, bool), Error> {
        let Self { head, mut body, connection } = self;
        let reading = async {
            let (mut bytes, mut cut) = (Vec::new(), false);
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| Error::Unreachable(error.to_string()))?;
                let Some(data) = frame.data_ref() else { continue };
                let room = most - bytes.len();
                bytes.extend_from_slice(&data[..data.len().min(room)]);
                if data.len() > room {
                    cut = true;
                    break;
                }
            }
            Ok((bytes, cut))
        };
        let read = timeout(patience, reading).await.unwrap_or(Err(Error::Late(patience)));
        drop(connection);
        read.map(|(bytes, cut)| (head, bytes, cut))
    }
}

/// What the Host header says; an error if this is no address of the web.
fn host_of(uri: &Uri) -> Result<HeaderValue, Error> {
    let bad = || Error::Address(uri.to_string());
    let authority = match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(authority)) => authority.as_str(),
        _ => return Err(bad()),
    };
    if authority.contains('@') {
        return Err(bad());
    }
    HeaderValue::from_str(authority).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_web_have_a_host() {
        let host = |uri: &'static str| {
            host_of(&Uri::from_static(uri)).map(|it| it.to_str().unwrap_or("").to_owned())
        };
        assert_eq!(host("https://a.example:8443/x").ok().as_deref(), Some("a.example:8443"));
        for bad in ["ftp://a.example/", "/x", "http://user@a.example/"] {
            assert!(matches!(host(bad), Err(Error::Address(_))), "{bad}");
        }
    }
}
