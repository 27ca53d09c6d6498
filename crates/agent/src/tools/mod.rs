//! The tools: what a model may call, with their schemas, and how each is run.
//!
//! The cell is the boundary: a tool may do what the cell may do, but for the gateway itself and its state, which files
//! and commands do not reach ([`apart`]).

mod agents;
mod apart;
mod ask;
pub(crate) mod command;
mod consent;
mod cron;
mod edit;
mod exec;
mod files;
mod memory;
mod message;
mod patch;
mod policy;
mod process;
mod search;
mod sessions;
mod view;
mod web;

pub(crate) use apart::{Domain, start};
pub(crate) use consent::{document, plain};
pub(crate) use policy::{is_known, permits, profiles};
pub(crate) use process::Processes;
pub(crate) use search::{offered, schema};

pub(crate) use files::{open, replace, text_within};

use crate::{
    config::{Channels, Config},
    gateway::{Active, Gateway},
    mcp,
};
use futures_util::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::{fmt, future::ready, path::PathBuf, sync::Arc};

/// The most text that a tool gives back, in bytes.
pub(crate) const OUTPUT: usize = 48 * 1024;

/// What a tool said.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Output {
    /// For the model.
    pub(crate) text: String,
    /// It did not do what it was asked to.
    pub(crate) is_error: bool,
    /// For programs.
    pub(crate) details: Value,
}

impl Output {
    pub(crate) fn ok(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_error: false, details: json!({}) }
    }

    pub(crate) fn error(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_error: true, details: json!({}) }
    }
}

/// Runs a tool with its arguments as the model wrote them.
pub(crate) type Run = for<'a> fn(&'a Bench<'a>, &'a str) -> BoxFuture<'a, Result<Output, serde_json::Error>>;

/// What is known of a tool.
#[derive(Clone, Copy)]
pub(crate) struct About {
    pub(crate) name: &'static str,
    pub(crate) group: &'static str,
    /// One line.
    pub(crate) label: &'static str,
    /// For the model.
    pub(crate) description: &'static str,
    /// The schema of its arguments.
    pub(crate) parameters: &'static str,
    /// Several may run at once.
    pub(crate) parallel: bool,
    pub(crate) run: Run,
}

impl fmt::Debug for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("About").field("name", &self.name).finish_non_exhaustive()
    }
}

/// All of them, by the files in which they are.
const TOOLS: [&[About]; 14] = [
    &files::TOOLS,
    &edit::TOOLS,
    &patch::TOOLS,
    &exec::TOOLS,
    &process::TOOLS,
    &memory::TOOLS,
    &web::TOOLS,
    &cron::TOOLS,
    &view::TOOLS,
    &ask::TOOLS,
    &message::TOOLS,
    &agents::TOOLS,
    &sessions::TOOLS,
    &search::TOOLS,
];

/// All of them.
pub(crate) fn all() -> impl Iterator<Item = &'static About> {
    TOOLS.into_iter().flatten()
}

/// A tool by its name.
pub(crate) fn named(name: &str) -> Option<&'static About> {
    all().find(|about| about.name == name)
}

/// May several calls of it run at once?
pub(crate) fn is_parallel(gateway: &Gateway, name: &str) -> bool {
    named(name).is_some_and(|about| about.parallel)
        || gateway.mcp.tools(gateway).iter().any(|tool| tool.id == name && tool.parallel)
}

/// Those that there are, and that may be called: what the configuration turns on costs nothing without it.
pub(crate) fn present(config: &Config) -> impl Iterator<Item = &'static About> {
    all().filter(|about| {
        let on = match about.name {
            "cron" => config.cron.enabled,
            "web_search" => config.tools.web.search.is_some(),
            "message" => config.channels != Channels::default(),
            _ => true,
        };
        // What brings others in does nothing by itself.
        on && (about.name == search::NAME || permits(&config.tools, about.name, about.group))
    })
}

/// Where tools work, and for whom.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    pub(crate) gateway: &'a Arc<Gateway>,
    /// The run that calls; none: a client does, by itself.
    pub(crate) run: Option<&'a Arc<Active>>,
    /// The call's own id; empty if a client calls.
    #[allow(dead_code, reason = "approvals name it")]
    pub(crate) call: &'a str,
}

impl Bench<'_> {
    /// Runs a tool. Whatever goes wrong is said to the model.
    pub(crate) async fn run(&self, name: &str, arguments: &str) -> Output {
        let config = self.gateway.config();
        let Some(about) = present(&config).find(|about| about.name == name) else {
            if permits(&config.tools, name, "plugins")
                && let Some(output) = mcp::call(self.gateway, name, arguments).await
            {
                return output;
            }
            let known: Vec<_> = present(&config).map(|about| about.name).collect();
            return Output::error(format!("there is no tool {name:?}: use {}", known.join(", ")));
        };
        // A model that wants no arguments may write none.
        let arguments = if arguments.trim().is_empty() { "{}" } else { arguments };
        let ran = (about.run)(self, arguments).await;
        ran.unwrap_or_else(|error| Output::error(format!("the arguments of {name} cannot be read: {error}")))
    }

    /// A path as the model gives it: relative ones begin in the workspace.
    fn path(&self, given: &str) -> PathBuf {
        self.gateway.workspace.join(given)
    }
}

/// A tool that is done at once.
fn now<T: DeserializeOwned>(
    bench: &Bench<'_>,
    arguments: &str,
    tool: fn(&Bench<'_>, &T) -> Output,
) -> BoxFuture<'static, Result<Output, serde_json::Error>> {
    Box::pin(ready(serde_json::from_str(arguments).map(|asked| tool(bench, &asked))))
}

/// A tool that is done at once, and works on files.
fn on_files<T: DeserializeOwned + Sync>(
    bench: &Bench<'_>,
    arguments: &str,
    tool: fn(&Bench<'_>, &T) -> Output,
) -> BoxFuture<'static, Result<Output, serde_json::Error>> {
    let work = |asked: T| match bench.gateway.apart(|| tool(bench, &asked)) {
        Ok(output) => output,
        Err(error) => Output::error(format!("files are not touched: {error}")),
    };
    Box::pin(ready(serde_json::from_str(arguments).map(work)))
}

/// A tool that takes its time.
fn later<'a, T, F>(
    arguments: &'a str,
    tool: impl FnOnce(T) -> F + Send + 'a,
) -> BoxFuture<'a, Result<Output, serde_json::Error>>
where
    T: DeserializeOwned + Send,
    F: Future<Output = Output> + Send,
{
    Box::pin(async move {
        match serde_json::from_str(arguments) {
            Ok(asked) => Ok(tool(asked).await),
            Err(error) => Err(error),
        }
    })
}

/// Text of at most [`OUTPUT`] bytes, and a word on what was left out.
pub(crate) fn cut(text: String) -> String {
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
