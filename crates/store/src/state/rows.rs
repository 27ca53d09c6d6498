//! The rows as they come and go, and the two-way conversions of their columns.
//!
//! Values whose types live above the store (a wish, an approval's state, a wrapped key) are text here. The
//! threat: a column that somebody changed and that is then believed; whatever does not parse is an error.

use crate::Error;
use cofferdam_base::{
    Destination, Millis, Role, SecretName, Slot, TenantId,
    ipc::launcher::{Limits, RuntimeRef},
};
use rusqlite::{OptionalExtension, Params, Row, Statement};
use serde::{Serialize, de::DeserializeOwned};

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantRow {
    /// The id.
    pub id: TenantId,
    /// The slot.
    pub slot: Slot,
    /// What runs in its cell.
    pub runtime: RuntimeRef,
    /// What its cell may use.
    pub limits: Limits,
    /// What is wanted, as text.
    pub desired: String,
    /// The number of the last start.
    pub generation: u64,
    /// When it was made.
    pub created: Millis,
    /// What its last proof found, as text.
    pub proof: String,
}

/// A tenant to be made.
#[derive(Clone, Debug)]
pub struct NewTenantRow {
    /// The id.
    pub id: TenantId,
    /// What runs in its cell.
    pub runtime: RuntimeRef,
    /// What its cell may use.
    pub limits: Limits,
    /// What is wanted, as text.
    pub desired: String,
    /// When it is made.
    pub created: Millis,
    /// Its wrapped data key, as text.
    pub data_key: String,
    /// Its first policy.
    pub policy: String,
}

/// A revision of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRow {
    /// Counts from 1.
    pub revision: u64,
    /// Since when.
    pub at: Millis,
    /// Who set it.
    pub author: String,
    /// The document.
    pub document: String,
}

/// A secret in its envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRow {
    /// Its name.
    pub name: SecretName,
    /// Counts its values.
    pub version: u32,
    /// What it is for.
    pub purpose: String,
    /// The envelope, base64.
    pub envelope: String,
    /// When this value was set.
    pub at: Millis,
}

/// A token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRow {
    /// Its id.
    pub jti: String,
    /// Whose.
    pub tenant: TenantId,
    /// For whom.
    pub subject: String,
    /// What it may do.
    pub role: Role,
    /// When it was issued.
    pub issued: Millis,
    /// When it ends.
    pub expires: Millis,
    /// When it was revoked, if it was.
    pub revoked: Option<Millis>,
}

/// An approval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApprovalRow {
    /// Its number; not read when one is added.
    pub id: u64,
    /// Whose cell asked.
    pub tenant: TenantId,
    /// For what.
    pub destination: Destination,
    /// Why the policy asks.
    pub why: String,
    /// Since when.
    pub asked: Millis,
    /// Where it stands, as text.
    pub state: String,
    /// Nothing happens to it any more.
    pub over: bool,
    /// The reason of a denial, or empty.
    pub answer: String,
    /// When it was answered, if it was.
    pub answered: Option<Millis>,
    /// The revision of the policy that asked.
    pub revision: u64,
    /// The request that asked first, as JSON.
    pub request: String,
    /// How often the same was asked.
    pub count: u64,
    /// Who answered, or empty.
    pub approver: String,
}

/// A count as the database has it; one that does not fit is an error.
pub(super) fn number(value: u64) -> Result<i64, Error> {
    i64::try_from(value).map_err(|_| Error::Malformed("number: it is too large"))
}

/// A value as text.
pub(super) fn text<T: Serialize>(value: &T) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|_| Error::Malformed("value: it has no text"))
}

/// A column that is JSON.
pub(super) fn json<T: DeserializeOwned>(row: &Row<'_>, column: &'static str) -> Result<T, Error> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|_| Error::Malformed(column))
}

/// A column that is a checked word.
pub(super) fn word<T: TryFrom<String>>(row: &Row<'_>, column: &'static str) -> Result<T, Error> {
    let text: String = row.get(column)?;
    T::try_from(text).map_err(|_| Error::Malformed(column))
}

/// A column that counts.
pub(super) fn count(row: &Row<'_>, column: &'static str) -> Result<u64, Error> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| Error::Malformed(column))
}

/// All rows of a query.
pub(super) fn all<T>(
    mut statement: Statement<'_>,
    params: impl Params,
    read: impl Fn(&Row<'_>) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    statement.query_and_then(params, read)?.collect()
}

/// The row of a query, if there is one.
pub(super) fn one<T>(
    mut statement: Statement<'_>,
    params: impl Params,
    read: impl Fn(&Row<'_>) -> Result<T, Error>,
) -> Result<Option<T>, Error> {
    statement.query_row(params, |row| Ok(read(row))).optional()?.transpose()
}
