//! What stock clients ask when they start, of which there is none here: lists that are empty, and say so.

use crate::{gateway::Gateway, protocol::Fault};
use serde_json::{Value, json};

/// The answer of such a method.
pub(super) fn none(gateway: &Gateway, method: &str) -> Result<Value, Fault> {
    Ok(match method {
        "node.list" => json!({ "ts": gateway.now(), "nodes": [] }),
        "taskSuggestions.list" => json!({ "suggestions": [] }),
        other => return Err(Fault::invalid(format!("unknown method: {other}"))),
    })
}
