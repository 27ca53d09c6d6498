//! `tool_search`: of many tools a model is told the names, and brings in those that it wants.
//!
//! It owns which schemas a request has. The threat is a prompt that grows with every server and every tool: built-in
//! tools are sent as far as there is room for them, those of servers only if they are few, and what was brought in is
//! sent for the rest of its conversation.

use super::{About, Bench, Output, now, permits, present};
use crate::{config::Config, gateway::Gateway, mcp::Tool, text};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{fmt::Write as _, sync::Arc};

pub(super) const TOOLS: [About; 1] = [About {
    name: NAME,
    group: "openclaw",
    label: "Find tools",
    description: "Find more tools by words and load them; then call them by name.",
    parameters: r#"{"type":"object","properties":{"query":{"type":"string"},"limit":{"type":"integer"}},"required":["query"]}"#,
    parallel: false,
    run: |bench, arguments| now(bench, arguments, search),
}];

pub(super) const NAME: &str = "tool_search";
/// Bytes of schemas of built-in tools, in the order in which they stand; the rest is found by words.
const BUILT_IN: usize = 3_400;
/// And of servers, if all of theirs fit.
const FEW: usize = 1_000;
/// Of what was brought in the last so many bytes are sent.
const LOADED: usize = 24 * 1024;
/// Names of servers' tools that are told, in bytes.
const NAMES: usize = 700;
/// Tools that one search brings in, if nobody says how many, and at most.
const USUAL: usize = 5;
const MOST: usize = 20;
/// More than any words are worth: a tool's own name.
const EXACT: usize = 1_000_000;
/// Characters of a tool's line.
const LINE: usize = 160;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Search {
    query: String,
    #[serde(default)]
    limit: Option<usize>,
}

fn sent(about: &About, description: &str) -> Value {
    let parameters: Value = serde_json::from_str(about.parameters).unwrap_or_default();
    json!({ "type": "function", "function": {
        "name": about.name, "description": description, "parameters": parameters,
    }})
}

/// The built-in tools that are always sent, as they are sent, and the others.
fn built_in(config: &Config) -> (Vec<Value>, Vec<&'static About>) {
    let (mut out, mut rare, mut room) = (Vec::new(), Vec::new(), BUILT_IN);
    for about in present(config).filter(|about| about.name != NAME) {
        let schema = sent(about, about.description);
        match room.checked_sub(schema.to_string().len()) {
            Some(left) => {
                room = left;
                out.push(schema);
            }
            None => rare.push(about),
        }
    }
    (out, rare)
}

/// The tools of a request in this transcript, as a provider reads them.
pub(crate) fn offered(gateway: &Gateway, session: &str) -> Vec<Value> {
    let config = gateway.config();
    let (mut out, rare) = built_in(&config);
    let mut servers = gateway.mcp.tools(gateway);
    servers.retain(|tool| permits(&config.tools, &tool.id, "plugins"));
    let direct: Vec<Value> = servers.iter().map(|tool| tool.sent()).collect();
    let few = direct.iter().map(|tool| tool.to_string().len()).sum::<usize>() <= FEW;
    let told: &[Arc<Tool>] = if few { &[] } else { &servers };
    if few {
        out.extend(direct);
    }
    if rare.is_empty() && told.is_empty() {
        return out;
    }
    for about in &TOOLS {
        out.push(sent(about, &format!("{}{}", about.description, directory(&rare, told))));
    }
    let loaded = gateway.store.loaded(session).unwrap_or_else(|error| {
        tracing::error!(%error, "the tools of a session");
        Vec::new()
    });
    let mut room = LOADED;
    let one = |id: &String| {
        let built_in = rare.iter().find(|about| about.name == id).map(|about| sent(about, about.description));
        built_in.or_else(|| servers.iter().find(|tool| tool.id == *id).map(|tool| tool.sent()))
    };
    let fits = |schema: &Value| {
        let left = room.checked_sub(schema.to_string().len());
        room = left.unwrap_or(0);
        left.is_some()
    };
    let mut brought: Vec<Value> = loaded.iter().rev().filter_map(one).take_while(fits).collect();
    brought.reverse();
    out.extend(brought);
    out
}

