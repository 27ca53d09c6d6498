//! The tools: what a model may call, with their schemas, and how each is run.
//!
//! The cell is the boundary: a tool may do what the cell may do, and no more is kept from it here than what would
//! break the gateway itself.

mod edit;
mod exec;
mod files;
mod patch;
mod process;

pub use process::Processes;

pub(crate) use files::{open, replace, text_within};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The most text that a tool gives back, in bytes.
pub const OUTPUT: usize = 48 * 1024;

/// What a tool said.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// For the model.
    pub text: String,
    /// It did not do what it was asked to.
    pub is_error: bool,
    /// For programs.
    pub details: Value,
}

impl Output {
    fn ok(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_error: false, details: json!({}) }
    }

    fn error(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_error: true, details: json!({}) }
    }
}

/// A tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    Ls,
    Read,
    Write,
    Edit,
    ApplyPatch,
    Exec,
    Process,
    MemorySearch,
}

/// What is known of a tool.
#[derive(Debug)]
pub struct About {
    pub tool: Tool,
    pub name: &'static str,
    pub group: &'static str,
    /// One line.
    pub label: &'static str,
    /// For the model.
    pub description: &'static str,
    /// The schema of its arguments.
    pub parameters: &'static str,
    /// Several may run at once.
    pub parallel: bool,
}

/// All of them.
pub const TOOLS: [About; 8] = [
    About {
        tool: Tool::Ls,
        name: "ls",
        group: "fs",
        label: "List a directory",
        description: "List a directory.",
        parameters: r#"{"type":"object","properties":{"path":{"type":"string"}}}"#,
        parallel: true,
    },
    About {
        tool: Tool::Read,
        name: "read",
        group: "fs",
        label: "Read a file",
        description: "Read a text file; offset (from 1) and limit count lines.",
        parameters: r#"{"type":"object","properties":{"path":{"type":"string"},"offset":{"type":"integer"},"limit":{"type":"integer"}},"required":["path"]}"#,
        parallel: true,
    },
    About {
        tool: Tool::Write,
        name: "write",
        group: "fs",
        label: "Write a file",
        description: "Write a whole file, making its directories.",
        parameters: r#"{"type":"object","properties":{"path":{"type":"string"},"content":{"type":"string"}},"required":["path","content"]}"#,
        parallel: false,
    },
    About {
        tool: Tool::Edit,
        name: "edit",
        group: "fs",
        label: "Edit a file",
        description: "Replace oldText, which must occur exactly once, by newText.",
        parameters: r#"{"type":"object","properties":{"path":{"type":"string"},"oldText":{"type":"string"},"newText":{"type":"string"}},"required":["path","oldText","newText"]}"#,
        parallel: false,
    },
    About {
        tool: Tool::ApplyPatch,
        name: "apply_patch",
        group: "fs",
        label: "Change several files",
        description: "Apply a patch: *** Begin Patch, then *** Add File: / *** Update File: / *** Delete File: PATH with lines of +, -, blank and @@, then *** End Patch.",
        parameters: r#"{"type":"object","properties":{"input":{"type":"string"}},"required":["input"]}"#,
        parallel: false,
    },
    About {
        tool: Tool::Exec,
        name: "exec",
        group: "runtime",
        label: "Run a command",
        description: "Run a shell command and wait for its end; timeout in seconds; or in the background.",
        parameters: r#"{"type":"object","properties":{"command":{"type":"string"},"workdir":{"type":"string"},"timeout":{"type":"integer"},"background":{"type":"boolean"}},"required":["command"]}"#,
        parallel: false,
    },
    About {
        tool: Tool::Process,
        name: "process",
        group: "runtime",
        label: "Background commands",
        description: "List background commands, read what one printed since (wait in seconds), write to it, kill it.",
        parameters: r#"{"type":"object","properties":{"action":{"enum":["list","read","write","kill"]},"id":{"type":"integer"},"input":{"type":"string"},"wait":{"type":"integer"}},"required":["action"]}"#,
        parallel: false,
    },
    About {
        tool: Tool::MemorySearch,
        name: "memory_search",
        group: "memory",
        label: "Search past conversations",
        description: "Find words in past conversations.",
        parameters: r#"{"type":"object","properties":{"query":{"type":"string"},"maxResults":{"type":"integer"}},"required":["query"]}"#,
        parallel: true,
    },
];

