//! Policy: from a document to a verdict about a destination, and everything that decides beside it: the
//! guard over addresses, the life of an approval, the reasons that a refused client learns.
//!
//! Pure: no I/O, no clock, no async. It dials nothing, resolves nothing and keeps nothing. The threat it
//! answers is a cell that wants out: what no rule names is asked, what nobody answers is refused, and some
//! addresses are refused whatever anybody says.
#![forbid(unsafe_code)]

pub mod approval;
mod ceiling;
mod compile;
mod condition;
mod diff;
mod document;
mod edit;
mod error;
mod explain;
mod file;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
mod glob;
mod graphql;
pub mod guard;
pub mod import;
mod judge;
mod moment;
mod parse;
mod path;
pub mod price;
mod reason;
mod replay;
mod request;
mod rule;
pub mod spend;
mod table;
mod terms;

pub use ceiling::Exceeds;
pub use compile::{Policy, Verdict};
pub use condition::Condition;
pub use diff::{Diff, Exception, Reachable};
pub use document::{Document, MAX_DOCUMENT};
pub use edit::add_rule;
pub use error::Error;
pub use explain::{Considered, Explanation};
pub use graphql::{Kind, Operation};
pub use guard::{AddressClass, CheckedAddress, Cidr, Guard, Refusal};
pub use judge::{Inspection, Judgement};
pub use path::{Ambiguous, Target};
pub use reason::{Denial, Reason};
pub use request::{Body, Call, LONGEST_METHOD, MAX_BODY, RequestFacts};
pub use rule::{Budget, Content, Default, Pattern, Per, Rule, RuleId, Verb};
pub use terms::{Inference, Limits, Standing, Terms};

#[cfg(test)]
mod request_tests;
