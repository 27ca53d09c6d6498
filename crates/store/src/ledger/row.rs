//! What a row of the ledger is.

use cofferdam_base::{Digest, Millis, TenantId};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};
use std::sync::Arc;

/// When a row must be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Class {
    /// Before what it tells takes effect. Never dropped for a tenant's daily budget.
    A,
    /// In order, soon after.
    B,
}

/// A row to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRow {
    /// When it happened, as whoever saw it says; rows need not be ordered by it.
    pub at: Millis,
    /// When it must be durable.
    pub class: Class,
    /// About whom, if about one tenant.
    pub tenant: Option<TenantId>,
    /// What happened: one lower-case word.
    pub kind: String,
    /// The rest.
    pub body: Body,
}

/// What else a row tells, as JSON that is shared on its way to the disk.
#[derive(Clone, Debug)]
pub struct Body(Arc<RawValue>);

impl Body {
    /// Of anything that JSON can say; what it cannot is told as such.
    pub fn of(body: &impl Serialize) -> Self {
        let written = to_raw_value(body);
        debug_assert!(written.is_ok(), "what rows are made of has strings for keys");
        let written = written.or_else(|error| to_raw_value(&format!("it cannot be written: {error}")));
        // A string always can.
        Self(written.unwrap_or_default().into())
    }

    /// The same with one more member, if it is an object.
    pub(crate) fn with(&self, member: &str, value: Value) -> Self {
        match serde_json::from_str(self.as_str()) {
            Ok(Value::Object(mut body)) => {
                body.insert(member.to_owned(), value);
                Value::Object(body).into()
            }
            _ => self.clone(),
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.get()
    }
}

impl From<Value> for Body {
    fn from(body: Value) -> Self {
        Self::of(&body)
    }
}

impl PartialEq for Body {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Serialize for Body {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// A row as it stands in the ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredRow {
    /// Its number, from 1, without gaps.
    pub seq: u64,
    /// When it happened.
    pub at: Millis,
    /// When it had to be durable.
    pub class: Class,
    /// About whom, if about one tenant.
    pub tenant: Option<TenantId>,
    /// What happened.
    pub kind: String,
    /// The rest.
    pub body: Value,
}

/// The outcome of reading the whole chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Every row was read, every link fits and none is missing at the end.
    pub whole: bool,
    /// How many rows fit before the first that does not.
    pub rows: u64,
    /// The hash of the last row that fits; 32 zero bytes if none does.
    pub head: Digest,
    /// What is wrong and where (segment, line); empty if whole.
    pub problem: String,
}
