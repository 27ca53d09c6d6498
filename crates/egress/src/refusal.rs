//! Why a connection is refused, and the forms in which its client learns it.

use cofferdam_base::{Destination, Millis, ipc::seen::Seen};
use cofferdam_policy::{Denial, Reason};
use serde::Serialize;
use std::collections::VecDeque;

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The machine-readable reason.
    pub reason: Reason,
    /// The rule, layer or approval that decided.
    pub by: String,
    /// What a rule's author or an approver said about it.
    pub said: String,
    /// Its author wants no noise about it.
    pub silent: bool,
    /// What was refused, if it is a request.
    pub request: Box<str>,
    /// The same as rules see it.
    pub seen: Option<Box<Seen>>,
}

impl Refusal {
    /// A refusal by one of our layers.
    pub fn new(reason: Reason, by: impl Into<String>) -> Self {
        Self {
            reason,
            by: by.into(),
            said: String::new(),
            silent: false,
            request: Box::default(),
            seen: None,
        }
    }

    /// With the words of a rule's author or an approver, or details of ours.
    #[must_use]
    pub fn said(mut self, words: impl Into<String>) -> Self {
        self.said = words.into();
        self
    }

    /// What the client gets to read.
    pub fn denial(&self, destination: Option<&Destination>) -> Denial {
        Denial::new(self.reason, destination).said(&self.said)
    }
}

/// One row of `http://cofferdam.local/denied`.
#[derive(Clone, Debug, Serialize)]
pub struct Denied {
    /// When.
    pub at: Millis,
    /// What and why.
    #[serde(flatten)]
    pub denial: Denial,
}

/// The last refusals of one cell.
#[derive(Debug, Default)]
pub(crate) struct DeniedRing(VecDeque<Denied>);

/// How many refusals `/denied` shows.
const KEPT: usize = 64;

impl DeniedRing {
    pub(crate) fn push(&mut self, at: Millis, denial: Denial) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(Denied { at, denial });
    }

    /// The refusals, the last one first.
    pub(crate) fn rows(&self) -> Vec<Denied> {
        self.0.iter().rev().cloned().collect()
    }
}

/// The TLS record of the fatal alert `access_denied` (RFC 8446 §6).
pub const ACCESS_DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_last_refusals_are_shown_newest_first_and_no_more_than_the_ring_holds() {
        let mut ring = DeniedRing::default();
        for at in 0..100 {
            ring.push(Millis(at), Refusal::new(Reason::NoAnswer, "hold").denial(None));
        }
        let rows = ring.rows();
        assert_eq!((rows.len(), rows[0].at, rows[63].at), (64, Millis(99), Millis(36)));
        assert!(serde_json::to_string(&rows[0]).unwrap().contains("\"reason\":\"no_answer\""));
    }
}
