//! `memory_search` and `memory_get`: what was said in past conversations, and what the agent wrote down.

use super::{About, Bench, Output, cut, files::text_within, now, on_files};
use serde::Deserialize;
use std::{
    fs,
    path::{Component, Path, PathBuf},
};

pub(super) const TOOLS: [About; 2] = [
    About {
        name: "memory_search",
        group: "memory",
        label: "Search memory",
        description: "Find words in MEMORY.md, memory/*.md and past conversations.",
        parameters: r#"{"type":"object","properties":{"query":{"type":"string"},"maxResults":{"type":"integer"}},"required":["query"]}"#,
        parallel: true,
        run: |bench, arguments| now(bench, arguments, search),
    },
    About {
        name: "memory_get",
        group: "memory",
        label: "Read memory",
        description: "Read lines of MEMORY.md or memory/*.md.",
        parameters: r#"{"type":"object","properties":{"path":{"type":"string"},"from":{"type":"integer"},"lines":{"type":"integer"}},"required":["path"]}"#,
        parallel: true,
        run: |bench, arguments| on_files(bench, arguments, get),
    },
];

/// The longest file of memory, how many are searched, and how many lines make one result.
const LONGEST: u64 = 512 * 1024;
const FILES: usize = 500;
const PIECE: usize = 6;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Search {
    query: String,
    #[serde(default)]
    max_results: Option<u32>,
}

fn search(bench: &Bench<'_>, asked: &Search) -> Output {
    let limit = asked.max_results.unwrap_or(8).clamp(1, 50);
    let read = || written(&bench.gateway.workspace, &asked.query, limit as usize);
    let mut lines = match bench.gateway.apart(read) {
        Ok(lines) => lines,
        Err(error) => return Output::error(format!("files are not touched: {error}")),
    };
    match bench.gateway.store.search(&asked.query, limit) {
        Ok(found) => {
            let room = (limit as usize).saturating_sub(lines.len());
            let said = found.into_iter().take(room);
            lines.extend(said.map(|(session, seq, text)| format!("{session}#{seq}: {text}")));
        }
        Err(error) => return Output::error(error.to_string()),
    }
    Output::ok(if lines.is_empty() { "nothing was found".to_owned() } else { cut(lines.join("\n")) })
}

/// Pieces of files with the most of these words, the best first, each with where it is.
fn written(workspace: &Path, query: &str, limit: usize) -> Vec<String> {
    let words: Vec<String> = query.split_whitespace().map(str::to_lowercase).collect();
    let mut found: Vec<(usize, String)> = Vec::new();
    for path in files(workspace) {
        // What cannot be read has nothing to say.
        let Ok(text) = text_within(&workspace.join(&path), LONGEST) else { continue };
        let lines: Vec<&str> = text.lines().collect();
        for (number, piece) in lines.chunks(PIECE).enumerate() {
            let lower = piece.join("\n").to_lowercase();
            let count = words.iter().filter(|word| lower.contains(&***word)).count();
            if count > 0 {
                let from = number * PIECE + 1;
                found.push((count, format!("{}:{from}: {}", path.display(), piece.join(" ").trim())));
            }
        }
    }
    found.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    found.into_iter().take(limit).map(|(_, line)| line).collect()
}

/// What the agent wrote down, the newest days first.
fn files(workspace: &Path) -> Vec<PathBuf> {
    let mut days: Vec<PathBuf> = fs::read_dir(workspace.join("memory"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| Path::new("memory").join(entry.file_name()))
        .filter(|path| path.extension().is_some_and(|end| end == "md"))
        .collect();
    days.sort_by(|a, b| b.cmp(a));
    std::iter::once(PathBuf::from("MEMORY.md")).chain(days).take(FILES).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Get {
    path: String,
    #[serde(default)]
    from: Option<usize>,
    #[serde(default)]
    lines: Option<usize>,
}

fn get(bench: &Bench<'_>, asked: &Get) -> Output {
    let path = Path::new(&asked.path);
    let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
    let memory = asked.path == "MEMORY.md" || path.starts_with("memory");
    if !inside || !memory {
        return Output::error("memory is MEMORY.md and the files in memory/: for others use read");
    }
    match text_within(&bench.gateway.workspace.join(path), LONGEST) {
        Ok(text) => {
            let lines = text.lines().skip(asked.from.unwrap_or(1).saturating_sub(1));
            Output::ok(cut(lines.take(asked.lines.unwrap_or(usize::MAX)).collect::<Vec<_>>().join("\n")))
        }
        Err(error) => Output::error(format!("cannot read {}: {error}", asked.path)),
    }
}
