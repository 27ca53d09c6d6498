//! Policies of others: OpenShell's policy YAML, version 1, and NemoClaw's presets, which are that within a
//! frame. Read unchanged, and every field accounted for.
//!
//! It owns the translation and the report, and puts nothing in force. The threat: a translation that opens more
//! than what it came from. What cannot be said is left out if it opens something, and said more widely if it
//! denies something; the one loss that widens, which program may use an endpoint, is reported as such.

mod endpoint;
mod said;

use crate::{Document, Error};
use serde::Serialize;
use serde_json::{Map, Value};

/// What came of a foreign policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// The document, with the report as comments at its head.
    pub document: String,
    /// What became of each field.
    pub fields: Vec<Field>,
}

/// One field of the foreign policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Field {
    /// Where it stands: `network_policies.github.endpoints[0].tls`.
    #[serde(rename = "field")]
    pub place: String,
    /// What became of it.
    pub outcome: Outcome,
    /// How, or why not.
    pub note: String,
}

/// What became of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The document says the same.
    Mapped,
    /// The document allows less.
    Tightened,
    /// The document does not say it; what it would have opened stays closed.
    Inexpressible,
    /// The document does not say it, and allows more for that.
    Widened,
}

impl Outcome {
    /// `mapped`, `tightened`, `inexpressible` or `widened`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mapped => "mapped",
            Self::Tightened => "tightened",
            Self::Inexpressible => "inexpressible",
            Self::Widened => "widened",
        }
    }
}

/// The report as it grows, and the rules.
#[derive(Default)]
struct Import {
    rules: Vec<String>,
    fields: Vec<Field>,
    /// It is a part of a policy, the part that names programs left out.
    any_program: bool,
}

/// How deep foreign policies go.
const DEPTH: usize = 16;

/// Translates a foreign policy.
pub fn import(text: &str) -> Result<Imported, Error> {
    if text.len() > crate::MAX_DOCUMENT {
        return Err(Error::TooLong(text.len()));
    }
    let value: Value = serde_saphyr::from_str_with_options(text, crate::document::options(DEPTH))
        .map_err(|e| crate::document::yaml_error(&e))?;
    let Value::Object(top) = value else { return Err(foreign("it is no mapping")) };
    let mut import = Import::default();
    let top = import.whole(top)?;
    for (key, value) in &top {
        import.top(key, value)?;
    }
    let mut document = String::from("# Imported. What became of each field:\n");
    for Field { place, outcome, note } in &import.fields {
        let line: String = format!("# {:<13} {place}: {note}", outcome.as_str());
        document.extend(line.chars().map(|c| if c.is_control() { ' ' } else { c }));
        document.push('\n');
    }
    document.push_str("version: 2\ndefault: deny\nrules:");
    if import.rules.is_empty() {
        document.push_str(" []");
    }
    document.push('\n');
    document.extend(import.rules);
    // What was written here is read as strictly as what a person writes.
    Document::parse(&document)?;
    Ok(Imported { document, fields: import.fields })
}

fn foreign(message: &str) -> Error {
    Error::Document { line: 1, column: 1, message: message.to_owned() }
}

impl Import {
    fn told(&mut self, field: &str, outcome: Outcome, note: impl Into<String>) {
        self.fields.push(Field { place: field.to_owned(), outcome, note: note.into() });
    }