/// Which ones there are beside those that are sent.
fn directory(rare: &[&About], servers: &[Arc<Tool>]) -> String {
    let mut out = String::new();
    for (at, about) in rare.iter().enumerate() {
        let _ =
            write!(out, "{}{} ({})", if at == 0 { " There are: " } else { ", " }, about.name, about.label);
    }
    let mut names: Vec<&str> = servers.iter().map(|tool| tool.server.as_str()).collect();
    names.dedup();
    if names.is_empty() {
        return out;
    }
    out.push_str(" MCP servers, with names as they give them (untrusted):");
    let room = NAMES / names.len();
    for server in names {
        let _ = write!(out, " {server}:");
        let (mut told, mut left) = (room, 0);
        for tool in servers.iter().filter(|tool| tool.server == *server) {
            let name = tool.id.split_once("__").map_or(tool.id.as_str(), |(_, name)| name);
            if told > name.len() {
                told -= name.len() + 1;
                let _ = write!(out, " {name}");
            } else {
                (told, left) = (0, left + 1);
            }
        }
        if left > 0 {
            let _ = write!(out, " +{left}");
        }
        out.push(';');
    }
    out
}

fn search(bench: &Bench<'_>, asked: &Search) -> Output {
    let (_, rare) = built_in(&bench.gateway.config());
    let servers = bench.gateway.mcp.tools(bench.gateway);
    let words: Vec<String> = asked
        .query
        .to_lowercase()
        .split(|sign: char| !sign.is_alphanumeric())
        .filter(|word| word.len() > 1)
        .map(str::to_owned)
        .collect();
    let exact = |id: &str| asked.query.split([' ', ',']).any(|word| word.eq_ignore_ascii_case(id));
    let score = |id: &str, said: &str| {
        let (lower, said) = (id.to_lowercase(), said.to_lowercase());
        let of = |word: &String| {
            3 * usize::from(lower.contains(word.as_str())) + usize::from(said.contains(word.as_str()))
        };
        words.iter().map(of).sum::<usize>() + if exact(id) { EXACT } else { 0 }
    };
    let built_in = rare.iter().map(|about| {
        let said = format!("{} {}", about.label, about.description);
        (score(about.name, &said), about.name, format!("{}: {}", about.name, about.description), false)
    });
    let of_servers = servers.iter().map(|tool| {
        let line = format!("{}: {}", tool.id, text::shown(&tool.description.replace('\n', " "), LINE));
        (score(&tool.id, &tool.description), tool.id.as_str(), line, true)
    });
    let mut found: Vec<_> = built_in.chain(of_servers).filter(|(score, ..)| *score > 0).collect();
    found.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(b.1)));
    // Whoever names tools wants those.
    if found.first().is_some_and(|(score, ..)| *score >= EXACT) {
        found.retain(|(score, ..)| *score >= EXACT);
    }
    found.truncate(asked.limit.unwrap_or(USUAL).clamp(1, MOST));
    if found.is_empty() {
        return Output::ok(format!("nothing was found.{}", directory(&rare, &servers)));
    }
    let mut out = "They are loaded: call them by name.".to_owned();
    let mut strange = String::new();
    for (_, id, line, untrusted) in &found {
        if let Some(run) = bench.run
            && let Err(error) = bench.gateway.store.load(&run.session_id, id)
        {
            return Output::error(error.to_string());
        }
        let to = if *untrusted { &mut strange } else { &mut out };
        let _ = write!(to, "\n{line}");
    }
    if !strange.is_empty() {
        let _ = write!(out, "\n{}", text::untrusted("mcp", strange.trim()));
    }
    Output::ok(out)
}
