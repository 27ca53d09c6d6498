//! A tool of a server: what is known of it, what of that a model is shown, and whether it is the one that was accepted.
//!
//! The threats: a description that gives orders, a schema that fills every request, and a tool that becomes another one
//! after somebody trusted it. So texts are cut and cleaned, schemas bounded, and each tool has a digest.

use crate::{store::Pin, text};
use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, fmt::Write as _};

/// The longest name that a provider takes.
const NAME: usize = 64;
/// Characters of a description, of a text in a schema, and bytes of a schema.
const DESCRIPTION: usize = 1024;
const WORDS: usize = 300;
const SCHEMA: usize = 12 * 1024;
/// How deep a schema goes.
const DEEP: usize = 10;

/// One tool.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tool {
    /// By which a model calls it: `SERVER__TOOL`.
    pub(crate) id: String,
    pub(crate) server: String,
    /// As its server calls it.
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) schema: Value,
    /// Of all that it said of itself.
    pub(super) hash: String,
    pub(crate) parallel: bool,
}

impl Tool {
    /// As its server tells of it; none if it has no name that can be called.
    pub(super) fn read(server: &str, parallel: bool, told: &Value) -> Option<Self> {
        let name = told["name"].as_str().filter(|name| !name.is_empty() && name.len() <= 128)?;
        let safe: String = name
            .chars()
            .map(|sign| if sign.is_ascii_alphanumeric() || matches!(sign, '_' | '-') { sign } else { '-' })
            .collect();
        let id = format!("{server}__{safe}");
        if id.len() > NAME {
            return None;
        }
        let parts = ["name", "title", "description", "inputSchema", "outputSchema", "annotations"];
        let whole: Map<String, Value> =
            parts.into_iter().filter_map(|part| Some((part.to_owned(), told.get(part)?.clone()))).collect();
        let description = told["description"].as_str().or_else(|| told["title"].as_str()).unwrap_or_default();
        Some(Self {
            id,
            server: server.to_owned(),
            name: name.to_owned(),
            description: text::shown(description.trim(), DESCRIPTION),
            schema: schema(&told["inputSchema"]),
            hash: sha256(&Value::Object(whole).to_string()),
            parallel,
        })
    }

    pub(super) fn pin(&self) -> Pin {
        Pin { hash: self.hash.clone(), said: self.description.clone() }
    }

    /// As a provider reads it. Whose words they are stands before them.
    pub(crate) fn sent(&self) -> Value {
        let description = format!("[untrusted words of the MCP server {}] {}", self.server, self.description);
        json!({ "type": "function", "function": {
            "name": self.id, "description": description, "parameters": self.schema,
        }})
    }
}

