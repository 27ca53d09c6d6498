//! Canaries as the API shows them.

use cofferdam_base::{
    Millis, SecretName,
    binding::{FileName, Variable},
    canary::Like,
};
use serde::{Deserialize, Serialize};

/// `PUT /tenants/{id}/canaries/{name}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewCanary {
    /// What it looks like.
    pub like: Like,
    /// The variable of the cell that holds it.
    #[serde(default)]
    pub env: Option<Variable>,
    /// The file of the cell that holds it.
    #[serde(default)]
    pub file: Option<FileName>,
}

/// One canary. It is in its cell from the cell's next start on; what it says is told to nobody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryRow {
    /// Its name.
    pub name: SecretName,
    /// Counts how often it was planted anew.
    pub version: u32,
    /// What it looks like.
    pub like: Like,
    /// The variable that holds it.
    pub env: Option<Variable>,
    /// The file that holds it.
    pub file: Option<FileName>,
    /// Since when.
    pub at: Millis,
}

/// All of a tenant's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canaries {
    /// One each, by name.
    pub canaries: Vec<CanaryRow>,
}
