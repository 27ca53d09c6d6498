//! `question.*`: what they take.

use super::Fault;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How many questions one may ask at once, how many answers each may offer, and the longest header, in characters.
const MOST: usize = 3;
const OPTIONS: usize = 4;
const HEADER: usize = 12;
/// The longest text of one, in bytes.
const LONGEST: usize = 8 * 1024;

/// `question.request`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Asked {
    #[serde(default)]
    pub id: Option<String>,
    pub questions: Vec<Question>,
    #[serde(default)]
    pub agent_id: Option<String>,
    #[serde(default)]
    pub session_key: Option<String>,
    #[serde(default)]
    pub run_id: Option<String>,
    #[serde(default)]
    pub timeout_ms: Option<u64>,
}

/// One question. Of secrets none is asked: their place is the vault.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Question {
    #[serde(rename = "questionId")]
    pub id: String,
    pub header: String,
    #[serde(rename = "question")]
    pub text: String,
    pub options: Vec<Choice>,
    #[serde(default)]
    pub multi_select: bool,
    #[serde(default)]
    pub is_other: bool,
}

/// An answer that is offered.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    pub label: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// The answers to each of them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Answers {
    answers: BTreeMap<String, Vec<String>>,
}

impl Answers {
    /// Of which questions?
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.answers.keys()
    }

    /// All that was said.
    pub fn said(&self) -> impl Iterator<Item = &String> {
        self.answers.values().flatten()
    }
}

/// `question.resolve`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Resolve {
    pub id: String,
    #[serde(default)]
    pub answers: Option<Answers>,
    #[serde(default)]
    pub cancel: bool,
    #[serde(default)]
    #[expect(dead_code, reason = "who answers is who is connected, but clients say it")]
    resolved_by: Option<String>,
}

/// `question.get`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Get {
    pub id: String,
}

/// `question.waitAnswer`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Wait {
    pub id: String,
    #[serde(default)]
    pub timeout_ms: Option<u64>,
}

impl Asked {
    /// Is it one that people can be asked?
    pub fn check(&self) -> Result<(), Fault> {
        let bad = |why: &str| Err(Fault::invalid(format!("invalid question.request params: {why}")));
        if self.questions.is_empty() || self.questions.len() > MOST {
            return bad("there are 1 to 3 questions");
        }
        for Question { id, header, text, options, .. } in &self.questions {
            let named = id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
                && id.starts_with(|c: char| c.is_ascii_lowercase());
            let said =
                options.iter().map(|it| it.label.len() + it.description.as_ref().map_or(0, String::len));
            if !named || id.len() > HEADER * 4 {
                return bad("`questionId` is of a-z, 0-9 and _");
            }
            if header.chars().count() > HEADER || text.is_empty() {
                return bad("`header` has at most 12 characters, and `question` is not empty");
            }
            if options.len() > OPTIONS || options.iter().any(|it| it.label.is_empty()) {
                return bad("there are at most 4 `options`, each with a label");
            }
            if text.len() + said.sum::<usize>() > LONGEST {
                return bad("a question is too long");
            }
        }
        Ok(())
    }
}
