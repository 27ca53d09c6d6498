//! The two upgrades: of the client to us, and of us to the gateway.
//!
//! Version 13 only, no extension and no subprotocol on either side. The client's key and ours have nothing to
//! do with each other.

use crate::{
    check::{Check, keeps},
    edge::Line,
    headers::{Identity, inbound},
    origin::only,
    proxy::{self, AbortOnDrop, Reply},
    refusal::Refusal,
};
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::{net::TcpStream, time};

/// RFC 6455 §1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// How long a gateway may take to answer an upgrade.
const PATIENCE: Duration = Duration::from_secs(15);

/// Does a request ask for a WebSocket?
pub(crate) fn wanted(headers: &HeaderMap) -> bool {
    only(headers, &header::UPGRADE).is_some_and(|protocol| protocol.eq_ignore_ascii_case("websocket"))
}

/// The answer to a client's upgrade, if the client asked for it properly.
pub(crate) fn answer(method: &Method, headers: &HeaderMap) -> Result<Response<Reply>, Refusal> {
    let listed = only(headers, &header::CONNECTION)
        .is_some_and(|list| list.split(',').any(|name| name.trim().eq_ignore_ascii_case("upgrade")));
    if keeps(Check::UpgradeAsked) && (*method != Method::GET || !listed) {
        return Err(Refusal::bad_request("this is no WebSocket upgrade"));
    }
    if keeps(Check::UpgradeVersion) && only(headers, &header::SEC_WEBSOCKET_VERSION) != Some("13") {
        let status = StatusCode::UPGRADE_REQUIRED;
        return Err(Refusal::new(
            status,
            "websocket_version",
            "only WebSocket version 13 is spoken here",
            "",
        ));
    }
    let key = only(headers, &header::SEC_WEBSOCKET_KEY)
        .filter(|key| !keeps(Check::UpgradeKey) || STANDARD.decode(key).is_ok_and(|raw| raw.len() == 16))
        .ok_or_else(|| Refusal::bad_request("Sec-WebSocket-Key is not 16 bytes of base64"))?;
    let mut response = Response::new(Reply::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = response.headers_mut();
    answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    answer.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    answer.insert(header::SEC_WEBSOCKET_ACCEPT, accepted(key)?);
    Ok(response)
}

fn accepted(key: &str) -> Result<HeaderValue, Refusal> {
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes());
    HeaderValue::from_str(&STANDARD.encode(hash)).map_err(|_| Refusal::bad_gateway())
}

/// The bare socket of an upgraded connection, and what was read of it already.
pub(super) fn bare(upgraded: Upgraded) -> Option<(TcpStream, Bytes)> {
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().ok()?;
    Some((parts.io.into_inner(), parts.read_buf))
}

/// Upgrades a connection into a cell.
pub(super) async fn upgrade(
    line: Line,
    uri: &Uri,
    headers: HeaderMap,
    identity: &Identity<'_>,
) -> Result<(TcpStream, Bytes), Refusal> {
    let broke = || Refusal::bad_gateway();
    let mut raw = [0; 16];
    aws_lc_rs::rand::fill(&mut raw).map_err(|_| broke())?;
    let key = STANDARD.encode(raw);
    let mut headers = inbound(headers, identity);
    // What describes a body would promise the gateway one that never comes.
    for name in [header::CONTENT_LENGTH, header::CONTENT_TYPE, header::TRANSFER_ENCODING, header::EXPECT] {
        headers.remove(name);
    }
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_str(&key).map_err(|_| broke())?);
    let request: Request<Empty<Bytes>> = proxy::rebuilt(Method::GET, uri, headers, Empty::new())?;
    let exchange = async {
        let (mut sender, connection) =
            proxy::builder().handshake(TokioIo::new(line.stream)).await.map_err(|_| broke())?;
        let task = tokio::spawn(async move {
            // What breaks here shows in the answer that does not come.
            let _ = connection.with_upgrades().await;
        });
        let task = AbortOnDrop(task);
        let answer = sender.send_request(request).await.map_err(|_| broke())?;
        let proper = answer.status() == StatusCode::SWITCHING_PROTOCOLS
            && (only(answer.headers(), &header::SEC_WEBSOCKET_ACCEPT) == accepted(&key)?.to_str().ok()
                || !keeps(Check::UpgradeAccepted));
        let extended = answer.headers().contains_key(header::SEC_WEBSOCKET_EXTENSIONS);
        let protocol = answer.headers().contains_key(header::SEC_WEBSOCKET_PROTOCOL);
        let agreed = keeps(Check::NoExtension) && extended || keeps(Check::NoSubprotocol) && protocol;
        if !proper || agreed {
            return Err(broke());
        }
        let upgraded = hyper::upgrade::on(answer).await.map_err(|_| broke())?;
        drop(task);
        bare(upgraded).ok_or_else(broke)
    };
    time::timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err(broke()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_example_of_the_standard_is_answered_as_it_says() {
        assert_eq!(accepted("dGhlIHNhbXBsZSBub25jZQ==").unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
