//! A server that is reached over streamable HTTP, through the warden, which decides about each request.
//!
//! No stream is held open for what it may say by itself: its tools are asked for again instead.

use super::wire::{LONGEST, Link};
use crate::{config::mcp, text, web::Web};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use serde_json::Value;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// The longest stream of events that is one answer, and so much of an error is told.
const LONGEST_STREAM: usize = 4 * LONGEST;
const ERROR: usize = 300;
/// How long what nobody waits for may take.
const TELLING: Duration = Duration::from_secs(30);
/// How long any answer may be waited for: whoever asks ends what takes longer than its server may.
const LONGEST_WAIT: Duration = Duration::from_mins(30);

/// The way to one server.
#[derive(Debug)]
pub(super) struct Http {
    web: Web,
    url: String,
    headers: HeaderMap,
    /// What the server said at the beginning: the session and the version.
    agreed: Mutex<HeaderMap>,
}

impl Http {
    pub(super) fn new(server: &mcp::Server, web: Web) -> Result<Self, String> {
        let url = server.url.clone().unwrap_or_default();
        let uri: http::Uri = url.parse().map_err(|_| format!("{url:?} is no URL"))?;
        uri.authority().ok_or("its URL has no host")?;
        let unsent = |_| "one of its headers cannot be sent".to_owned();
        let mut headers = HeaderMap::new();
        for (name, value) in &server.headers {
            let name = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| format!("the header {name} cannot be sent"))?;
            headers.insert(name, HeaderValue::from_str(&mcp::text(value)).map_err(unsent)?);
        }
        Ok(Self { web, url, headers, agreed: Mutex::default() })
    }

    /// The version that both speak from now on.
    pub(super) fn agree(&self, version: &'static str) {
        self.agreed().insert(VERSION, HeaderValue::from_static(version));
    }

    fn agreed(&self) -> std::sync::MutexGuard<'_, HeaderMap> {
        self.agreed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends one message and reads to the end what comes back; what is asked there is answered.
    pub(super) async fn send(self: &Arc<Self>, link: &Arc<Link>, message: &Value) -> Result<(), String> {
        let unsent = |error: http::Error| format!("it cannot be asked: {error}");
        let mut request = Request::post(&self.url)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, text/event-stream")
            .body(Full::new(Bytes::from(message.to_string())))
            .map_err(unsent)?;
        request.headers_mut().extend(self.headers.clone());
        let agreed = self.agreed().clone();
        let in_session = agreed.contains_key(SESSION);
        request.headers_mut().extend(agreed);
        let reply = self.web.send(request, LONGEST_WAIT).await.map_err(|error| error.to_string())?;
        let (answer, _connection) = reply.parts();
        if answer.status() == StatusCode::NOT_FOUND && in_session {
            link.end("it has forgotten its session".to_owned());
        }
        if !answer.status().is_success() {
            return Err(refused(answer).await);
        }
        // It is given once, with the answer to the first request.
        if let Some(session) = answer.headers().get(SESSION).filter(|_| !in_session) {
            self.agreed().insert(SESSION, session.clone());
        }
        self.read(link, answer).await
    }

    async fn read(self: &Arc<Self>, link: &Arc<Link>, answer: Response<Incoming>) -> Result<(), String> {
        let kind = answer.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let events = kind.is_some_and(|kind| kind.starts_with("text/event-stream"));
        let mut body = answer.into_body();
        let (mut read, mut all) = (Events::default(), 0);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| format!("it broke off: {error}"))?;
            let Some(data) = frame.data_ref() else { continue };
            all += data.len();
            if all > if events { LONGEST_STREAM } else { LONGEST } {
                return Err("its answer is too long".to_owned());
            }
            read.bytes.extend_from_slice(data);
            if events {
                while let Some(event) = read.next() {
                    self.heard(link, &event);
                }
                if read.bytes.len() + read.data.len() > LONGEST {
                    return Err("its answer is too long".to_owned());
                }
            }
        }
        if !events {
            self.heard(link, &read.bytes);
        }
        Ok(())
    }

    fn heard(self: &Arc<Self>, link: &Arc<Link>, message: &[u8]) {
        for back in link.heard(message) {
            tokio::spawn(self.tell(link, back));
        }
    }

    /// Sends what nobody waits for.
    pub(super) fn tell(self: &Arc<Self>, link: &Arc<Link>, message: Value) -> BoxFuture<'static, ()> {
        let (http, link) = (Arc::clone(self), Arc::clone(link));
        Box::pin(async move {
            let _ = tokio::time::timeout(TELLING, http.send(&link, &message)).await;
        })
    }
}

/// What an answer means that is none: the server's words, or the warden's.
async fn refused(answer: Response<Incoming>) -> String {
    let status = answer.status().as_u16();
    let body = http_body_util::Limited::new(answer.into_body(), LONGEST).collect().await;
    let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    format!("HTTP {status}: {}", text::shown(String::from_utf8_lossy(&body).trim(), ERROR))
}

/// Events as they come, cut where they end.
#[derive(Debug, Default)]
struct Events {
    bytes: Vec<u8>,
    data: Vec<u8>,
}

impl Events {
    /// The data of the next event that is whole.
    fn next(&mut self) -> Option<Vec<u8>> {
        let mut from = 0;
        let mut whole = None;
        while let Some(end) = self.bytes[from..].iter().position(|byte| *byte == b'\n') {
            let line = self.bytes[from..from + end].trim_ascii_end();
            from += end + 1;
            if line.is_empty() && !self.data.is_empty() {
                whole = Some(std::mem::take(&mut self.data));
                break;
            }
            if let Some(data) = line.strip_prefix(b"data:") {
                if !self.data.is_empty() {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(data.strip_prefix(b" ").unwrap_or(data));
            }
        }
        self.bytes.drain(..from);
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_however_they_are_cut() {
        let text = b": hi\n\nevent: message\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\nid: 4\ndata:x\n\ndata: half";
        for step in [1, 3, 1000] {
            let (mut events, mut found) = (Events::default(), Vec::new());
            for part in text.chunks(step) {
                events.bytes.extend_from_slice(part);
                while let Some(event) = events.next() {
                    found.push(event);
                }
            }
            assert_eq!(found, [b"{\"a\":\n1}".to_vec(), b"x".to_vec()], "{step}");
        }
    }
}
