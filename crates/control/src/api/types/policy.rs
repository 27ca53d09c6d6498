//! Shapes of the routes about policies that are not in force: drafts compared and replayed.

use cofferdam_base::Millis;
use serde::{Deserialize, Serialize};

/// A draft that is replayed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimulateRequest {
    /// The draft, YAML.
    pub text: String,
    /// The decisions of so many days.
    pub days: u32,
}

/// What a draft would have decided otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Simulated {
    /// Decisions that were replayed.
    pub replayed: u64,
    /// Those of them of which the records do not tell what the draft says.
    #[serde(default)]
    pub unknown: u64,
    /// Since when the ledger was read.
    pub since: Millis,
    /// Those that would change.
    pub changes: Vec<SimulatedChange>,
}

/// Decisions alike that would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SimulatedChange {
    /// `https://api.example.com:443`.
    pub destination: String,
    /// `POST /mcp`, where requests were seen; else empty.
    pub request: String,
    /// `allow`, `deny` or `ask`: what was decided.
    pub was: String,
    /// What the draft says: one of these, or `inspect` where that depends on requests that were not seen, or `unknown`
    /// where it depends on what is not recorded of one: values of the query, arguments, a body that was not read.
    pub becomes: String,
    /// The rule of the draft that decides.
    pub by: String,
    /// How often.
    pub count: u64,
    /// The last time.
    pub last: Millis,
}

/// What a draft changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyDiff {
    /// The revision that it is compared with.
    pub revision: u64,
    /// Reachable with the draft and not before, or with fewer exceptions.
    pub opened: Vec<String>,
    /// Reachable before and not with the draft, or with more exceptions.
    pub closed: Vec<String>,
    /// New denials and questions.
    pub added: Vec<String>,
    /// Denials and questions that are gone.
    pub removed: Vec<String>,
    /// The default before and with the draft, if it changes.
    pub default: Option<(String, String)>,
}

/// One request that is asked about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainedRequest {
    /// Its method.
    pub method: String,
    /// Its path and query.
    pub target: String,
    /// Headers that it has.
    #[serde(default)]
    pub headers: Vec<String>,
    /// Does it ask for a WebSocket?
    #[serde(default)]
    pub websocket: bool,
    /// Is it gRPC?
    #[serde(default)]
    pub grpc: bool,
    /// Its body, a JSON-RPC message or a GraphQL request in JSON.
    #[serde(default)]
    pub body: Option<String>,
}
