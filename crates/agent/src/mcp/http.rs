//! A server that is reached over streamable HTTP, through the warden, which decides about each request.
//!
//! No stream is held open for what it may say by itself: its tools are asked for again instead.
//!
//! The threat is an answer that asks for more requests than it is itself. So only a few of what it asks are answered,
//! and what comes back to those is never answered.

use super::wire::{ANSWERED, LONGEST, Link};
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
use tokio::sync::Semaphore;

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
    /// Bounds how many of its questions are being answered at once.
    answering: Arc<Semaphore>,
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
        let answering = Arc::new(Semaphore::new(ANSWERED));
        Ok(Self { web, url, headers, agreed: Mutex::default(), answering })
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
        self.post(link, message, ANSWERED).await
    }

    /// As `send`; of what is asked there at most `answers` are answered.
    async fn post(self: &Arc<Self>, link: &Arc<Link>, message: &Value, answers: usize) -> Result<(), String> {
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
        self.read(link, answer, answers).await
    }

    async fn read(
        self: &Arc<Self>,
        link: &Arc<Link>,
        answer: Response<Incoming>,
        mut answers: usize,
    ) -> Result<(), String> {
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
                    self.heard(link, &event, &mut answers);
                }
                if read.bytes.len() + read.data.len() > LONGEST {
                    return Err("its answer is too long".to_owned());
                }
            }
        }
        if !events {
            self.heard(link, &read.bytes, &mut answers);
        }
        Ok(())
    }

    fn heard(self: &Arc<Self>, link: &Arc<Link>, message: &[u8], answers: &mut usize) {
        for back in link.heard(message).into_iter().take(*answers) {
            // One that does not take the answers that it asked for gets no more.
            let Ok(permit) = Arc::clone(&self.answering).try_acquire_owned() else { return };
            *answers -= 1;
            let told = self.tell(link, back);
            tokio::spawn(async move {
                told.await;
                drop(permit);
            });
        }
    }

    /// Sends what nobody waits for. What is asked in return is not answered.
    pub(super) fn tell(self: &Arc<Self>, link: &Arc<Link>, message: Value) -> BoxFuture<'static, ()> {
        let (http, link) = (Arc::clone(self), Arc::clone(link));
        Box::pin(async move {
            let _ = tokio::time::timeout(TELLING, http.post(&link, &message, 0)).await;
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
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
        sync::mpsc,
    };

    /// One request, and whether it is an answer to a ping.
    async fn taken(listener: &TcpListener) -> (TcpStream, bool) {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut text = String::new();
        while !text.ends_with('}') {
            let mut buffer = [0; 4096];
            let count = stream.read(&mut buffer).await.unwrap();
            text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        }
        let is_answer = text.contains("\"result\"");
        (stream, is_answer)
    }

    async fn write(stream: &mut TcpStream, kind: &str, body: &str) {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n");
        stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    }

    fn pings(count: usize) -> String {
        json!(vec![json!({ "jsonrpc": "2.0", "id": "p", "method": "ping" }); count]).to_string()
    }

    async fn begun() -> (TcpListener, Arc<Http>, Arc<Link>, tokio::task::JoinHandle<Result<(), String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let web = Web { proxy: listener.local_addr().unwrap() };
        let server = serde_json::from_value(json!({ "url": "http://mcp.example/" })).unwrap();
        let (http, link) = (Arc::new(Http::new(&server, web).unwrap()), Arc::new(Link::new()));
        let sending = asked(&http, &link);
        (listener, http, link, sending)
    }

    fn asked(http: &Arc<Http>, link: &Arc<Link>) -> tokio::task::JoinHandle<Result<(), String>> {
        let (http, link) = (Arc::clone(http), Arc::clone(link));
        tokio::spawn(async move { http.send(&link, &json!({ "method": "ask" })).await })
    }

    /// Waits until nothing is being answered.
    async fn idle(http: &Http) {
        let all = u32::try_from(ANSWERED).unwrap();
        drop(http.answering.acquire_many(all).await.unwrap());
    }

    #[tokio::test]
    async fn one_answer_causes_few_requests_and_their_answers_none() {
        let (listener, http, _link, sending) = begun().await;
        let (mut asking, _) = taken(&listener).await;
        let (count, mut counted) = mpsc::unbounded_channel();
        // Each answer of ours is answered with as many pings.
        let server = tokio::spawn(async move {
            loop {
                let (mut stream, is_answer) = taken(&listener).await;
                assert!(is_answer);
                write(&mut stream, "application/json", &pings(1000)).await;
                count.send(()).unwrap();
            }
        });
        write(&mut asking, "text/event-stream", &format!("data: {}\n\n", pings(10))).await;
        for _ in 0..10 {
            counted.recv().await.unwrap();
        }
        // They were answered, and there is room for more at once, but not in this answer.
        idle(&http).await;
        asking.write_all(format!("data: {}\n\n", pings(1000)).as_bytes()).await.unwrap();
        drop(asking);
        sending.await.unwrap().unwrap();
        // Whatever was begun is over.
        idle(&http).await;
        let mut more = 0;
        while counted.try_recv().is_ok() {
            more += 1;
        }
        assert_eq!(10 + more, ANSWERED);
        server.abort();
    }

    #[tokio::test]
    async fn a_server_that_takes_no_answers_gets_few_at_once() {
        let (listener, http, link, first) = begun().await;
        let (mut asking, _) = taken(&listener).await;
        write(&mut asking, "application/json", &pings(1000)).await;
        drop(asking);
        let mut open = Vec::new();
        for _ in 0..ANSWERED {
            let (stream, is_answer) = taken(&listener).await;
            assert!(is_answer);
            open.push(stream);
        }
        first.await.unwrap().unwrap();
        let second = asked(&http, &link);
        let (mut asking, _) = taken(&listener).await;
        write(&mut asking, "application/json", &pings(1000)).await;
        drop(asking);
        second.await.unwrap().unwrap();
        // The next that comes is a request, and no answer.
        let third = asked(&http, &link);
        let (_stream, is_answer) = taken(&listener).await;
        assert!(!is_answer, "more than {ANSWERED} answers were begun");
        third.abort();
    }

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
