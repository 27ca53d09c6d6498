//! What of a configuration is shown to nobody, and how it comes back.
//!
//! Whoever reads it sees a mark where a secret is, as upstream writes it. A change that has the mark at the same place
//! keeps what is there; at any other place it is refused, so that it never becomes a value.

use serde_json::{Map, Value};

/// What stands for a secret.
pub(crate) const MARK: &str = "__OPENCLAW_REDACTED__";

/// Keys that only look like secrets, by their ends.
const HARMLESS: [&str; 10] = [
    "maxtokens",
    "maxoutputtokens",
    "maxinputtokens",
    "maxcompletiontokens",
    "contexttokens",
    "totaltokens",
    "tokencount",
    "tokenlimit",
    "tokenbudget",
    "passwordfile",
];

/// Is a value at this path a secret? By its name, as upstream judges, and whatever is a header or goes into the
/// environment of a program.
pub fn is_sensitive(path: &str) -> bool {
    let path = path.trim_end_matches("[]").to_lowercase();
    if HARMLESS.iter().any(|end| path.ends_with(end)) {
        return false;
    }
    let plain: String = path.chars().filter(|sign| !matches!(sign, '-' | '_')).collect();
    path.ends_with("token")
        || ["password", "secret", ".headers.", ".env.", "serviceaccount", "webhookurl"]
            .iter()
            .any(|part| plain.contains(part))
        || ["apikey", "encryptkey", "encryptionkey", "privatekey"].iter().any(|part| plain.contains(part))
}

/// Is there a password in it, as in `https://me:word@host`?
fn has_userinfo(text: &str) -> bool {
    let Some((_, rest)) = text.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.contains('@')
}

/// A reference to something elsewhere is none.
fn is_secret(path: &str, text: &str) -> bool {
    let text = text.trim();
    let reference = text.starts_with("${") && text.find('}') == Some(text.len() - 1);
    !text.is_empty() && !reference && (is_sensitive(path) || has_userinfo(text))
}

pub(super) fn below(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// As it is shown; each secret that was in it is given to `found`.
fn covered(value: &Value, path: &str, found: &mut Vec<String>) -> Value {
    match value {
        Value::String(text) if is_secret(path, text) => {
            found.push(text.clone());
            MARK.into()
        }
        Value::Array(items) => {
            let path = format!("{path}[]");
            items.iter().map(|item| covered(item, &path, found)).collect()
        }
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| (key.clone(), covered(value, &below(path, key), found)))
            .collect::<Map<_, _>>()
            .into(),
        plain => plain.clone(),
    }
}

/// As it is shown.
pub(crate) fn shown(value: &Value) -> Value {
    covered(value, "", &mut Vec::new())
}

/// All secrets that are in it, the longest first.
pub(crate) fn all(value: &Value) -> Vec<String> {
    let mut secrets = Vec::new();
    covered(value, "", &mut secrets);
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    secrets
}

/// The text of a file as it is shown; none if it cannot be shown so that it means the same.
pub(crate) fn shown_text(raw: &str, value: &Value) -> Option<String> {
    let text = all(value).iter().fold(raw.to_owned(), |text, secret| text.replace(secret, MARK));
    // A secret that is written in escapes is still in it, and a short one may have been part of a word.
    (super::text::read(&text).ok()? == shown(value)).then_some(text)
}

/// What was written with marks, with the secrets of what is there; the error names the place of a mark that stands
/// for nothing.
pub(crate) fn restored(value: Value, old: Option<&Value>) -> Result<Value, String> {
    restore(value, old, "")
}

fn restore(value: Value, old: Option<&Value>, path: &str) -> Result<Value, String> {
    match value {
        Value::String(text) if text == MARK => match old {
            Some(Value::String(secret)) if is_secret(path, secret) => Ok(old.cloned().unwrap_or_default()),
            _ => Err(format!(
                "Reserved redaction sentinel \"{MARK}\" is not valid config data ({}).",
                if path.is_empty() { "<root>" } else { path }
            )),
        },
        Value::Array(items) => {
            let (path, old) = (format!("{path}[]"), old.and_then(Value::as_array));
            let items = items.into_iter().enumerate();
            items
                .map(|(at, item)| restore_item(item, at, old, &path))
                .collect::<Result<Vec<_>, _>>()
                .map(Value::from)
        }
        Value::Object(fields) => {
            let restored = fields.into_iter().map(|(key, value)| {
                let old = old.and_then(|old| old.get(&key));
                restore(value, old, &below(path, &key)).map(|value| (key, value))
            });
            Ok(restored.collect::<Result<Map<_, _>, _>>()?.into())
        }
        plain => Ok(plain),
    }
}

/// What has an id is the old one of this id; all else, the old one at its place.
fn restore_item(item: Value, at: usize, old: Option<&Vec<Value>>, path: &str) -> Result<Value, String> {
    let id = item.get("id").and_then(Value::as_str).map(str::to_owned);
    let old = old.and_then(|old| match id {
        Some(id) => old.iter().find(|old| old["id"] == id.as_str()),
        None => old.get(at).filter(|old| old.get("id").is_none()),
    });
    restore(item, old, path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_are_marks_and_come_back_where_they_were_and_nowhere_else() {
        let whole = json!({
            "hooks": { "token": "hush-1", "maxTokens": 9, "path": "/hooks" },
            "mcp": { "servers": { "a": {
                "env": { "HOME": "hush-2" }, "headers": { "Authorization": "hush-3" }, "url": "https://me:hush-4@host/x",
            } } },
            "list": [{ "id": "one", "apiKey": "hush-5" }, { "id": "two", "api_key": "hush-6" }],
            "tokens": ["hush?"], "botToken": "${BOT}", "contextTokens": 5,
        });
        let seen = shown(&whole);
        assert_eq!(seen.to_string().matches("hush-").count(), 0, "{seen}");
        assert_eq!((&seen["botToken"], &seen["hooks"]["path"]), (&json!("${BOT}"), &json!("/hooks")));
        assert_eq!(restored(seen.clone(), Some(&whole)).unwrap(), whole);
        // Another order, and one entry less.
        let turned = json!({ "list": [seen["list"][1].clone()] });
        assert_eq!(restored(turned, Some(&whole)).unwrap()["list"][0]["api_key"], "hush-6");
        for elsewhere in [
            json!({ "hooks": { "path": MARK } }),
            json!({ "hooks": { "secret": MARK } }),
            json!({ "list": [{ "id": "three", "apiKey": MARK }] }),
            json!(MARK),
        ] {
            assert!(
                restored(elsewhere.clone(), Some(&whole)).unwrap_err().contains("sentinel"),
                "{elsewhere}"
            );
        }
    }

    #[test]
    fn a_text_is_shown_without_its_secrets_or_not_at_all() {
        let text = |raw: &str| shown_text(raw, &super::super::text::read(raw).unwrap());
        assert_eq!(
            text("{ token: 'hush', // hush\n}").unwrap(),
            format!("{{ token: '{MARK}', // {MARK}\n}}")
        );
        assert_eq!(text(r"{ token: 'h\u0075sh' }"), None, "it is written in escapes");
        assert_eq!(text("{ token: 'en', to: 'open' }"), None, "it is part of another word");
    }
}
