//! The built-in model and the relay, against each other over a pipe.
#![allow(clippy::unwrap_used)]
use super::*;
use crate::{BaseUrl, ChatRequest, Connect, Connecting, Meter, Route, Tokens, relay};
use cofferdam_base::Secret;
use http::HeaderMap;
use std::{
    io,
    sync::{Arc, Mutex},
};

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
    Route { name: "demo".into(), base, model: MODEL.into() }
}

async fn ask(body: Value) -> (u16, String, Vec<(Tokens, u16)>) {
    let request = ChatRequest::parse(body.to_string().as_bytes()).unwrap();
    let reports = Arc::new(Mutex::new(Vec::new()));
    let seen = reports.clone();
    let done = move |tokens, status| seen.lock().unwrap().push((tokens, status));
    let key = Secret::new(b"key".to_vec());
    let answer = relay(&request, &HeaderMap::new(), &route(), Some(&key), &Builtin, done).await.unwrap();
    let status = answer.status().as_u16();
    let text = String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
    let reports = reports.lock().unwrap().clone();
    (status, text, reports)
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
    assert_eq!(reports, [(tokens, 200)]);
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
    assert_eq!(reports, [(meter.finish(), 200)]);
    assert!(reports[0].0.completion > 2000);
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
    let request = ChatRequest::parse(br#"{"messages":[]}"#).unwrap();
    let reports = Arc::new(Mutex::new(Vec::new()));
    let seen = reports.clone();
    let done = move |tokens, status| seen.lock().unwrap().push((tokens, status));
    let error = relay(&request, &HeaderMap::new(), &route(), None, &Unreachable, done).await.unwrap_err();
    assert_eq!(error.status(), 502);
    assert_eq!(*reports.lock().unwrap(), [(Tokens::default(), 0)]);
}
