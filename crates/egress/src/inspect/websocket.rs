//! A WebSocket that is asked for inside HTTP/2 (RFC 8441): it is judged and sent on as the request of HTTP/1.1 that
//! asks for the same, and its answer is written back for HTTP/2.
//!
//! The threat is a server that agreed to nothing: a client of HTTP/1.1 sees by the key that it sent whether its server
//! did. Here the key is ours, so we look.

use crate::{
    Refusal,
    check::{Check, keeps},
    http::head,
};
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine, engine::general_purpose::STANDARD};
use cofferdam_policy::Reason;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::ext::Protocol;

/// What a server appends to a key before it shows its digest (RFC 6455 §1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The key that a server must have seen.
#[derive(Debug)]
pub(super) struct Key(String);

/// Is it an extended CONNECT, of whatever protocol?
pub(super) fn is_extended<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_2
        && *request.method() == Method::CONNECT
        && request.extensions().get::<Protocol>().is_some()
}

/// Is that a WebSocket's, and nothing else besides?
pub(super) fn fits<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    request.extensions().get::<Protocol>().is_some_and(|protocol| protocol.as_ref() == b"websocket")
        && request.uri().path_and_query().is_some()
        && headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13")
        && ![header::CONTENT_LENGTH, header::SEC_WEBSOCKET_KEY].iter().any(|name| headers.contains_key(name))
}

/// Makes it what asks for the same over HTTP/1.1, and tells the key that it has now.
pub(super) fn unfolded<B>(request: &mut Request<B>) -> Result<Key, Refusal> {
    let failed = || Refusal::new(Reason::NotReady, "https").said("no key could be made for a WebSocket");
    let mut random = [0; 16];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| failed())?;
    let key = STANDARD.encode(random);
    let value = HeaderValue::try_from(&key).map_err(|_| failed())?;
    *request.method_mut() = Method::GET;
    request.extensions_mut().remove::<Protocol>();
    let headers = request.headers_mut();
    headers.insert(header::SEC_WEBSOCKET_KEY, value);
    head::switch_headers(headers);
    Ok(Key(key))
}

impl Key {
    /// Refused is what neither agrees nor says no: to a client of HTTP/2 every success is a WebSocket.
    pub(super) fn judge<B>(&self, answer: &Response<B>) -> Result<(), Refusal> {
        let fits = if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            self.is_accepted(answer.headers())
        } else {
            !answer.status().is_success()
        };
        if fits || !keeps(Check::WebSocketAgreed) {
            return Ok(());
        }
        Err(Refusal::new(Reason::ConnectFailed, "https").said("it did not agree to a WebSocket"))
    }

    fn is_accepted(&self, headers: &HeaderMap) -> bool {
        let wanted = digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{}{GUID}", self.0).as_bytes());
        let told = headers.get(header::SEC_WEBSOCKET_ACCEPT);
        told.is_some_and(|told| told.as_bytes() == STANDARD.encode(wanted).as_bytes())
    }
}

/// The head with which a server agreed, as a client of HTTP/2 reads it.
pub(super) fn folded<B>(response: &mut Response<B>) {
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().remove(header::SEC_WEBSOCKET_ACCEPT);
}
