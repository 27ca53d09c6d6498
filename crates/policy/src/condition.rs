//! What a rule says of requests: method, path, query, headers, WebSocket, JSON-RPC calls, GraphQL, gRPC.
//!
//! An allow is read narrowly and what stops a request widely: an allow wants every occurrence to fit and the
//! exact case; a denial or a question is content with one, in any case, and with a body that nobody can read.

use crate::{
    Verb,
    glob::Glob,
    graphql::{Asked, Graphql, Operation},
    path::{Target, Template},
    request::{Body, Call, RequestFacts, folded},
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
    /// Operations of GraphQL.
    pub(crate) graphql: Option<Graphql>,
    /// Methods of gRPC.
    pub(crate) grpc: Option<Grpc>,
}

/// Which methods of gRPC. Of each, one must fit; empty: any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Grpc {
    /// `package.Service`.
    pub(crate) services: Globs,
    /// `Method`.
    pub(crate) methods: Globs,
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
    /// An operation of GraphQL.
    Operation(&'a Operation),
    /// There is no body, and the target asks for an operation.
    Asked(&'a Operation),
    /// There is no body, and the target may ask for any operation.
    AskedUnclear,
}

impl Said<'_> {
    /// Is it what nobody can read for who looks for calls?
    pub(crate) const fn hides_calls(&self) -> bool {
        matches!(self, Self::Unclear | Self::Operation(_))
    }

    /// Is it what nobody can read for who looks for operations?
    pub(crate) const fn hides_operations(&self) -> bool {
        matches!(self, Self::Unclear | Self::Call(_) | Self::AskedUnclear)
    }
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
        self.path.is_some() || !self.query.is_empty() || self.grpc.is_some()
    }

    /// Does it speak of what a body holds?
    pub(crate) fn needs_body(&self) -> bool {
        self.calls.is_some() || self.graphql.is_some()
    }

    /// Would it speak of this, could it be read?
    pub(crate) fn hidden_by(&self, said: Said<'_>) -> bool {
        self.calls.is_some() && said.hides_calls() || self.graphql.is_some() && said.hides_operations()
    }

    /// Does it say more than method and path?
    pub(crate) fn has_more(&self) -> bool {
        !self.query.is_empty() || !self.headers.is_empty() || self.websocket || self.grpc.is_some()
    }

    /// Does it hold, as the condition of a rule that says `verb`?
    pub(crate) fn matches(&self, head: Head<'_>, said: Said<'_>, verb: Verb) -> bool {
        self.place_matches(head, verb) && self.more_matches(head, said, verb)
    }

    /// Do method and path hold?
    pub(crate) fn place_matches(&self, head: Head<'_>, verb: Verb) -> bool {
        let Self { methods, path, query: _, headers: _, websocket: _, calls: _, graphql: _, grpc: _ } = self;
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
        let Self { methods: _, path: _, query, headers, websocket, calls, graphql, grpc } = self;
        let upgrade =
            if *websocket { head.facts.websocket } else { verb != Verb::Allow || !head.facts.websocket };
        upgrade
            && headers.iter().all(|name| head.facts.headers.contains(name))
            && query
                .iter()
                .all(|(name, globs)| head.target.is_some_and(|it| parameter(it, name, globs, verb)))
            && calls.as_ref().is_none_or(|calls| calls.matches(said, verb))
            && graphql.as_ref().is_none_or(|it| it.speaks_of(said, verb))
            && grpc.as_ref().is_none_or(|it| it.matches(head, verb))
    }
}

impl Graphql {
    fn speaks_of(&self, said: Said<'_>, verb: Verb) -> bool {
        match said {
            Said::Nothing => self.is_any(),
            Said::Operation(operation) | Said::Asked(operation) => self.matches(operation, verb),
            Said::Unclear | Said::Call(_) | Said::AskedUnclear => verb != Verb::Allow,
        }
    }
}

impl Grpc {
    /// An allow wants gRPC beyond doubt; what stops a call looks at its path alone.
    fn matches(&self, head: Head<'_>, verb: Verb) -> bool {
        let Self { services, methods } = self;
        let Some([service, method]) = head.target.map(|target| target.segments.as_slice()) else {
            return false;
        };
        (head.facts.grpc || verb != Verb::Allow)
            && fits(services, Some(service), verb)
            && fits(methods, Some(method), verb)
    }
}

fn parameter(target: &Target, name: &str, globs: &Globs, verb: Verb) -> bool {
    let mut all = target.query.iter().filter(|(given, _)| given.eq_ignore_ascii_case(name)).peekable();
    let fits = |value: &String| globs.iter().any(|glob| glob_fits(glob, value, verb));
    match verb {
        // Which of two spellings a server takes nobody knows.
        Verb::Allow => all.peek().is_some() && all.all(|(given, value)| given == name && fits(value)),
        Verb::Ask | Verb::Deny => all.any(|(_, value)| fits(value)),
    }
}

impl Calls {
    fn matches(&self, said: Said<'_>, verb: Verb) -> bool {
        let Self { mcp: _, methods, tools, arguments } = self;
        let any = methods.is_empty() && tools.is_empty() && arguments.is_empty();
        match said {
            Said::Nothing | Said::Asked(_) | Said::AskedUnclear => any,
            Said::Unclear | Said::Operation(_) => verb != Verb::Allow,
            Said::Call(call) => {
                fits(methods, call.method.as_deref(), verb)
                    && fits(tools, call.tool.as_deref(), verb)
                    && arguments.iter().all(|(name, globs)| {
                        let named = |given: &str| match verb {
                            Verb::Allow => given == name,
                            Verb::Ask | Verb::Deny => folded(given) == folded(name),
                        };
                        let mut given = call.arguments.iter().filter(|(given, _)| named(given));
                        given.any(|(_, value)| argument(value, globs, verb))
                    })
            }
        }
    }
}

fn fits(globs: &Globs, text: Option<&str>, verb: Verb) -> bool {
    globs.is_empty() || text.is_some_and(|text| globs.iter().any(|glob| glob_fits(glob, text, verb)))
}

pub(crate) fn glob_fits(glob: &Glob, text: &str, verb: Verb) -> bool {
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

/// What of a body is judged one by one, beside what the target asks for.
pub(crate) fn units<'a>(body: &'a Body, asked: &'a Asked) -> Vec<Said<'a>> {
    match (body, asked) {
        (Body::None, Asked::Nothing) => vec![Said::Nothing],
        (Body::None, Asked::Unclear) => vec![Said::AskedUnclear],
        (Body::None, Asked::Operations(all)) => all.iter().map(Said::Asked).collect(),
        (Body::Unread | Body::Other, _) | (Body::Operations(_), Asked::Unclear | Asked::Operations(_)) => {
            vec![Said::Unclear]
        }
        (Body::Calls(calls), _) => calls.iter().map(Said::Call).collect(),
        (Body::Operations(all), Asked::Nothing) => all.iter().map(Said::Operation).collect(),
    }
}

impl fmt::Display for Condition {
    /// `GET,HEAD /repos/**, query state=open`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { methods, path, query, headers, websocket, calls, graphql, grpc } = self;
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
        parts.extend(graphql.iter().map(ToString::to_string));
        if let Some(Grpc { services, methods }) = grpc {
            let of = |all: &Globs| if all.is_empty() { "*".to_owned() } else { joined(all) };
            parts.push(format!("grpc {}/{}", of(services), of(methods)));
        }
        f.write_str(&parts.join(", "))
    }
}

pub(crate) fn joined<T: fmt::Display>(all: &BTreeSet<T>) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join("|")
}
