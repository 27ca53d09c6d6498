//! The head of a SKILL.md: what a skill is called, what it is for, and what it wants.
//!
//! It owns reading that head as upstream does. The threat is one that nobody has read before: it is bounded in length,
//! depth and nodes, has no anchors, and what cannot be read is an error that says why.

use serde_json::{Map, Value};

/// The longest head, in bytes.
const LONGEST: usize = 16 * 1024;
/// Of its texts so many characters are kept.
const NAME: usize = 64;
const DESCRIPTION: usize = 1024;
const WORD: usize = 256;
/// And of its lists so many words.
const WORDS: usize = 64;
/// Where the part is that is for gateways, the newest name first.
const KEYS: [&str; 2] = ["openclaw", "clawdbot"];

/// What a head says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Front {
    /// None: the directory's own.
    pub(crate) name: Option<String>,
    pub(crate) description: String,
    pub(crate) homepage: Option<String>,
    pub(crate) emoji: Option<String>,
    /// Under which it is configured, if not under its name.
    pub(crate) key: Option<String>,
    pub(crate) primary_env: Option<String>,
    /// A person may call it with a slash.
    pub(crate) user_invocable: bool,
    /// The model is told of it.
    pub(crate) model_invocable: bool,
    /// Whatever else is missing.
    pub(crate) always: bool,
    pub(crate) os: Vec<String>,
    pub(crate) bins: Vec<String>,
    pub(crate) any_bins: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) config: Vec<String>,
}

impl Front {
    /// Reads the head of a file.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let top = read(head(text)?)?;
        let field = |name: &str| top.get(name).or_else(|| top.get(&name.replace('-', "_")));
        let words = |name: &str, most: usize| field(name).and_then(|value| line(value, most));
        let description = words("description", DESCRIPTION).ok_or("it has no `description`")?;
        let metadata = metadata(&top)?;
        let wanted = metadata.get("requires").and_then(Value::as_object).cloned().unwrap_or_default();
        let text = |name: &str| metadata.get(name).and_then(|value| line(value, WORD));
        Ok(Self {
            name: words("name", NAME),
            description,
            homepage: text("homepage").or_else(|| words("homepage", WORD)),
            emoji: text("emoji"),
            key: text("skillKey"),
            primary_env: text("primaryEnv"),
            user_invocable: field("user-invocable").and_then(truth).unwrap_or(true),
            model_invocable: !field("disable-model-invocation").and_then(truth).unwrap_or(false),
            always: metadata.get("always") == Some(&Value::Bool(true)),
            os: list(metadata.get("os")),
            bins: list(wanted.get("bins")),
            any_bins: list(wanted.get("anyBins")),
            env: list(wanted.get("env")),
            config: list(wanted.get("config")),
        })
    }
}

/// The lines between the two that are `---`.
fn head(text: &str) -> Result<&str, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let begin = text.split_inclusive('\n').next().filter(|line| line.trim_end() == "---");
    let begin = begin.ok_or("it does not begin with a line that is ---")?.len();
    let mut end = begin;
    for line in text[begin..].split_inclusive('\n') {
        if line.trim_end() == "---" {
            return Ok(&text[begin..end]);
        }
        end += line.len();
        if end > LONGEST {
            return Err(format!("its head is longer than {LONGEST} bytes"));
        }
    }
    Err("its head has no last line that is ---".to_owned())
}

/// A head as a mapping. Many a description has a colon in it and no quotes: it is read as if it had them.
fn read(head: &str) -> Result<Map<String, Value>, String> {
    yaml(head).or_else(|why| quoted(head).map_or(Err(why), |head| yaml(&head)))
}

fn yaml(text: &str) -> Result<Map<String, Value>, String> {
    let budget = serde_saphyr::budget! {
        max_depth: 12,
        flow_nesting_limit: 12,
        max_aliases: 0,
        max_anchors: 0,
        max_documents: 1,
        max_events: 4_000,
        max_nodes: 4_000,
    };
    let options = serde_saphyr::options! { budget: budget, with_snippet: false };
    match serde_saphyr::from_str_with_options(text, options) {
        Ok(Value::Object(top)) => Ok(top),
        Ok(_) => Err("its head is no mapping".to_owned()),
        Err(error) => {
            let error = error.without_snippet().render();
            let said: String = error.lines().next().unwrap_or_default().chars().take(200).collect();
            Err(format!("its head cannot be read: {said}"))
        }
    }
}

/// With its description in quotes, if it stands on one line without.
fn quoted(head: &str) -> Option<String> {
    let line = head.lines().find(|line| line.starts_with("description:"))?;
    let said = line.strip_prefix("description:")?.trim();
    if said.is_empty() || said.starts_with(['"', '\'', '|', '>']) {
        return None;
    }
    Some(head.replacen(line, &format!("description: {}", Value::from(said)), 1))
}

