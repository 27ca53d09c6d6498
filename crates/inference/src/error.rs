//! What can go wrong between a cell and its model.

use crate::{Api, wire::Fault};
use cofferdam_base::Provider;
use http::StatusCode;
use serde_json::json;

/// Why a request to the model failed. [`Error::status`] and the text are what the cell sees; none of them
/// tells about the provider or the key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such path here.
    #[error(
        "{0:?} is not served here: http://inference.local serves OpenAI's /v1/chat/completions, /v1/responses, \
         /v1/embeddings and /v1/models, Anthropic's /v1/messages and /v1/messages/count_tokens, Ollama's \
         /api/chat, /api/generate, /api/embed and /api/tags, and Gemini's /v1beta/models"
    )]
    UnknownPath(String),
    /// The path is served, by another method.
    #[error("this path takes {0} only")]
    Method(&'static str),
    /// The body is longer than [`crate::MAX_BODY`].
    #[error("the body is longer than {max} bytes", max = crate::MAX_BODY)]
    TooLong,
    /// The body is not of this API.
    #[error("the body is no request of this path: {0}")]
    Body(String),
    /// A field of the query is not known.
    #[error("the query field {0:?} is not passed on: leave it out")]
    Query(String),
    /// The provider would fetch, run or keep something for the cell.
    #[error(
        "`{path}` {why}: a cell's provider fetches, runs and keeps nothing for it; leave the field out, or let \
         the operator allow it with provider_tools on the route"
    )]
    Harmful {
        /// The field.
        path: String,
        /// What is the matter with it.
        why: String,
    },
    /// The request does not translate.
    #[error("`{path}` {why}: the route's provider speaks another API, and the request has to be translated")]
    Untranslated {
        /// The field.
        path: String,
        /// What is the matter with it.
        why: String,
    },
    /// The route's provider has no such API.
    #[error("{path} is not served by this route: {served}", served = served(*.provider))]
    NotServed {
        /// What was asked.
        path: &'static str,
        /// What the route speaks.
        provider: Provider,
    },
    /// The model that the cell named is none of its tenant's.
    #[error("there is no model {named:?} here: use {}", .known.join(", "))]
    NoSuchModel {
        /// What it named.
        named: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The tenant's budget does not allow it now, in words for the agent.
    #[error("{0}")]
    Budget(String),
    /// The text is no base URL.
    #[error("{0:?} is no base URL: write https://host/v1, without user, query or fragment")]
    BaseUrl(String),
    /// The key cannot be sent in a header.
    #[error("the model's key is not usable; the operator sets it again with cofferdam model set")]
    Key,
    /// The provider could not be reached.
    #[error("the model's provider could not be reached")]
    Connect(#[source] std::io::Error),
    /// The provider took too long to begin, or to go on.
    #[error("the model's provider did not answer in time")]
    Slow,
    /// The provider broke off.
    #[error("the model's provider broke off")]
    Upstream(#[source] hyper::Error),
    /// The provider's answer ended before it began.
    #[error("the model's provider answered nothing")]
    Empty,
    /// The provider's answer does not translate.
    #[error("the model's provider answered what cannot be translated: {0}")]
    Answer(String),
}

/// What a provider's route serves, in words.
fn served(provider: Provider) -> String {
    let apis: Vec<_> = Api::ALL.into_iter().filter(|api| api.at(provider).is_some()).map(Api::path).collect();
    format!("its provider speaks {provider}, so it serves {}", apis.join(", "))
}

impl Error {
    pub(crate) fn harmful(Fault { path, why }: Fault) -> Self {
        Self::Harmful { path, why }
    }

    pub(crate) fn untranslated(Fault { path, why }: Fault) -> Self {
        Self::Untranslated { path, why }
    }

    pub(crate) fn answer(Fault { path, why }: Fault) -> Self {
        Self::Answer(format!("`{path}` {why}"))
    }

    /// The status that the cell sees.
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::UnknownPath(_) | Self::NoSuchModel { .. } => StatusCode::NOT_FOUND,
            Self::Budget(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Body(_)
            | Self::Query(_)
            | Self::Harmful { .. }
            | Self::Untranslated { .. }
            | Self::NotServed { .. } => StatusCode::BAD_REQUEST,
            Self::Slow => StatusCode::GATEWAY_TIMEOUT,
            Self::BaseUrl(_)
            | Self::Key
            | Self::Connect(_)
            | Self::Upstream(_)
            | Self::Empty
            | Self::Answer(_) => StatusCode::BAD_GATEWAY,
        }
    }

    /// The body that the cell sees, in the shape that this wire's clients read.
    pub fn to_json(&self, wire: Provider) -> String {
        said(wire, self.status(), &self.to_string())
    }
}

/// An error in the shape of one wire.
pub(crate) fn said(wire: Provider, status: StatusCode, message: &str) -> String {
    let client = status.is_client_error();
    match wire {
        Provider::OpenAi => {
            let kind = if client { "invalid_request_error" } else { "upstream_error" };
            json!({"error": {"message": message, "type": kind, "param": null, "code": null}})
        }
        Provider::Anthropic => {
            let kind = match status.as_u16() {
                401 => "authentication_error",
                403 => "permission_error",
                404 => "not_found_error",
                413 => "request_too_large",
                429 => "rate_limit_error",
                529 | 503 => "overloaded_error",
                _ if client => "invalid_request_error",
                _ => "api_error",
            };
            json!({"type": "error", "error": {"type": kind, "message": message}})
        }
        Provider::Ollama => json!({ "error": message }),
        Provider::Gemini => {
            let kind = match status.as_u16() {
                401 => "UNAUTHENTICATED",
                403 => "PERMISSION_DENIED",
                404 => "NOT_FOUND",
                429 => "RESOURCE_EXHAUSTED",
                504 => "DEADLINE_EXCEEDED",
                _ if client => "INVALID_ARGUMENT",
                _ => "UNAVAILABLE",
            };
            json!({"error": {"code": status.as_u16(), "message": message, "status": kind}})
        }
    }
    .to_string()
}
