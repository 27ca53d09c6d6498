//! The model, as this gateway reaches it: `inference.local`, over the cell's proxy, in OpenAI's chat format.
//!
//! The warden drops whatever key is sent and adds the tenant's own, so none is sent. What comes back is a stranger's:
//! it is bounded in length and in the number of calls.

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value;
use std::{net::SocketAddr, time::Duration};
use tokio::net::TcpStream;

/// Where the model is asked.
const CHAT: &str = "http://inference.local/v1/chat/completions";
const HOST: &str = "inference.local";
/// How long a provider may be silent. The warden's routes say how long they wait; this only ends what hangs.
const SILENCE: Duration = Duration::from_mins(15);
/// The longest answer that is read, and the longest error.
const LONGEST: usize = 16 * 1024 * 1024;
const LONGEST_ERROR: usize = 64 * 1024;
/// What a connection that breaks is called.
const BROKEN: &str = "timeout";
/// Calls of tools in one answer.
const CALLS: usize = 64;

/// The way to the model.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// The cell's explicit proxy.
    pub proxy: SocketAddr,
}

/// Why a model gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// What clients call its kind: `refusal`, `timeout`, `rate_limit`, `context_length` or `unknown`.
    pub kind: &'static str,
    /// In words.
    pub said: String,
    /// The HTTP status, if there was one.
    pub status: Option<u16>,
    /// May the same be asked again?
    pub again: Again,
}

/// May what failed be asked again?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// It would fail again, or it is not known what it did.
    Never,
    /// Whoever failed may have recovered by then.
    Later {
        /// Why, in upstream's words.
        reason: &'static str,
        /// Not before that long, if the provider says.
        least: Option<Duration>,
    },
}

impl Failed {
    /// One that is not asked again.
    pub fn new(kind: &'static str, said: impl Into<String>) -> Self {
        Self { kind, said: said.into(), status: None, again: Again::Never }
    }

    fn unknown(said: impl Into<String>) -> Self {
        Self::new("unknown", said)
    }

    /// One that goes over.
    pub fn passing(reason: &'static str, said: impl Into<String>) -> Self {
        Self { again: Again::Later { reason, least: None }, ..Self::unknown(said) }
    }
}

/// What of an answer comes piece by piece.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// More of its text.
    Text(String),
    /// More of what the model thinks.
    Thought(String),
}

/// A call of a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    pub id: String,
    pub name: String,
    /// JSON, as the model wrote it.
    pub arguments: String,
}

/// A whole answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub text: String,
    pub calls: Vec<Call>,
    /// `stop`, `length`, `tool_calls`…
    pub stop: String,
    pub input_tokens: u64,
    pub output_tokens: u64,
    /// The model that answered.
    pub model: String,
}

impl Model {
    /// Asks, and tells each piece of the answer as it comes. `body` is a request with `stream`.
    pub async fn ask(&self, body: Bytes, mut tell: impl FnMut(Piece)) -> Result<Answer, Failed> {
        let unreachable = |error: &dyn std::fmt::Display| {
            Failed::passing(BROKEN, format!("the model is not reached: {error}"))
        };
        let stream = TcpStream::connect(self.proxy).await.map_err(|error| unreachable(&error))?;
        // A request is one write, and its answer is waited for.
        let _ = stream.set_nodelay(true);
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(&error))?;
        let connection = Connection(tokio::spawn(async move { connection.await.is_ok() }));
        let request = Request::post(CHAT)
            .header(header::HOST, HOST)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "text/event-stream")
            .header(header::USER_AGENT, concat!("cofferdam-agent/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body))
            .map_err(|error| unreachable(&error))?;
        let answer = within(sender.send_request(request)).await?.map_err(|error| unreachable(&error))?;
        let (head, mut body) = answer.into_parts();
        if head.status != StatusCode::OK {
            let mut text = Vec::new();
            while let Some(Ok(frame)) = within(body.frame()).await? {
                text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
                if text.len() > LONGEST_ERROR {
                    break;
                }
            }
            return Err(refused(head.status, &head.headers, &text));
        }
        let mut events = Events::default();
        let mut read = Reading::default();
        let mut length = 0_usize;
        while let Some(frame) = within(body.frame()).await? {
            let frame =
                frame.map_err(|error| Failed::passing(BROKEN, format!("the model broke off: {error}")))?;
            let Some(data) = frame.data_ref() else { continue };
            length += data.len();
            if length > LONGEST {
                return Err(Failed::unknown(format!("the model's answer is longer than {LONGEST} bytes")));
            }
            events.push(data, |event| read.event(event, &mut tell))?;
        }
        drop(connection);
        read.end()
    }
}