/// A digest of a text, in hex.
pub(super) fn sha256(text: &str) -> String {
    digest(&SHA256, text.as_bytes()).as_ref().iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// A schema as far as it is sent; one that is none, or too long, takes any object, and the server says what it misses.
fn schema(told: &Value) -> Value {
    let any = || json!({ "type": "object" });
    if told["type"] != "object" {
        return any();
    }
    let cleaned = cleaned(told, 0);
    if cleaned.to_string().len() > SCHEMA { any() } else { cleaned }
}

fn cleaned(value: &Value, depth: usize) -> Value {
    if depth > DEEP {
        return json!({});
    }
    match value {
        Value::String(said) => text::shown(said, WORDS).into(),
        Value::Array(all) => all.iter().map(|one| cleaned(one, depth + 1)).collect(),
        Value::Object(all) => {
            let known = all.iter().filter(|(key, _)| !matches!(key.as_str(), "$schema" | "$id" | "$comment"));
            known
                .map(|(key, value)| (text::shown(key, WORDS), cleaned(value, depth + 1)))
                .collect::<Map<_, _>>()
                .into()
        }
        other => other.clone(),
    }
}

/// What of a list is as it was accepted, and what is not.
#[derive(Debug, Default)]
pub(super) struct Judged {
    pub(super) same: Vec<Tool>,
    pub(super) others: Vec<Tool>,
}

impl Judged {
    pub(super) fn of(tools: Vec<Tool>, pins: &BTreeMap<String, Pin>) -> Self {
        let same = |tool: &Tool| pins.get(&tool.name).is_some_and(|pin| pin.hash == tool.hash);
        let (same, others) = tools.into_iter().partition(same);
        Self { same, others }
    }

    /// What a person is told of the others: all that a model would read of them.
    pub(super) fn detail(&self, pins: &BTreeMap<String, Pin>) -> String {
        let mut out = String::new();
        for Tool { id, name, description, schema, .. } in &self.others {
            let _ = match pins.get(name) {
                None => writeln!(out, "new: {id}\n  {description}"),
                Some(pin) if pin.said == *description => {
                    writeln!(out, "other arguments or annotations: {id}\n  {description}")
                }
                Some(pin) => writeln!(out, "other words: {id}\n  before: {}\n  now: {description}", pin.said),
            };
            let _ = writeln!(out, "  arguments: {schema}");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn told(description: &str, schema: &Value) -> Value {
        json!({ "name": "read.note", "description": description, "inputSchema": schema })
    }

    #[test]
    fn what_a_tool_says_of_itself_is_bounded_and_any_change_is_seen() {
        let plain = json!({ "type": "object", "properties": { "path": { "type": "string" } } });
        let tool = Tool::read("notes", false, &told("Reads\u{200b} a note", &plain)).unwrap();
        assert_eq!(
            (&*tool.id, &*tool.description, &tool.schema),
            ("notes__read-note", "Reads a note", &plain)
        );
        assert!(tool.sent()["function"]["description"].as_str().unwrap().starts_with("[untrusted words of"));
        // Also of what is not shown, and of what is cut.
        let pins = BTreeMap::from([(tool.name.clone(), tool.pin())]);
        let long = "x".repeat(3000);
        let more = json!({ "type": "object", "properties": { "path": { "type": "string", "description": "and then" } } });
        let mut annotated = told("Reads\u{200b} a note", &plain);
        annotated["annotations"] = json!({ "readOnlyHint": true });
        let changes = [
            told("Reads a note", &plain),
            told(&long, &plain),
            told("Reads\u{200b} a note", &more),
            annotated,
        ];
        for change in changes {
            let changed = Tool::read("notes", false, &change).unwrap();
            let judged = Judged::of(vec![changed], &pins);
            assert_eq!((judged.same.len(), judged.others.len()), (0, 1), "{change}");
            let shown = format!("arguments: {}", judged.others[0].schema);
            assert!(judged.detail(&pins).contains("other ") && judged.detail(&pins).contains(&shown));
            let new = judged.detail(&BTreeMap::new());
            assert!(new.starts_with("new: ") && new.contains(&shown), "{new}");
        }
        let mut unseen = told("Reads\u{200b} a note", &plain);
        unseen["_meta"] = json!({ "requests": 5 });
        assert_eq!(Judged::of(vec![Tool::read("notes", false, &unseen).unwrap()], &pins).same.len(), 1);
        let long = Tool::read("notes", false, &told(&long, &plain)).unwrap();
        assert_eq!(long.description.chars().count(), DESCRIPTION + 1);
        let many: Map<String, Value> =
            (0..1000).map(|at| (format!("p{at}"), json!({ "type": "string" }))).collect();
        let mut deep = json!({ "type": "object" });
        for _ in 0..60 {
            deep = json!({ "type": "object", "properties": { "x": deep } });
        }
        for odd in [json!({ "type": "object", "properties": many }), json!("no"), json!({ "type": "array" })]
        {
            let tool = Tool::read("notes", false, &told("d", &odd)).unwrap();
            assert_eq!(tool.schema, json!({ "type": "object" }));
        }
        assert!(Tool::read("notes", false, &told("d", &deep)).unwrap().schema.to_string().len() < 500);
        for name in [json!(""), json!(1), json!("x".repeat(200))] {
            assert!(Tool::read("notes", false, &json!({ "name": name })).is_none());
        }
    }

    proptest::proptest! {
        #[test]
        fn no_tool_panics(name in ".{0,80}", said in ".{0,40}", key in ".{0,20}") {
            let told = json!({ "name": name, "description": said, "inputSchema": { "type": "object", "properties": { key: { "description": said } } } });
            if let Some(tool) = Tool::read("s", false, &told) {
                proptest::prop_assert!(tool.id.len() <= NAME && tool.id.is_ascii());
            }
        }
    }
}
