//! One conversation as upstream keeps it: entries that name the one before them.
//!
//! It owns what an entry is and which of them are the conversation; a person may have gone back and said something
//! else, and what was given up so is not it. The threats: lines that are broken, without end, or that name each other
//! in a circle.

use crate::{bundle::Said, secrets::Secrets};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};

/// The longest entry, in bytes.
pub(crate) const LONGEST: usize = 8 << 20;
/// So many broken lines are named.
const NAMED: usize = 5;

/// What a conversation is found to be.
#[derive(Debug, Default)]
pub(crate) struct Transcript {
    /// Every entry that can be read, blanked, as upstream has it.
    pub(crate) entries: Vec<Value>,
    /// Which of them are the conversation, in order.
    path: Vec<usize>,
    /// The lines that cannot be read: the first few.
    pub(crate) broken: Vec<usize>,
    pub(crate) broken_count: u64,
    /// What kinds of secrets were blanked, and how often.
    pub(crate) blanked: BTreeMap<&'static str, u64>,
}

impl Transcript {
    /// Reads its lines; an error is a line that could not even be fetched.
    pub(crate) fn read<'a>(lines: impl Iterator<Item = Option<&'a [u8]>>, secrets: &Secrets) -> Self {
        let mut transcript = Self::default();
        for (number, line) in lines.enumerate() {
            let line = line.filter(|line| line.len() <= LONGEST);
            if line.is_some_and(|line| line.trim_ascii().is_empty()) {
                continue;
            }
            let entry = line.and_then(|line| serde_json::from_slice::<Value>(line).ok());
            if let Some(mut entry) = entry.filter(|entry| entry["type"].is_string()) {
                blank(&mut entry, secrets, &mut transcript.blanked);
                transcript.entries.push(entry);
            } else {
                transcript.broken_count += 1;
                if transcript.broken.len() < NAMED {
                    transcript.broken.push(number + 1);
                }
            }
        }
        transcript.path = path(&transcript.entries);
        transcript
    }

    /// Its messages, and how many entries of the conversation are none that can be shown.
    pub(crate) fn said(&self) -> (Vec<Said>, u64) {
        let (mut all, mut unreadable) = (Vec::new(), 0);
        for entry in self.path.iter().map(|at| &self.entries[*at]).filter(|entry| entry["type"] == "message")
        {
            match said(entry) {
                Some(said) => all.push(said),
                None => unreadable += 1,
            }
        }
        (all, unreadable)
    }

    /// How many messages were given up.
    pub(crate) fn given_up(&self) -> u64 {
        let kept: HashSet<usize> = self.path.iter().copied().collect();
        let message = |(at, entry): &(usize, &Value)| entry["type"] == "message" && !kept.contains(at);
        self.entries.iter().enumerate().filter(message).count() as u64
    }
}

/// The way from the first entry to the last one. Where an entry names one that is not there, what stands before it is
/// taken: a broken line loses itself, not what came before.
fn path(entries: &[Value]) -> Vec<usize> {
    let ids: HashMap<&str, usize> =
        entries.iter().enumerate().filter_map(|(at, entry)| Some((entry["id"].as_str()?, at))).collect();
    let mut path = Vec::new();
    let mut next = entries.len().checked_sub(1);
    while let Some(at) = next {
        path.push(at);
        let parent = match entries[at].get("parentId") {
            // The beginning: what stands before it was given up.
            Some(Value::Null) => break,
            Some(Value::String(parent)) => ids.get(parent.as_str()).copied(),
            _ => None,
        };
        // Only backwards, so that there is an end.
        next = parent.filter(|parent| *parent < at).or_else(|| at.checked_sub(1));
    }
    path.reverse();
    path
}

fn said(entry: &Value) -> Option<Said> {
    let message = &entry["message"];
    let role =
        message["role"].as_str().filter(|role| matches!(*role, "user" | "assistant" | "toolResult"))?;
    let content = match &message["content"] {
        Value::String(text) => json!([{ "type": "text", "text": text }]),
        Value::Array(blocks) => blocks.iter().filter(|block| block["type"].is_string()).cloned().collect(),
        _ => return None,
    };
    let mut body = Map::from_iter([("content".to_owned(), content)]);
    if role == "toolResult" {
        let call = message["toolCallId"].as_str()?;
        body.insert("toolCallId".to_owned(), call.into());
        body.insert("toolName".to_owned(), message["toolName"].as_str().unwrap_or("tool").into());
        body.insert("isError".to_owned(), (message["isError"] == true).into());
    }
    let at =
        message["timestamp"].as_u64().or_else(|| moment(entry["timestamp"].as_str()?)).unwrap_or_default();
    Some(Said { role: role.to_owned(), body: Value::Object(body), at })
}

