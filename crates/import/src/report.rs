//! What an import finds, for a person to decide on.

use serde::{Deserialize, Serialize};

/// Of each list so many rows at most; the rest is counted.
const LONGEST: usize = 2000;
/// The longest text of a row, in characters.
const WIDEST: usize = 300;

/// What is carried, changed and left, and what is asked of the operator. No value of a credential is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// What comes with the tenant.
    pub carried: Vec<Carried>,
    /// What comes as another than it was.
    pub changed: Vec<Changed>,
    /// What does not come.
    pub left: Vec<Left>,
    /// What is to be put into the vault, or issued anew.
    pub credentials: Vec<Credential>,
    /// Secrets that lie where they should not.
    pub warnings: Vec<String>,
    /// Rows that the lists have no room for.
    pub more: u64,
}

/// A kind of thing that is carried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Carried {
    /// `workspace`, `memory`, `skills`, `media` or `sessions`.
    pub what: String,
    /// How many files; of sessions, how many of these.
    pub count: u64,
    /// How many messages, of sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<u64>,
    /// Their size.
    pub bytes: u64,
    /// Where they go.
    pub to: String,
}

/// Something that is carried as another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Changed {
    /// What, by its path.
    pub path: String,
    /// How.
    pub how: String,
}

/// Something that stays where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Left {
    /// What, by its path: a file, a directory, a key of the configuration or a line of a transcript.
    pub path: String,
    /// Why.
    pub why: String,
    /// How many there are below it, if it is a directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// A credential, and what the operator types for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// Where it is.
    pub at: String,
    /// The command that puts it into the vault, or makes what takes its place.
    pub command: String,
    /// What has to be known about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

impl Report {
    pub(crate) fn carry(&mut self, what: &str, to: &str, count: u64, messages: Option<u64>, bytes: u64) {
        match self.carried.iter_mut().find(|row| row.what == what) {
            Some(row) => {
                row.count += count;
                row.bytes += bytes;
                row.messages = row.messages.zip(messages).map(|(one, other)| one + other);
            }
            None => self.carried.push(Carried {
                what: what.to_owned(),
                count,
                messages,
                bytes,
                to: to.to_owned(),
            }),
        }
    }

    pub(crate) fn change(&mut self, path: &str, how: impl Into<String>) {
        let row = Changed { path: shown(path), how: printable(&how.into()) };
        if !self.changed.contains(&row) {
            keep(&mut self.changed, row, &mut self.more);
        }
    }

    pub(crate) fn leave(&mut self, path: &str, why: impl Into<String>, count: Option<u64>) {
        keep(&mut self.left, Left { path: shown(path), why: shown(&why.into()), count }, &mut self.more);
    }

    pub(crate) fn ask(&mut self, at: &str, command: String, note: &str) {
        let row = Credential { at: shown(at), command: printable(&command), note: printable(note) };
        keep(&mut self.credentials, row, &mut self.more);
    }

    pub(crate) fn warn(&mut self, text: String) {
        keep(&mut self.warnings, printable(&text), &mut self.more);
    }

    /// Every text of it, as a person may see it: who made it is not trusted.
    pub(crate) fn printable(mut self) -> Self {
        let Self { carried, changed, left, credentials, warnings, more: _ } = &mut self;
        let texts = carried
            .iter_mut()
            .flat_map(|row| [&mut row.what, &mut row.to])
            .chain(changed.iter_mut().flat_map(|row| [&mut row.path, &mut row.how]))
            .chain(left.iter_mut().flat_map(|row| [&mut row.path, &mut row.why]))
            .chain(credentials.iter_mut().flat_map(|row| [&mut row.at, &mut row.command, &mut row.note]))
            .chain(warnings);
        for text in texts {
            *text = printable(text);
        }
        self
    }
}

fn keep<T>(rows: &mut Vec<T>, row: T, more: &mut u64) {
    if rows.len() < LONGEST {
        rows.push(row);
    } else {
        *more += 1;
    }
}

/// A name of the home as a person may see it: nothing in it moves the cursor, and it has an end.
pub(crate) fn shown(text: &str) -> String {
    printable(text).chars().take(WIDEST).collect()
}

/// A text that moves no cursor and turns no direction: what would is there as its number.
pub fn printable(text: &str) -> String {
    let safe = |next: char| -> String {
        let unseen = matches!(next, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
        if next.is_control() || unseen { next.escape_unicode().to_string() } else { next.into() }
    };
    text.chars().map(safe).collect()
}
