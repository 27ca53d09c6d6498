//! `tools`: what the agent may use.

use super::{Web, is_default};
use serde::{Deserialize, Serialize};

/// The section.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Tools {
    /// The web.
    #[serde(skip_serializing_if = "is_default")]
    pub web: Web,
}

impl Tools {
    /// Is each value one that can be used?
    pub(super) fn check(&self) -> Result<(), String> {
        self.web.check()
    }
}
