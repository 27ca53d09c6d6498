//! `agents.*`, `agent.identity.get` and `tools.*`: the one agent of a gateway, its files and its tools.

use super::{Answer, chat::is_ours};
use crate::{
    AGENT,
    config::Profile,
    gateway::Gateway,
    protocol::{
        Fault,
        params::{self, File, Invoke, OfAgent},
    },
    tools::{self, Bench, Output},
    turn::context,
};
use serde_json::{Value, json, value::RawValue};
use std::{io, path::Path, sync::Arc, time::UNIX_EPOCH};

/// The longest file that a client may read or write here.
const LONGEST: usize = 1024 * 1024;
/// What `tools.invoke` runs for no client: whoever writes files, runs commands or makes jobs asks the agent.
const NOT_INVOKED: [&str; 11] = [
    "exec",
    "process",
    "write",
    "edit",
    "apply_patch",
    "cron",
    "ask_user",
    "message",
    "sessions_send",
    "sessions_spawn",
    "subagents",
];

pub(super) fn list(gateway: &Arc<Gateway>) -> Value {
    json!({
        "defaultId": AGENT, "mainKey": "main", "scope": "per-sender", "ownership": "sole", "selectionRequired": false,
        "agents": [{
            "id": AGENT, "kind": "agent", "workspace": gateway.workspace.display().to_string(),
            "model": { "primary": "cofferdam/default" },
        }],
    })
}

