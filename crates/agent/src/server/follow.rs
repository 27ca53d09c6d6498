//! A run whose HTTP client waits for it: what happens, one after another, and its end with its client.

use super::{Body, failure};
use crate::{
    gateway::{Active, Gateway, Said},
    ids::uuid,
    images::Image,
    protocol::{Code, params::Queue},
    store::Run,
    turn::Wish,
};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use std::{convert::Infallible, sync::Arc};
use tokio::sync::watch::Receiver;

/// Names a conversation.
const SESSION: &str = "x-openclaw-session-key";
/// Names of the agent: the models that clients name.
pub(super) const MODELS: [&str; 3] = ["openclaw", "openclaw/default", "openclaw/main"];

/// A run that is followed. A client that leaves ends it.
pub(super) struct Watch {
    gateway: Arc<Gateway>,
    pub(super) active: Arc<Active>,
    /// Of the answer.
    pub(super) id: String,
    /// As the client named it.
    pub(super) model: String,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.gateway.abort(&self.active.session_key, Some(&self.active.id));
    }
}

/// What a client asks, whatever its API is.
#[derive(Default)]
pub(super) struct Question {
    pub(super) message: String,
    pub(super) images: Vec<Image>,
    /// What was said before it, in a conversation that the client keeps.
    pub(super) more: Option<String>,
    pub(super) model: Option<String>,
    pub(super) user: Option<String>,
}

impl Watch {
    /// Begins a run. A conversation is new each time, unless the client or a header names it.
    pub(super) fn begin(
        gateway: Arc<Gateway>,
        headers: &HeaderMap,
        question: Question,
        prefix: &str,
    ) -> Result<Self, Box<Response<Body>>> {
        let bad =
            |message: &str| Box::new(failure(StatusCode::BAD_REQUEST, "invalid_request_error", message));
        let Question { message, images, more, model, user } = question;
        if let Some(model) = model.as_deref().filter(|model| !MODELS.contains(model)) {
            return Err(bad(&format!("unknown model {model:?}: use {}", MODELS.join(", "))));
        }
        let named = headers.get(SESSION).and_then(|value| value.to_str().ok());
        let key = match (named, user) {
            (Some(key), _) if key.starts_with("agent:main:") && !key.contains(":subagent:") => key.to_owned(),
            (Some(_), _) => return Err(bad("the session key is none of this agent")),
            (None, Some(user)) => {
                format!("agent:main:openai-user:{}", user.chars().take(200).collect::<String>())
            }
            (None, None) => format!("agent:main:openai:{}", uuid()),
        };
        let said = Said { text: message, images, ..Said::default() };
        let wish = Wish { more, plain: true, ..Wish::default() };
        match gateway.send(&key, &uuid(), said, Queue::Followup, wish) {
            Ok((active, _)) => {
                let (id, model) =
                    (format!("{prefix}{}", uuid()), model.unwrap_or_else(|| MODELS[0].to_owned()));
                Ok(Self { gateway, active, id, model })
            }
            Err(fault) if fault.code == Code::InvalidRequest => Err(bad(&fault.message)),
            Err(fault) => {
                Err(Box::new(failure(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &fault.message)))
            }
        }
    }

    /// An answer that is told as it comes, in the words of an API.
    pub(super) fn streamed<F>(self, words: F) -> Response<Body>
    where
        F: FnMut(&Self, Happened) -> String + Send + 'static,
    {
        let texts = self.active.texts();
        let following = Following { watch: self, texts, told: 0, step: Step::Begin };
        let events = stream::unfold((following, words), |(mut following, mut words)| async move {
            let happened = following.next().await?;
            let event = words(&following.watch, happened);
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from(event))), (following, words)))
        });
        let mut response = Response::new(BodyExt::boxed_unsync(StreamBody::new(events)));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    }
}

/// What happens to a run.
pub(super) enum Happened {
    Begun,
    /// More of its text.
    Text(String),
    Ended(Run),
}

#[derive(Clone, Copy)]
enum Step {
    Begin,
    Text,
    Over,
}

struct Following {
    watch: Watch,
    texts: Receiver<String>,
    /// How many bytes of the text were told.
    told: usize,
    step: Step,
}

impl Following {
    async fn next(&mut self) -> Option<Happened> {
        match self.step {
            Step::Begin => {
                self.step = Step::Text;
                Some(Happened::Begun)
            }
            Step::Text => {
                let active = Arc::clone(&self.watch.active);
                Some(tokio::select! {
                    biased;
                    more = self.more() => Happened::Text(more),
                    run = active.ended() => {
                        self.step = Step::Over;
                        Happened::Ended(run)
                    }
                })
            }
            Step::Over => None,
        }
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
}
