//! Approvals as lists, watches and answers show them.

use cofferdam_base::{Destination, Digest, Millis, SecretName, TenantId, ipc::asked::RequestShown};
use serde::{Deserialize, Serialize};

/// Of the lists of approvals.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalsQuery {
    /// Only this tenant's.
    #[serde(default)]
    pub tenant: Option<TenantId>,
    /// Those that are over as well.
    #[serde(default)]
    pub all: bool,
}

/// Approvals, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approvals {
    /// The rows.
    pub approvals: Vec<Approval>,
}

/// One question that a cell put to people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Its number on this host.
    pub id: u64,
    /// Whose cell asked.
    pub tenant: TenantId,
    /// For what.
    pub destination: Destination,
    /// By which request first, where one could be read. What is hidden in it is written as `\u{202e}`.
    pub request: Option<RequestShown>,
    /// How many connections asked the same.
    pub count: u64,
    /// Why the policy asks.
    pub why: String,
    /// The revision of the policy that asks; when it moves, this is over.
    pub revision: u64,
    /// `waiting`, `hold_ended`, `granted`, `used`, `denied`, `expired`, `revoked`, `stale`.
    pub state: String,
    /// Since when.
    pub asked: Millis,
    /// When it ends by itself.
    pub until: Option<Millis>,
    /// `once`, `until`, `cell` or `always`, if it was granted.
    pub span: Option<String>,
    /// The reason that was given with the answer; empty if there is none.
    pub answer: String,
    /// Who answered: a token's subject, or `operator`; empty if nobody did.
    pub approver: String,
    /// The digest of what is shown here, to be sent back with an answer.
    pub shown: Digest,
}

/// Yes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approve {
    /// For how long.
    pub span: Span,
    /// Why, for whoever reads it later: at most 500 characters on one line.
    #[serde(default)]
    pub reason: String,
    /// [`Approval::shown`] of what was seen: if it is another now, nothing is granted.
    #[serde(default)]
    pub shown: Option<Digest>,
}

/// For how long something is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Span {
    /// One connection; of plain HTTP, the one request that is shown.
    Once,
    /// Any number for this many seconds, 1 to 31,536,000.
    ForSeconds(u64),
    /// Any number for the life of the running cell: until it stops or is started anew.
    Cell,
    /// For ever, as a rule of the policy.
    Always,
}

/// No.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenyRequest {
    /// What the client in the cell is told, at most 500 characters.
    #[serde(default)]
    pub reason: String,
    /// As in [`Approve::shown`].
    #[serde(default)]
    pub shown: Option<Digest>,
}

/// One thing that happened, for whoever watches the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Happening {
    /// An approval is new or has changed.
    Approval(Box<Approval>),
    /// Something was tried that nobody should.
    Alarm(Alarm),
}

/// Something was tried that nobody should.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// Whose cell.
    pub tenant: Option<TenantId>,
    /// When.
    pub at: Millis,
    /// `forged_approval`: a cell sent a frame that only the host sends.
    pub what: String,
    /// Whose connection.
    pub subject: String,
    /// How often.
    pub count: u32,
}

/// Where a tenant's approvals are posted, each as it is asked and as it is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// `https://HOST[:PORT]/PATH`, without user, password or query. The tenant's warden posts there, and its guard
    /// says where it may not.
    pub url: String,
    /// The secret of the tenant, of purpose `webhook`, that signs each delivery.
    pub secret: SecretName,
}

/// A tenant's webhook and how it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookSet {
    /// None if the tenant has none.
    pub webhook: Option<Webhook>,
    /// How many deliveries wait.
    pub waiting: u32,
    /// Why the last try failed; empty if it did not.
    pub last_error: String,
}
