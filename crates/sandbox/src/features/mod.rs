//! What this machine offers for the seal, for `doctor`: each feature, what it buys, what needs it, and what
//! mends its lack. Changes nothing and decides nothing but the verdict over the rows.
//!
//! The threat: a host that starts, or is believed to be whole, without something that a promise stands on.

mod groups;
mod hardening;
mod kernel;
mod network;
#[cfg(test)]
mod tests;

use cofferdam_base::ipc::receipt::LayerState;
use serde::Serialize;
use std::path::Path;

/// One feature of the host, as it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Feature {
    /// Where it is shown.
    pub group: &'static str,
    /// Its name; does not change between releases.
    pub name: &'static str,
    /// Whether it is there.
    pub state: LayerState,
    /// What its lack does.
    pub need: Need,
    /// What exactly was found: a version, an errno; may be empty.
    pub found: String,
    /// What it buys.
    pub buys: &'static str,
    /// What depends on it.
    pub used_by: &'static str,
    /// What to do about it; empty if it is there.
    pub mend: String,
}

/// What the lack of a feature does to a host that this user starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Need {
    /// It does not start.
    Required,
    /// It starts, and does not keep a promise.
    Degrades,
    /// Nothing of ours stands on it; what the host's own programs lose by it is the operator's to judge.
    Informs,
}

/// What the rows say together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything that a promise stands on is there.
    Fine,
    /// A host starts, and lacks something.
    Degraded,
    /// A host does not start.
    CannotRun,
}

impl Verdict {
    /// The worst of the rows.
    pub fn of(rows: &[Feature]) -> Self {
        rows.iter().map(Feature::verdict).max().unwrap_or(Self::Fine)
    }

    /// The exit code of `doctor`.
    pub fn code(self) -> u8 {
        match self {
            Self::Fine => 0,
            Self::Degraded => 2,
            Self::CannotRun => 3,
        }
    }
}

impl Feature {
    /// A required feature that is half there degrades; what only informs changes nothing.
    fn verdict(&self) -> Verdict {
        match (self.state, self.need) {
            (LayerState::Enforced, _) | (_, Need::Informs) => Verdict::Fine,
            (LayerState::Absent, Need::Required) => Verdict::CannotRun,
            _ => Verdict::Degraded,
        }
    }
}

/// What is known of a feature before anybody looked.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// As in [`Feature`].
    pub group: &'static str,
    /// As in [`Feature`].
    pub name: &'static str,
    /// As in [`Feature`].
    pub need: Need,
    /// As in [`Feature`].
    pub buys: &'static str,
    /// As in [`Feature`].
    pub used_by: &'static str,
    /// What to do if it is not there.
    pub mend: &'static str,
}

impl Known {
    /// It is there, or not; `found` says what exactly was found.
    pub fn is(self, there: bool, found: impl Into<String>) -> Feature {
        self.in_state(if there { LayerState::Enforced } else { LayerState::Absent }, found)
    }

    /// It is there so far.
    pub fn in_state(self, state: LayerState, found: impl Into<String>) -> Feature {
        let Self { group, name, need, buys, used_by, mend } = self;
        let mend = if state == LayerState::Enforced { "" } else { mend };
        Feature { group, name, state, need, found: found.into(), buys, used_by, mend: mend.to_owned() }
    }

    /// The same with this need: as root more is required than without.
    fn needed(self, need: Need) -> Self {
        Self { need, ..self }
    }
}

/// Looks at this machine. Changes nothing.
pub fn host_features() -> Vec<Feature> {
    let root = rustix::process::geteuid().is_root();
    let mut features = kernel::features(root);
    features.extend(network::features(root));
    features.extend(groups::features(root));
    features.extend(hardening::features());
    features
}

/// Required as root, a degradation without.
fn strictly(root: bool) -> Need {
    if root { Need::Required } else { Need::Degrades }
}

/// What a file says; empty if it cannot be read.
fn text(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// A number in a file, or none.
fn number(path: impl AsRef<Path>) -> Option<u64> {
    text(path).parse().ok()
}
