//! `/tools/invoke`: one tool, by itself, over HTTP.

use super::{Body, Caller, document, failure};
use crate::{calls, gateway::Gateway};
use cofferdam_base::Scope;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// The longest request.
const LONGEST: usize = 2 * 1024 * 1024;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Asked {
    #[serde(alias = "name")]
    tool: String,
    #[serde(default)]
    args: Option<Value>,
    #[serde(default)]
    #[expect(dead_code, reason = "a tool belongs to no session, but clients send it")]
    session_key: Option<String>,
}

pub(super) async fn invoke(
    gateway: Arc<Gateway>,
    caller: Caller,
    request: Request<Incoming>,
) -> Response<Body> {
    if !crate::protocol::methods::allows(&caller.cap, Scope::Write) {
        return failure(StatusCode::FORBIDDEN, "forbidden", "missing scope: operator.write");
    }
    let no = |status, kind: &str, message: &str| {
        document(status, &json!({ "ok": false, "error": { "type": kind, "message": message } }))
    };
    let Ok(body) = Limited::new(request.into_body(), LONGEST).collect().await else {
        return no(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request", "the body is too long, or broke off");
    };
    let asked: Asked = match serde_json::from_slice(&body.to_bytes()) {
        Ok(asked) => asked,
        Err(error) => return no(StatusCode::BAD_REQUEST, "invalid_request", &error.to_string()),
    };
    match calls::run_tool(&gateway, &asked.tool, asked.args).await {
        None => no(StatusCode::NOT_FOUND, "not_found", "there is no such tool here"),
        Some(output) if output.is_error => no(StatusCode::OK, "tool_error", &output.text),
        Some(output) => {
            let content = json!([{ "type": "text", "text": output.text }]);
            let result = json!({ "content": content, "details": output.details });
            document(StatusCode::OK, &json!({ "ok": true, "result": result }))
        }
    }
}
