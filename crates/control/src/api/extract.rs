//! How requests are read and errors are answered: JSON, bounded, with our error document for everything.

use super::types::{ErrorBody, ErrorDetail};
use crate::Error;
use axum::{
    Json,
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Query, Request},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::de::DeserializeOwned;

/// The longest body of a request, in bytes: a policy or a secret of 64 KiB, escaped.
pub(super) const LONGEST_BODY: usize = 512 * 1024;

/// A JSON body; an empty one reads as `{}`.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self, Error> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|_| Error::Usage(format!("the body cannot be read, or is over {LONGEST_BODY} bytes")))?;
        let body: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        let parsed = serde_json::from_slice(body);
        wipe(bytes);
        // The error names line, column and field, never a value: a secret's body must not come back.
        parsed.map(Self).map_err(|e| Error::Usage(format!("the body: {}", shape(&e))))
    }
}

/// Wipes a body, if it is ours alone; a short one may still lie in the connection's own buffer, which is
/// written over by the next request or given back.
fn wipe(bytes: Bytes) {
    if let Ok(mut bytes) = bytes.try_into_mut() {
        zeroize::Zeroize::zeroize(bytes.as_mut());
    }
}

/// What is wrong with a document, without quoting it.
fn shape(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match error.classify() {
        // `unknown field` and `missing field` quote names; `invalid type` and custom errors quote values.
        serde_json::error::Category::Data if text.starts_with("invalid type: string") => {
            format!("a value of the wrong type at line {} column {}", error.line(), error.column())
        }
        _ => text.chars().take(300).collect(),
    }
}

/// Query parameters.
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query
            .map(|Query(query)| Self(query))
            .map_err(|e| Error::Usage(e.body_text().chars().take(300).collect()))
    }
}

/// A JSON document in a header, in base64url; of requests whose body is something else.
pub(super) fn in_header<T: DeserializeOwned>(
    request: &Request,
    header: &str,
    what: &'static str,
) -> Result<T, Error> {
    let usage = |why: &str| Error::Usage(format!("{what}: {why}"));
    let header = request.headers().get(header).ok_or_else(|| usage("no request header"))?;
    let bytes =
        BASE64_URL_SAFE_NO_PAD.decode(header.as_bytes()).map_err(|_| usage("its header is no base64url"))?;
    serde_json::from_slice(&bytes).map_err(|error| usage(&error.to_string()))
}

/// A part of the path as one of our types.
pub(super) fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, Error> {
    text.parse().map_err(|error: T::Err| Error::Usage(error.to_string()))
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status.is_server_error() {
            tracing::warn!(error = %self, "a request could not be served");
        }
        (status, Json(self.body())).into_response()
    }
}

/// The answer to a path that is none.
pub(super) async fn no_route() -> Response {
    let detail = ErrorDetail {
        code: "no_route".to_owned(),
        message: "there is no such path in this API".to_owned(),
        mend: "cofferdam --help".to_owned(),
    };
    (StatusCode::NOT_FOUND, Json(ErrorBody { error: detail })).into_response()
}
