//! The built-in model and the relay, against each other over a pipe.
#![allow(clippy::unwrap_used)]
use super::*;
use crate::{BaseUrl, Call, Connect, Connecting, Meter, Patience, Route, Tokens, Used, relay};
use cofferdam_base::Secret;
use http::HeaderMap;
use std::{
    io,
    sync::{Arc, Mutex},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

struct Builtin;

impl Connect for Builtin {
    fn connect<'a>(&'a self, _: &'a Route) -> Connecting<'a> {
        // A small pipe, so that a long answer has to wait for its reader.
        let (near, far) = tokio::io::duplex(64);
        tokio::spawn(serve(far));
        Box::pin(async { Ok(Box::new(near) as Box<dyn Stream>) })
    }
}

fn route() -> Route {
    let base = BaseUrl::parse("http://builtin.local/v1").unwrap();
    let (provider, provider_tools) = (Provider::OpenAi, false);
    let patience = Patience::default();
    Route { name: "demo".into(), base, model: MODEL.into(), provider, provider_tools, patience }
}

fn call(api: Api, body: &str) -> Call {
    Call::parse(api, &api.path().parse().unwrap(), body.as_bytes()).unwrap()
}

fn chat_call(body: &str) -> Call {
    call(Api::Chat, body)
}

async fn ask(body: Value) -> (u16, String, Vec<Used>) {
    let request = chat_call(&body.to_string());
    let reports = Arc::new(Mutex::new(Vec::new()));
    let seen = reports.clone();
    let done = move |used| seen.lock().unwrap().push(used);
    let key = Secret::new(b"key".to_vec());
    let answer = relay(&request, &HeaderMap::new(), &route(), Some(&key), &Builtin, done).await.unwrap();
    let status = answer.status().as_u16();
    let text = String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
    let reports = reports.lock().unwrap().clone();
    (status, text, reports)
}

const fn counted(tokens: Tokens, status: u16) -> Used {
    Used { tokens, estimated: false, status }
}

/// What a call without messages could use.
const MOST: Tokens = Tokens { prompt: 4, completion: 4096 };

const fn guessed(tokens: Tokens, status: u16) -> Used {
    Used { tokens, estimated: true, status }
}

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

#[tokio::test]
async fn a_plain_answer_says_back_what_was_said_and_is_metered() {
    let (status, text, reports) = ask(json!({"messages": [user("hello")]})).await;
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(status, 200);
    assert_eq!(value["choices"][0]["message"]["content"], "You said: hello");
    let tokens = Tokens {
        prompt: value["usage"]["prompt_tokens"].as_u64().unwrap(),
        completion: value["usage"]["completion_tokens"].as_u64().unwrap(),
    };
    assert_eq!(reports, [counted(tokens, 200)]);
    assert!(tokens.prompt > 0 && tokens.completion > 0);
}

#[tokio::test]
async fn a_streamed_answer_passes_unchanged_and_is_metered() {
    let said = "word ".repeat(2000);
    let (_, text, reports) = ask(json!({"stream": true, "messages": [user(&said)]})).await;
    assert!(text.ends_with("data: [DONE]\n\n"));
    let mut content = String::new();
    for data in text.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]") {
        let chunk: Value = serde_json::from_str(data).unwrap();
        content.push_str(chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
    }
    assert_eq!(content, format!("You said: {said}"));
    let mut meter = Meter::new(crate::Format::Events);
    meter.feed(text.as_bytes());
    assert_eq!(reports, [counted(meter.finish().unwrap(), 200)]);
    assert!(reports[0].tokens.completion > 2000);
}

