//! `memory_search`: words in past conversations.

use super::{About, Bench, Output, now};
use serde::Deserialize;

pub(super) const TOOLS: [About; 1] = [About {
    name: "memory_search",
    group: "memory",
    label: "Search past conversations",
    description: "Find words in past conversations.",
    parameters: r#"{"type":"object","properties":{"query":{"type":"string"},"maxResults":{"type":"integer"}},"required":["query"]}"#,
    parallel: true,
    run: |bench, arguments| now(bench, arguments, search),
}];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Search {
    query: String,
    #[serde(default)]
    max_results: Option<u32>,
}

fn search(bench: &Bench<'_>, asked: &Search) -> Output {
    let limit = asked.max_results.unwrap_or(8).clamp(1, 50);
    match bench.gateway.store.search(&asked.query, limit) {
        Ok(found) if found.is_empty() => Output::ok("nothing was found"),
        Ok(found) => {
            let lines: Vec<String> =
                found.iter().map(|(session, seq, text)| format!("{session}#{seq}: {text}")).collect();
            Output::ok(lines.join("\n"))
        }
        Err(error) => Output::error(error.to_string()),
    }
}
