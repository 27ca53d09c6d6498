//! What can go wrong between a cell and its model.

use http::StatusCode;

/// Why a request to the model failed. [`Error::status`] and the text are what the cell sees; none of them
/// tells about the provider or the key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such path here.
    #[error(
        "{0:?} is not served here: use POST /v1/chat/completions or GET /v1/models at http://inference.local"
    )]
    UnknownPath(String),
    /// The path is served, by another method.
    #[error("this path takes {0} only")]
    Method(&'static str),
    /// The body is longer than [`crate::MAX_BODY`].
    #[error("the body is longer than {max} bytes", max = crate::MAX_BODY)]
    TooLong,
    /// The body is no chat request.
    #[error("the body is no chat completion request: {0}")]
    Body(String),
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
}

impl Error {
    /// The status that the cell sees.
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::UnknownPath(_) => StatusCode::NOT_FOUND,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Body(_) => StatusCode::BAD_REQUEST,
            Self::Slow => StatusCode::GATEWAY_TIMEOUT,
            Self::BaseUrl(_) | Self::Key | Self::Connect(_) | Self::Upstream(_) => StatusCode::BAD_GATEWAY,
        }
    }

    /// The body that the cell sees, in the shape that OpenAI's clients read.
    pub fn to_json(&self) -> String {
        let kind = if self.status().is_client_error() { "invalid_request_error" } else { "upstream_error" };
        serde_json::json!({"error": {"message": self.to_string(), "type": kind, "code": null}}).to_string()
    }
}