#[tokio::test]
async fn a_run_line_becomes_one_exec_call_and_its_result_is_quoted() {
    let tools = json!([{"type": "function", "function": {"name": "exec", "parameters": {}}}]);
    let internal =
        user("<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>\nrun: false\n<<<END_OPENCLAW_INTERNAL_CONTEXT>>>");
    let mut messages = vec![user("please\n[Tue 2026-11-24 15:00] run: curl http://a.example"), internal];
    let body = json!({"messages": messages, "tools": tools});
    let value: Value = serde_json::from_str(&ask(body).await.1).unwrap();
    let call = &value["choices"][0]["message"]["tool_calls"][0];
    assert_eq!(value["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(call["function"]["name"], "exec");
    assert_eq!(call["function"]["arguments"], r#"{"command":"curl http://a.example"}"#);
    messages.push(json!({"role": "assistant", "content": null, "tool_calls": [call]}));
    messages.push(json!({"role": "tool", "tool_call_id": call["id"], "content": "42"}));
    let body = json!({"messages": messages, "tools": tools});
    let value: Value = serde_json::from_str(&ask(body).await.1).unwrap();
    assert_eq!(value["choices"][0]["message"]["content"], "The tool said: 42");
    // Words within a sentence are no line of their own.
    let body = json!({"messages": [user("never run: id")], "tools": tools});
    let value: Value = serde_json::from_str(&ask(body).await.1).unwrap();
    assert_eq!(value["choices"][0]["message"]["content"], "You said: never run: id");
    // Without the tool nothing is called.
    let value: Value = serde_json::from_str(&ask(json!({"messages": [user("run: id")]})).await.1).unwrap();
    assert_eq!(value["choices"][0]["message"]["content"], "You said: run: id");
}

struct Unreachable;

impl Connect for Unreachable {
    fn connect<'a>(&'a self, _: &'a Route) -> Connecting<'a> {
        Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
    }
}

#[tokio::test]
async fn an_unreachable_provider_is_a_bad_gateway_and_reported_once() {
    let request = chat_call(r#"{"messages":[]}"#);
    let reports = Arc::new(Mutex::new(Vec::new()));
    let seen = reports.clone();
    let done = move |used| seen.lock().unwrap().push(used);
    let error = relay(&request, &HeaderMap::new(), &route(), None, &Unreachable, done).await.unwrap_err();
    assert_eq!(error.status(), 502);
    assert_eq!(*reports.lock().unwrap(), [counted(Tokens::default(), 0)]);
}

/// A provider that keeps what it was sent and answers with what it was told to.
struct Recorder {
    heard: Arc<Mutex<Vec<u8>>>,
    answer: &'static [u8],
    hang_up: Arc<tokio::sync::Notify>,
    kept: Arc<Mutex<Vec<crate::Kept>>>,
}

impl Connect for Recorder {
    fn keeper(&self, _: &Route) -> Option<crate::Keeper> {
        let kept = self.kept.clone();
        Some(Box::new(move |it| kept.lock().unwrap().push(it)))
    }

    fn connect<'a>(&'a self, _: &'a Route) -> Connecting<'a> {
        let (near, mut far) = tokio::io::duplex(4096);
        let (heard, answer, hang_up) = (self.heard.clone(), self.answer, self.hang_up.clone());
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while !heard.lock().unwrap().ends_with(b"}") {
                let count = far.read(&mut buffer).await.unwrap();
                heard.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
            far.write_all(answer).await.unwrap();
            // Keeps the connection until the relay lets go of it, or the test.
            tokio::select! {
                _ = far.read(&mut buffer) => {}
                () = hang_up.notified() => {}
            }
        });
        Box::pin(async { Ok(Box::new(near) as Box<dyn Stream>) })
    }
}

fn recorder(answer: &'static [u8]) -> Recorder {
    Recorder { heard: Arc::default(), answer, hang_up: Arc::default(), kept: Arc::default() }
}

#[tokio::test]
async fn a_provider_hears_the_tenants_key_and_nothing_of_the_cells() {
    let provider = recorder(
        b"HTTP/1.1 429 Too Many\r\nContent-Type: application/json\r\nRetry-After: 7\r\nSet-Cookie: a=b\r\nServer: x\r\nContent-Length: 2\r\n\r\n{}",
    );
    let request = chat_call(r#"{"model":"openclaw","messages":[]}"#);
    let mut headers = HeaderMap::new();
    headers.insert("authorization", "Bearer cell-secret".parse().unwrap());
    headers.insert("cookie", "cell-secret".parse().unwrap());
    let key = Secret::new(b"tenant-key".to_vec());
    let answer = relay(&request, &headers, &route(), Some(&key), &provider, |_| ()).await.unwrap();
    // The status and what tells when to come back pass; cookies and banners do not.
    assert_eq!(answer.status(), 429);
    assert_eq!(answer.headers()["retry-after"], "7");
    assert!(!answer.headers().contains_key("set-cookie") && !answer.headers().contains_key("server"));
    let heard = String::from_utf8(provider.heard.lock().unwrap().clone()).unwrap();
    assert!(heard.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{heard}");
    assert!(heard.contains("authorization: Bearer tenant-key\r\n"), "{heard}");
    assert!(heard.ends_with("{\"model\":\"cofferdam-demo\",\"messages\":[]}"), "{heard}");
    assert!(!heard.contains("cell-secret"), "{heard}");
}

/// What is reported of a streamed answer that is dropped after its first event.
async fn dropped(answer: &'static [u8]) -> Used {
    let provider = recorder(answer);
    let request = chat_call(r#"{"messages":[]}"#);
    let (seen, mut reports) = tokio::sync::mpsc::unbounded_channel();
    let done = move |used| seen.send(used).unwrap();
    let answer = relay(&request, &HeaderMap::new(), &route(), None, &provider, done).await.unwrap();
    let mut body = answer.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.starts_with(b"data: "), "the first event passes before the stream ends");
    assert!(reports.try_recv().is_err());
    drop(body);
    let used = reports.recv().await.unwrap();
    assert_eq!(reports.recv().await, None, "it is reported once");
    used
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_dropped_half_way_is_reported_with_its_usage_or_an_estimate() {
    // The provider counted so far.
    let used = dropped(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\ndata: {\"usage\":{\"prompt_tokens\":5}}\n\n",
    )
    .await;
    assert_eq!(used, guessed(Tokens { prompt: 5, completion: 10 }, 200));
    // Anthropic begins with a count of one, and the rest is cut.
    let used = dropped(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {\"message\":{\"usage\":{\"input_tokens\":5,\"output_tokens\":1}}}\n\ndata: {\"type\":\"content_block_delta\"}\n\n",
    )
    .await;
    assert_eq!(used, guessed(Tokens { prompt: 5, completion: 26 }, 200));
    // It says so only after its reader left.
    let used = dropped(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: {}\n\r\n42\r\ndata: {\"usage\":{\"prompt_tokens\":70000,\"completion_tokens\":90001}}\n\r\n0\r\n\r\n",
    )
    .await;
    assert_eq!(used, counted(Tokens { prompt: 70000, completion: 90001 }, 200));
    // It never says so: 15 bytes of fields, and the longest answer that they allow.
    let used = dropped(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n8\r\ndata: {}\r\n",
    )
    .await;
    assert_eq!(used, guessed(MOST, 200));
}

#[tokio::test]
async fn a_whole_answer_that_says_no_usage_is_guessed_by_its_length() {
    let provider = recorder(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{\"id\":\"\"}");
    let (answer, reports) = relayed(&chat_call(r#"{"messages":[]}"#), &route(), &provider).await;
    assert_eq!(text(answer).await, r#"{"id":""}"#);
    assert_eq!(*reports.lock().unwrap(), [guessed(Tokens { prompt: 4, completion: 3 }, 200)]);
}

#[tokio::test(start_paused = true)]
async fn hanging_up_costs_what_the_call_could_use() {
    // It is not streamed, so that nothing of it comes before it is whole.
    let head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n";
    let request = chat_call(r#"{"messages":[],"max_tokens":100000,"n":2}"#);
    let (seen, mut reports) = tokio::sync::mpsc::unbounded_channel();
    let done = move |used| seen.send(used).unwrap();
    let answer = relay(&request, &HeaderMap::new(), &route(), None, &recorder(head), done).await.unwrap();
    drop(answer);
    let expected = Tokens { completion: 200_000, prompt: (request.len() as u64).div_ceil(4) };
    assert_eq!(reports.recv().await.unwrap(), guessed(expected, 200));
}

#[tokio::test(start_paused = true)]
async fn what_a_provider_heard_and_did_not_answer_costs_what_it_could_use() {
    let ask = |provider: Recorder| async move {
        let request = chat_call(r#"{"messages":[]}"#);
        let (seen, mut reports) = tokio::sync::mpsc::unbounded_channel();
        let done = move |used| seen.send(used).unwrap();
        let error = relay(&request, &HeaderMap::new(), &route(), None, &provider, done).await.unwrap_err();
        (error.status().as_u16(), reports.recv().await.unwrap())
    };
    // Its first byte comes too late; and it breaks off.
    assert_eq!(ask(recorder(b"")).await, (504, guessed(MOST, 0)));
    let broken = recorder(b"");
    broken.hang_up.notify_one();
    assert_eq!(ask(broken).await, (502, guessed(MOST, 0)));
}

/// A provider that answers when it is told to, if at all.
struct Thinking(Mutex<Option<tokio::sync::oneshot::Receiver<&'static [u8]>>>, Arc<tokio::sync::Notify>);

impl Connect for Thinking {
    fn connect<'a>(&'a self, _: &'a Route) -> Connecting<'a> {
        let (near, mut far) = tokio::io::duplex(4096);
        let (answer, heard) = (self.0.lock().unwrap().take().unwrap(), self.1.clone());
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            let _ = far.read(&mut buffer).await;
            heard.notify_one();
            if let Ok(answer) = answer.await {
                let _ = far.write_all(answer).await;
            }
            let _ = far.read(&mut buffer).await;
        });
        Box::pin(async { Ok(Box::new(near) as Box<dyn Stream>) })
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_who_leaves_before_the_answer_is_counted_all_the_same() {
    let said = b"HTTP/1.1 200 OK\r\nContent-Length: 51\r\n\r\n{\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":6}}";
    let provider_said = counted(Tokens { prompt: 5, completion: 6 }, 200);
    for (answer, expected) in [(Some(said.as_slice()), provider_said), (None, guessed(MOST, 0))] {
        let (tell, told) = tokio::sync::oneshot::channel();
        let heard = Arc::new(tokio::sync::Notify::new());
        let provider = Thinking(Mutex::new(Some(told)), heard.clone());
        let (seen, mut reports) = tokio::sync::mpsc::unbounded_channel();
        let asking = tokio::spawn(async move {
            let request = chat_call(r#"{"messages":[]}"#);
            let done = move |used| seen.send(used).unwrap();
            relay(&request, &HeaderMap::new(), &route(), None, &provider, done).await
        });
        heard.notified().await;
        asking.abort();
        assert!(asking.await.unwrap_err().is_cancelled());
        let mut tell = Some(tell);
        if let Some(answer) = answer {
            tell.take().unwrap().send(answer).unwrap();
        }
        assert_eq!(reports.recv().await.unwrap(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_stands_still_is_given_up() {
    let request = chat_call(r#"{"stream":true,"messages":[]}"#);
    let ask = |answer: &'static [u8]| {
        let (provider, request) = (recorder(answer), &request);
        async move { relay(request, &HeaderMap::new(), &route(), None, &provider, |_| ()).await }
    };
    let error = ask(b"HTTP/1.1 200").await.unwrap_err();
    assert_eq!(error.status(), 504);
    let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9\r\n\r\ndata";
    let mut body = ask(head).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "data");
    assert!(matches!(body.frame().await, Some(Err(Error::Slow))));
    // The positive control: one that goes on.
    let whole = ask(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await.unwrap().into_body();
    assert_eq!(whole.collect().await.unwrap().to_bytes(), "hi");
}

#[tokio::test]
async fn the_built_in_model_refuses_what_a_provider_would() {
    let (near, far) = tokio::io::duplex(4096);
    tokio::spawn(serve(far));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await.unwrap();
    tokio::spawn(connection);
    for (method, path, status) in
        [("GET", "/v1/models", 200), ("GET", "/v1/files", 404), ("POST", "/v1/chat/completions", 400)]
    {
        let request = Request::builder().method(method).uri(path).header("host", "x");
        let request = request.body(Full::new(Bytes::from_static(b"{"))).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), status, "{method} {path}");
        answer.into_body().collect().await.unwrap();
    }
}

/// A route to a scripted provider of this wire.
fn anthropic() -> Route {
    let base = BaseUrl::parse("https://api.anthropic.example").unwrap();
    Route { base, model: "claude".into(), provider: Provider::Anthropic, ..route() }
}

async fn relayed(
    call: &Call,
    route: &Route,
    provider: &Recorder,
) -> (Response<crate::Body>, Arc<Mutex<Vec<Used>>>) {
    let reports = Arc::new(Mutex::new(Vec::new()));
    let seen = reports.clone();
    let done = move |used| seen.lock().unwrap().push(used);
    let key = Secret::new(b"tenant-key".to_vec());
    let answer = relay(call, &HeaderMap::new(), route, Some(&key), provider, done).await.unwrap();
    (answer, reports)
}

async fn text(answer: Response<crate::Body>) -> String {
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn a_chat_client_speaks_to_an_anthropic_provider_and_is_metered() {
    let provider = recorder(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nrequest-id: req_1\r\nConnection: close\r\n\r\n\
        event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"model\":\"claude\",\"usage\":{\"input_tokens\":11,\"output_tokens\":1}}}\n\n\
        event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hi\"}}\n\n\
        event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":5}}\n\n\
        event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
    );
    let call = chat_call(r#"{"stream":true,"messages":[{"role":"user","content":"hello"}]}"#);
    let (answer, reports) = relayed(&call, &anthropic(), &provider).await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    assert_eq!(answer.headers()["request-id"], "req_1");
    let mut body = answer.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.starts_with(b"data: {\"id\":\"msg_1\",\"object\":\"chat.completion.chunk\""), "{first:?}");
    let heard = String::from_utf8(provider.heard.lock().unwrap().clone()).unwrap();
    assert!(heard.starts_with("POST /v1/messages HTTP/1.1\r\n"), "{heard}");
    assert!(heard.contains("x-api-key: tenant-key\r\n") && !heard.contains("authorization"), "{heard}");
    assert!(heard.contains("anthropic-version: 2023-06-01\r\n"), "{heard}");
    let said = r#"{"model":"claude","max_tokens":4096,"stream":true,"messages":[{"role":"user","content":[{"type":"text","text":"hello"}]}]}"#;
    assert!(heard.ends_with(said), "{heard}");
    // The provider hangs up.
    provider.hang_up.notify_one();
    let rest = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    let whole = format!("{}{rest}", String::from_utf8_lossy(&first));
    assert!(whole.contains("\"content\":\"Hi\"") && whole.ends_with("data: [DONE]\n\n"), "{whole}");
    assert_eq!(*reports.lock().unwrap(), [counted(Tokens { prompt: 11, completion: 5 }, 200)]);
}

#[tokio::test]
async fn a_messages_client_speaks_to_the_built_in_model() {
    let tools = r#"[{"name":"exec","input_schema":{"type":"object"}}]"#;
    let ask = |stream: bool| {
        let body = format!(
            r#"{{"max_tokens":9,"stream":{stream},"tools":{tools},"messages":[{{"role":"user","content":"run: id"}}]}}"#
        );
        async move {
            let call = call(Api::Messages, &body);
            relay(&call, &HeaderMap::new(), &route(), None, &Builtin, |_| ()).await.unwrap()
        }
    };
    let whole: Value = serde_json::from_str(&text(ask(false).await).await).unwrap();
    assert_eq!(whole["stop_reason"], "tool_use");
    assert_eq!(whole["content"][0]["input"], json!({"command": "id"}));
    let stream = text(ask(true).await).await;
    assert!(stream.starts_with("event: message_start\n"), "{stream}");
    assert!(stream.contains("input_json_delta") && stream.contains(r#"{\"command\":\"id\"}"#), "{stream}");
    assert!(stream.ends_with("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"), "{stream}");
}

#[tokio::test]
async fn a_translated_stream_that_breaks_off_is_an_error_and_a_refusal_keeps_its_status() {
    let call = chat_call(r#"{"stream":true,"messages":[{"role":"user","content":"hello"}]}"#);
    let cut = recorder(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 27\r\n\r\ndata: {\"type\":\"ping\"}\n\ndata",
    );
    let (answer, _) = relayed(&call, &anthropic(), &cut).await;
    let error = answer.into_body().collect().await.unwrap_err();
    assert!(matches!(error, Error::Answer(_)), "{error}");
    let busy = recorder(
        b"HTTP/1.1 529 Busy\r\nContent-Type: application/json\r\nRetry-After: 3\r\nContent-Length: 67\r\n\r\n{\"type\":\"error\",\"error\":{\"type\":\"x\",\"message\":\"Overloaded, sorry\"}}",
    );
    let (answer, reports) = relayed(&call, &anthropic(), &busy).await;
    assert_eq!((answer.status().as_u16(), &answer.headers()["retry-after"]), (529, &"3".parse().unwrap()));
    assert_eq!(answer.headers()["content-type"], "application/json");
    let said: Value = serde_json::from_str(&text(answer).await).unwrap();
    assert_eq!(said["error"]["message"], "Overloaded, sorry");
    assert_eq!(*reports.lock().unwrap(), [counted(Tokens::default(), 529)]);
    // One that does not stream though it was asked to is no answer either.
    let plain = recorder(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}");
    let error = relay(&call, &HeaderMap::new(), &anthropic(), None, &plain, |_| ()).await.unwrap_err();
    assert!(matches!(error, Error::Answer(_)) && error.status() == 502, "{error}");
}

#[tokio::test]
async fn counting_tokens_uses_none_and_an_ollama_stream_passes_unchanged() {
    let counted_by =
        recorder(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n{\"input_tokens\":900}");
    let (answer, reports) =
        relayed(&call(Api::CountTokens, r#"{"messages":[]}"#), &anthropic(), &counted_by).await;
    assert_eq!(text(answer).await, r#"{"input_tokens":900}"#);
    assert_eq!(*reports.lock().unwrap(), [counted(Tokens::default(), 200)]);
    let lines = "{\"message\":{\"content\":\"a\"},\"done\":false}\n{\"done\":true,\"prompt_eval_count\":4,\"eval_count\":2}\n";
    let head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nContent-Length: 92\r\n\r\n";
    let answer: &'static [u8] = [head.as_slice(), lines.as_bytes()].concat().leak();
    let ollama = Route { provider: Provider::Ollama, ..route() };
    let (answer, reports) =
        relayed(&call(Api::OllamaChat, r#"{"messages":[]}"#), &ollama, &recorder(answer)).await;
    assert_eq!(text(answer).await, lines);
    assert_eq!(*reports.lock().unwrap(), [counted(Tokens { prompt: 4, completion: 2 }, 200)]);
}

/// Dials the built-in model, keeps what is given back, and counts.
#[derive(Default)]
struct Keeping {
    kept: Arc<Mutex<Vec<crate::Kept>>>,
    dialled: Mutex<usize>,
    given_back: Arc<tokio::sync::Notify>,
    /// Closes its connections when it is told to.
    closing: Option<Arc<tokio::sync::Notify>>,
}

impl Connect for Keeping {
    fn connect<'a>(&'a self, _: &'a Route) -> Connecting<'a> {
        *self.dialled.lock().unwrap() += 1;
        let (near, far) = tokio::io::duplex(4096);
        let closing = self.closing.clone();
        tokio::spawn(async move {
            let closed = async {
                match closing {
                    Some(closing) => closing.notified().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = serve(far) => {}
                () = closed => {}
            }
        });
        Box::pin(async { Ok(Box::new(near) as Box<dyn Stream>) })
    }

    fn kept(&self, _: &Route) -> Option<crate::Kept> {
        self.kept.lock().unwrap().pop()
    }

    fn keeper(&self, _: &Route) -> Option<crate::Keeper> {
        let (kept, given_back) = (self.kept.clone(), self.given_back.clone());
        Some(Box::new(move |it| {
            kept.lock().unwrap().push(it);
            given_back.notify_one();
        }))
    }
}

async fn asked(world: &Keeping, body: &str) -> Response<crate::Body> {
    relay(&chat_call(body), &HeaderMap::new(), &route(), None, world, |_| ()).await.unwrap()
}

#[tokio::test]
async fn a_connection_is_used_again_once_its_answer_was_read_and_no_sooner() {
    let world = Keeping::default();
    for stream in [true, false, true] {
        let body = format!(r#"{{"stream":{stream},"messages":[{{"role":"user","content":"hello"}}]}}"#);
        assert!(text(asked(&world, &body).await).await.contains("hello"));
        world.given_back.notified().await;
    }
    assert_eq!(*world.dialled.lock().unwrap(), 1);
    // While an answer is under way its connection is nobody else's.
    let busy = asked(&world, r#"{"messages":[]}"#).await;
    text(asked(&world, r#"{"messages":[]}"#).await).await;
    assert_eq!(*world.dialled.lock().unwrap(), 2);
    world.given_back.notified().await;
    // One that nobody reads is read for its usage, and is free then.
    drop(busy);
    world.given_back.notified().await;
    assert_eq!(world.kept.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_connection_that_the_provider_closed_is_dialled_anew() {
    let closing = Arc::new(tokio::sync::Notify::new());
    let world = Keeping { closing: Some(closing.clone()), ..Keeping::default() };
    text(asked(&world, r#"{"messages":[]}"#).await).await;
    world.given_back.notified().await;
    closing.notify_one();
    assert!(text(asked(&world, r#"{"messages":[]}"#).await).await.contains("You said"));
    assert_eq!(*world.dialled.lock().unwrap(), 2);
}

#[tokio::test]
async fn an_answer_that_broke_off_leaves_no_connection_behind() {
    let cut = recorder(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi");
    let (answer, _) = relayed(&chat_call(r#"{"messages":[]}"#), &route(), &cut).await;
    cut.hang_up.notify_one();
    assert!(answer.into_body().collect().await.is_err());
    assert!(cut.kept.lock().unwrap().is_empty());
}
