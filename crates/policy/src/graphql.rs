//! GraphQL as rules see it: which operations a request asks for, and which root fields each of them selects.
//!
//! It owns the reading of documents, of the JSON around them and of the query of a GET. Fragments are followed,
//! aliases are not believed, and every operation of a document is judged, whichever `operationName` picks. The
//! threat: a request that the server takes for another operation. What names a document instead of bringing it
//! (persisted queries) or could be read in two ways is unclear, and nothing says yes to that.

use crate::{
    Verb,
    condition::{Globs, glob_fits, joined},
    path::Target,
    request::{Body, RequestFacts, strict},
};
use apollo_parser::{
    Parser,
    cst::{Definition, Document, OperationDefinition, Selection, SelectionSet},
};
use serde_json::{Map, Value};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt,
    sync::Arc,
};

/// How deep selections may nest.
const DEPTH: usize = 64;
/// More tokens than this in one document are not read.
const MAX_TOKENS: usize = 20_000;
/// More root fields than this in one operation are not judged.
const MAX_FIELDS: usize = 256;

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// It reads.
    Query,
    /// It writes.
    Mutation,
    /// It is told of events.
    Subscription,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What it does.
    pub kind: Kind,
    /// Its name, the client's choice.
    pub name: Option<String>,
    /// The fields that it selects at the root, by their own names.
    pub fields: BTreeSet<String>,
    /// The whole request that holds it, for people who are asked about it.
    pub source: Arc<str>,
}

impl Kind {
    /// The kind of this name.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Query, Self::Mutation, Self::Subscription].into_iter().find(|kind| kind.as_str() == text)
    }

    /// `query`, `mutation` or `subscription`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Mutation => "mutation",
            Self::Subscription => "subscription",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Operation {
    /// Its root fields, in words.
    pub fn selected(&self) -> String {
        self.fields.iter().map(String::as_str).collect::<Vec<_>>().join(" ")
    }
}

/// The operations of a document; none if it is not read beyond doubt.
pub(crate) fn document(text: &str) -> Option<Vec<Operation>> {
    read(text, || text.to_owned())
}

fn read(text: &str, source: impl FnOnce() -> String) -> Option<Vec<Operation>> {
    let tree = Parser::new(text).recursion_limit(DEPTH).token_limit(MAX_TOKENS).parse();
    if tree.errors().len() > 0 {
        return None;
    }
    let document = tree.document();
    let fragments = fragments(&document)?;
    let source: Arc<str> = source().into();
    let mut operations = Vec::new();
    for definition in document.definitions() {
        match definition {
            Definition::OperationDefinition(it) => operations.push(operation(&it, &fragments, &source)?),
            Definition::FragmentDefinition(_) => {}
            // A schema is nothing to be executed.
            _ => return None,
        }
    }
    let names: BTreeSet<_> = operations.iter().map(|operation| &operation.name).collect();
    (!operations.is_empty() && names.len() == operations.len()).then_some(operations)
}

fn fragments(document: &Document) -> Option<BTreeMap<String, SelectionSet>> {
    let mut all = BTreeMap::new();
    for definition in document.definitions() {
        if let Definition::FragmentDefinition(fragment) = definition {
            let name = fragment.fragment_name()?.name()?.text().to_string();
            if all.insert(name, fragment.selection_set()?).is_some() {
                return None;
            }
        }
    }
    Some(all)
}

fn operation(
    it: &OperationDefinition,
    fragments: &BTreeMap<String, SelectionSet>,
    source: &Arc<str>,
) -> Option<Operation> {
    let kind = match it.operation_type() {
        None => Kind::Query,
        Some(kind) if kind.query_token().is_some() => Kind::Query,
        Some(kind) if kind.mutation_token().is_some() => Kind::Mutation,
        Some(kind) if kind.subscription_token().is_some() => Kind::Subscription,
        Some(_) => return None,
    };
    let mut fields = BTreeSet::new();
    root(&it.selection_set()?, fragments, &mut HashSet::new(), &mut fields)?;
    let name = it.name().map(|name| name.text().to_string());
    let source = Arc::clone(source);
    (1..=MAX_FIELDS).contains(&fields.len()).then_some(Operation { kind, name, fields, source })
}

