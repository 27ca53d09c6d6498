//! `sessions_spawn` and `subagents`: work that is given away, and what became of it.

use super::{About, Bench, Output, now};
use crate::{commands::LEVELS, gateway::Task};
use serde::Deserialize;
use serde_json::json;

pub(super) const TOOLS: [About; 2] = [
    About {
        name: "sessions_spawn",
        group: "sessions",
        label: "Give a task away",
        description: "Give a task to a sub-agent. It sees the task alone; its result comes later as a message. Do not poll.",
        parameters: r#"{"type":"object","properties":{"task":{"type":"string"},"label":{"type":"string"},"model":{"type":"string"},"thinking":{"type":"string"},"runTimeoutSeconds":{"type":"integer"},"cleanup":{"enum":["delete","keep"]}},"required":["task"]}"#,
        parallel: false,
        run: |bench, arguments| now(bench, arguments, spawn),
    },
    About {
        name: "subagents",
        group: "sessions",
        label: "List or stop sub-agents",
        description: "List sub-agents that run, or cancel one.",
        parameters: r#"{"type":"object","properties":{"action":{"enum":["list","cancel"]},"taskId":{"type":"string"}},"required":["action"]}"#,
        parallel: false,
        run: |bench, arguments| now(bench, arguments, subagents),
    },
];

/// A client has no run of which it would be a part.
const ALONE: &str = "only a run has sub-agents";
/// The longest name, in characters.
const LABEL: usize = 120;

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Cleanup {
    Delete,
    Keep,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spawn {
    task: String,
    #[serde(default)]
    label: Option<String>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    thinking: Option<String>,
    #[serde(default)]
    run_timeout_seconds: Option<u64>,
    #[serde(default)]
    cleanup: Option<Cleanup>,
}

fn spawn(bench: &Bench<'_>, asked: &Spawn) -> Output {
    let Some(run) = bench.run else { return Output::error(ALONE) };
    let no = |why: String| Output::error(json!({ "status": "forbidden", "error": why }).to_string());
    if asked.task.trim().is_empty() {
        return no("the task is empty".to_owned());
    }
    if let Some(level) = asked.thinking.as_deref().filter(|level| !LEVELS.contains(level)) {
        return no(format!("thinking {level:?} is none of {}", LEVELS.join(", ")));
    }
    let label = asked.label.as_deref().map(|label| label.trim().chars().take(LABEL).collect::<String>());
    let task = Task {
        text: asked.task.clone(),
        label: label.filter(|label| !label.is_empty()),
        model: asked.model.clone(),
        thinking: asked.thinking.clone(),
        timeout_seconds: asked.run_timeout_seconds,
        remove: matches!(asked.cleanup, Some(Cleanup::Delete)),
    };
    match bench.gateway.spawn(run, task) {
        Ok(child) => Output::ok(
            json!({ "status": "accepted", "childSessionKey": child.key, "runId": child.run }).to_string(),
        ),
        Err(why) => no(why),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    List,
    Cancel,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Subagents {
    action: Action,
    #[serde(default)]
    task_id: Option<String>,
}

fn subagents(bench: &Bench<'_>, asked: &Subagents) -> Output {
    let Some(run) = bench.run else { return Output::error(ALONE) };
    let children = match bench.gateway.store.children(&run.session_key) {
        Ok(children) => children,
        Err(error) => return Output::error(error.to_string()),
    };
    match (&asked.action, &asked.task_id) {
        (Action::List, _) if children.is_empty() => Output::ok("no sub-agent runs"),
        (Action::List, _) => {
            let now = bench.gateway.now();
            let one = |child: &crate::store::Child| {
                let seconds = now.saturating_sub(child.at) / 1000;
                format!("{} runs for {seconds} s, {}: {:?}", child.run, child.key, child.task)
            };
            Output::ok(children.iter().map(one).collect::<Vec<_>>().join("\n"))
        }
        (Action::Cancel, Some(id)) => {
            match children.iter().find(|child| child.run == *id || child.key == *id) {
                Some(child) => {
                    bench.gateway.stop_child(child);
                    Output::ok("stopped")
                }
                None => Output::error(format!("no sub-agent {id:?} runs here: list them")),
            }
        }
        (Action::Cancel, None) => Output::error("say which: taskId"),
    }
}
