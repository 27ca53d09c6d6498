//! What a row has shown, and when it has shown nothing.

use cofferdam_sandbox::probe::Outcome;
use serde::{Deserialize, Serialize};

/// The verdict on one attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// It failed, and where its layers were left out it succeeded.
    Blocked,
    /// It waits for somebody's answer.
    Contained,
    /// It was not tried, for the reason that is given.
    Skipped,
    /// It failed, but it failed without its layers too: nothing is shown.
    Inconclusive,
    /// It succeeded.
    Escaped,
}

/// The same attack where every layer that answers it was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// Which protections were left out.
    pub without: Vec<String>,
    /// What became of it.
    pub outcome: Outcome,
}

/// One row, judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Judged {
    /// The row's name.
    pub id: String,
    /// What was tried.
    pub title: String,
    /// The verdict.
    pub verdict: Verdict,
    /// Which layers answer it.
    pub layers: Vec<String>,
    /// The named checks of guard, egress and edge behind them, of a row about a host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<String>,
    /// What became of it under the seal; none if it was skipped.
    pub sealed: Option<Outcome>,
    /// How long that took, in microseconds.
    pub micros: u64,
    /// The control; none if it was skipped.
    pub control: Option<Control>,
    /// Why it was skipped; empty if it was not.
    pub reason: String,
}

impl Judged {
    /// A row that was tried. Without a control it shows nothing until it has one.
    pub(crate) fn tried(
        id: &str,
        title: &str,
        layers: &[&str],
        sealed: Outcome,
        micros: u64,
        control: Option<Control>,
    ) -> Self {
        let mut row = Self { sealed: Some(sealed), micros, ..Self::skipped(id, title, layers, "") };
        match control {
            Some(control) => row.settle(control),
            None => row.verdict = Verdict::Inconclusive,
        }
        row
    }

    /// A row that was not tried, and why.
    pub(crate) fn skipped(id: &str, title: &str, layers: &[&str], reason: &str) -> Self {
        Self {
            id: id.to_owned(),
            title: title.to_owned(),
            verdict: Verdict::Skipped,
            layers: layers.iter().map(ToString::to_string).collect(),
            checks: Vec::new(),
            sealed: None,
            micros: 0,
            control: None,
            reason: reason.to_owned(),
        }
    }

    /// Judges it by its control.
    pub(crate) fn settle(&mut self, control: Control) {
        if let Some(sealed) = &self.sealed {
            self.verdict = verdict(sealed, &control.outcome);
        }
        self.control = Some(control);
    }
}

/// What leaving out one protection at a time has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mutants {
    /// Protections whose absence was noticed: a row that they alone answer got through, or the receipt told.
    pub killed: Vec<String>,
    /// Those whose absence nobody noticed.
    pub survivors: Vec<String>,
    /// Layers of a row that do not answer it alone: `row: layer`.
    pub idle: Vec<String>,
}

/// The verdict on what happened under the seal and without the layers.
pub(crate) fn verdict(sealed: &Outcome, control: &Outcome) -> Verdict {
    match (sealed.succeeded, control.succeeded) {
        (true, _) => Verdict::Escaped,
        (false, true) => Verdict::Blocked,
        (false, false) => Verdict::Inconclusive,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_control_that_succeeds_makes_a_failure_a_proof() {
        let outcome = |succeeded| Outcome { succeeded, errno: 0, seen: String::new() };
        for (sealed, control, expected) in [
            (false, true, Verdict::Blocked),
            (false, false, Verdict::Inconclusive),
            (true, true, Verdict::Escaped),
            (true, false, Verdict::Escaped),
        ] {
            assert_eq!(verdict(&outcome(sealed), &outcome(control)), expected);
        }
    }
}