/// The fields of a selection at the root. Each fragment is followed once, so no circle is endless.
fn root(
    selected: &SelectionSet,
    fragments: &BTreeMap<String, SelectionSet>,
    followed: &mut HashSet<String>,
    fields: &mut BTreeSet<String>,
) -> Option<()> {
    for selection in selected.selections() {
        match selection {
            Selection::Field(field) => {
                fields.insert(field.name()?.text().to_string());
            }
            Selection::InlineFragment(inline) => {
                root(&inline.selection_set()?, fragments, followed, fields)?;
            }
            Selection::FragmentSpread(spread) => {
                let name = spread.fragment_name()?.name()?.text().to_string();
                let fragment = fragments.get(&name)?;
                if followed.insert(name) {
                    root(fragment, fragments, followed, fields)?;
                }
            }
        }
    }
    Some(())
}

/// The operations of one request in JSON.
pub(crate) fn envelope(value: &Value) -> Option<Vec<Operation>> {
    let members = value.as_object()?;
    let known = ["query", "operationName", "variables", "extensions"];
    if !members.keys().all(|key| known.contains(&key.as_str())) || !brings_its_text(members.get("extensions"))
    {
        return None;
    }
    let operations = read(members.get("query")?.as_str()?, || value.to_string())?;
    match members.get("operationName") {
        None | Some(Value::Null) => {}
        Some(Value::String(name)) if picks(&operations, name) => {}
        Some(_) => return None,
    }
    Some(operations)
}

fn picks(operations: &[Operation], name: &str) -> bool {
    name.is_empty() || operations.iter().any(|operation| operation.name.as_deref() == Some(name))
}

/// Do the extensions name no other document?
fn brings_its_text(extensions: Option<&Value>) -> bool {
    let other = |members: &Map<String, Value>| {
        members
            .keys()
            .any(|key| ["persistedquery", "documentid"].contains(&key.to_ascii_lowercase().as_str()))
    };
    match extensions {
        None | Some(Value::Null) => true,
        Some(Value::Object(members)) => !other(members),
        Some(_) => false,
    }
}

/// What a request asks for beside its body.
#[derive(Debug)]
pub(crate) enum Asked {
    Nothing,
    Unclear,
    Operations(Vec<Operation>),
}

/// Names in a query by which servers pick an operation or a document, in lower case.
const PICKS: [&str; 9] =
    ["query", "operationname", "variables", "extensions", "id", "documentid", "doc_id", "hash", "queryid"];

/// Reads the target of a request. What is said in a WebSocket is not seen, so it may be anything.
pub(crate) fn asked(facts: &RequestFacts, target: Option<&Target>) -> Asked {
    let Some(target) = target.filter(|_| !facts.websocket) else { return Asked::Unclear };
    if facts.body != Body::None {
        let picks = |(name, _): &(String, String)| PICKS.contains(&name.to_ascii_lowercase().as_str());
        return if target.query.iter().any(picks) { Asked::Unclear } else { Asked::Nothing };
    }
    if target.query.is_empty() {
        return Asked::Nothing;
    }
    in_query(&target.query).map_or(Asked::Unclear, Asked::Operations)
}

fn in_query(query: &[(String, String)]) -> Option<Vec<Operation>> {
    let mut members = Map::new();
    for (name, value) in query {
        let value = match name.as_str() {
            "extensions" | "variables" => strict(value.as_bytes())?,
            _ => Value::String(value.clone()),
        };
        if members.insert(name.clone(), value).is_some() {
            return None;
        }
    }
    envelope(&Value::Object(members))
}

/// Which operations a rule speaks of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Graphql {
    /// One of these kinds; empty: any.
    pub(crate) kinds: BTreeSet<Kind>,
    /// One of these names; empty: any, and none.
    pub(crate) names: Globs,
    /// These root fields; empty: any.
    pub(crate) fields: Globs,
}

impl Graphql {
    /// Does it speak of whatever there is?
    pub(crate) fn is_any(&self) -> bool {
        *self == Self::default()
    }

