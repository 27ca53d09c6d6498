//! OpenAI's other shape of the same agent: `/v1/responses`, streamed or whole. Nothing is kept under an id of its own.

use super::{
    Body, Caller, document, failure,
    follow::{Happened, Question, Watch},
    openai::{Said, question, read},
};
use crate::{gateway::Gateway, store::RunState};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    model: Option<String>,
    input: Input,
    #[serde(default)]
    instructions: Option<String>,
    #[serde(default)]
    stream: bool,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    previous_response_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    Text(String),
    Messages(Vec<Said>),
}

pub(super) async fn respond(
    gateway: Arc<Gateway>,
    caller: Caller,
    request: Request<Incoming>,
) -> Response<Body> {
    let (asked, headers): (Asked, _) = match read(&caller, request).await {
        Ok(read) => read,
        Err(refused) => return *refused,
    };
    let bad = |why: &str| failure(StatusCode::BAD_REQUEST, "invalid_request_error", why);
    if asked.previous_response_id.is_some() {
        return bad(
            "`previous_response_id` names nothing here: name the conversation by `user`, or a session key",
        );
    }
    let found = match &asked.input {
        Input::Text(text) => Ok(Question { message: text.clone(), ..Question::default() }),
        Input::Messages(messages) => question(messages),
    };
    let question = match found {
        Ok(question) => question,
        Err(why) => return bad(&why),
    };
    let more: Vec<String> = asked.instructions.into_iter().chain(question.more).collect();
    let more = (!more.is_empty()).then(|| more.join("\n\n"));
    let question = Question { more, model: asked.model, user: asked.user, ..question };
    match Watch::begin(gateway, &headers, question, "resp_") {
        Ok(watch) if asked.stream => {
            let mut stream = Stream::default();
            watch.streamed(move |watch, happened| stream.events(watch, happened))
        }
        Ok(watch) => whole(watch).await,
        Err(refused) => *refused,
    }
}

/// A response, as far as it is.
fn object(watch: &Watch, status: &str, output: &[Value]) -> Value {
    json!({
        "id": watch.id, "object": "response", "created_at": watch.active.started_at / 1000, "status": status,
        "model": watch.model, "output": output, "error": null, "incomplete_details": null, "instructions": null,
        "metadata": {}, "parallel_tool_calls": true, "temperature": null, "tool_choice": "auto", "tools": [],
        "top_p": null, "usage": null,
    })
}

fn item(watch: &Watch, status: &str, content: &[Value]) -> Value {
    json!({
        "id": watch.id.replacen("resp_", "msg_", 1), "type": "message", "role": "assistant", "status": status,
        "content": content,
    })
}

fn part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [] })
}

/// A response that came to its end, or to the provider's bound.
fn ended(watch: &Watch, text: &str) -> Value {
    let used = watch.active.used();
    let why = match &*used.stop {
        "length" => Some("max_output_tokens"),
        "content_filter" => Some("content_filter"),
        _ => None,
    };
    let status = if why.is_some() { "incomplete" } else { "completed" };
    let mut answer = object(watch, status, &[item(watch, status, &[part(text)])]);
    if let Some(why) = why {
        answer["incomplete_details"] = json!({ "reason": why });
    }
    answer["usage"] = json!({
        "input_tokens": used.input, "output_tokens": used.output,
        "total_tokens": used.input.saturating_add(used.output),
    });
    answer
}

async fn whole(watch: Watch) -> Response<Body> {
    let run = watch.active.ended().await;
    if run.state == RunState::Done {
        return document(StatusCode::OK, &ended(&watch, &watch.active.text()));
    }
    failure(StatusCode::BAD_GATEWAY, "api_error", &run.error.unwrap_or_default())
}

/// What was told of one response.
#[derive(Default)]
struct Stream {
    seq: u64,
    text: String,
}

impl Stream {
    fn event(&mut self, kind: &str, mut fields: Value) -> String {
        fields["type"] = kind.into();
        fields["sequence_number"] = self.seq.into();
        self.seq += 1;
        format!("event: {kind}\ndata: {fields}\n\n")
    }

    fn events(&mut self, watch: &Watch, happened: Happened) -> String {
        let id = watch.id.replacen("resp_", "msg_", 1);
        let place = |mut more: Value| {
            (more["item_id"], more["output_index"], more["content_index"]) =
                (id.as_str().into(), 0.into(), 0.into());
            more
        };
        match happened {
            Happened::Begun => {
                let response = json!({ "response": object(watch, "in_progress", &[]) });
                let added = json!({ "output_index": 0, "item": item(watch, "in_progress", &[]) });
                self.event("response.created", response.clone())
                    + &self.event("response.in_progress", response)
                    + &self.event("response.output_item.added", added)
                    + &self.event("response.content_part.added", place(json!({ "part": part("") })))
            }
            Happened::Text(delta) => {
                self.text.push_str(&delta);
                self.event("response.output_text.delta", place(json!({ "delta": delta })))
            }
            Happened::Ended(run) if run.state == RunState::Done => {
                // What was said before a tool was called is part of it: as it was streamed.
                let text = std::mem::take(&mut self.text);
                let response = ended(watch, &text);
                let kind = format!("response.{}", response["status"].as_str().unwrap_or_default());
                let done = json!({ "output_index": 0, "item": response["output"][0] });
                self.event("response.output_text.done", place(json!({ "text": text })))
                    + &self.event("response.content_part.done", place(json!({ "part": part(&text) })))
                    + &self.event("response.output_item.done", done)
                    + &self.event(&kind, json!({ "response": response }))
            }
            Happened::Ended(run) => {
                let mut response = object(watch, "failed", &[]);
                response["error"] =
                    json!({ "code": "server_error", "message": run.error.unwrap_or_default() });
                self.event("response.failed", json!({ "response": response }))
            }
        }
    }
}
