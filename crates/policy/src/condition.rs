//! What a rule says of requests: method, path, query, headers, WebSocket, JSON-RPC calls.
//!
//! An allow is read narrowly and what stops a request widely: an allow wants every occurrence to fit and the
//! exact case; a denial or a question is content with one, in any case, and with a body that nobody can read.

use crate::{
    Verb,
    glob::Glob,
    path::{Target, Template},
    request::{Body, Call, RequestFacts},
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// One or more patterns, of which one must fit.
pub(crate) type Globs = BTreeSet<Glob>;

/// Which requests a rule speaks of; all of it must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// One of these methods; none: any.
    pub(crate) methods: Option<BTreeSet<String>>,
    /// A path of this kind.
    pub(crate) path: Option<Template>,
    /// Parameters of the query.
    pub(crate) query: BTreeMap<String, Globs>,
    /// Headers that are there.
    pub(crate) headers: BTreeSet<String>,
    /// A WebSocket.
    pub(crate) websocket: bool,
    /// Calls in the body.
    pub(crate) calls: Option<Calls>,
}

/// Which JSON-RPC calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Calls {
    /// Is it MCP?
    pub(crate) mcp: bool,
    /// One of these methods; empty: any.
    pub(crate) methods: Globs,
    /// One of these tools; empty: any, and calls of no tool.
    pub(crate) tools: Globs,
    /// Arguments by name.
    pub(crate) arguments: BTreeMap<String, Globs>,
}

/// The one thing in a body that is judged.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Said<'a> {
    /// There is no body.
    Nothing,
    /// There is one that nobody can read.
    Unclear,
    /// A call.
    Call(&'a Call),
}

/// A request with its target read; none if no rule speaks of targets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head<'a> {
    pub(crate) facts: &'a RequestFacts,
    pub(crate) target: Option<&'a Target>,
}

/// Headers by which a client asks a server to take another method than it sent.
pub(crate) const OVERRIDES: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];

impl Condition {
    /// Does it speak of the target?
    pub(crate) fn needs_target(&self) -> bool {
        self.path.is_some() || !self.query.is_empty()
    }

    /// Does it say more than method and path?
    pub(crate) fn has_more(&self) -> bool {
        !self.query.is_empty() || !self.headers.is_empty() || self.websocket
    }

    /// Does it hold, as the condition of a rule that says `verb`?
    pub(crate) fn matches(&self, head: Head<'_>, said: Said<'_>, verb: Verb) -> bool {
        self.place_matches(head, verb) && self.more_matches(head, said, verb)
    }

    /// Do method and path hold?
    pub(crate) fn place_matches(&self, head: Head<'_>, verb: Verb) -> bool {
        let Self { methods, path, query: _, headers: _, websocket: _, calls: _ } = self;
        let folded = verb != Verb::Allow;
        let method = |mine: &String| {
            *mine == head.facts.method || folded && mine.eq_ignore_ascii_case(&head.facts.method)
        };
        methods.as_ref().is_none_or(|methods| methods.iter().any(method))
            && path
                .as_ref()
                .is_none_or(|path| head.target.is_some_and(|it| path.matches(&it.segments, folded)))
    }

    /// The same without method and path, which were looked up.
    pub(crate) fn more_matches(&self, head: Head<'_>, said: Said<'_>, verb: Verb) -> bool {
        let Self { methods: _, path: _, query, headers, websocket, calls } = self;
        let upgrade =
            if *websocket { head.facts.websocket } else { verb != Verb::Allow || !head.facts.websocket };
        upgrade
            && headers.iter().all(|name| head.facts.headers.contains(name))
            && query
                .iter()
                .all(|(name, globs)| head.target.is_some_and(|it| parameter(it, name, globs, verb)))
            && calls.as_ref().is_none_or(|calls| calls.matches(said, verb))
    }
}

fn parameter(target: &Target, name: &str, globs: &Globs, verb: Verb) -> bool {
    let mut values =
        target.query.iter().filter(|(given, _)| given == name).map(|(_, value)| value).peekable();
    let fits = |value: &String| globs.iter().any(|glob| glob.matches(value));
    match verb {
        Verb::Allow => values.peek().is_some() && values.all(fits),
        Verb::Ask | Verb::Deny => values.any(fits),
    }
}

