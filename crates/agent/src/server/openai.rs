//! OpenAI's shape of the same agent: `/v1/models` and `/v1/chat/completions`, streamed or whole.
//!
//! The model that a client names is the agent.

use super::{
    Body, Caller, document, failure,
    follow::{Happened, MODELS, Question, Watch},
};
use crate::{
    gateway::Gateway,
    images::{Image, bounded},
    store::RunState,
};
use cofferdam_base::Scope;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::sync::Arc;

/// The longest request.
const LONGEST: usize = 20 * 1024 * 1024;

pub(super) fn models(caller: &Caller) -> Response<Body> {
    if !crate::protocol::methods::allows(&caller.cap, Scope::Read) {
        return failure(StatusCode::FORBIDDEN, "forbidden", "missing scope: operator.read");
    }
    let all = MODELS.map(|id| json!({ "id": id, "object": "model", "created": 0, "owned_by": "openclaw" }));
    document(StatusCode::OK, &json!({ "object": "list", "data": all }))
}

#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    model: Option<String>,
    messages: Vec<Said>,
    #[serde(default)]
    stream: bool,
    #[serde(default)]
    user: Option<String>,
}

/// One message of a conversation.
#[derive(Deserialize)]
pub(super) struct Said {
    role: String,
    #[serde(default)]
    content: Value,
}

impl Said {
    pub(super) fn text(&self) -> String {
        match &self.content {
            Value::String(text) => text.clone(),
            Value::Array(parts) => {
                parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n")
            }
            _ => String::new(),
        }
    }

    /// Its images, as both APIs write them.
    fn images(&self) -> Result<Vec<Image>, String> {
        let parts = self.content.as_array().map(Vec::as_slice).unwrap_or_default();
        let one = |part: &Value| {
            let url = match part["type"].as_str()? {
                "image_url" | "input_image" => &part["image_url"],
                _ => return None,
            };
            let url = url.as_str().or_else(|| url["url"].as_str());
            Some(Image::of_url(url.unwrap_or_default()).map_err(|why| format!("an image: {why}")))
        };
        bounded(parts.iter().filter_map(one).collect::<Result<_, _>>()?)
    }
}

pub(super) async fn chat(
    gateway: Arc<Gateway>,
    caller: Caller,
    request: Request<Incoming>,
) -> Response<Body> {
    let (asked, headers): (Asked, _) = match read(&caller, request).await {
        Ok(read) => read,
        Err(refused) => return *refused,
    };
    let question = match question(&asked.messages) {
        Ok(question) => Question { model: asked.model, user: asked.user, ..question },
        Err(why) => return failure(StatusCode::BAD_REQUEST, "invalid_request_error", &why),
    };
    match Watch::begin(gateway, &headers, question, "chatcmpl_") {
        Ok(watch) if asked.stream => watch.streamed(events),
        Ok(watch) => whole(watch).await,
        Err(refused) => *refused,
    }
}

/// Reads a request of whoever may write.
pub(super) async fn read<T: DeserializeOwned>(
    caller: &Caller,
    request: Request<Incoming>,
) -> Result<(T, HeaderMap), Box<Response<Body>>> {
    let no = |status, kind: &str, message: &str| Box::new(failure(status, kind, message));
    if !crate::protocol::methods::allows(&caller.cap, Scope::Write) {
        return Err(no(StatusCode::FORBIDDEN, "forbidden", "missing scope: operator.write"));
    }
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, LONGEST).collect().await else {
        let why = "the body is too long, or broke off";
        return Err(no(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", why));
    };
    serde_json::from_slice(&body.to_bytes()).map(|asked| (asked, head.headers)).map_err(|error| {
        no(StatusCode::BAD_REQUEST, "invalid_request_error", &format!("the body cannot be read: {error}"))
    })
}

/// What the person asks, and what was said before it in a conversation that the client keeps.
pub(super) fn question(messages: &[Said]) -> Result<Question, String> {
    const NONE: &str = "there is no message of the role user";
    let at = messages.iter().rposition(|said| said.role == "user").ok_or(NONE)?;
    let (message, images) = (messages[at].text(), messages[at].images()?);
    let before: Vec<String> = messages[..at]
        .iter()
        .filter(|said| !said.text().is_empty())
        .map(|said| match said.role.as_str() {
            "system" | "developer" => said.text(),
            role => format!("{role}: {}", said.text()),
        })
        .collect();
    if message.trim().is_empty() && images.is_empty() {
        return Err(NONE.to_owned());
    }
    let more = (!before.is_empty()).then(|| before.join("\n\n"));
    Ok(Question { message, images, more, ..Question::default() })
}

fn object(watch: &Watch, kind: &str) -> Value {
    json!({
        "id": watch.id, "object": kind, "created": watch.active.started_at / 1000, "model": watch.model,
    })
}

async fn whole(watch: Watch) -> Response<Body> {
    let run = watch.active.ended().await;
    if run.state != RunState::Done {
        return failure(StatusCode::BAD_GATEWAY, "api_error", &run.error.unwrap_or_default());
    }
    let used = watch.active.used();
    let mut answer = object(&watch, "chat.completion");
    answer["choices"] = json!([{
        "index": 0, "finish_reason": finish(&used.stop),
        "message": { "role": "assistant", "content": watch.active.text() },
    }]);
    answer["usage"] = json!({
        "prompt_tokens": used.input, "completion_tokens": used.output,
        "total_tokens": used.input.saturating_add(used.output),
    });
    document(StatusCode::OK, &answer)
}

/// Why an answer ended, in the words of this API: tools are called here, so it never ends by that.
fn finish(stop: &str) -> &'static str {
    match stop {
        "length" => "length",
        "content_filter" => "content_filter",
        _ => "stop",
    }
}

/// What happened, as chunks.
fn events(watch: &Watch, happened: Happened) -> String {
    let chunk = |delta: Value, stop: Option<&str>| {
        let mut chunk = object(watch, "chat.completion.chunk");
        chunk["choices"] = json!([{ "index": 0, "delta": delta, "finish_reason": stop }]);
        format!("data: {chunk}\n\n")
    };
    match happened {
        Happened::Begun => chunk(json!({ "role": "assistant" }), None),
        Happened::Text(text) => chunk(json!({ "content": text }), None),
        Happened::Ended(run) if run.state == RunState::Done => {
            chunk(json!({}), Some(finish(&watch.active.used().stop))) + "data: [DONE]\n\n"
        }
        Happened::Ended(run) => {
            let error = json!({ "error": { "message": run.error.unwrap_or_default(), "type": "api_error" } });
            format!("data: {error}\n\ndata: [DONE]\n\n")
        }
    }
}
