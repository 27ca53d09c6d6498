//! OpenAI's shape of the same agent: `/v1/models` and `/v1/chat/completions`, streamed or whole.
//!
//! The model that a client names is the agent. A conversation is new each time, unless `user` or a header names it.

use super::{Body, Caller, document, failure};
use crate::{
    gateway::{Active, Gateway},
    ids::uuid,
    protocol::params::Queue,
    store::RunState,
    turn::Wish,
};
use bytes::Bytes;
use cofferdam_base::Scope;
use futures_util::stream;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{convert::Infallible, sync::Arc};

/// The longest request.
const LONGEST: usize = 20 * 1024 * 1024;
/// Names a conversation.
const SESSION: &str = "x-openclaw-session-key";
/// Names of the agent.
const MODELS: [&str; 3] = ["openclaw", "openclaw/default", "openclaw/main"];

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

#[derive(Deserialize)]
struct Said {
    role: String,
    #[serde(default)]
    content: Value,
}

impl Said {
    fn text(&self) -> String {
        match &self.content {
            Value::String(text) => text.clone(),
            Value::Array(parts) => {
                parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n")
            }
            _ => String::new(),
        }
    }
}

pub(super) async fn chat(
    gateway: Arc<Gateway>,
    caller: Caller,
    request: Request<Incoming>,
) -> Response<Body> {
    if !crate::protocol::methods::allows(&caller.cap, Scope::Write) {
        return failure(StatusCode::FORBIDDEN, "forbidden", "missing scope: operator.write");
    }
    let bad = |message: &str| failure(StatusCode::BAD_REQUEST, "invalid_request_error", message);
    let named = request.headers().get(SESSION).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let Ok(body) = Limited::new(request.into_body(), LONGEST).collect().await else {
        return failure(
            StatusCode::PAYLOAD_TOO_LARGE,
            "invalid_request_error",
            "the body is too long, or broke off",
        );
    };
    let asked: Asked = match serde_json::from_slice(&body.to_bytes()) {
        Ok(asked) => asked,
        Err(error) => return bad(&format!("the body cannot be read: {error}")),
    };
    if let Some(model) = asked.model.as_deref().filter(|model| !MODELS.contains(model)) {
        return bad(&format!("unknown model {model:?}: use {}", MODELS.join(", ")));
    }
    let Some((message, more)) = question(&asked.messages) else {
        return bad("there is no message of the role user");
    };
    let key = match (named, asked.user) {
        (Some(key), _) if key.starts_with("agent:main:") && !key.contains(":subagent:") => key,
        (Some(_), _) => return bad("the session key is none of this agent"),
        (None, Some(user)) => {
            format!("agent:main:openai-user:{}", user.chars().take(200).collect::<String>())
        }
        (None, None) => format!("agent:main:openai:{}", uuid()),
    };
    let wish = Wish { more, plain: true, ..Wish::default() };
    let active = match gateway.send(&key, &uuid(), &message, Queue::Followup, wish) {
        Ok((active, _)) => active,
        Err(fault) => return failure(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &fault.message),
    };
    let watch = Watch { gateway, active, id: format!("chatcmpl_{}", uuid()), model: asked.model };
    if asked.stream { watch.streamed() } else { watch.whole().await }
}

/// What the person asks, and what was said before it in a conversation that the client keeps.
fn question(messages: &[Said]) -> Option<(String, Option<String>)> {
    let at = messages.iter().rposition(|said| said.role == "user")?;
    let message = messages[at].text();
    let before: Vec<String> = messages[..at]
        .iter()
        .filter(|said| !said.text().is_empty())
        .map(|said| match said.role.as_str() {
            "system" | "developer" => said.text(),
            role => format!("{role}: {}", said.text()),
        })
        .collect();
    let more = (!before.is_empty()).then(|| before.join("\n\n"));
    (!message.trim().is_empty()).then_some((message, more))
}

/// A run whose client waits for it: a client that leaves ends it.
struct Watch {
    gateway: Arc<Gateway>,
    active: Arc<Active>,
    id: String,
    model: Option<String>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.gateway.abort(&self.active.session_key, Some(&self.active.id));
    }
}

impl Watch {
    fn object(&self, kind: &str) -> Value {
        json!({
            "id": self.id, "object": kind, "created": self.active.started_at / 1000,
            "model": self.model.as_deref().unwrap_or(MODELS[0]),
        })
    }

    async fn whole(self) -> Response<Body> {
        let run = self.active.ended().await;
        if run.state != RunState::Done {
            let why = run.error.unwrap_or_default();
            return failure(StatusCode::BAD_GATEWAY, "api_error", &why);
        }
        let used = self.active.used();
        let mut answer = self.object("chat.completion");
        answer["choices"] = json!([{
            "index": 0, "finish_reason": "stop",
            "message": { "role": "assistant", "content": run.said.unwrap_or_default() },
        }]);
        answer["usage"] = json!({
            "prompt_tokens": used.input, "completion_tokens": used.output, "total_tokens": used.input + used.output,
        });
        document(StatusCode::OK, &answer)
    }

    fn streamed(self) -> Response<Body> {
        let texts = self.active.texts();
        let state = Streaming { watch: self, texts, told: 0, step: Step::First };
        let events = stream::unfold(state, |mut state| async move {
            let event = state.next().await?;
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from(event))), state))
        });
        let mut response = Response::new(BodyExt::boxed_unsync(StreamBody::new(events)));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    }
}

/// What of a stream comes next.
#[derive(Clone, Copy)]
enum Step {
    First,
    Text,
    Done,
    Over,
}

/// An answer on its way.
struct Streaming {
    watch: Watch,
    texts: tokio::sync::watch::Receiver<String>,
    /// How many bytes of the text were told.
    told: usize,
    step: Step,
}

impl Streaming {
    async fn next(&mut self) -> Option<String> {
        match self.step {
            Step::First => {
                self.step = Step::Text;
                Some(self.chunk(json!({ "role": "assistant" }), None))
            }
            Step::Text => Some(self.text().await),
            Step::Done => {
                self.step = Step::Over;
                Some("data: [DONE]\n\n".to_owned())
            }
            Step::Over => None,
        }
    }

    /// More of the text; at its end how it ended.
    async fn text(&mut self) -> String {
        let active = Arc::clone(&self.watch.active);
        let run = tokio::select! {
            biased;
            more = self.more() => return self.chunk(json!({ "content": more }), None),
            run = active.ended() => run,
        };
        self.step = Step::Done;
        if run.state == RunState::Done {
            return self.chunk(json!({}), Some("stop"));
        }
        let error = json!({ "error": { "message": run.error.unwrap_or_default(), "type": "api_error" } });
        format!("data: {error}\n\n")
    }

    async fn more(&mut self) -> String {
        loop {
            let more = self.texts.borrow_and_update().get(self.told..).unwrap_or_default().to_owned();
            if !more.is_empty() {
                self.told += more.len();
                return more;
            }
            if self.texts.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn chunk(&self, delta: Value, stop: Option<&str>) -> String {
        let mut chunk = self.watch.object("chat.completion.chunk");
        chunk["choices"] = json!([{ "index": 0, "delta": delta, "finish_reason": stop }]);
        format!("data: {chunk}\n\n")
    }
}
