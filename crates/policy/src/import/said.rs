//! What a foreign rule says of a request, in our words: paths, values and operations.
//!
//! Upstream's `*` in a path runs over slashes, and ours stays within a segment. So an allow is read as ours,
//! which is less, and a denial is widened until it holds at least all of theirs.

use crate::{glob::Glob, path::Template};
use serde_json::{Map, Value, json};

/// A path in our words.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Path {
    /// None: any.
    pub(super) text: Option<String>,
    /// Does it mean the same? Else less for an allow, more for a denial.
    pub(super) same: bool,
}

/// Upstream's signs that ours do not have.
const CLASSES: [char; 4] = ['?', '[', '{', '}'];

fn is_any(path: &str) -> bool {
    matches!(path, "" | "*" | "**" | "/**")
}

/// The path of an allow within its endpoint's path; none if it cannot be said.
pub(super) fn allowed(rule: Option<&str>, endpoint: Option<&str>) -> Option<Path> {
    let endpoint = endpoint.filter(|path| !is_any(path));
    let rule = rule.filter(|path| !is_any(path));
    let text = match (rule, endpoint) {
        (None, None) => return Some(Path { text: None, same: true }),
        (Some(path), None) | (None, Some(path)) => path,
        (Some(path), Some(endpoint)) => within(path, endpoint).then_some(path)?,
    };
    if text.contains(CLASSES) || Template::parse(text).is_err() {
        return None;
    }
    let same = text.split('/').all(|part| part == "**" || !part.contains('*'));
    Some(Path { text: Some(text.to_owned()), same })
}

/// Is all that one path stands for within the other?
fn within(path: &str, endpoint: &str) -> bool {
    let folder = endpoint.strip_suffix("/**").filter(|folder| !folder.contains('*'));
    path == endpoint
        || folder.is_some_and(|folder| path.strip_prefix(folder).is_some_and(|it| it.starts_with('/')))
}

/// The path of a denial: at least all that theirs stands for; none if it cannot be said.
pub(super) fn denied(rule: Option<&str>, endpoint: Option<&str>) -> Option<Path> {
    let Some(path) = rule.or(endpoint).filter(|path| !is_any(path)) else {
        return Some(Path { text: None, same: true });
    };
    let mut parts: Vec<&str> = path.strip_prefix('/')?.split('/').filter(|part| !part.is_empty()).collect();
    let rest = parts.last() == Some(&"**");
    if rest {
        parts.pop();
    }
    let wild = |part: &&str| part.contains('*') || part.contains(CLASSES);
    let (Some(first), Some(last)) = (parts.iter().position(wild), parts.iter().rposition(wild)) else {
        return Template::parse(path).ok().map(|_| Path { text: Some(path.to_owned()), same: true });
    };
    let mut wide = parts[..first].to_vec();
    wide.push("**");
    wide.extend(&parts[last + 1..]);
    if rest && wide.last() != Some(&"**") {
        wide.push("**");
    }
    let text = format!("/{}", wide.join("/"));
    Template::parse(&text).ok()?;
    let same = text == path;
    Some(Path { text: Some(text), same })
}

/// One text or some, of which one must fit.
pub(super) fn texts(value: &Value) -> Option<Value> {
    let all: Vec<&str> = match value {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().map(Value::as_str).collect::<Option<_>>()?,
        Value::Object(fields) if fields.len() == 1 => {
            fields.get("any")?.as_array()?.iter().map(Value::as_str).collect::<Option<_>>()?
        }
        _ => return None,
    };
    // Only `*` means there what it means here.
    let fits =
        |text: &&str| !text.is_empty() && !text.contains(['?', '[', '{', '!']) && Glob::parse(text).is_some();
    (!all.is_empty() && all.iter().all(fits)).then(|| json!(all))
}

/// Methods of HTTP.
pub(super) fn methods(value: &Value) -> Option<Value> {
    let all = texts(value)?;
    let upper: Vec<String> =
        all.as_array()?.iter().filter_map(Value::as_str).map(str::to_ascii_uppercase).collect();
    let token =
        |text: &String| text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') && text != "CONNECT";
    upper.iter().all(token).then(|| json!(upper))
}

/// The one parameter of a call that upstream speaks of, a tool's name.
pub(super) fn params(value: &Value) -> Option<Value> {
    let fields = value.as_object()?;
    if fields.len() == 1 { texts(fields.get("name")?) } else { None }
}

/// Parameters of a query.
pub(super) fn query(value: &Value) -> Option<Value> {
    let fields = value.as_object()?;
    let pairs = fields.iter().map(|(name, value)| Some((name.clone(), texts(value)?)));
    pairs.collect::<Option<Map<_, _>>>().map(Value::Object)
}

/// Kinds of GraphQL's operations; null: any.
pub(super) fn operations(value: &Value) -> Option<Value> {
    let all = texts(value)?;
    let all: Vec<&str> = all.as_array()?.iter().filter_map(Value::as_str).collect();
    if all == ["*"] {
        return Some(Value::Null);
    }
    let known = |kind: &&str| ["query", "mutation", "subscription"].contains(kind);
    all.iter().all(known).then(|| json!(all))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_allow_is_read_as_less_and_a_denial_as_more() {
        for (rule, endpoint, allow, deny) in [
            (None, None, Some(("", true)), Some(("", true))),
            (Some("/**"), Some("/v1/**"), Some(("/v1/**", true)), Some(("", true))),
            (None, Some("/v1/**"), Some(("/v1/**", true)), Some(("/v1/**", true))),
            (Some("/v1/a"), Some("/v1/**"), Some(("/v1/a", true)), Some(("/v1/a", true))),
            (Some("/v2/a"), Some("/v1/**"), None, Some(("/v2/a", true))),
            (Some("/v1a/b"), Some("/v1/**"), None, Some(("/v1a/b", true))),
            (Some("/r/*/p/*/x"), None, Some(("/r/*/p/*/x", false)), Some(("/r/**/x", false))),
            (Some("/r/*/s/**"), None, Some(("/r/*/s/**", false)), Some(("/r/**/s/**", false))),
            (
                Some("/**/git-upload-pack"),
                None,
                Some(("/**/git-upload-pack", true)),
                Some(("/**/git-upload-pack", true)),
            ),
            (Some("/a/v*"), None, Some(("/a/v*", false)), Some(("/a/**", false))),
            (Some("/a/[0-9]/b"), None, None, Some(("/a/**/b", false))),
            (Some("/**/a/**/b"), None, None, Some(("/**/b", false))),
            (Some("a"), None, None, None),
        ] {
            let said = |path: Option<Path>| path.map(|it| (it.text.unwrap_or_default(), it.same));
            let expected = |it: Option<(&str, bool)>| it.map(|(text, same)| (text.to_owned(), same));
            assert_eq!(said(allowed(rule, endpoint)), expected(allow), "{rule:?} {endpoint:?}");
            assert_eq!(said(denied(rule, endpoint)), expected(deny), "{rule:?} {endpoint:?}");
        }
    }
}
