//! Protocol 4 of the gateway: text frames of JSON, closed objects, as `@openclaw/gateway-protocol` describes them.

pub mod channels;
pub mod config;
pub mod connect;
pub mod device;
pub mod devices;
pub mod methods;
pub mod params;
pub mod questions;
pub mod usage;

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

/// The one version that is spoken.
pub const VERSION: u32 = 4;
/// The longest message, in bytes.
pub const MAX_PAYLOAD: usize = 26_214_400;
/// How many bytes may wait for a client that does not read before it is closed.
pub const MAX_BUFFERED: usize = 52_428_800;
/// How often a client hears that the gateway lives, in milliseconds.
pub const TICK_MS: u64 = 30_000;

/// What a client asks.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    #[serde(rename = "type")]
    #[expect(dead_code, reason = "it must be there, and be `req`")]
    kind: Req,
    /// Of the client's choosing; its answers bear it.
    pub id: String,
    /// What it wants.
    pub method: String,
    /// With what; none if it says nothing.
    #[serde(default)]
    pub params: Option<Box<RawValue>>,
    #[serde(default)]
    #[expect(dead_code, reason = "traces are not kept, but clients send them")]
    traceparent: Option<String>,
    #[serde(default, rename = "expectedProfileId")]
    #[expect(dead_code, reason = "there are no profiles, but clients send it")]
    profile: Option<String>,
}

#[derive(Debug, Deserialize)]
enum Req {
    #[serde(rename = "req")]
    Req,
}

impl Request {
    /// Reads a frame; the error is in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let request: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if request.id.is_empty() || request.method.is_empty() {
            return Err("`id` and `method` must not be empty".to_owned());
        }
        Ok(request)
    }
}

/// Codes of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Code {
    /// The request is none, or asks for what is not there.
    InvalidRequest,
    /// The connection may not.
    Forbidden,
    /// The connection has not introduced itself as it must.
    NotPaired,
    /// It may work later.
    Unavailable,
}

/// An error as clients read it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fault {
    /// Which.
    pub code: Code,
    /// In words.
    pub message: String,
    /// For programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
}

impl Fault {
    /// A request that is none.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { code: Code::InvalidRequest, message: message.into(), details: None }
    }

    /// Something that does not work now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { code: Code::Unavailable, message: message.into(), details: None }
    }

    /// With details.
    #[must_use]
    pub fn with(self, details: Value) -> Self {
        Self { details: Some(details), ..self }
    }
}

/// An answer, ready to be sent.
pub fn response(id: &str, answer: &Result<Value, Fault>) -> String {
    #[derive(Serialize)]
    struct Response<'a> {
        #[serde(rename = "type")]
        kind: &'static str,
        id: &'a str,
        ok: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        payload: Option<&'a Value>,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<&'a Fault>,
    }
    let (payload, error) = match answer {
        Ok(payload) => (Some(payload), None),
        Err(fault) => (None, Some(fault)),
    };
    text(&Response { kind: "res", id, ok: answer.is_ok(), payload, error })
}

/// An event, ready to be sent. `seq` is the connection's own.
pub fn event(name: &str, payload: &Value, seq: Option<u64>) -> String {
    #[derive(Serialize)]
    struct Event<'a> {
        #[serde(rename = "type")]
        kind: &'static str,
        #[serde(rename = "event")]
        name: &'a str,
        payload: &'a Value,
        #[serde(skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
    }
    text(&Event { kind: "event", name, payload, seq })
}

fn text(frame: &impl Serialize) -> String {
    // Their keys are texts, and what writes them does not fail.
    serde_json::to_string(frame).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn a_frame_is_a_request_or_an_error() {
        let request =
            Request::parse(r#"{"type":"req","id":"1","method":"health","params":{"a":1}}"#).unwrap();
        assert_eq!((&*request.id, &*request.method), ("1", "health"));
        assert_eq!(request.params.unwrap().get(), r#"{"a":1}"#);
        for bad in [
            r#"{"type":"res","id":"1","method":"health"}"#,
            r#"{"type":"req","id":"","method":"health"}"#,
            r#"{"type":"req","id":"1","method":"health","more":1}"#,
            r#"{"id":"1","method":"health"}"#,
            "[]",
        ] {
            assert!(Request::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn answers_and_events_have_the_fields_that_clients_read() {
        let good: Value = serde_json::from_str(&response("1", &Ok(json!({ "a": 1 })))).unwrap();
        assert_eq!(good, json!({ "type": "res", "id": "1", "ok": true, "payload": { "a": 1 } }));
        let fault = Fault::invalid("no").with(json!({ "code": "X" }));
        let bad: Value = serde_json::from_str(&response("1", &Err(fault))).unwrap();
        let error = json!({ "code": "INVALID_REQUEST", "message": "no", "details": { "code": "X" } });
        assert_eq!(bad, json!({ "type": "res", "id": "1", "ok": false, "error": error }));
        let tick: Value = serde_json::from_str(&event("tick", &json!({ "ts": 1 }), Some(3))).unwrap();
        assert_eq!(tick, json!({ "type": "event", "event": "tick", "payload": { "ts": 1 }, "seq": 3 }));
    }
}
