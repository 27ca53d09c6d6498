//! One request as rules see it, and the JSON-RPC calls in its body.
//!
//! It owns the only parser of JSON-RPC on the way out; GraphQL is read in [`crate::graphql`]. The threat: a body that we and the server read
//! differently. A key twice, in whatever case, a member that is not JSON-RPC's, or anything after the
//! document makes it no JSON-RPC, and then every rule that speaks of calls and would stop one stops it.

use crate::graphql::{self, Operation};
use cofferdam_base::Destination;
use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// The longest body that is read for a rule, in bytes. A longer one is [`Body::Unread`].
pub const MAX_BODY: usize = 1 << 20;

/// Of a method, what a record shows.
pub const LONGEST_METHOD: usize = 32;

/// More calls than this in one body are not judged: it counts as unreadable.
const MAX_CALLS: usize = 256;

/// What is known of a request before it is let through.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestFacts {
    /// Where it goes.
    pub destination: Destination,
    /// Its method.
    pub method: String,
    /// Its path and query, in origin form, as it came.
    pub target: String,
    /// The names of its headers, in lower case.
    pub headers: Vec<String>,
    /// Does it ask for a WebSocket?
    pub websocket: bool,
    /// Is it gRPC: over HTTP/2, and so called by its client?
    pub grpc: bool,
    /// What it carries.
    pub body: Body,
}

/// What is known of a body.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// There is none.
    None,
    /// It was not read, or is longer than [`MAX_BODY`].
    Unread,
    /// It was read, and is neither JSON-RPC nor GraphQL beyond doubt.
    Other,
    /// Its calls; at least one.
    Calls(Vec<Call>),
    /// Its operations of GraphQL; at least one.
    Operations(Vec<Operation>),
}

/// One JSON-RPC call, notification or answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Its method; none for an answer.
    pub method: Option<String>,
    /// The tool of an MCP `tools/call`.
    pub tool: Option<String>,
    /// That tool's arguments.
    pub arguments: Map<String, Value>,
    /// What any other method is called with, for a person to see; null if nothing.
    pub params: Value,
}

/// MCP's method that calls a tool.
pub(crate) const TOOL_CALL: &str = "tools/call";

impl RequestFacts {
    /// In the words of records and questions: `POST /mcp, tool delete_repo`. What a rule does not speak of, the
    /// query above all, stays out of records.
    pub fn summary(&self) -> String {
        let path = self.target.split('?').next().unwrap_or_default();
        let mut text = String::with_capacity(self.method.len().min(LONGEST_METHOD) + path.len().min(200) + 1);
        text.extend(self.method.chars().take(LONGEST_METHOD));
        text.push(' ');
        text.extend(path.chars().filter(|c| !c.is_control()).take(200));
        let mut add = |what: &str, name: &str| {
            text.extend([", ", what, " "]);
            text.extend(name.chars().filter(|c| !c.is_control()).take(80));
        };
        match &self.body {
            Body::None | Body::Unread | Body::Other => {}
            Body::Calls(calls) => calls.iter().take(4).for_each(|call| match (&call.tool, &call.method) {
                (Some(tool), _) => add("tool", tool),
                (None, Some(method)) => add("call", method),
                (None, None) => add("an answer", ""),
            }),
            Body::Operations(all) => {
                all.iter().take(4).for_each(|it| add(it.kind.as_str(), &it.selected()));
            }
        }
        text.truncate(text.trim_end().len());
        text
    }
}

impl Body {
    /// Reads a whole body that its client calls JSON, unencoded.
    pub fn parse(bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return Self::None;
        }
        let all = match strict(bytes) {
            Some(Value::Array(all)) => all,
            Some(one) => vec![one],
            None => return Self::Other,
        };
        if !(1..=MAX_CALLS).contains(&all.len()) {
            return Self::Other;
        }
        if all[0].get("jsonrpc").is_none() {
            let read = all.iter().map(graphql::envelope).collect::<Option<Vec<_>>>();
            return read.map_or(Self::Other, |all| Self::operations(all.concat()));
        }
        all.into_iter().map(call).collect::<Option<Vec<_>>>().map_or(Self::Other, Self::Calls)
    }

    /// Reads a whole body that its client calls a GraphQL document: `application/graphql`.
    pub fn parse_graphql(bytes: &[u8]) -> Self {
        let read = std::str::from_utf8(bytes).ok().and_then(graphql::document);
        read.map_or(Self::Other, Self::operations)
    }

    fn operations(all: Vec<Operation>) -> Self {
        if all.len() <= MAX_CALLS { Self::Operations(all) } else { Self::Other }
    }
}

/// A key as readers who do not look at case take it, also at a long s.
pub(crate) fn folded(key: &str) -> String {
    key.to_uppercase().to_lowercase()
}

