//! What can be wrong with a policy document or an edit of one.

use crate::RuleId;

/// Why a document or an edit was refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The document is longer than [`crate::MAX_DOCUMENT`].
    #[error("the policy has {0} bytes; at most {max} are read", max = crate::MAX_DOCUMENT)]
    TooLong(usize),
    /// The document is not a policy. Line and column count from 1; 0 where the place is not known.
    #[error("policy line {line}, column {column}: {message}")]
    Document {
        /// Counted from 1.
        line: u64,
        /// Counted from 1.
        column: u64,
        /// What is wrong there.
        message: String,
    },
    /// The text cannot be edited without touching what is there.
    #[error(
        "the policy cannot be edited by itself ({0}): write `rules:` as a block list, one `- ` a rule, or add the rule by hand"
    )]
    Edit(&'static str),
    /// A rule that is there would still win over the new one.
    #[error("{rule} still decides about {destination}: remove it first")]
    Overruled {
        /// The rule that wins.
        rule: RuleId,
        /// About what.
        destination: String,
    },
    /// The text is no network.
    #[error("{0:?} is no network: write an address and a prefix, 10.0.0.0/8 for example")]
    Cidr(String),
}
