//! The edge's two wires: to the launcher for sockets, to control for what it must know.

use super::asked::Question;
use crate::{Digest, Millis, Role, Slot, TenantId};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Edge → launcher: make unconnected TCP sockets inside this tenant's network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SocketRequest {
    /// Whose namespace.
    pub tenant: TenantId,
    /// How many, 1 to 64. Answered by one [`Feed::Sockets`] or [`Feed::NoCell`].
    pub count: u8,
}

/// Launcher → edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Feed {
    /// The wire to control, at the edge's start and again whenever control was restarted. One descriptor.
    Control {},
    /// A listening TCP socket of the host. One descriptor. Without a tenant: all tenants by host name.
    Listener { tenant: Option<TenantId>, address: SocketAddr },
    /// This tenant's listener is to be closed: the tenant was deleted.
    ListenerGone { tenant: TenantId },
    /// Marked, unconnected TCP sockets, one descriptor each. To be bound to 198.19.255.1 and connected to
    /// 127.0.0.1:`port`.
    Sockets { tenant: TenantId, generation: u64, netns_cookie: u64, port: u16 },
    /// The tenant has no running cell.
    NoCell { tenant: TenantId },
    /// The cell ended: forget its sockets, close its relays.
    CellGone { tenant: TenantId, generation: u64 },
}

/// Control → edge. After (re)connection control sends `Begin`, everything it has, then `Synced`; what was
/// not sent again in between is forgotten. The edge serves nobody before the first `Synced`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Config {
    /// A full snapshot begins.
    Begin {},
    /// Who signs tokens: `iss`, and the keys by `kid`.
    Issuer { issuer: String, keys: Vec<PublicKey> },
    /// A tenant (new or changed).
    Tenant(TenantRoute),
    /// A tenant was deleted.
    TenantGone { tenant: TenantId },
    /// A token is revoked; its sockets close within a second. `expires` in seconds since the epoch: after
    /// that the entry may be forgotten.
    Revoked { jti: String, expires: u64 },
    /// The snapshot is complete.
    Synced {},
    /// Reports up to this sequence number are in the ledger.
    Recorded { through: u64 },
    /// A question that waits for an answer, new or changed.
    Asked { question: Question, asked: Millis, until: Millis, count: u32, yes_of: YesOf },
    /// It waits no more. What became of it, in the word that lists show, and who answered; empty if nobody did.
    AskedNoMore { tenant: TenantId, approval: u64, outcome: String, by: String },
    /// What became of an answer.
    Answered { op: u64, refused: Option<Refused> },
}

/// Whose yes to a question counts, by the lowest role; none: that of nobody who is connected. Clients show decisions by
/// it; when an answer comes, control asks the policy itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct YesOf {
    /// A yes for once.
    pub once: Option<Role>,
    /// A yes as a rule of the policy.
    pub always: Option<Role>,
}

impl YesOf {
    /// What somebody of this role may say.
    #[must_use]
    pub fn decisions(self, role: Role) -> Vec<Decision> {
        let Self { once, always } = self;
        let counts = |of: Option<Role>| of.is_some_and(|of| role >= of);
        let all = [
            (Decision::AllowOnce, counts(once)),
            (Decision::AllowAlways, counts(always)),
            (Decision::Deny, role >= Role::Approver),
        ];
        all.into_iter().filter_map(|(decision, may)| may.then_some(decision)).collect()
    }
}

/// Why an answer was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    /// For machines.
    pub code: String,
    /// What happened, and what mends it.
    pub message: String,
}

/// Edge → control.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Message {
    /// Something for the ledger.
    Report(Report),
    /// What a connected person said to a question; told by [`Config::Answered`].
    Answer(Answer),
}

/// What a connected person said.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// Counts this edge's answers.
    pub op: u64,
    /// The person's token, whole: control itself finds out whose it is and what it allows.
    pub token: String,
    /// At whose origin.
    pub tenant: TenantId,
    /// The number of the approval.
    pub approval: u64,
    /// SHA-256 of [`Question::bytes`] of what that person was shown.
    pub shown: Digest,
    /// What was said.
    pub decision: Decision,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { op, token: _, tenant, approval, shown: _, decision } = self;
        f.debug_struct("Answer")
            .field("op", op)
            .field("tenant", tenant)
            .field("approval", approval)
            .field("decision", decision)
            .finish_non_exhaustive()
    }
}

/// The three buttons of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// Yes, once.
    AllowOnce,
    /// Yes, as a rule of the policy.
    AllowAlways,
    /// No.
    Deny,
}

/// An Ed25519 public key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublicKey {
    /// The `kid` of tokens signed with it.
    pub kid: String,
    /// 32 bytes, base64url without padding (the `x` of RFC 8037).
    pub x: String,
}

/// What the edge knows of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantRoute {
    /// The id.
    pub tenant: TenantId,
    /// Its slot, which gives the development address `127.18.x.y`.
    pub slot: Slot,
    /// Is it meant to be serving? Else requests get 503 with this state's name.
    pub state: String,
    /// What answers in the cell.
    pub runtime: RuntimeKind,
}

/// What answers in the cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuntimeKind {
    /// Any HTTP/WebSocket server; WebSocket frames are relayed after the token is checked on the upgrade.
    Command,
    /// An OpenClaw gateway: protocol 4, identity headers, method gate.
    Openclaw,
}

/// Edge → control: something for the ledger (class B).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Counts this edge's reports from 1.
    pub seq: u64,
    /// Milliseconds since the epoch.
    pub at: Millis,
    /// Whose origin was addressed, if any.
    pub tenant: Option<TenantId>,
    /// `connect`, `refused`, `closed`, `forged`.
    pub what: String,
    /// `sub` of the verified token, else empty.
    pub subject: String,
    /// `jti` of the verified token, else empty.
    pub jti: String,
    /// Why, for a refusal; else empty.
    pub reason: String,
    /// How many alike were folded into this row.
    pub count: u32,
}