pub(super) fn identity(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Result<Value, Fault> {
    let asked: OfAgent = params::read("agent.identity.get", params)?;
    is_ours(asked.agent_id.as_deref())?;
    // None, or one that cannot be read, names nobody.
    let path = gateway.workspace.join("IDENTITY.md");
    let text = gateway.apart(|| tools::text_within(&path, LONGEST as u64)).flatten().unwrap_or_default();
    let name = text.lines().find_map(|line| line.trim_start_matches(['-', '*', ' ']).strip_prefix("Name:"));
    Ok(match name.map(|name| name.trim_matches(['*', ' '])).filter(|name| !name.is_empty()) {
        Some(name) => json!({ "agentId": AGENT, "name": name, "nameSource": "workspace" }),
        None => json!({ "agentId": AGENT, "name": "Agent", "nameSource": "default" }),
    })
}

/// A file as clients read it, with its text if that is wanted.
fn described(path: &Path, name: &str, content: bool) -> io::Result<Value> {
    let mut file = json!({ "name": name, "path": path.display().to_string(), "missing": true });
    let meta = match tools::open(path) {
        Ok((_, meta)) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(file),
        Err(error) => return Err(error),
    };
    let changed = meta.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let changed = changed.and_then(|since| u64::try_from(since.as_millis()).ok());
    (file["missing"], file["size"], file["updatedAtMs"]) =
        (false.into(), meta.len().into(), changed.unwrap_or(0).into());
    if content {
        file["content"] = tools::text_within(path, LONGEST as u64)?.into();
    }
    Ok(file)
}

fn unread(error: io::Error) -> Fault {
    Fault::unavailable(format!("the file cannot be read: {error}"))
}

pub(super) fn files(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Result<Value, Fault> {
    let asked: OfAgent = params::read("agents.files.list", params)?;
    is_ours(asked.agent_id.as_deref())?;
    let names = || context::FILES.iter().map(|(name, _)| *name).chain([context::HEARTBEAT]);
    let one = |name| described(&gateway.workspace.join(name), name, false);
    let all = || names().map(one).collect::<io::Result<Vec<_>>>();
    let files = gateway.apart(all).flatten().map_err(unread)?;
    Ok(json!({ "agentId": AGENT, "workspace": gateway.workspace.display().to_string(), "files": files }))
}

fn wanted(gateway: &Gateway, asked: &File) -> Result<std::path::PathBuf, Fault> {
    is_ours(Some(&asked.agent_id))?;
    context::file(&gateway.workspace, &asked.name)
        .ok_or_else(|| Fault::invalid(format!("{:?} is no file of an agent", asked.name)))
}

fn shown(gateway: &Gateway, file: Value) -> Value {
    json!({ "agentId": AGENT, "workspace": gateway.workspace.display().to_string(), "file": file })
}

pub(super) fn file(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Result<Value, Fault> {
    let asked: File = params::read("agents.files.get", params)?;
    let path = wanted(gateway, &asked)?;
    let file = gateway.apart(|| described(&path, &asked.name, true)).flatten();
    Ok(shown(gateway, file.map_err(unread)?))
}

pub(super) fn set_file(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Result<Value, Fault> {
    let asked: File = params::read("agents.files.set", params)?;
    let path = wanted(gateway, &asked)?;
    let missing = || Fault::invalid("invalid agents.files.set params: missing field `content`");
    let content = asked.content.as_deref().ok_or_else(missing)?;
    if content.len() > LONGEST {
        return Err(Fault::invalid(format!("`content` is longer than {LONGEST} bytes")));
    }
    // Through a link that a command laid this reaches no more than a command does.
    gateway
        .apart(|| tools::replace(&path, content))
        .flatten()
        .map_err(|error| Fault::unavailable(format!("the file cannot be written: {error}")))?;
    let file = gateway.apart(|| described(&path, &asked.name, true)).flatten();
    let mut answer = shown(gateway, file.map_err(unread)?);
    answer["ok"] = true.into();
    Ok(answer)
}

pub(super) fn catalog(gateway: &Gateway) -> Value {
    let mut groups: Vec<Value> = Vec::new();
    for about in tools::present(&gateway.config()) {
        let tool = json!({
            "id": about.name, "label": about.label, "description": about.description, "source": "core",
            "defaultProfiles": tools::profiles(about),
        });
        match groups.iter_mut().find(|group| group["id"] == about.group) {
            Some(group) => {
                if let Some(tools) = group["tools"].as_array_mut() {
                    tools.push(tool);
                }
            }
            None => groups.push(json!({
                "id": about.group, "label": about.group, "source": "core", "tools": [tool],
            })),
        }
    }
    let profiles = Profile::ALL.map(|profile| {
        let label = profile.name();
        json!({ "id": label, "label": format!("{}{}", label[..1].to_uppercase(), &label[1..]) })
    });
    json!({ "agentId": AGENT, "profiles": profiles, "groups": groups })
}

pub(super) fn invoke(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Answer {
    let asked: Invoke = match params::read("tools.invoke", params) {
        Ok(asked) => asked,
        Err(fault) => return Answer::Now(Err(fault)),
    };
    let gateway = Arc::clone(gateway);
    Answer::Later(Box::pin(async move {
        let name = asked.name;
        let Some(output) = run_tool(&gateway, &name, asked.args).await else {
            let error = json!({ "code": "not_found", "message": format!("{name:?} is no tool that a client may run") });
            return Ok(json!({ "ok": false, "toolName": name, "error": error }));
        };
        let mut answer = json!({ "ok": !output.is_error, "toolName": name, "source": "core" });
        if output.is_error {
            answer["error"] = json!({ "code": "failed", "message": output.text });
        } else {
            answer["output"] = json!({ "text": output.text, "details": output.details });
        }
        Ok(answer)
    }))
}

/// Runs a tool for a client; none if it is none that a client may run.
pub(crate) async fn run_tool(gateway: &Arc<Gateway>, name: &str, args: Option<Value>) -> Option<Output> {
    let permitted = |about: &tools::About| tools::permits(&gateway.config().tools, about.name, about.group);
    if NOT_INVOKED.contains(&name) || !tools::named(name).is_some_and(permitted) {
        return None;
    }
    let arguments = args.unwrap_or_else(|| json!({})).to_string();
    Some(Bench { gateway, run: None, call: "" }.run(name, &arguments).await)
}
