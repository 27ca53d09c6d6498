//! The MCP client: servers that are configured, started when a turn first wants them, and their tools.
//!
//! It owns their lives and what of their tools may be called. The threats are those of any stranger: what a server says
//! is bounded and marked, what it asks is refused, one that dies is not started for ever, and a tool that becomes
//! another one waits for a person. The tools of the first list are taken as they are, because whoever configures the
//! server has just decided to trust it, and every call of a tool over the network is the warden's to judge.

mod client;
mod http;
mod server;
mod stdio;
mod tool;
mod wire;

pub(crate) use tool::Tool;

use crate::{
    gateway::{Decision, Gateway},
    store, text,
    tools::{Output, cut},
};
use serde_json::{Value, json};
use server::Server;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// How long a turn waits for servers that begin; they go on beginning behind it.
const BEGINNING: Duration = Duration::from_secs(10);
/// Tools of all servers.
const TOOLS: usize = 512;

/// All servers.
#[derive(Debug, Default)]
pub(crate) struct Servers(Mutex<BTreeMap<String, Arc<Server>>>);

impl Servers {
    /// Those that are configured now. One that is not any more, or otherwise, ends.
    fn all(&self, gateway: &Gateway) -> Vec<Arc<Server>> {
        let config = gateway.config();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|name, server| {
            let is = config.mcp.enabled().any(|(known, now)| known == name && *now == server.config);
            if !is {
                server.leave(gateway);
            }
            is
        });
        for (name, server) in config.mcp.enabled() {
            all.entry(name.clone()).or_insert_with(|| Arc::new(Server::new(name, server)));
        }
        all.values().map(Arc::clone).collect()
    }

    /// The tools that may be called now. Two of one name are none: nobody could tell which is meant.
    pub(crate) fn tools(&self, gateway: &Gateway) -> Vec<Arc<Tool>> {
        let mut found: Vec<Arc<Tool>> = self.all(gateway).iter().flat_map(|server| server.tools()).collect();
        let twice = twice(&found);
        found.retain(|tool| !twice.contains(&tool.id.to_lowercase()));
        found.truncate(TOOLS);
        found
    }

    fn server(&self, gateway: &Gateway, name: &str) -> Option<Arc<Server>> {
        self.all(gateway).into_iter().find(|server| server.name == name)
    }

    /// A question that was asked of a person has its end.
    pub(crate) fn ended(
        &self,
        gateway: &Gateway,
        question: &str,
        decision: Option<Decision>,
    ) -> Result<(), store::Error> {
        let all: Vec<_> =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).values().map(Arc::clone).collect();
        for server in all {
            if server.ended(gateway, question, decision)? {
                break;
            }
        }
        Ok(())
    }

    /// What a person is told of them.
    pub(crate) fn told(&self, gateway: &Gateway) -> String {
        let all = self.all(gateway);
        if all.is_empty() {
            return "No MCP server is configured.".to_owned();
        }
        let mut out = String::new();
        for server in all {
            let _ = write!(out, "{}: {}", server.name, server.told());
            let twice = twice(&server.tools());
            if !twice.is_empty() {
                let names: Vec<String> = twice.into_iter().collect();
                let _ = write!(out, "; of those some share a name and are not offered: {}", names.join(", "));
            }
            out.push('\n');
        }
        out
    }
}

/// Names that more than one tool has.
fn twice(tools: &[Arc<Tool>]) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    tools.iter().map(|tool| tool.id.to_lowercase()).filter(|id| !seen.insert(id.clone())).collect()
}

/// Sees to it that the servers are there and their tools known, before a turn begins; waits a while at most, and for one
/// that let a turn wait in vain not again for some minutes, unless it is there in time before.
pub(crate) async fn ready(gateway: &Arc<Gateway>) {
    let begin = |server: Arc<Server>| {
        let (gateway, begun) = (Arc::clone(gateway), Arc::clone(&server));
        // Whoever does not wait to the end does not end it.
        let task = tokio::spawn(async move {
            if let Err(why) = begun.ready(&gateway).await {
                tracing::warn!(server = begun.name, why, "an MCP server is not there");
            }
        });
        (server, task)
    };
    let all = gateway.mcp.all(gateway).into_iter().map(begin);
    let mut awaited: Vec<_> = all.filter(|(server, _)| !server.is_late()).collect();
    let tasks = futures_util::future::join_all(awaited.iter_mut().map(|(_, task)| task));
    if tokio::time::timeout(BEGINNING, tasks).await.is_err() {
        awaited.iter().filter(|(_, task)| !task.is_finished()).for_each(|(server, _)| server.was_late());
    }
}

/// Calls a tool by the name that models know; none if that is none of a server.
pub(crate) async fn call(gateway: &Arc<Gateway>, id: &str, arguments: &str) -> Option<Output> {
    let (name, _) = id.split_once("__")?;
    let server = gateway.mcp.server(gateway, name)?;
    let Some(tool) = gateway.mcp.tools(gateway).into_iter().find(|tool| tool.id == id) else {
        return Some(Output::error(if server.waits(id) {
            format!("{id} is not what it was when it was accepted: it waits until a person accepts it")
        } else {
            format!("the MCP server {name} has no tool {id}: {}", server.told())
        }));
    };
    let asked: Value = match serde_json::from_str(if arguments.trim().is_empty() { "{}" } else { arguments })
    {
        Ok(asked @ Value::Object(_)) => asked,
        _ => return Some(Output::error(format!("the arguments of {id} are no JSON object"))),
    };
    let details = json!({ "mcpServer": name, "mcpTool": tool.name, "untrusted": true });
    Some(match server.call(gateway, &tool, asked).await {
        Ok(said) => {
            let shown = text::untrusted(&format!("mcp:{name}"), &cut(content(&said)));
            Output { text: shown, is_error: said["isError"] == true, details }
        }
        Err(why) => {
            let why = text::untrusted(&format!("mcp:{name}"), &why);
            Output { text: format!("{id} was not done:\n{why}"), is_error: true, details }
        }
    })
}

/// What a tool said, as text.
fn content(said: &Value) -> String {
    let blocks = said["content"].as_array().map(Vec::as_slice).unwrap_or_default();
    let one = |block: &Value| {
        let field = |name: &str| block[name].as_str().unwrap_or_default();
        match field("type") {
            "text" => text::shown(field("text"), usize::MAX),
            "resource" if block["resource"]["text"].is_string() => {
                text::shown(block["resource"]["text"].as_str().unwrap_or_default(), usize::MAX)
            }
            "resource_link" => format!("[a link: {}]", text::shown(field("uri"), 500)),
            kind => format!("[{}: not shown]", text::shown(kind, 40)),
        }
    };
    let text = blocks.iter().map(one).collect::<Vec<_>>().join("\n");
    match &said["structuredContent"] {
        Value::Null => text,
        structured if text.is_empty() => structured.to_string(),
        _ => text,
    }
}

#[cfg(test)]
mod tests;
