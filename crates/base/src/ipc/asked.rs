//! What a cell asked for, in the words in which people see it.
//!
//! A [`Question`] is what an answer is bound to: everything in it was shown, and the digest of its bytes comes
//! back with the answer. The threat: an answer to something else than what was on the screen, because it moved
//! meanwhile, or because what was shown could be read in two ways. So every text in here was made visible
//! before ([`visible`]), and is short.

use crate::{Destination, Digest, TenantId};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// The longest URL that is shown, in characters.
pub const LONGEST_URL: usize = 512;
/// The longest arguments of a tool that are shown, in characters.
pub const LONGEST_ARGUMENTS: usize = 2048;
/// The longest other word of a request: a method, the name of a tool.
pub const LONGEST_WORD: usize = 64;
/// The longest reason why a policy asks, in characters.
pub const LONGEST_WHY: usize = 500;

/// One request, as far as somebody outside of the cell could read it. What cannot be read is left out.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestShown {
    /// `GET`.
    pub method: String,
    /// The whole URL, without the name and password that it may hold.
    pub url: String,
    /// The tool that is called, of a protocol that has tools.
    #[serde(default)]
    pub tool: Option<String>,
    /// With these arguments, JSON.
    #[serde(default)]
    pub arguments: Option<String>,
    /// Bytes of its body, as its head says; none if it does not.
    #[serde(default)]
    pub size: Option<u64>,
    /// SHA-256 of these texts as they were, where one is too long to be shown: an answer is bound to all of it.
    #[serde(default)]
    pub whole: Option<Digest>,
}

impl RequestShown {
    /// Can each text be read in one way only, and is none too long? Else it was not made by [`Self::visible`].
    #[must_use]
    pub fn is_visible(&self) -> bool {
        let Self { method, url, tool, arguments, size: _, whole: _ } = self;
        // The longest spelling of one character, and the note of what was cut.
        let fits = |text: &str, most: usize| text.len() <= most * 10 + 64 && !text.chars().any(is_hidden);
        fits(method, LONGEST_WORD)
            && fits(url, LONGEST_URL)
            && tool.as_ref().is_none_or(|tool| fits(tool, LONGEST_WORD))
            && arguments.as_ref().is_none_or(|arguments| fits(arguments, LONGEST_ARGUMENTS))
    }

    /// The same with every text made visible and cut to its length.
    #[must_use]
    pub fn visible(self) -> Self {
        let Self { method, url, tool, arguments, size, whole } = self;
        Self {
            method: visible(&method, LONGEST_WORD),
            url: visible(&url, LONGEST_URL),
            tool: tool.map(|tool| visible(&tool, LONGEST_WORD)),
            arguments: arguments.map(|arguments| visible(&arguments, LONGEST_ARGUMENTS)),
            size,
            whole,
        }
    }
}

impl std::fmt::Display for RequestShown {
    /// `POST http://api.example.com/x (1,204 bytes)`, and the tool with its arguments.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.url)?;
        if let Some(tool) = &self.tool {
            write!(f, " {tool}({})", self.arguments.as_deref().unwrap_or_default())?;
        }
        match self.size {
            Some(size @ 1..) => write!(f, " ({size} bytes)"),
            _ => Ok(()),
        }
    }
}

/// A question as it is put to people, and to which an answer is bound. Its number is that of one revision of the
/// policy: when that moves, the number is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// Whose cell asks.
    pub tenant: TenantId,
    /// The number of the approval.
    pub approval: u64,
    /// For what.
    pub destination: Destination,
    /// By which request, where one could be read.
    pub request: Option<RequestShown>,
    /// Why the policy asks.
    pub why: String,
}

impl Question {
    /// What the digest of an answer is made of: the fields in this order, as JSON.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        // Strings and numbers only: there is nothing that JSON cannot say.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// A text of somebody else's making as one line that reads in one way: control characters and those that turn
/// the direction, or show nothing, are written as `\u{202e}`, a backslash as two, and what is longer than so
/// many characters is cut, with a note of how much.
#[must_use]
pub fn visible(text: &str, most: usize) -> String {
    let mut out = String::new();
    let mut left = most;
    for (at, c) in text.char_indices() {
        if left == 0 {
            // Writing into memory cannot fail.
            let _ = write!(out, "… ({} bytes more)", text.len() - at);
            break;
        }
        left -= 1;
        match c {
            '\\' => out.push_str("\\\\"),
            c if is_hidden(c) => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// Does it move what is shown, or show nothing itself?
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202f}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
            // Blanks of other widths than the one that people know.
            | '\u{a0}' | '\u{1680}' | '\u{2000}'..='\u{200a}' | '\u{205f}' | '\u{3000}')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_would_move_or_hide_is_shown_as_what_it_is() {
        for (text, shown) in [
            ("grün, 日本", "grün, 日本"),
            ("a\x1b[2Jb\r\nc\x07", r"a\u{1b}[2Jb\u{d}\u{a}c\u{7}"),
            ("evil\u{202e}moc.elgoog", r"evil\u{202e}moc.elgoog"),
            ("a\u{200b}b\u{2066}c\u{feff}\u{e0041}\u{9b}", r"a\u{200b}b\u{2066}c\u{feff}\u{e0041}\u{9b}"),
            ("\u{a0}\u{3000}\u{fe0f}", r"\u{a0}\u{3000}\u{fe0f}"),
            // What only looks like it is something else.
            (r"a\u{202e}b", r"a\\u{202e}b"),
        ] {
            assert_eq!(visible(text, 99), shown, "{text:?}");
        }
    }

    #[test]
    fn what_is_long_is_cut_and_says_so() {
        assert_eq!(visible("12345", 5), "12345");
        assert_eq!(visible("123456ä", 5), "12345… (3 bytes more)");
        let request = RequestShown {
            method: "POST".into(),
            url: format!("http://a.example/{}", "x".repeat(600)),
            tool: None,
            arguments: Some("y\n".repeat(2000)),
            size: Some(12),
            whole: None,
        };
        assert!(!request.is_visible());
        let shown = request.visible();
        assert!(shown.is_visible());
        assert!(shown.url.ends_with("… (105 bytes more)"), "{}", shown.url);
        assert!(shown.arguments.unwrap().ends_with("… (1952 bytes more)"));
    }

    #[test]
    fn each_part_of_a_question_counts() {
        let question = Question {
            tenant: TenantId::try_from("acme").unwrap(),
            approval: 7,
            destination: Destination {
                host: crate::Host::Name("a.example.com".parse().unwrap()),
                port: 80.try_into().unwrap(),
                protocol: crate::Protocol::Http,
            },
            request: None,
            why: "default".into(),
        };
        let request = RequestShown {
            method: "GET".into(),
            url: "http://a.example.com/".into(),
            tool: None,
            arguments: None,
            size: None,
            whole: None,
        };
        let mut all = vec![question.bytes()];
        all.push(Question { approval: 8, ..question.clone() }.bytes());
        all.push(Question { request: Some(request.clone()), ..question.clone() }.bytes());
        let post = RequestShown { method: "POST".into(), ..request };
        all.push(Question { request: Some(post), ..question.clone() }.bytes());
        all.push(Question { why: "rule 1".into(), ..question.clone() }.bytes());
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 5);
    }
}
