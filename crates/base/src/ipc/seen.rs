//! A request as rules see it, for records: enough to ask another policy about it later.
//!
//! It holds names and no values: no value of the query, no argument of a call, nothing of a body that was not read.
//! What depends on those cannot be told from records. The threat: a record that keeps what people sent.

use serde::{Deserialize, Serialize};

/// What is recorded of one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// Its method.
    pub method: String,
    /// Its path, as it came.
    pub path: String,
    /// The names of its query's parameters, as they came.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<String>,
    /// The names of its headers, in lower case.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
    /// Does it ask for a WebSocket?
    #[serde(default)]
    pub websocket: bool,
    /// Is it gRPC?
    #[serde(default)]
    pub grpc: bool,
    /// What it carries.
    pub body: SeenBody,
}

/// What is recorded of a body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SeenBody {
    /// There is none.
    None,
    /// It was not read.
    Unread,
    /// It was read, and is neither JSON-RPC nor GraphQL beyond doubt.
    Other,
    /// Its calls: the method, and of a tool's call the tool.
    Calls(Vec<(Option<String>, Option<String>)>),
    /// Its operations of GraphQL: kind, name, and the fields at the root.
    Operations(Vec<(String, Option<String>, Vec<String>)>),
}
