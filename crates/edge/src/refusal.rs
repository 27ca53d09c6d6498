//! What a refused client is told: what happened, and what mends it.
//!
//! A refusal tells nothing about a tenant to somebody who has shown no token for it.

use crate::{methods::Gate, origin::OriginError, proxy::Reply, token::TokenError};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde_json::json;

/// A refused request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The status of the HTTP answer.
    pub(crate) status: StatusCode,
    /// For machines and the ledger.
    pub(crate) code: &'static str,
    /// What happened.
    pub(crate) message: String,
    /// What mends it; empty if nothing is known.
    pub(crate) mend: &'static str,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: &str, mend: &'static str) -> Self {
        Self { status, code, message: message.to_owned(), mend }
    }

    /// No token was sent.
    pub(crate) fn no_token() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "token_missing",
            "this origin answers only to an access token",
            "send `Authorization: Bearer TOKEN`; `cofferdam token issue` makes one",
        )
    }

    /// Too many connections.
    pub(crate) fn crowded(code: &'static str, message: &str) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, code, message, "close some connections and try again")
    }

    /// Nothing can answer now.
    pub(crate) fn unavailable(code: &'static str, message: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message, "try again in a moment")
    }

    /// The tenant is not serving.
    pub(crate) fn state(state: &str) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            code: "tenant_not_running",
            message: format!("this tenant is {state}"),
            mend: "see `cofferdam tenant show`, or start it with `cofferdam tenant start`",
        }
    }

    /// The gateway broke the rules of HTTP or hung up.
    pub(crate) fn bad_gateway() -> Self {
        Self::new(
            StatusCode::BAD_GATEWAY,
            "gateway_broke",
            "the tenant's gateway hung up or gave no proper answer",
            "see `cofferdam tenant logs`",
        )
    }

    /// The request itself is malformed.
    pub(crate) fn bad_request(message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message, "")
    }

    /// The answer. After a refusal the connection ends: nothing that follows it can be confused with it.
    pub(crate) fn response(&self) -> Response<Reply> {
        let mut response = Response::new(Reply::text(self.body()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(REASON, HeaderValue::from_static(self.code));
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = if self.code == "token_missing" {
                "Bearer realm=\"cofferdam\""
            } else {
                "Bearer realm=\"cofferdam\", error=\"invalid_token\""
            };
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if self.status == StatusCode::UPGRADE_REQUIRED {
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        response
    }

    /// The whole answer as bytes, for a socket that is not even read.
    pub(crate) fn unread(&self) -> Vec<u8> {
        let body = self.body();
        let mut answer = format!(
            "HTTP/1.1 {}\r\ncontent-type: application/json\r\nconnection: close\r\ncofferdam-reason: {}\r\ncontent-length: {}\r\n\r\n",
            self.status,
            self.code,
            body.len()
        )
        .into_bytes();
        answer.extend_from_slice(&body);
        answer
    }

    fn body(&self) -> Bytes {
        let error = json!({ "error": { "code": self.code, "message": self.message, "mend": self.mend } });
        Bytes::from(error.to_string())
    }
}

impl From<OriginError> for Refusal {
    fn from(error: OriginError) -> Self {
        let forbidden = |code, message: &str| Self::new(StatusCode::FORBIDDEN, code, message, "");
        match error {
            OriginError::Misdirected => Self::new(
                StatusCode::MISDIRECTED_REQUEST,
                "misdirected",
                "no tenant of this host has that name at this address",
                "use an origin that `cofferdam tenant show` prints, with its port",
            ),
            OriginError::Foreign => {
                forbidden("foreign_origin", "pages of another origin may not call this one")
            }
            OriginError::CrossSite => forbidden("cross_site", "another site made the browser ask"),
            OriginError::ServiceWorker => {
                forbidden("service_worker", "service workers are not served at this origin")
            }
        }
    }
}

impl From<Gate> for Refusal {
    fn from(gate: Gate) -> Self {
        match gate {
            Gate::Missing(scope) => Self {
                status: StatusCode::FORBIDDEN,
                code: "missing_scope",
                message: format!("missing scope: {}", scope.as_str()),
                mend: "use the token of a role that has it: `cofferdam token issue --role`",
            },
            Gate::ControlOnly => Self::new(
                StatusCode::FORBIDDEN,
                "control_only",
                "this path is for the control plane alone",
                "",
            ),
            // What passes is not refused; were it asked about, no is the safe answer.
            Gate::Open | Gate::Unknown => {
                Self::new(StatusCode::FORBIDDEN, "unknown_method", "there is no such method", "")
            }
        }
    }
}

impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Self {
        Self {
            status: StatusCode::UNAUTHORIZED,
            code: error.code(),
            message: error.to_string(),
            mend: "`cofferdam token issue` makes a new token",
        }
    }
}

const REASON: HeaderName = HeaderName::from_static("cofferdam-reason");