pub(crate) fn blank(value: &mut Value, secrets: &Secrets, blanked: &mut BTreeMap<&'static str, u64>) {
    match value {
        Value::String(text) => blank_text(text, secrets, blanked),
        Value::Array(rows) => rows.iter_mut().for_each(|row| blank(row, secrets, blanked)),
        Value::Object(fields) => {
            for (mut key, mut field) in std::mem::take(fields) {
                blank_text(&mut key, secrets, blanked);
                blank(&mut field, secrets, blanked);
                fields.insert(key, field);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn blank_text(text: &mut String, secrets: &Secrets, blanked: &mut BTreeMap<&'static str, u64>) {
    let Some((blank, kinds)) = secrets.blank(text) else { return };
    *text = blank;
    for kind in kinds {
        *blanked.entry(kind).or_default() += 1;
    }
}

/// `2026-09-01T10:00:01.000Z` in milliseconds since the epoch.
pub(crate) fn moment(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize| {
        text.get(from..to).filter(|it| it.bytes().all(|byte| byte.is_ascii_digit()))?.parse::<u64>().ok()
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1970..=9999).contains(&year)
        || !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    let milliseconds = if text.as_bytes().get(19) == Some(&b'.') { number(20, 23).unwrap_or(0) } else { 0 };
    // Days from civil: years begin in March, so that a leap day is the last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year / 400, year % 400);
    let day_of_era = of_era * 365 + of_era / 4 - of_era / 100 + (153 * month + 2) / 5 + day - 1;
    let days = (era * 146_097 + day_of_era).checked_sub(719_468)?;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + milliseconds)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn read(lines: &[&str]) -> Transcript {
        Transcript::read(lines.iter().map(|line| Some(line.as_bytes())), &Secrets::default())
    }

    fn texts(transcript: &Transcript) -> Vec<String> {
        transcript
            .said()
            .0
            .iter()
            .map(|said| said.body["content"][0]["text"].as_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn the_last_branch_is_the_conversation_and_a_broken_line_loses_itself() {
        let transcript = read(&[
            r#"{"type":"session","version":3,"id":"s","timestamp":"2026-09-01T10:00:00.000Z"}"#,
            r#"{"type":"message","id":"a","parentId":null,"message":{"role":"user","content":"one","timestamp":5}}"#,
            "{\"type\":\"mess",
            r#"{"type":"message","id":"b","parentId":"gone","message":{"role":"assistant","content":[{"type":"text","text":"two"}]}}"#,
            r#"{"type":"message","id":"c","parentId":"b","message":{"role":"user","content":"given up"}}"#,
            r#"{"type":"message","id":"d","parentId":"b","timestamp":"2026-09-01T10:00:01.250Z","message":{"role":"user","content":"three"}}"#,
            r#"{"type":"message","id":"e","parentId":"d","message":{"role":"alien","content":"x"}}"#,
        ]);
        assert_eq!(texts(&transcript), ["one", "two", "three"]);
        assert_eq!(
            (transcript.given_up(), transcript.broken_count, &transcript.broken[..]),
            (1, 1, &[3][..])
        );
        let (said, unreadable) = transcript.said();
        assert_eq!((said[0].at, said[2].at, unreadable), (5, 1_788_256_801_250, 1));
    }

    #[test]
    fn a_circle_has_an_end() {
        let transcript = read(&[
            r#"{"type":"message","id":"a","parentId":"b","message":{"role":"user","content":"one"}}"#,
            r#"{"type":"message","id":"b","parentId":"a","message":{"role":"user","content":"two"}}"#,
            r#"{"type":"message","id":"b","parentId":"b","message":{"role":"user","content":"three"}}"#,
        ]);
        assert_eq!(texts(&transcript), ["one", "two", "three"]);
    }

    #[test]
    fn moments_are_read() {
        assert_eq!(moment("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(moment("2024-02-29T12:34:56.789Z"), Some(1_709_210_096_789));
        for wrong in ["", "2024-13-01T00:00:00Z", "2024-02-29", "é024-02-29T12:34:56Z"] {
            assert_eq!(moment(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn whatever_lines_name_each_message_is_there_once_and_none_is_lost(
            parents in prop::collection::vec(prop::option::of(0_usize..12), 0..12),
            broken in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let lines: Vec<String> = parents.iter().enumerate().map(|(at, parent)| {
                json!({ "type": "message", "id": at.to_string(), "parentId": parent.map(|it| it.to_string()),
                    "message": { "role": "user", "content": at.to_string() } }).to_string()
            }).collect();
            let lines = lines.iter().map(|line| Some(line.as_bytes())).chain([Some(&broken[..])]);
            let transcript = Transcript::read(lines, &Secrets::default());
            let (said, unreadable) = transcript.said();
            prop_assert_eq!(unreadable, 0);
            prop_assert_eq!(said.len() as u64 + transcript.given_up(), parents.len() as u64);
        }
    }
}