/// JSON without a key twice, and nothing after it.
pub(crate) fn strict(bytes: &[u8]) -> Option<Value> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    Strict.deserialize(&mut reader).ok().filter(|_| reader.end().is_ok())
}

fn call(value: Value) -> Option<Call> {
    let Value::Object(mut members) = value else { return None };
    if members.get("jsonrpc") != Some(&Value::String("2.0".into())) {
        return None;
    }
    if members
        .keys()
        .any(|key| !["jsonrpc", "id", "method", "params", "result", "error"].contains(&key.as_str()))
    {
        return None;
    }
    let method = match members.remove("method") {
        Some(Value::String(method)) if !members.contains_key("result") && !members.contains_key("error") => {
            method
        }
        None if members.contains_key("result") || members.contains_key("error") => {
            return Some(Call { method: None, tool: None, arguments: Map::new(), params: Value::Null });
        }
        _ => return None,
    };
    if method != TOOL_CALL {
        // A method that only a careless server would take for a tool call is none.
        let careless = method.trim().eq_ignore_ascii_case(TOOL_CALL);
        let params = members.remove("params").unwrap_or_default();
        let call = Call { method: Some(method), tool: None, arguments: Map::new(), params };
        return (!careless).then_some(call);
    }
    let Some(Value::Object(mut params)) = members.remove("params") else { return None };
    let Some(Value::String(tool)) = params.remove("name") else { return None };
    let arguments = match params.remove("arguments") {
        Some(Value::Object(arguments)) => arguments,
        None | Some(Value::Null) => Map::new(),
        Some(_) => return None,
    };
    let doubtful = |key: &String| ["name", "arguments"].contains(&folded(key).as_str());
    let certain = !params.keys().any(doubtful);
    certain.then_some(Call { method: Some(method), tool: Some(tool), arguments, params: Value::Null })
}

/// JSON without a key twice.
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element_seed(Self)? {
            all.push(item);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        let mut seen = std::collections::HashSet::new();
        while let Some(key) = members.next_key::<String>()? {
            if !seen.insert(folded(&key)) {
                return Err(de::Error::custom("a key twice"));
            }
            let value = members.next_value_seed(Self)?;
            all.insert(key, value);
        }
        Ok(Value::Object(all))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn calls_are_read_and_what_could_be_read_otherwise_is_not() {
        let read = |text: &str| Body::parse(text.as_bytes());
        let tool = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"delete","arguments":{"a":1}}}"#;
        let Body::Calls(calls) = read(tool) else { panic!() };
        assert_eq!((calls[0].tool.as_deref(), &calls[0].arguments["a"]), (Some("delete"), &Value::from(1)));
        let Body::Calls(calls) = read(&format!("[{tool},{{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":1}}]"))
        else {
            panic!()
        };
        assert_eq!((calls.len(), calls[1].method.as_deref()), (2, None));
        assert_eq!(read(""), Body::None);
        let many = |count| read(&format!("[{}]", vec![tool; count].join(",")));
        assert!(matches!(many(MAX_CALLS), Body::Calls(calls) if calls.len() == MAX_CALLS));
        assert_eq!(many(MAX_CALLS + 1), Body::Other);
        for doubtful in [
            "[]",
            "1",
            "{}",
            "a=b",
            r#"{"jsonrpc":"2.0","method":"ping"} {}"#,
            r#"[{"query":"{ a }"},{"jsonrpc":"2.0","method":"ping"}]"#,
            r#"[{"jsonrpc":"2.0","method":"ping"},{"query":"{ a }"}]"#,
            r#"{"query":"{ a }","Query":"mutation { b }"}"#,
            r#"{"jsonrpc":"2.0","method":"ping","method":"tools/call"}"#,
            r#"{"jsonrpc":"2.0","method":"ping","Method":"tools/call"}"#,
            r#"{"jsonrpc":"2.0","Method":"tools/call"}"#,
            r#"{"jsonrpc":"1.0","method":"ping"}"#,
            r#"{"jsonrpc":"2.0","method":"Tools/Call"}"#,
            r#"{"jsonrpc":"2.0","method":"tools/call","params":["delete"]}"#,
            r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a","NAME":"b"}}"#,
            r#"{"jsonrpc":"2.0","method":"tools/call","params":{"Name":"b"}}"#,
            // A long s is an s to who does not look at case.
            r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a","arguments":{},"argumentſ":{}}}"#,
            r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a","arguments":{"resource":1,"reſource":2}}}"#,
            r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a","arguments":[1]}}"#,
            r#"{"jsonrpc":"2.0","method":"ping","result":1}"#,
            "\u{feff}{\"jsonrpc\":\"2.0\",\"method\":\"ping\"}",
        ] {
            assert_eq!(read(doubtful), Body::Other, "{doubtful}");
        }
    }
}
