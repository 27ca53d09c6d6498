//! `ask_user`: a question to whoever is there.

use super::{About, Bench, Output, later};
use crate::{
    AGENT,
    gateway::Outcome,
    protocol::questions::{Asked, Choice, Question},
};
use serde::Deserialize;

pub(super) const TOOLS: [About; 1] = [About {
    name: "ask_user",
    group: "sessions",
    label: "Ask the user",
    description: "Ask the user, with up to 4 options, and wait for the answer.",
    parameters: r#"{"type":"object","properties":{"question":{"type":"string"},"options":{"type":"array","items":{"type":"string"}},"timeoutSeconds":{"type":"integer"}},"required":["question"]}"#,
    parallel: false,
    run: |bench, arguments| later(arguments, async |asked| ask(bench, asked).await),
}];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Ask {
    question: String,
    #[serde(default)]
    options: Vec<String>,
    #[serde(default)]
    timeout_seconds: Option<u64>,
}

/// Takes its question back when nobody waits for the answer any more.
struct Waiting<'a>(&'a Bench<'a>, String);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // One that was answered stays so.
        let _ = self.0.gateway.answer(&self.1, Outcome::Cancelled);
    }
}

async fn ask(bench: &Bench<'_>, asked: Ask) -> Output {
    let options = asked.options.into_iter().map(|label| Choice { label, description: None }).collect();
    let question = Question {
        id: "q".to_owned(),
        header: "Question".to_owned(),
        text: asked.question,
        options,
        multi_select: false,
        is_other: true,
    };
    let asked = Asked {
        id: None,
        questions: vec![question],
        agent_id: Some(AGENT.to_owned()),
        session_key: bench.run.map(|run| run.session_key.clone()),
        run_id: bench.run.map(|run| run.id.clone()),
        timeout_ms: asked.timeout_seconds.map(|seconds| seconds.saturating_mul(1000)),
    };
    let begun = asked.check().and_then(|()| bench.gateway.pose(asked));
    let (id, _) = match begun {
        Ok(begun) => begun,
        Err(fault) => return Output::error(fault.message),
    };
    let waiting = Waiting(bench, id);
    let outcome = bench.gateway.answered_to(&waiting.1).await;
    match outcome {
        Some(Outcome::Answered(answers)) => {
            Output::ok(answers.said().map(String::as_str).collect::<Vec<_>>().join("\n"))
        }
        Some(Outcome::Cancelled) => Output::error("the user did not want to answer"),
        Some(Outcome::Expired) | None => Output::error("nobody answered in time"),
    }
}