    /// A part of a policy, as upstream's pages show them, or a provider's profile, as the policy that it would be in.
    fn whole(&mut self, top: Map<String, Value>) -> Result<Map<String, Value>, Error> {
        let sections =
            ["network_policies", "network_middlewares", "filesystem_policy", "landlock", "process"];
        if sections.iter().any(|section| top.contains_key(*section)) {
            return Ok(top);
        }
        let within = |policies: Map<String, Value>| {
            Map::from_iter([("network_policies".to_owned(), Value::Object(policies))])
        };
        if top.contains_key("endpoints") {
            let mut policy = Map::new();
            for (key, value) in top {
                let note = match key.as_str() {
                    "name" | "endpoints" | "binaries" => {
                        policy.insert(key, value);
                        continue;
                    }
                    "credentials" => "credentials are bound with cofferdam secret",
                    _ => "it is about a provider, not about what may leave",
                };
                self.told(&key, Outcome::Inexpressible, note);
            }
            if !policy.contains_key("binaries") {
                self.any_program = true;
                let note = "it does not say which programs: every program of the cell may use it";
                self.told("binaries", Outcome::Widened, note);
            }
            return Ok(within(Map::from_iter([("part".to_owned(), Value::Object(policy))])));
        }
        let policies = |value: &Value| value.get("endpoints").is_some_and(Value::is_array);
        if !top.is_empty() && top.values().all(policies) {
            return Ok(within(top));
        }
        Err(foreign("it is neither an OpenShell policy, nor a part of one, nor a preset"))
    }

    fn top(&mut self, key: &str, value: &Value) -> Result<(), Error> {
        match (key, value) {
            ("version", value) if value.as_u64() == Some(1) => self.told(key, Outcome::Mapped, "version: 2"),
            ("version", _) => return Err(foreign("only version 1 of OpenShell's policy is known")),
            ("preset", _) => self.told(key, Outcome::Mapped, "its name and description are for people"),
            ("network_policies", Value::Object(policies)) => {
                for (name, policy) in policies {
                    let Value::Object(policy) = policy else {
                        return Err(foreign("a network policy is a mapping"));
                    };
                    self.policy(&format!("network_policies.{name}"), name, policy)?;
                }
            }
            ("network_policies", Value::Null) => {}
            ("network_policies", _) => return Err(foreign("`network_policies` is no mapping")),
            ("filesystem_policy", Value::Object(fields)) => {
                for (field, value) in fields {
                    let note = match (field.as_str(), value) {
                        ("read_only", _) => {
                            "a cell sees only its own root, read-only, and what `filesystem` names of [filesystem]"
                        }
                        _ => "a cell writes in /sandbox and /tmp and nowhere else",
                    };
                    self.told(&format!("{key}.{field}"), Outcome::Inexpressible, note);
                }
            }
            ("landlock", _) => {
                let note = "Landlock is a hard requirement of every cell";
                let hard = value["compatibility"].as_str() == Some("hard_requirement");
                self.told(key, if hard { Outcome::Mapped } else { Outcome::Tightened }, note);
            }
            ("process", _) => {
                self.told(key, Outcome::Tightened, "each tenant has a uid of its own, without capabilities");
            }
            ("network_middlewares", _) => {
                self.told(
                    key,
                    Outcome::Widened,
                    "bodies are handed to no middleware; what one refuses would pass",
                );
            }
            _ => self.told(key, Outcome::Inexpressible, "this key is not known"),
        }
        Ok(())
    }

    fn policy(&mut self, at: &str, name: &str, policy: &Map<String, Value>) -> Result<(), Error> {
        let binaries = policy.get("binaries").and_then(Value::as_array).map_or(0, Vec::len);
        if binaries == 0 && !self.any_program {
            self.told(
                &format!("{at}.binaries"),
                Outcome::Mapped,
                "no program may use it: no rule is made of it",
            );
            return Ok(());
        }
        for (key, value) in policy {
            let field = format!("{at}.{key}");
            match (key.as_str(), value) {
                ("name", _) => self.told(&field, Outcome::Mapped, "part of each rule's reason"),
                ("binaries", _) => {
                    let note = format!("every program of the cell may use it, not only these {binaries}");
                    self.told(&field, Outcome::Widened, note);
                }
                ("endpoints", Value::Array(endpoints)) => {
                    for (number, endpoint) in endpoints.iter().enumerate() {
                        let Value::Object(endpoint) = endpoint else {
                            return Err(foreign("an endpoint is a mapping"));
                        };
                        self.endpoint(&format!("{field}[{number}]"), name, endpoint);
                    }
                }
                _ => self.told(&field, Outcome::Inexpressible, "this key is not known"),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
