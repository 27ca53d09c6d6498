//! Inference routes, a call of one for a person, and what was used.

use cofferdam_base::{
    Millis, TenantId,
    ipc::model::{Alias, ModelRoute, Price, Spent, Tested},
};
use serde::{Deserialize, Serialize};

/// A tenant's routes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Models {
    /// Which one is taken where the cell names none; none if there are no routes.
    pub default: Option<Alias>,
    /// By name.
    pub routes: Vec<RouteShown>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteShown {
    /// The route.
    pub route: ModelRoute,
    /// Since when.
    pub since: Millis,
    /// What its tokens cost: its own price, the operator's or that of the table; none if nobody knows.
    pub cost: Option<Price>,
    /// What it used in this minute, day and month, where it used anything.
    pub spent: Vec<Spent>,
}

/// A call of a route for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelTested {
    /// It answered.
    pub works: bool,
    /// What happened, for a person.
    pub text: String,
    /// What mends it; empty if it works.
    pub mend: String,
    /// The call.
    pub tested: Tested,
}

/// Which sums of usage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageQuery {
    /// Only this tenant's.
    #[serde(default)]
    pub tenant: Option<TenantId>,
    /// From the day of this moment on.
    #[serde(default)]
    pub since: Option<Millis>,
    /// Told apart by these, with commas between: `tenant`, `day`, `route`, `model`, `user`, `agent`.
    #[serde(default)]
    pub by: Option<String>,
}

/// Tokens used, and what they cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageReport {
    /// The rows.
    pub rows: Vec<UsageRow>,
}

/// One sum. What it is not told apart by is empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRow {
    /// Whose.
    pub tenant: String,
    /// When the day began; none: not told apart by days.
    pub day: Option<Millis>,
    /// By which route.
    pub route: String,
    /// Of which model.
    pub model: String,
    /// For whom: what the cell said, which nothing vouches for.
    pub user: String,
    /// By which agent: likewise.
    pub agent: String,
    /// In how many requests.
    pub requests: u64,
    /// Tokens in prompts.
    pub prompt_tokens: u64,
    /// Tokens in answers.
    pub completion_tokens: u64,
    /// What they cost, in millionths of a US dollar, where that is known.
    pub micros: u64,
    /// Requests of which it is not.
    pub unpriced: u64,
}
