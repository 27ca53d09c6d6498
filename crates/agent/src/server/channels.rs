//! `POST /channels/NAME`: a message for a generic webhook.

use super::{Body, Caller, document, failure};
use crate::{
    channels::{Posted, posted},
    gateway::Gateway,
};
use cofferdam_base::Scope;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::json;
use std::sync::Arc;

/// The longest request.
const LONGEST: usize = 256 * 1024;

pub(super) async fn post(
    gateway: Arc<Gateway>,
    caller: Caller,
    request: Request<Incoming>,
) -> Response<Body> {
    if !crate::protocol::methods::allows(&caller.cap, Scope::Write) {
        return failure(StatusCode::FORBIDDEN, "forbidden", "missing scope: operator.write");
    }
    let name = request.uri().path().trim_start_matches("/channels/").to_owned();
    let Ok(body) = Limited::new(request.into_body(), LONGEST).collect().await else {
        return failure(
            StatusCode::PAYLOAD_TOO_LARGE,
            "invalid_request",
            "the body is too long, or broke off",
        );
    };
    let message: Posted = match serde_json::from_slice(&body.to_bytes()) {
        Ok(message) => message,
        Err(error) => return failure(StatusCode::BAD_REQUEST, "invalid_request", &error.to_string()),
    };
    match posted(&gateway, &name, message).await {
        None => {
            failure(StatusCode::NOT_FOUND, "not_found", "there is no such webhook: see channels.webhooks")
        }
        Some(Err(failed)) => failure(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &failed.to_string()),
        Some(Ok(())) => document(StatusCode::ACCEPTED, &json!({ "ok": true })),
    }
}
