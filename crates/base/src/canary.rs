//! Canaries: values that look like keys, open nothing, and are planted in a cell so that whoever sends one out has
//! given himself away.
//!
//! Like a binding a canary is the purpose of its sealed value. Its text follows from a digest that only the tenant's
//! data key gives, so that whoever plants it needs no text of anybody's, and nobody can tell it from a key.

use crate::{
    Digest,
    binding::{FileName, Variable},
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What the purpose of a canary begins with.
const PURPOSE: &str = "canary:";
/// Where in a cell the files with canaries are.
pub const CANARIES: &str = "/opt/credentials";

/// One canary: what it looks like, and where it is planted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Canary {
    /// What it looks like.
    pub like: Like,
    /// The variable of the cell's environment that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<Variable>,
    /// The file of the cell that holds it, below [`CANARIES`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileName>,
}

/// Whose key a canary looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Like {
    /// A secret access key of AWS.
    Aws,
    /// A personal token of GitHub.
    Github,
    /// A project key of OpenAI.
    Openai,
}

impl Like {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Aws, Self::Github, Self::Openai];

    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Aws => "aws",
            Self::Github => "github",
            Self::Openai => "openai",
        }
    }

    /// The text of a digest.
    #[must_use]
    pub fn text(self, digest: &Digest) -> String {
        let (begin, length) = match self {
            Self::Aws => ("", 40),
            Self::Github => ("ghp_", 36),
            Self::Openai => ("sk-proj-", DIGITS),
        };
        format!("{begin}{}", &digits(digest)[..length])
    }
}

impl fmt::Display for Like {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Like {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|like| like.as_str() == text);
        known.ok_or_else(|| "a canary looks like aws, github or openai".to_owned())
    }
}

impl Canary {
    /// The purpose of its sealed value.
    #[must_use]
    pub fn to_purpose(&self) -> String {
        // Strings only: there is nothing that JSON cannot say.
        format!("{PURPOSE}{}", serde_json::to_string(self).unwrap_or_default())
    }

    /// The canary that a purpose is; none if it is another purpose, an error if it says canary and is none.
    pub fn of_purpose(purpose: &str) -> Result<Option<Self>, serde_json::Error> {
        purpose.strip_prefix(PURPOSE).map(serde_json::from_str).transpose()
    }
}

/// So many digits to base 62 has a digest, the last one left out: it is not any digit.
const DIGITS: usize = 42;

fn digits(digest: &Digest) -> String {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut number = *digest.as_bytes();
    let digit = |_| {
        let rest = number.iter_mut().fold(0usize, |rest, byte| {
            let here = rest << 8 | usize::from(*byte);
            *byte = (here / 62).to_le_bytes()[0];
            here % 62
        });
        char::from(ALPHABET[rest])
    };
    (0..DIGITS).map(digit).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_canary_looks_like_what_it_says_and_no_two_are_alike() {
        let text = |like: Like, byte| like.text(&Digest::from_bytes([byte; 32]));
        assert!(text(Like::Github, 7).starts_with("ghp_") && text(Like::Github, 7).len() == 40);
        assert!(text(Like::Openai, 7).starts_with("sk-proj-") && text(Like::Aws, 7).len() == 40);
        let all: std::collections::BTreeSet<_> = (0..=255).map(|byte| text(Like::Aws, byte)).collect();
        assert_eq!(all.len(), 256);
        assert_eq!(text(Like::Aws, 0), "0".repeat(40));
        let mut one = [0; 32];
        one[31] = 63;
        assert!(Like::Aws.text(&Digest::from_bytes(one)).starts_with("110"));
    }

    #[test]
    fn a_canary_is_the_purpose_of_its_value_and_reads_back() {
        let canary = Canary { like: Like::Aws, env: Some("AWS_KEY".parse().unwrap()), file: None };
        assert_eq!(Canary::of_purpose(&canary.to_purpose()).unwrap(), Some(canary));
        assert_eq!(Canary::of_purpose("model").unwrap(), None);
        assert!(Canary::of_purpose("canary:{}").is_err());
        for like in Like::ALL {
            assert_eq!(like.to_string().parse(), Ok(like));
        }
    }
}