/// A connection that ends with its use.
struct Connection(tokio::task::JoinHandle<bool>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn within<T>(waiting: impl Future<Output = T>) -> Result<T, Failed> {
    let late = |_| Failed::new("timeout", "the model said nothing for a quarter of an hour");
    tokio::time::timeout(SILENCE, waiting).await.map_err(late)
}

/// What an answer other than 200 means.
fn refused(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Failed {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &value["error"];
    let said = error["message"].as_str().map_or_else(
        || String::from_utf8_lossy(body).chars().take(300).collect::<String>(),
        |said| said.chars().take(2000).collect(),
    );
    let status = status.as_u16();
    // What is used up does not come back while somebody waits; the warden's own budget is refused as a bad request.
    let used_up = ["code", "type"].iter().any(|field| {
        matches!(
            error[*field].as_str(),
            Some("insufficient_quota" | "billing_error" | "invalid_request_error")
        )
    });
    let reason = match status {
        429 if !used_up => Some("rate_limit"),
        408 | 504 => Some("timeout"),
        503 | 529 => Some("overloaded"),
        500..=599 => Some("server_error"),
        _ => None,
    };
    let kind = match status {
        _ if status == 413 || too_long(error, &said) => "context_length",
        429 => "rate_limit",
        408 | 504 => "timeout",
        403 => "refusal",
        _ => "unknown",
    };
    let again = match reason {
        Some(reason) if kind != "context_length" => Again::Later { reason, least: least(headers) },
        _ => Again::Never,
    };
    Failed { kind, said: format!("HTTP {status}: {said}"), status: Some(status), again }
}

/// Does an error say that there is no room for the conversation? Providers have no common code for it.
fn too_long(error: &Value, said: &str) -> bool {
    const CODES: [&str; 3] = ["context_length_exceeded", "request_too_large", "string_above_max_length"];
    const WORDS: [&str; 7] = [
        "context length",
        "maximum context",
        "context window",
        "prompt is too long",
        "input is too long",
        "exceeds the maximum number of tokens",
        "request_too_large",
    ];
    let said = said.to_ascii_lowercase();
    ["code", "type"].iter().any(|field| error[*field].as_str().is_some_and(|code| CODES.contains(&code)))
        || WORDS.iter().any(|words| said.contains(words))
}

/// How long a provider wants to be left alone.
fn least(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<f64>().ok();
    let seconds = number("retry-after-ms").map(|ms| ms / 1000.0).or_else(|| number("retry-after"))?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// Lines of server-sent events, cut where they end.
#[derive(Debug, Default)]
struct Events(Vec<u8>);

impl Events {
    /// Tells the data of each event that is whole. One data line an event, as all providers of this format send.
    fn push(
        &mut self,
        bytes: &[u8],
        mut tell: impl FnMut(&[u8]) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        self.0.extend_from_slice(bytes);
        let mut from = 0;
        while let Some(end) = self.0[from..].iter().position(|byte| *byte == b'\n') {
            let line = self.0[from..from + end].trim_ascii();
            from += end + 1;
            if let Some(data) = line.strip_prefix(b"data:") {
                tell(data.trim_ascii_start())?;
            }
        }
        self.0.drain(..from);
        Ok(())
    }
}

/// An answer as far as it was read.
#[derive(Debug, Default)]
struct Reading {
    answer: Answer,
    done: bool,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Option<Delta>,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Delta {
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    reasoning_content: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<CallDelta>>,
}

#[derive(Deserialize)]
struct CallDelta {
    #[serde(default)]
    index: usize,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    function: Option<FunctionDelta>,
}

#[derive(Deserialize)]
struct FunctionDelta {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    arguments: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
}

impl Reading {
    fn event(&mut self, data: &[u8], tell: &mut impl FnMut(Piece)) -> Result<(), Failed> {
        if data == b"[DONE]" {
            self.done = true;
            return Ok(());
        }
        let chunk: Chunk = serde_json::from_slice(data)
            .map_err(|error| Failed::unknown(format!("the model's answer cannot be read: {error}")))?;
        if let Some(error) = chunk.error {
            let said = error["message"].as_str().map_or_else(|| error.to_string(), str::to_owned);
            if too_long(&error, &said) {
                return Err(Failed::new("context_length", said));
            }
            return Err(Failed::passing("server_error", format!("the model broke off: {said}")));
        }
        if let Some(usage) = chunk.usage {
            self.answer.input_tokens = usage.prompt_tokens;
            self.answer.output_tokens = usage.completion_tokens;
        }
        if let Some(model) = chunk.model.filter(|_| self.answer.model.is_empty()) {
            self.answer.model = model;
        }
        // One answer was asked for.
        let Some(choice) = chunk.choices.into_iter().next() else { return Ok(()) };
        if let Some(stop) = choice.finish_reason {
            self.answer.stop = stop;
        }
        let Some(delta) = choice.delta else { return Ok(()) };
        if let Some(thought) = delta.reasoning_content.filter(|text| !text.is_empty()) {
            tell(Piece::Thought(thought));
        }
        if let Some(text) = delta.content.filter(|text| !text.is_empty()) {
            self.answer.text.push_str(&text);
            tell(Piece::Text(text));
        }
        for call in delta.tool_calls.into_iter().flatten() {
            self.call(call)?;
        }
        Ok(())
    }

    fn call(&mut self, delta: CallDelta) -> Result<(), Failed> {
        let calls = &mut self.answer.calls;
        if delta.index >= CALLS || delta.index > calls.len() {
            return Err(Failed::unknown("the model calls more tools at once than are run"));
        }
        if delta.index == calls.len() {
            calls.push(Call::default());
        }
        let call = &mut calls[delta.index];
        if let Some(id) = delta.id {
            call.id = id;
        }
        if let Some(function) = delta.function {
            call.name.push_str(&function.name.unwrap_or_default());
            call.arguments.push_str(&function.arguments.unwrap_or_default());
        }
        Ok(())
    }

    fn end(self) -> Result<Answer, Failed> {
        let Self { answer, done } = self;
        if !done && answer.stop.is_empty() {
            return Err(Failed::passing(BROKEN, "the model's answer broke off before its end"));
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(text: &str, step: usize) -> (Result<Answer, Failed>, Vec<Piece>) {
        let (mut events, mut reading, mut pieces) = (Events::default(), Reading::default(), Vec::new());
        for part in text.as_bytes().chunks(step) {
            let read = events.push(part, |event| reading.event(event, &mut |piece| pieces.push(piece)));
            if let Err(failed) = read {
                return (Err(failed), pieces);
            }
        }
        (reading.end(), pieces)
    }

    #[test]
    fn an_answer_is_read_however_it_is_cut() {
        let text = concat!(
            ": a comment\n\n",
            "data: {\"model\":\"m\",\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
            "data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\"}}]}\r\n\r\n",
            "data: {\"choices\":[{\"delta\":{\"content\":\"Hé\"}}]}\n\n",
            "data:{\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"c1\",\"function\":{\"name\":\"ls\",\"arguments\":\"{\\\"p\"}}]}}]}\n\n",
            "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"ath\\\":1}\"}}]}}]}\n\n",
            "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\n",
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3}}\n\ndata: [DONE]\n\n",
        );
        for step in [1, 7, 4096] {
            let (answer, pieces) = read(text, step);
            let call = Call { id: "c1".into(), name: "ls".into(), arguments: r#"{"path":1}"#.into() };
            assert_eq!(
                answer.unwrap(),
                Answer {
                    text: "Hé".into(),
                    calls: vec![call],
                    stop: "tool_calls".into(),
                    input_tokens: 7,
                    output_tokens: 3,
                    model: "m".into()
                }
            );
            assert_eq!(pieces, [Piece::Thought("hm".into()), Piece::Text("Hé".into())]);
        }
    }

    #[test]
    fn half_an_answer_is_none() {
        for (text, why) in [
            ("data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n", "before its end"),
            ("data: {\n\n", "cannot be read"),
            ("data: {\"error\":{\"message\":\"overloaded\"}}\n\n", "overloaded"),
            ("data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":9}]}}]}\n\n", "more tools"),
        ] {
            let failed = read(text, 4096).0.unwrap_err();
            assert!(failed.said.contains(why), "{failed:?}");
        }
    }

    #[test]
    fn a_refusal_says_its_kind_and_whether_it_is_asked_again() {
        let of = |status: u16, header: Option<(&'static str, &str)>, body: &str| {
            let mut headers = HeaderMap::new();
            if let Some((name, value)) = header {
                headers.insert(name, value.parse().unwrap());
            }
            refused(StatusCode::from_u16(status).unwrap(), &headers, body.as_bytes())
        };
        let later =
            |reason, least: Option<u64>| Again::Later { reason, least: least.map(Duration::from_millis) };
        let (long, quota, budget) = (
            r#"{"error":{"code":"context_length_exceeded"}}"#,
            r#"{"error":{"code":"insufficient_quota"}}"#,
            r#"{"error":{"type":"invalid_request_error","message":"the budget of today is used"}}"#,
        );
        let words = r#"{"error":{"message":"This model's maximum context length is 8192 tokens"}}"#;
        for (status, header, body, kind, again) in [
            (429, Some(("retry-after", "2")), "{}", "rate_limit", later("rate_limit", Some(2000))),
            (429, Some(("retry-after-ms", "1500")), "{}", "rate_limit", later("rate_limit", Some(1500))),
            (429, Some(("retry-after", "never")), "{}", "rate_limit", later("rate_limit", None)),
            (429, Some(("retry-after", "-1")), "{}", "rate_limit", later("rate_limit", None)),
            (429, None, quota, "rate_limit", Again::Never),
            (429, None, budget, "rate_limit", Again::Never),
            (400, None, long, "context_length", Again::Never),
            (500, None, words, "context_length", Again::Never),
            (413, None, "no", "context_length", Again::Never),
            (500, None, "no", "unknown", later("server_error", None)),
            (503, None, "no", "unknown", later("overloaded", None)),
            (504, None, "no", "timeout", later("timeout", None)),
            (400, None, "no", "unknown", Again::Never),
            (401, None, "no", "unknown", Again::Never),
            (403, None, "no", "refusal", Again::Never),
        ] {
            let failed = of(status, header, body);
            assert_eq!((failed.kind, failed.again), (kind, again), "{status} {header:?} {body}");
        }
        let said = of(502, None, r#"{"error":{"message":"it is down"}}"#);
        assert_eq!((&*said.said, said.status), ("HTTP 502: it is down", Some(502)));
    }

    proptest::proptest! {
        /// However it is cut, an answer is read as it is in one piece; nothing in it panics.
        #[test]
        fn no_answer_panics_and_cuts_do_not_matter(
            lines in proptest::collection::vec("(data: ?|: |)(\\{\\}|\\[DONE\\]|\\{\"choices\":\\[\\{\"delta\":\\{\"content\":\"é\"\\}\\}\\]\\}|\\{\"choices\":\\[\\{\"finish_reason\":\"stop\"\\}\\]\\}|x)", 0..8),
            step in 1_usize..9,
        ) {
            let text = lines.join("\n\n") + "\n";
            let (cut, whole) = (read(&text, step), read(&text, usize::MAX));
            proptest::prop_assert_eq!(cut.0, whole.0);
        }
    }
}
