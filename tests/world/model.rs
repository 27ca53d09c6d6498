//! A scripted model provider: OpenAI's chat completions, streaming and not, one scripted turn a request.

use super::http::{Reply, Request, Server};
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

/// What the model says next.
#[derive(Clone, Debug)]
pub enum Turn {
    /// A text.
    Text(String),
    /// A call of the tool `exec` with these arguments.
    Exec(Value),
    /// A call of this tool with these arguments.
    Call(&'static str, Value),
    /// A failure with this HTTP status.
    Fail(u16),
}

/// The provider. Without a scripted turn it says "done".
pub struct Model {
    server: Server,
    turns: Arc<Mutex<VecDeque<Turn>>>,
}

/// Tokens that every answer claims to have used: prompt and completion.
pub const USAGE: (u64, u64) = (11, 7);

impl Model {
    /// Listens at these addresses of this thread's namespace.
    pub fn start(addresses: &[SocketAddr]) -> Self {
        let turns = Arc::new(Mutex::new(VecDeque::new()));
        let script = turns.clone();
        Self { server: Server::start(addresses, move |request| answer(request, &script)), turns }
    }

    /// Adds a turn to the script.
    pub fn say(&self, turn: Turn) {
        self.turns.lock().unwrap().push_back(turn);
    }

    /// Every request so far, with its `authorization` header among the others.
    pub fn requests(&self) -> Vec<Request> {
        self.server.requests()
    }

    /// The `authorization` headers so far, in order; none for a request without.
    pub fn authorizations(&self) -> Vec<Option<String>> {
        self.requests().iter().map(|request| request.header("authorization").map(String::from)).collect()
    }
}

fn answer(request: &Request, turns: &Mutex<VecDeque<Turn>>) -> Reply {
    match (request.method.as_str(), request.route()) {
        ("GET", "/v1/models") => {
            Reply::json(200, &json!({"object": "list", "data": [{"id": "scripted", "object": "model"}]}))
        }
        ("POST", "/v1/chat/completions") => match serde_json::from_slice::<Value>(&request.body) {
            Ok(body) => {
                let turn = turns.lock().unwrap().pop_front().unwrap_or_else(|| Turn::Text("done".into()));
                complete(&body, &turn)
            }
            Err(_) => Reply::json(400, &json!({"error": {"message": "not JSON"}})),
        },
        _ => Reply::json(404, &json!({"error": {"message": "no such endpoint"}})),
    }
}

fn complete(body: &Value, turn: &Turn) -> Reply {
    let call = |name: &str, arguments: &Value| {
        json!([{"index": 0, "id": "call_1", "type": "function",
                "function": {"name": name, "arguments": arguments.to_string()}}])
    };
    let (mut message, reason) = match turn {
        Turn::Fail(status) => {
            return Reply::json(*status, &json!({"error": {"message": "scripted failure"}}));
        }
        Turn::Text(text) => (json!({"content": text}), "stop"),
        Turn::Exec(arguments) => {
            (json!({"content": null, "tool_calls": call("exec", arguments)}), "tool_calls")
        }
        Turn::Call(name, arguments) => {
            (json!({"content": null, "tool_calls": call(name, arguments)}), "tool_calls")
        }
    };
    message["role"] = "assistant".into();
    let usage =
        json!({"prompt_tokens": USAGE.0, "completion_tokens": USAGE.1, "total_tokens": USAGE.0 + USAGE.1});
    let streaming = body["stream"] == true;
    let object = if streaming { "chat.completion.chunk" } else { "chat.completion" };
    let base = json!({"id": "chatcmpl-1", "object": object, "created": 1, "model": body["model"]});
    let with = |choices: Value, usage: Option<&Value>| {
        let mut document = base.clone();
        document["choices"] = choices;
        if let Some(usage) = usage {
            document["usage"] = usage.clone();
        }
        document
    };
    if !streaming {
        let choice = json!([{"index": 0, "message": message, "finish_reason": reason}]);
        return Reply::json(200, &with(choice, Some(&usage)));
    }
    let event = |document: &Value| format!("data: {document}\n\n").into_bytes();
    let delta = json!([{"index": 0, "delta": message, "finish_reason": null}]);
    let end = json!([{"index": 0, "delta": {}, "finish_reason": reason}]);
    let mut parts = vec![event(&with(delta, None)), event(&with(end, None))];
    if body["stream_options"]["include_usage"] == true {
        parts.push(event(&with(json!([]), Some(&usage))));
    }
    parts.push(b"data: [DONE]\n\n".to_vec());
    Reply { status: 200, headers: vec![("content-type".into(), "text/event-stream".into())], parts }
}
