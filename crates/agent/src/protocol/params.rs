//! Parameters of methods: what is served of them. A field that is not here is refused, so that nobody believes it was
//! heeded; a few that change nothing here are read and left.

use super::Fault;
use crate::images::Attachment;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

/// Reads the parameters of a method.
pub fn read<T: DeserializeOwned>(method: &str, params: Option<&RawValue>) -> Result<T, Fault> {
    let text = params.map_or("{}", RawValue::get);
    serde_json::from_str(text).map_err(|error| Fault::invalid(format!("invalid {method} params: {error}")))
}

/// The longest message, in bytes.
const LONGEST: usize = 512 * 1024;

/// Is it a message that an agent is asked?
pub fn is_message(text: &str) -> Result<(), Fault> {
    if text.trim().is_empty() {
        return Err(Fault::invalid("the message is empty"));
    }
    if text.len() > LONGEST {
        return Err(Fault::invalid(format!("the message is longer than {LONGEST} bytes")));
    }
    Ok(())
}

/// No parameters, or some that change nothing.
#[derive(Debug, Deserialize)]
pub struct Nothing {}

/// How a message waits for its turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Queue {
    /// It is read between two steps of the turn that runs.
    #[default]
    Steer,
    /// It is a turn of its own afterwards.
    Followup,
    /// It is a turn afterwards, together with what else waits so.
    Collect,
    /// It ends the turn that runs.
    Interrupt,
}

/// `chat.send`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(
    dead_code,
    reason = "`deliver` is about channels, of which there are none, and `sessionId` follows from the key"
)]
pub struct ChatSend {
    pub session_key: String,
    #[serde(default)]
    pub agent_id: Option<String>,
    #[serde(default)]
    session_id: Option<String>,
    pub message: String,
    #[serde(default)]
    pub(crate) attachments: Vec<Attachment>,
    #[serde(default)]
    pub thinking: Option<String>,
    #[serde(default)]
    pub queue_mode: Queue,
    #[serde(default)]
    deliver: Option<bool>,
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    #[serde(default)]
    pub suppress_command_interpretation: bool,
    #[serde(default)]
    pub expected_leaf_entry_id: Option<String>,
    pub idempotency_key: String,
}

/// `chat.history` and `chat.startup`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "there is one agent, and a session's id follows from its key")]
pub struct History {
    pub session_key: String,
    #[serde(default)]
    agent_id: Option<String>,
    #[serde(default)]
    session_id: Option<String>,
    #[serde(default)]
    pub limit: Option<u32>,
    #[serde(default)]
    pub offset: Option<u32>,
    #[serde(default)]
    pub max_chars: Option<u32>,
    #[serde(default)]
    pub max_bytes: Option<usize>,
}

/// `chat.abort`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "there is one agent")]
pub struct ChatAbort {
    pub session_key: String,
    #[serde(default)]
    agent_id: Option<String>,
    #[serde(default)]
    pub run_id: Option<String>,
}

/// `chat.inject`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "there is one agent")]
pub struct Inject {
    pub session_key: String,
    #[serde(default)]
    agent_id: Option<String>,
    pub message: String,
    #[serde(default)]
    pub label: Option<String>,
}

/// `agent`
#[allow(clippy::struct_field_names)]
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "delivery is about channels, of which there are none")]
pub struct Agent {
    pub message: String,
    #[serde(default)]
    pub(crate) attachments: Vec<Attachment>,
    #[serde(default)]
    pub agent_id: Option<String>,
    #[serde(default)]
    pub session_key: Option<String>,
    #[serde(default)]
    pub session_id: Option<String>,
    #[serde(default)]
    pub thinking: Option<String>,
    #[serde(default)]
    pub extra_system_prompt: Option<String>,
    #[serde(default)]
    deliver: Option<bool>,
    #[serde(default)]
    best_effort_deliver: Option<bool>,
    #[serde(default)]
    lane: Option<String>,
    #[serde(default)]
    channel: Option<String>,
    #[serde(default)]
    reply_channel: Option<String>,
    #[serde(default)]
    cleanup_bundle_mcp_on_run_end: Option<bool>,
    /// Seconds; 0 for no end.
    #[serde(default)]
    pub timeout: Option<u64>,
    pub idempotency_key: String,
}