/// The part that is for gateways: a mapping, or a text that is one.
fn metadata(top: &Map<String, Value>) -> Result<Map<String, Value>, String> {
    let mut all = match top.get("metadata") {
        Some(Value::String(text)) => yaml(text).map_err(|why| format!("`metadata`: {why}"))?,
        Some(Value::Object(all)) => all.clone(),
        _ => return Ok(Map::new()),
    };
    let found = KEYS.iter().find_map(|key| match all.remove(*key) {
        Some(Value::Object(found)) => Some(found),
        _ => None,
    });
    Ok(found.unwrap_or_default())
}

/// A text on one line, without signs that nobody sees; none if nothing is left.
fn line(value: &Value, most: usize) -> Option<String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(_) | Value::Bool(_) => value.to_string(),
        _ => return None,
    };
    let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text: String = text.chars().filter(|sign| crate::text::is_seen(*sign)).take(most).collect();
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Words: a list of them, or one text with commas.
fn list(value: Option<&Value>) -> Vec<String> {
    let words: Vec<String> = match value {
        Some(Value::Array(all)) => all.iter().filter_map(|one| line(one, WORD)).take(WORDS).collect(),
        Some(Value::String(text)) => {
            text.split(',').filter_map(|one| line(&one.into(), WORD)).take(WORDS).collect()
        }
        _ => Vec::new(),
    };
    words
}

fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(truth) => Some(*truth),
        Value::String(text) => match &*text.trim().to_ascii_lowercase() {
            "true" | "yes" | "on" | "1" => Some(true),
            "false" | "no" | "off" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_head_is_read_as_upstream_writes_it() {
        let text = "\u{feff}---\r\nname: github\r\ndescription: \"GitHub: issues\u{200b} and\n  pulls.\"\r\nuser-invocable: no\r\n\
            disable_model_invocation: true\r\ncommand-dispatch: tool\r\n\
            metadata:\r\n  {\r\n    \"openclaw\":\r\n      {\r\n        \"emoji\": \"🐙\",\r\n        \"always\": true,\r\n        \
            \"os\": \"linux, darwin\",\r\n        \"requires\": { \"bins\": [\"gh\"], \"anyBins\": [\"a\", \"b\"], \
            \"env\": [\"T\"], \"config\": [\"mcp.servers\"] },\r\n        \"primaryEnv\": \"T\",\r\n      },\r\n  }\r\n---\r\nbody ---\r\n";
        let front = Front::parse(text).unwrap();
        assert_eq!(
            (front.name.as_deref(), &*front.description),
            (Some("github"), "GitHub: issues and pulls.")
        );
        assert!(!front.user_invocable && !front.model_invocable && front.always);
        assert_eq!((front.emoji.as_deref(), front.primary_env.as_deref()), (Some("🐙"), Some("T")));
        assert_eq!(
            (front.os, front.any_bins),
            (vec!["linux".into(), "darwin".to_owned()], vec!["a".into(), "b".to_owned()])
        );
        assert_eq!((&*front.bins[0], &*front.env[0], &*front.config[0]), ("gh", "T", "mcp.servers"));
        // An old name, in a text; and one whose colon should have been in quotes.
        let old = "---\ndescription: Use it when: you must\nmetadata: '{clawdbot: {always: true, requires: {bins: x}}}'\n---\n";
        let old = Front::parse(old).unwrap();
        assert_eq!(
            (&*old.description, old.name, old.always, &*old.bins[0]),
            ("Use it when: you must", None, true, "x")
        );
    }

    #[test]
    fn a_head_that_is_none_says_why() {
        let deep = format!("---\ndescription: d\nx: {}\n---\n", "[".repeat(200));
        let long = format!("---\ndescription: {}\n", "x\n".repeat(LONGEST));
        let bomb = "---\na: &a [x, x]\nb: [*a, *a]\ndescription: d\n---\n";
        for (text, why) in [
            ("# no head", "does not begin"),
            ("---\nname: a\n", "no last line"),
            ("---\nname: a\n---\n", "no `description`"),
            ("---\n- a\n---\n", "no mapping"),
            ("---\nname: [\n---\n", "cannot be read"),
            (&long, "longer than"),
            (&deep, "cannot be read"),
            (bomb, "cannot be read"),
            ("", "does not begin"),
        ] {
            let said = Front::parse(text).unwrap_err();
            assert!(said.contains(why), "{text:.40}: {said}");
        }
    }

    proptest::proptest! {
        /// Whatever it is, it is read or refused, and what is kept is bounded.
        #[test]
        fn no_head_panics(
            lines in proptest::collection::vec("(description: |name: |metadata: |  openclaw: |- |\\{|\\}|\\[|'|\"|&a |\\*a |\\| |: |é|\u{202e}|x){0,12}", 0..20),
        ) {
            let text = format!("---\n{}\n---\nbody", lines.join("\n"));
            if let Ok(front) = Front::parse(&text) {
                proptest::prop_assert!(!front.description.is_empty() && front.description.chars().count() <= DESCRIPTION);
                proptest::prop_assert!(front.description.chars().all(|sign| sign != '\n' && crate::text::is_seen(sign)));
                proptest::prop_assert!(front.bins.len() <= WORDS);
            }
        }
    }
}
