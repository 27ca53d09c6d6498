//! Proof that a seal holds: attacks from inside a cell, each with a control that succeeds where the seal does not
//! stand, and a document that an outsider can check.
//!
//! It owns the battery (a table), the throw-away world in which it runs, the verdicts and the document. It refuses
//! to own what is tried (`sandbox::probe`) and what a cell is (`sandbox`). The threat: evidence that is none: an
//! attack that failed for another reason than the one that is claimed.
#![forbid(unsafe_code)]

pub mod battery;
mod document;
mod host;
mod outside;
mod peers;
mod place;
mod rules;
mod run;
mod verdict;
mod witness;
mod world;

pub use document::{Document, DocumentError, Signed, digest, verify};
pub use peers::Compared;
pub use place::Peer;
pub use rules::{PolicyProved, Rules};
pub use run::{Options, Report, WholeHost, compare, prove};
pub use verdict::{Control, Judged, Mutants, Verdict};
pub use witness::witness_main;

use std::io;

/// Why nothing could be proved.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The world of the proof could not be made.
    #[error("{what}: {error}")]
    World {
        /// What was being done.
        what: String,
        /// Why not.
        error: io::Error,
    },
    /// A cell of the proof did not start.
    #[error("a cell of the proof did not start: {0}")]
    Cell(String),
    /// The tenant's policy cannot be read.
    #[error("the tenant's policy: {0}")]
    Policy(String),
    /// The process that proves ended without a word.
    #[error("the proof broke off: {0}")]
    BrokenOff(String),
}

impl Error {
    pub(crate) fn world(what: &str) -> impl Fn(io::Error) -> Self + use<> {
        let what = what.to_owned();
        move |error| Self::World { what: what.clone(), error }
    }
}
