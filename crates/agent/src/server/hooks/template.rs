//! Templates of mappings: `{{payload.a.b[0]}}`, `{{headers.x}}`, `{{query.x}}`, `{{path}}`, `{{now}}`. What is not there
//! is nothing.

use crate::cron::schedule;
use http::HeaderMap;
use serde_json::Value;
use std::borrow::Cow;

/// The longest text that comes of one, in bytes.
const LONGEST: usize = 64 * 1024;
/// What a caller shows to be let in is no part of any text.
const SECRET: [&str; 3] = ["authorization", "cookie", super::TOKEN];

/// What was posted.
pub(super) struct Posted {
    pub(super) payload: Value,
    pub(super) headers: HeaderMap,
    pub(super) query: String,
    pub(super) path: String,
    pub(super) now: u64,
}

impl Posted {
    /// The text that a template says.
    pub(super) fn render(&self, template: &str) -> String {
        let (mut out, mut rest) = (String::new(), template);
        while let Some((before, behind)) = rest.split_once("{{") {
            out.push_str(before);
            let Some((expression, after)) = behind.split_once("}}") else {
                rest = &rest[before.len()..];
                break;
            };
            out.push_str(&self.value(expression.trim()));
            rest = after;
            if out.len() > LONGEST {
                break;
            }
        }
        out.push_str(rest);
        out.truncate(out.floor_char_boundary(LONGEST));
        out
    }

    fn value(&self, expression: &str) -> Cow<'_, str> {
        if expression == "path" {
            return (&*self.path).into();
        }
        if expression == "now" {
            return schedule::iso(self.now).into();
        }
        if let Some(name) = expression.strip_prefix("headers.") {
            let name = name.to_ascii_lowercase();
            let value = self.headers.get(&name).filter(|_| !SECRET.contains(&&*name));
            return value.and_then(|value| value.to_str().ok()).unwrap_or_default().into();
        }
        if let Some(name) = expression.strip_prefix("query.") {
            return pairs(&self.query)
                .filter(|(key, _)| key == name)
                .last()
                .map_or("".into(), |(_, value)| value);
        }
        match at(&self.payload, expression.strip_prefix("payload.").unwrap_or(expression)) {
            None | Some(Value::Null) => "".into(),
            Some(Value::String(text)) => text.into(),
            Some(other) => other.to_string().into(),
        }
    }
}

/// What is at a path as `a.b[0].c`.
fn at<'a>(payload: &'a Value, path: &str) -> Option<&'a Value> {
    path.split(['.', '[', ']']).filter(|part| !part.is_empty()).try_fold(payload, |value, part| match value {
        Value::Array(all) => all.get(part.parse::<usize>().ok()?),
        Value::Object(fields) => fields.get(part),
        _ => None,
    })
}

/// The pairs of a query.
pub(super) fn pairs(query: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (unescaped(key), unescaped(value))
    })
}

fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return text.into();
    }
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'%', [high, low, behind @ ..]) if digit(*high).is_some() && digit(*low).is_some() => {
                out.push(digit(*high).unwrap_or(0) << 4 | digit(*low).unwrap_or(0));
                rest = behind;
            }
            (b'+', _) => out.push(b' '),
            _ => out.push(*first),
        }
    }
    String::from_utf8_lossy(&out).into_owned().into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn posted() -> Posted {
        let mut headers = HeaderMap::new();
        headers.insert("x-event", "push".parse().unwrap());
        headers.insert(super::super::TOKEN, "secret".parse().unwrap());
        Posted {
            payload: json!({ "a": { "b": [{ "c": "deep" }, 7] }, "source": "git", "{{": "no" }),
            headers,
            query: "q=one%20two&q=th+ree&x".to_owned(),
            path: "github".to_owned(),
            now: 1_795_330_345_458,
        }
    }

    #[test]
    fn a_template_says_what_was_posted_and_never_a_token() {
        let posted = posted();
        for (template, said) in [
            ("{{ a.b[0].c }}/{{payload.a.b[1]}}", "deep/7"),
            ("{{headers.X-Event}} {{query.q}}|{{query.x}}|{{path}}", "push th ree||github"),
            ("{{now}}", "2026-11-22T06:52:25.458Z"),
            ("{{a.b}}", "[{\"c\":\"deep\"},7]"),
            ("{{nothing}}{{a.b[9]}}{{a.b.c}}{{headers.none}}{{query.none}}", ""),
            ("{{headers.x-openclaw-token}}{{headers.X-OpenClaw-Token}}", ""),
            ("open {{a", "open {{a"),
            ("}} {{ source }} {", "}} git {"),
        ] {
            assert_eq!(posted.render(template), said, "{template}");
        }
        assert!(posted.render(&"x{{a}}".repeat(50_000)).len() <= LONGEST);
    }

    proptest! {
        #[test]
        fn no_template_and_no_query_panics(template in ".*", query in ".*") {
            let posted = Posted { query, ..posted() };
            posted.render(&template);
            posted.render(&format!("{{{{{template}}}}}{{{{query.q}}}}"));
        }
    }
}