impl Calls {
    fn matches(&self, said: Said<'_>, verb: Verb) -> bool {
        let Self { mcp: _, methods, tools, arguments } = self;
        let any = methods.is_empty() && tools.is_empty() && arguments.is_empty();
        match said {
            Said::Nothing => any,
            Said::Unclear => verb != Verb::Allow,
            Said::Call(call) => {
                fits(methods, call.method.as_deref(), verb)
                    && fits(tools, call.tool.as_deref(), verb)
                    && arguments.iter().all(|(name, globs)| {
                        call.arguments.get(name).is_some_and(|value| argument(value, globs, verb))
                    })
            }
        }
    }
}

fn fits(globs: &Globs, text: Option<&str>, verb: Verb) -> bool {
    globs.is_empty() || text.is_some_and(|text| globs.iter().any(|glob| glob_fits(glob, text, verb)))
}

fn glob_fits(glob: &Glob, text: &str, verb: Verb) -> bool {
    glob.matches(text) || verb != Verb::Allow && glob.folded().matches(&text.to_ascii_lowercase())
}

/// Texts, numbers and truths as they are written. An allow says nothing of lists and objects, and nothing of
/// a path that goes back; what stops a call looks into all of them.
fn argument(value: &Value, globs: &Globs, verb: Verb) -> bool {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(truth) => truth.to_string(),
        Value::Null => "null".to_owned(),
        Value::Array(items) => {
            return verb != Verb::Allow && items.iter().any(|item| argument(item, globs, verb));
        }
        Value::Object(members) => {
            return verb != Verb::Allow && members.values().any(|member| argument(member, globs, verb));
        }
    };
    let back = text.split(['/', '\\']).any(|part| matches!(part, "." | ".."));
    globs.iter().any(|glob| match verb {
        Verb::Allow => glob.matches(&text) && !(glob.has_slash() && back),
        Verb::Ask | Verb::Deny => {
            glob_fits(glob, &text, verb) || back && glob_fits(glob, &plain(&text), verb)
        }
    })
}

/// A path without its dot segments.
fn plain(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for part in path.split(['/', '\\']) {
        match part {
            "." => {}
            ".." => drop(kept.pop().filter(|part| !part.is_empty())),
            part => kept.push(part),
        }
    }
    let text = kept.join("/");
    if path.starts_with('/') && !text.starts_with('/') { format!("/{text}") } else { text }
}

/// What of a body is judged one by one.
pub(crate) fn units(body: &Body) -> Vec<Said<'_>> {
    match body {
        Body::None => vec![Said::Nothing],
        Body::Unread | Body::Other => vec![Said::Unclear],
        Body::Calls(calls) => calls.iter().map(Said::Call).collect(),
    }
}

impl fmt::Display for Condition {
    /// `GET,HEAD /repos/**, query state=open`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { methods, path, query, headers, websocket, calls } = self;
        let mut parts = Vec::new();
        let methods = methods.as_ref().map_or_else(|| "any method".to_owned(), joined);
        parts.push(path.as_ref().map_or_else(|| methods.clone(), |path| format!("{methods} {path}")));
        if *websocket {
            parts.push("websocket".to_owned());
        }
        parts.extend(query.iter().map(|(name, globs)| format!("query {name}={}", joined(globs))));
        parts.extend(headers.iter().map(|name| format!("header {name}")));
        if let Some(Calls { mcp, methods, tools, arguments }) = calls {
            parts.push(if *mcp { "mcp" } else { "jsonrpc" }.to_owned());
            if !methods.is_empty() {
                parts.push(format!("call {}", joined(methods)));
            }
            if !tools.is_empty() {
                parts.push(format!("tool {}", joined(tools)));
            }
            parts.extend(arguments.iter().map(|(name, globs)| format!("argument {name}={}", joined(globs))));
        }
        f.write_str(&parts.join(", "))
    }
}

fn joined<T: fmt::Display>(all: &BTreeSet<T>) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join("|")
}
