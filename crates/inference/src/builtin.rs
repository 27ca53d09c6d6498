//! The built-in model of `demo`: deterministic, on the same wire as a provider.
//!
//! It says back what it was told. A line `run: COMMAND` in the user's last message becomes one call of the
//! tool `exec`, if the request offers it, and the tool's result is quoted in the answer after that. It is
//! no model, and runs nothing itself.

use crate::{Api, Error, Inbound, MAX_BODY, Stream, accept, models_answer};
use bytes::Bytes;
use cofferdam_base::Provider;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use std::convert::Infallible;

/// The model's name.
pub const MODEL: &str = "cofferdam-demo";

/// Serves one connection until its client is done.
pub async fn serve(stream: impl Stream + 'static) -> Result<(), hyper::Error> {
    let service = service_fn(|request| async { Ok::<_, Infallible>(answer(request).await) });
    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
}

type Answer = UnsyncBoxBody<Bytes, Infallible>;

async fn answer(request: Request<Incoming>) -> Response<Answer> {
    let made = match accept(request.method(), request.uri().path()) {
        Ok(Inbound::Models(wire)) => Ok(("application/json", whole(models_answer(wire, &[MODEL])))),
        Ok(Inbound::Call(Api::Chat)) => chat(request.into_body()).await,
        Ok(Inbound::Call(_)) => Err(Error::UnknownPath(request.uri().path().to_owned())),
        Err(error) => Err(error),
    };
    let (status, kind, body) = match made {
        Ok((kind, body)) => (StatusCode::OK, kind, body),
        Err(error) => (error.status(), "application/json", whole(error.to_json(Provider::OpenAi))),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

fn whole(text: String) -> Answer {
    Full::new(Bytes::from(text)).boxed_unsync()
}

/// Each event travels by itself.
fn streamed(events: Vec<String>) -> Answer {
    let frames = events.into_iter().map(|event| Ok(Frame::data(Bytes::from(event))));
    StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
}

async fn chat(body: Incoming) -> Result<(&'static str, Answer), Error> {
    let body = Limited::new(body, MAX_BODY).collect().await.map_err(|_| Error::TooLong)?.to_bytes();
    let chat: Chat = serde_json::from_slice(&body).map_err(|error| Error::Body(error.to_string()))?;
    let reply = reply(&chat);
    // About four bytes a token, as is the custom.
    let tokens = |bytes: usize| bytes.div_ceil(4);
    let used = (tokens(body.len()), tokens(reply.len()));
    let usage =
        json!({"prompt_tokens": used.0, "completion_tokens": used.1, "total_tokens": used.0 + used.1});
    Ok(if chat.stream.unwrap_or(false) {
        ("text/event-stream", streamed(reply.events(&usage)))
    } else {
        ("application/json", whole(reply.document(&usage)))
    })
}

#[derive(Deserialize)]
struct Chat {
    messages: Vec<Message>,
    #[serde(default)]
    tools: Option<Vec<Value>>,
    #[serde(default)]
    stream: Option<bool>,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    #[serde(default)]
    content: Value,
}

enum Reply {
    Text(String),
    Exec { id: String, arguments: String },
}

fn reply(chat: &Chat) -> Reply {
    // The gateway appends messages of its own after the user's, as user messages.
    let real = |message: &&Message| !(message.role == "user" && is_internal(&text(&message.content)));
    let messages: Vec<&Message> = chat.messages.iter().filter(real).collect();
    let asked = messages.iter().rposition(|message| message.role == "user");
    let said = asked.map(|at| text(&messages[at].content)).unwrap_or_default();
    let result = messages.iter().skip(asked.map_or(0, |at| at + 1)).rfind(|message| message.role == "tool");
    if let Some(result) = result {
        return Reply::Text(format!("The tool said: {}", text(&result.content)));
    }
    let offers_exec = |tool: &Value| tool["function"]["name"] == "exec" || tool["name"] == "exec";
    let command = said.lines().find_map(|line| {
        // Before the user's words the gateway may put the time in brackets.
        let stamped = line.starts_with('[').then(|| line.split_once("] ")).flatten();
        let line = stamped.map_or(line, |(_, rest)| rest);
        line.strip_prefix("run: ").map(str::trim).filter(|command| !command.is_empty())
    });
    match command {
        Some(command) if chat.tools.iter().flatten().any(offers_exec) => Reply::Exec {
            id: format!("call_{}", messages.len()),
            arguments: json!({ "command": command }).to_string(),
        },
        _ => Reply::Text(format!("You said: {}", own_words(&said))),
    }
}

/// What the person said: the gateway may put blocks of its own before it and a paragraph about its runtime
/// behind.
fn own_words(said: &str) -> &str {
    let own = said.rsplit_once(END).map_or(said, |(_, after)| after);
    own.split("\n\nRuntime: agent=").next().unwrap_or(own).trim_matches('\n')
}

/// Nothing but blocks of the gateway's own.
fn is_internal(text: &str) -> bool {
    let mut rest = text.trim();
    let internal = rest.starts_with(BEGIN);
    while let Some(block) = rest.strip_prefix(BEGIN) {
        // A block without its end is internal as a whole.
        rest = block.split_once(END).map_or("", |(_, after)| after).trim_start();
    }
    internal && rest.is_empty()
}

const BEGIN: &str = "<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>";
const END: &str = "<<<END_OPENCLAW_INTERNAL_CONTEXT>>>";

/// The text of a message, which is a string or a list of parts.
fn text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts: Vec<&str> = parts.iter().filter_map(|part| part["text"].as_str()).collect();
            texts.join("\n")
        }
        _ => String::new(),
    }
}

impl Reply {
    fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Exec { arguments, .. } => arguments.len(),
        }
    }

    const fn finish(&self) -> &'static str {
        match self {
            Self::Text(_) => "stop",
            Self::Exec { .. } => "tool_calls",
        }
    }

    fn call(id: &str, arguments: &str) -> Value {
        json!({"index": 0, "id": id, "type": "function", "function": {"name": "exec", "arguments": arguments}})
    }

    fn document(&self, usage: &Value) -> String {
        let message = match self {
            Self::Text(text) => json!({"role": "assistant", "content": text}),
            Self::Exec { id, arguments } => {
                json!({"role": "assistant", "content": null, "tool_calls": [Self::call(id, arguments)]})
            }
        };
        let choice = json!({"index": 0, "message": message, "finish_reason": self.finish()});
        json!({"id": "chatcmpl-demo", "object": "chat.completion", "created": 0, "model": MODEL,
            "choices": [choice], "usage": usage})
        .to_string()
    }

    fn events(&self, usage: &Value) -> Vec<String> {
        let chunk = |choices: Value, usage: &Value| {
            let chunk = json!({"id": "chatcmpl-demo", "object": "chat.completion.chunk", "created": 0,
                "model": MODEL, "choices": choices, "usage": usage});
            format!("data: {chunk}\n\n")
        };
        let delta = |delta: Value, finish: Option<&str>| {
            chunk(json!([{"index": 0, "delta": delta, "finish_reason": finish}]), &Value::Null)
        };
        let mut events = vec![delta(json!({"role": "assistant", "content": ""}), None)];
        match self {
            Self::Text(text) => {
                for word in text.split_inclusive(' ') {
                    events.push(delta(json!({ "content": word }), None));
                }
            }
            Self::Exec { id, arguments } => {
                events.push(delta(json!({"tool_calls": [Self::call(id, arguments)]}), None));
            }
        }
        events.push(delta(json!({}), Some(self.finish())));
        events.push(chunk(json!([]), usage));
        events.push("data: [DONE]\n\n".to_owned());
        events
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