    /// An allow wants every root field to fit, what stops an operation one.
    pub(crate) fn matches(&self, operation: &Operation, verb: Verb) -> bool {
        let Self { kinds, names, fields } = self;
        let fits = |globs: &Globs, text: &str| globs.iter().any(|glob| glob_fits(glob, text, verb));
        let mut selected = operation.fields.iter();
        (kinds.is_empty() || kinds.contains(&operation.kind))
            && (names.is_empty() || operation.name.as_ref().is_some_and(|name| fits(names, name)))
            && (fields.is_empty()
                || if verb == Verb::Allow {
                    selected.all(|field| fits(fields, field))
                } else {
                    selected.any(|field| fits(fields, field))
                })
    }
}

impl fmt::Display for Graphql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kinds, names, fields } = self;
        f.write_str("graphql")?;
        for (what, all) in [("", joined(kinds)), ("named ", joined(names)), ("field ", joined(fields))] {
            if !all.is_empty() {
                write!(f, ", {what}{all}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn found(text: &str) -> Option<Vec<String>> {
        document(text).map(|all| all.iter().map(|it| format!("{} {}", it.kind, it.selected())).collect())
    }

    #[test]
    fn root_fields_are_found_behind_aliases_and_fragments() {
        for (text, expected) in [
            ("{ a: viewer { login } repository { id } }", vec!["query repository viewer"]),
            (
                "mutation M($x: Int = 1) { safe: deleteRepository(input: {x: $x}) { id } }",
                vec!["mutation deleteRepository"],
            ),
            ("subscription { messageAdded }", vec!["subscription messageAdded"]),
            (
                "query { ...A ... on Query { c { d } } ... @include(if: true) { e } } fragment A on Query { b ...B } fragment B on Query { f ...A }",
                vec!["query b c e f"],
            ),
            ("query A { a } mutation B { b }", vec!["query a", "mutation b"]),
            ("# mutation { x }\n{ a(t: \"}\", u: \"\"\"mutation { y }\"\"\") }", vec!["query a"]),
            ("\u{feff}{ a }", vec!["query a"]),
        ] {
            assert_eq!(
                found(text).as_deref(),
                Some(expected.iter().map(ToString::to_string).collect::<Vec<_>>().as_slice()),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_whole_document_is_unclear() {
        for text in [
            "",
            "   # nothing",
            "{ }",
            "{ a ",
            "{ a } }",
            "{ ...Missing }",
            "{ a } { b }",
            "query A { a } query A { b }",
            "{ ...F } fragment F on Q { a } fragment F on Q { b }",
            "fragment F on Q { a }",
            "type Query { a: Int }",
            "extend type Query { a: Int } { a }",
            "mutation",
            "delete { a }",
        ] {
            assert_eq!(found(text), None, "{text}");
        }
        let nested = |depth: usize| "{ a ".repeat(depth) + &"}".repeat(depth);
        assert!(found(&nested(DEPTH / 2)).is_some());
        assert!(found(&nested(100_000)).is_none());
        assert!(found(&format!("{{ {} }}", "a: b ".repeat(MAX_TOKENS))).is_none());
        let wide = |count: usize| (0..count).map(|n| format!("f{n}")).collect::<Vec<_>>().join(" ");
        assert!(found(&format!("{{ {} }}", wide(MAX_FIELDS))).is_some());
        assert!(found(&format!("{{ {} }}", wide(MAX_FIELDS + 1))).is_none());
    }

    #[test]
    fn an_envelope_brings_its_text_and_no_other_document() {
        let read = |text: &str| envelope(&serde_json::from_str(text).unwrap()).is_some();
        for (text, clear) in [
            (r#"{"query":"{ a }"}"#, true),
            (r#"{"query":"query A { a } query B { b }","operationName":"B","variables":{"x":1}}"#, true),
            (r#"{"query":"query A { a }","operationName":"C"}"#, false),
            (r#"{"query":"{ a }","operationName":null,"extensions":{"trace":1}}"#, true),
            (r#"{"query":"{ a }","operationName":7}"#, false),
            (r#"{"query":"{ a }","extensions":{"persistedQuery":{"sha256Hash":"00"}}}"#, false),
            (r#"{"extensions":{"persistedQuery":{"sha256Hash":"00"}}}"#, false),
            (r#"{"query":"{ a }","documentId":"d"}"#, false),
            (r#"{"query":"{ a }","extensions":"x"}"#, false),
            (r#"{"query":7}"#, false),
            (r#"["query"]"#, false),
            ("{}", false),
        ] {
            assert_eq!(read(text), clear, "{text}");
        }
    }
}