/// A tool by its name.
pub fn named(name: &str) -> Option<&'static About> {
    TOOLS.iter().find(|about| about.name == name)
}

/// As the model is told of them: JSON, the same each time.
pub fn schemas() -> Vec<Value> {
    let one = |about: &About| {
        let parameters: Value = serde_json::from_str(about.parameters).unwrap_or_default();
        json!({ "type": "function", "function": {
            "name": about.name, "description": about.description, "parameters": parameters,
        }})
    };
    TOOLS.iter().map(one).collect()
}

/// Where tools work, and what they ask.
#[derive(Debug)]
pub struct Bench<'a> {
    /// Where relative paths begin.
    pub workspace: &'a Path,
    /// Past conversations.
    pub store: &'a crate::store::Store,
    /// Commands in the background.
    pub processes: &'a Processes,
}

impl Bench<'_> {
    /// Runs a tool. Whatever goes wrong is said to the model.
    pub async fn run(&self, name: &str, arguments: &str) -> Output {
        let Some(about) = named(name) else {
            let known: Vec<_> = TOOLS.iter().map(|about| about.name).collect();
            return Output::error(format!("there is no tool {name:?}: use {}", known.join(", ")));
        };
        let ran = match about.tool {
            Tool::Ls => read(arguments).map(|asked| files::ls(self, &asked)),
            Tool::Read => read(arguments).map(|asked| files::read(self, &asked)),
            Tool::Write => read(arguments).map(|asked| files::write(self, &asked)),
            Tool::Edit => read(arguments).map(|asked| edit::edit(self, &asked)),
            Tool::ApplyPatch => read(arguments).map(|asked| patch::apply(self, &asked)),
            Tool::MemorySearch => read(arguments).map(|asked| self.search(&asked)),
            Tool::Process => match read(arguments) {
                Ok(asked) => Ok(process::process(self, &asked).await),
                Err(error) => Err(error),
            },
            Tool::Exec => match read(arguments) {
                Ok(asked) => Ok(exec::exec(self, &asked).await),
                Err(error) => Err(error),
            },
        };
        ran.unwrap_or_else(|error| Output::error(format!("the arguments of {name} cannot be read: {error}")))
    }

    fn path(&self, given: &str) -> PathBuf {
        self.workspace.join(given)
    }

    fn search(&self, asked: &Search) -> Output {
        let limit = asked.max_results.unwrap_or(8).clamp(1, 50);
        match self.store.search(&asked.query, limit) {
            Ok(found) if found.is_empty() => Output::ok("nothing was found"),
            Ok(found) => {
                let lines: Vec<String> =
                    found.iter().map(|(session, seq, text)| format!("{session}#{seq}: {text}")).collect();
                Output::ok(lines.join("\n"))
            }
            Err(error) => Output::error(error.to_string()),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Search {
    query: String,
    #[serde(default)]
    max_results: Option<u32>,
}

fn read<T: DeserializeOwned>(arguments: &str) -> Result<T, serde_json::Error> {
    // A model that wants no arguments may write none.
    serde_json::from_str(if arguments.trim().is_empty() { "{}" } else { arguments })
}

/// Text of at most [`OUTPUT`] bytes, and a word on what was left out.
fn cut(text: String) -> String {
    if text.len() <= OUTPUT {
        return text;
    }
    let left_out = text.len() - OUTPUT;
    let (head, tail) =
        (text.floor_char_boundary(OUTPUT / 2), text.ceil_char_boundary(text.len() - OUTPUT / 2));
    format!("{}\n[… {left_out} bytes left out …]\n{}", &text[..head], &text[tail..])
}

#[cfg(test)]
mod tests;
