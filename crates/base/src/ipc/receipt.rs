//! The launch receipt: one row for each layer of a cell's seal.

use serde::{Deserialize, Serialize};

/// What was applied to a cell, layer by layer, in the order of application.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// One row a layer.
    pub layers: Vec<LayerRow>,
}

/// One layer and how far it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerRow {
    /// The layer's name, `landlock` for example.
    pub layer: String,
    /// How far it holds.
    pub state: LayerState,
    /// Why it is not `enforced`, or what exactly is (`abi 7`); empty where there is nothing to say.
    pub detail: String,
}

/// How far a layer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerState {
    /// In force, wholly.
    Enforced,
    /// In force with a named gap.
    Partial,
    /// Not in force; only a profile that names the gap starts like this.
    Absent,
}