/// `agent.wait`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Wait {
    pub run_id: String,
    #[serde(default)]
    pub timeout_ms: Option<u64>,
}

/// `agents.files.get` and `.set`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct File {
    pub agent_id: String,
    pub name: String,
    #[serde(default)]
    pub content: Option<String>,
}

/// `agents.files.list`, `agent.identity.get` and others about an agent.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OfAgent {
    #[serde(default)]
    pub agent_id: Option<String>,
}

/// `sessions.list`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct List {
    #[serde(default)]
    pub limit: Option<u32>,
    #[serde(default)]
    pub offset: Option<u32>,
    #[serde(default)]
    pub search: Option<String>,
    #[serde(default)]
    pub label: Option<String>,
    #[serde(default)]
    pub agent_id: Option<String>,
    /// `true`, `false` or `"all"`.
    #[serde(default)]
    pub archived: Option<Value>,
}

/// A session by its key: `sessions.describe` and others.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Keyed {
    pub key: String,
}

/// `sessions.reset`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "there is one agent, and both reasons give a new transcript")]
pub struct Reset {
    pub key: String,
    #[serde(default)]
    agent_id: Option<String>,
    #[serde(default)]
    reason: Option<String>,
}

/// `sessions.compact`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Compact {
    pub key: String,
    #[serde(default)]
    pub agent_id: Option<String>,
    #[serde(default)]
    pub max_lines: Option<u64>,
}

/// `sessions.delete`
#[allow(clippy::struct_field_names)]
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "there is one agent, and there are no hooks")]
pub struct Delete {
    pub key: String,
    #[serde(default)]
    agent_id: Option<String>,
    #[serde(default)]
    pub delete_transcript: Option<bool>,
    #[serde(default)]
    pub expected_session_id: Option<String>,
    #[serde(default)]
    pub archived_only: Option<bool>,
    #[serde(default)]
    pub emit_lifecycle_hooks: Option<bool>,
}

/// `sessions.create`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Create {
    #[serde(default)]
    pub key: Option<String>,
    #[serde(default)]
    pub agent_id: Option<String>,
    #[serde(default)]
    pub label: Option<String>,
    #[serde(default)]
    pub model: Option<String>,
    #[serde(default)]
    pub thinking_level: Option<String>,
    #[serde(default)]
    pub message: Option<String>,
    #[serde(default)]
    pub idempotency_key: Option<String>,
}

/// `sessions.patch`: what is null is cleared, what is not there stays.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "there is one agent")]
#[allow(clippy::option_option)]
pub struct Patch {
    pub key: String,
    #[serde(default)]
    agent_id: Option<String>,
    #[serde(default)]
    pub expected_session_id: Option<String>,
    #[serde(default, deserialize_with = "given")]
    pub label: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    pub model: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    pub thinking_level: Option<Option<String>>,
    #[serde(default)]
    pub archived: Option<bool>,
    #[serde(default)]
    pub pinned: Option<bool>,
}

#[allow(clippy::option_option)]
fn given<'de, D, T>(from: D) -> Result<Option<Option<T>>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(from).map(Some)
}

/// `sessions.send`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionSend {
    pub key: String,
    pub message: String,
    #[serde(default)]
    pub agent_id: Option<String>,
    #[serde(default)]
    pub thinking: Option<String>,
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    #[serde(default)]
    pub idempotency_key: Option<String>,
}

/// `sessions.abort`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "there is one agent")]
pub struct SessionAbort {
    #[serde(default)]
    pub key: Option<String>,
    #[serde(default)]
    pub run_id: Option<String>,
    #[serde(default)]
    agent_id: Option<String>,
}

/// `tools.invoke`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "there is one agent, and a tool belongs to no session")]
pub struct Invoke {
    pub name: String,
    #[serde(default)]
    pub args: Option<Value>,
    #[serde(default)]
    session_key: Option<String>,
    #[serde(default)]
    agent_id: Option<String>,
    #[serde(default)]
    idempotency_key: Option<String>,
}
