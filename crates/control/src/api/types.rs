//! Every document of `/api/v1`, as the command line sends and reads it.
//!
//! Owns shapes only: no route, no check that needs state. Requests refuse unknown fields, so that a typing
//! error is an answer and never a silent default. No type here has a field that could carry a secret back.
//!
//! | route | request | answer |
//! |---|---|---|
//! | `GET /api/v1/status` | | [`Status`] |
//! | `GET /api/v1/runtimes` | | [`Runtimes`] |
//! | `GET /api/v1/tenants` | | [`Tenants`] |
//! | `POST /api/v1/tenants` | [`NewTenant`] | [`Tenant`] |
//! | `GET /api/v1/tenants/{id}` | | [`Tenant`] |
//! | `DELETE /api/v1/tenants/{id}` | | [`Empty`] |
//! | `POST /api/v1/tenants/{id}/start` `stop` `restart` `resume` | [`Wait`] | [`Tenant`] |
//! | `POST /api/v1/kill` | [`NewKill`] | [`Kills`] |
//! | `PUT /api/v1/tenants/{id}/limits` | [`WantedLimits`] | [`LimitsSet`] |
//! | `GET /api/v1/tenants/{id}/logs` | query [`LogsQuery`] | text, streamed |
//! | `POST /api/v1/tenants/{id}/exec` | headers, see [`super::frames`] | upgrade |
//! | `GET /api/v1/tenants/{id}/policy` | | [`Policy`] |
//! | `PUT /api/v1/tenants/{id}/policy` | [`PolicyText`] | [`PolicySet`] |
//! | `POST /api/v1/tenants/{id}/policy/check` | [`PolicyText`] | [`PolicyChecked`] |
//! | `POST /api/v1/tenants/{id}/policy/explain` | [`ExplainRequest`] | [`Explained`] |
//! | `POST /api/v1/tenants/{id}/policy/diff` | [`PolicyText`] | [`PolicyDiff`] |
//! | `POST /api/v1/tenants/{id}/policy/simulate` | [`SimulateRequest`] | [`Simulated`] |
//! | `GET /api/v1/tenants/{id}/policy/effective` | | [`Effective`] |
//! | `GET /api/v1/approvals` | query [`ApprovalsQuery`] | [`Approvals`] |
//! | `GET /api/v1/approvals/watch` | query [`ApprovalsQuery`] | [`Approval`] a line |
//! | `GET` `PUT` `DELETE /api/v1/tenants/{id}/webhook` | [`Webhook`] | [`WebhookSet`] |
//! | `GET /api/v1/events` | query [`ApprovalsQuery`] | [`Happening`] as server-sent events |
//! | `POST /api/v1/approvals/{n}/approve` | [`Approve`] | [`Approval`] |
//! | `POST /api/v1/approvals/{n}/deny` | [`DenyRequest`] | [`Approval`] |
//! | `POST /api/v1/approvals/{n}/revoke` | | [`Approval`] |
//! | `GET /api/v1/tokens` | query [`TenantQuery`] | [`Tokens`] |
//! | `POST /api/v1/tokens` | [`NewToken`] | [`IssuedToken`] |
//! | `DELETE /api/v1/tokens/{jti}` | | [`Token`] |
//! | `GET /api/v1/tenants/{id}/secrets` | | [`Secrets`] |
//! | `PUT /api/v1/tenants/{id}/secrets/{name}` | [`SecretValue`] | [`SecretRow`] |
//! | `DELETE /api/v1/tenants/{id}/secrets/{name}` | | [`Empty`] |
//! | `GET /api/v1/tenants/{id}/canaries` | | [`Canaries`] |
//! | `PUT /api/v1/tenants/{id}/canaries/{name}` | [`NewCanary`] | [`CanaryRow`] |
//! | `DELETE /api/v1/tenants/{id}/canaries/{name}` | | [`Empty`] |
//! | `GET /api/v1/tenants/{id}/models` | | [`Models`] |
//! | `PUT` `DELETE /api/v1/tenants/{id}/models/{alias}` | [`ModelRoute`] | [`Models`] |
//! | `PUT /api/v1/tenants/{id}/models/{alias}/default` | | [`Models`] |
//! | `POST /api/v1/tenants/{id}/models/{alias}/test` | | [`ModelTested`] |
//! | `GET /api/v1/usage` | query [`UsageQuery`] | [`UsageReport`] |
//! | `GET /metrics` `/api/v1/metrics` | query [`UsageQuery`] | Prometheus' text |
//! | `GET` `PUT` `DELETE /api/v1/upstream-proxy` | [`ProxyCredentials`] | [`UpstreamProxy`] |
//! | `GET /api/v1/ledger/tail` | query [`TailQuery`] | [`LedgerRow`] a line |
//! | `GET /api/v1/ledger/verify` | | [`LedgerVerified`] |

use cofferdam_base::binding::{Binding, FileName};
use cofferdam_base::ipc::launcher::{Failure, Limits, Usage};
use cofferdam_base::ipc::receipt::Receipt;
use cofferdam_base::{Destination, Millis, Role, SecretName, Slot, TenantId};
use serde::{Deserialize, Serialize};

mod approvals;
mod canaries;
mod kill;
mod limits;
mod models;
mod policy;
mod proxy;

pub use approvals::{
    Alarm, Approval, Approvals, ApprovalsQuery, Approve, DenyRequest, Happening, Span, Webhook, WebhookSet,
};
pub use canaries::{Canaries, CanaryRow, NewCanary};
pub use cofferdam_base::ipc::model::{ModelRoute, Upstream};
pub use kill::{Killed, Kills, NewKill};
pub use limits::{LimitsSet, WantedLimits};
pub use models::{ModelTested, Models, RouteShown, UsageQuery, UsageReport, UsageRow};
pub use policy::{ExplainedRequest, PolicyDiff, SimulateRequest, Simulated, SimulatedChange};
pub use proxy::{ProxyCredentials, UpstreamProxy};

/// Every error: HTTP 400 is bad usage, 403 and 422 a refusal, 404 not found, 409 a conflict, 500 and 503
/// "could not".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The one field of an error document.
    pub error: ErrorDetail,
}

/// What happened, and what mends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// Stable and machine-readable, `tenant_not_found` for example.
    pub code: String,
    /// What happened and why, for a person.
    pub message: String,
    /// The command that mends it; empty if none is known.
    pub mend: String,
}

/// An answer without content, `{}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// The host in one document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The program's version.
    pub version: String,
    /// `strict` or `rootless`.
    pub profile: String,
    /// When control started.
    pub started: Millis,
    /// The edge's wire is connected and its snapshot was sent.
    pub edge: bool,
    /// Where the edge listens, `http://127.0.0.1:PORT`.
    pub edge_url: String,
    /// Tenants by state.
    pub tenants: Vec<StateCount>,
    /// Approvals that somebody could answer now.
    pub waiting: u32,
    /// Placeholders that were sent where they are not bound, since control started.
    #[serde(default)]
    pub alerts: u64,
    /// Ledger rows written.
    pub ledger_rows: u64,
    /// What this profile does not keep, one line each.
    pub degradations: Vec<String>,
}

/// How many tenants are in one state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateCount {
    /// The state's name.
    pub state: String,
    /// How many.
    pub count: u32,
}

/// A tenant to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewTenant {
    /// Its id; never used again after the tenant is deleted.
    pub id: TenantId,
    /// What runs in its cell: `command:NAME` (an entry of `cofferdam.toml`), `openclaw` (the installed one,
    /// if there is exactly one) or `openclaw:LOCK-DIGEST`.
    pub runtime: String,
    /// What its cell may use, where it is to be another than the host's default.
    #[serde(default)]
    pub limits: Option<WantedLimits>,
    /// Start it at once.
    #[serde(default)]
    pub start: bool,
    /// Answer when it is ready, not when it was noted down (only with `start`).
    #[serde(default)]
    pub wait: bool,
}

/// A tenant that was imported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Imported {
    /// It.
    pub tenant: Tenant,
    /// What is in its home.
    pub unpacked: Unpacked,
}

/// What was put into a home, as it was counted there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unpacked {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Conversations.
    pub sessions: u64,
    /// Their messages.
    pub messages: u64,
}

/// For start, stop and restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wait {
    /// Answer when the state is reached or failed, not when the wish was noted down.
    #[serde(default)]
    pub wait: bool,
}

/// All tenants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenants {
    /// By id.
    pub tenants: Vec<Tenant>,
}

/// One tenant, desired and observed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    /// The id.
    pub id: TenantId,
    /// The slot, which gives uids and the loopback address.
    pub slot: Slot,
    /// As in [`NewTenant::runtime`], exact.
    pub runtime: String,
    /// What it may use.
    pub limits: Limits,
    /// What its policy leaves of that, if it is less.
    #[serde(default)]
    pub policy_leaves: Option<Limits>,
    /// What of the operator's directories its policy shows its next cell.
    #[serde(default)]
    pub offered: Vec<FileName>,
    /// What its running cell uses; only where one tenant is asked for.
    pub usage: Option<Usage>,
    /// When its gateway will do something by itself, as it says; only where one tenant is asked for.
    #[serde(default)]
    pub next_due: Option<Millis>,
    /// `running`, `stopped` or `deleted`.
    pub desired: String,
    /// What it is now, by the name that the edge shows: `ready`, `starting`, `stopped`, `failed` and so on.
    pub state: String,
    /// How often it was started.
    pub generation: u64,
    /// When it was made.
    pub created: Millis,
    /// `http://<id>.localhost:PORT`, or the production origin.
    pub origin: String,
    /// `http://127.18.x.y:PORT`.
    pub address: String,
    /// Its policy's revision.
    pub policy_revision: u64,
    /// The revision that its warden reported to be in force; none if no warden did.
    pub policy_in_force: Option<u64>,
    /// A warden runs and is connected.
    pub warden: bool,
    /// Placeholders that were sent where they are not bound, since control started.
    #[serde(default)]
    pub alerts: u64,
    /// Why it is not as desired, if it is not.
    pub failure: Option<Failure>,
    /// The seal of the running cell, layer by layer.
    pub receipt: Option<Receipt>,
    /// What its last proof found; none before the first.
    #[serde(default)]
    pub proof: Option<LastProof>,
}

/// What the last proof of a tenant's cell found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LastProof {
    /// SHA-256 of its document's text.
    pub digest: cofferdam_base::Digest,
    /// When it was signed.
    pub at: Millis,
    /// The rows that escaped.
    pub escaped: Vec<String>,
}

/// A proof that was made, to be signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewProof {
    /// SHA-256 of the document's text.
    pub digest: cofferdam_base::Digest,
    /// Rows by verdict, for the ledger.
    pub verdicts: std::collections::BTreeMap<String, u32>,
    /// The rows that escaped, by their names. Unless the operator accepted all of them, no cell of the tenant is
    /// started until a later proof finds none.
    pub escaped: Vec<String>,
    /// The layers that the proved plan leaves out: those of this host, or the proof is of another one.
    pub without: std::collections::BTreeSet<String>,
}

/// The host's signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedProof {
    /// The host's public key, Ed25519, base64url.
    pub key: String,
    /// Base64url.
    pub signature: String,
    /// Why no cell of the tenant is started from now on, if none is.
    pub barred: Option<Failure>,
    /// A cell of it runs, and goes on.
    pub runs: bool,
}

/// Of `logs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogsQuery {
    /// Go on as the file grows.
    #[serde(default)]
    pub follow: bool,
    /// Begin this many bytes before the end; all by default.
    #[serde(default)]
    pub tail: Option<u64>,
    /// Leave terminal control sequences in.
    #[serde(default)]
    pub raw: bool,
}

/// A policy as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// The document, YAML, byte for byte.
    pub text: String,
    /// Its number, from 1.
    pub revision: u64,
    /// Since when.
    pub at: Millis,
    /// Who set it: a subject, or `approval N`.
    pub by: String,
    /// The revision that the warden reported to be in force.
    pub in_force: Option<u64>,
}

/// A policy to be set or checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyText {
    /// YAML, at most 64 KiB.
    pub text: String,
    /// To be set only if this is the revision that is kept. 409 if it is not.
    #[serde(default)]
    pub expected: Option<u64>,
}

/// A policy was kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicySet {
    /// Its number.
    pub revision: u64,
    /// The warden reported it to be in force. False only if no warden runs: then it is in force at the next
    /// start.
    pub in_force: bool,
    /// Limits that it changes and that the running cell holds from its next start, and `filesystem` if that changes.
    #[serde(default)]
    pub at_next_start: Vec<String>,
}

/// What a check found. A document that does not parse is an error (422) with line and column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyChecked {
    /// How many rules it has.
    pub rules: u32,
    /// What is accepted but probably not meant, one line each.
    pub warnings: Vec<String>,
}

/// Whether a destination would be let through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// Where to.
    pub destination: Destination,
    /// Ask another document than the one that is kept.
    #[serde(default)]
    pub text: Option<String>,
    /// Ask about a request, and not the connection.
    #[serde(default)]
    pub request: Option<ExplainedRequest>,
}

/// The verdict and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// `allow`, `deny` or `ask`.
    pub verdict: String,
    /// The rule, grant or layer that decides, with its line where there is one.
    pub by: String,
    /// The whole of it, for a person.
    pub text: String,
}

/// All that is reachable now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effective {
    /// The revision that these rows come from.
    pub revision: u64,
    /// What happens to every destination that no row names: `ask` or `deny`.
    pub default: String,
    /// What it says beside its rules, one line each: its own and, marked so, the ceiling's.
    #[serde(default)]
    pub terms: Vec<String>,
    /// One row a rule or live grant.
    pub rows: Vec<EffectiveRow>,
}

/// One thing that is reachable, denied or asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EffectiveRow {
    /// `allow`, `deny` or `ask`.
    pub verdict: String,
    /// `https://api.example.com:443`, the way approvals show it.
    pub destination: String,
    /// The rule or approval that it comes from.
    pub why: String,
    /// Since when.
    pub since: Millis,
    /// Until when, for what ends.
    pub until: Option<Millis>,
    /// When something last passed by it; none: not within a year, or nothing knows.
    pub used: Option<Millis>,
    /// It is there for 30 days and nothing passed by it in that time.
    pub unused: bool,
}

/// Narrows a list to one tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantQuery {
    /// Only this tenant's.
    #[serde(default)]
    pub tenant: Option<TenantId>,
}

/// A token to be issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// For whose origin.
    pub tenant: TenantId,
    /// For whom: 1 to 128 printable ASCII characters.
    pub subject: String,
    /// What it may do.
    pub role: Role,
    /// For how many seconds, 1 to 31,536,000.
    pub ttl_seconds: u64,
}

/// A new token; its text is shown this once.
#[derive(Clone, Serialize, Deserialize)]
pub struct IssuedToken {
    /// The signed token.
    pub token: String,
    /// Its row.
    #[serde(flatten)]
    pub row: Token,
}

impl std::fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedToken").field("row", &self.row).finish_non_exhaustive()
    }
}

/// All tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// The rows, newest last.
    pub tokens: Vec<Token>,
}

/// A token as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its id.
    pub jti: String,
    /// For whose origin.
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

/// A secret's value; wiped when it goes, never sent back.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretValue {
    /// The value, at most 64 KiB.
    pub value: String,
    /// What it is for; `model` by default.
    #[serde(default)]
    pub purpose: Option<String>,
    /// Where a warden may put it, in place of its placeholder; then it has no other purpose.
    #[serde(default)]
    pub binding: Option<Binding>,
}

impl Drop for SecretValue {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.value);
    }
}

impl std::fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretValue").field("purpose", &self.purpose).finish_non_exhaustive()
    }
}

/// The names of a tenant's secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets {
    /// By name.
    pub secrets: Vec<SecretRow>,
}

/// A secret without its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretRow {
    /// Its name.
    pub name: SecretName,
    /// Counts its values from 1.
    pub version: u32,
    /// What it is for.
    pub purpose: String,
    /// Where its placeholder is exchanged for it; none: nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<Binding>,
    /// What stands for it in the cell, if it is bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placeholder: Option<String>,
    /// When this value was set.
    pub at: Millis,
    /// Said when it is set: why it is not looked for in what its cell sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unwatched: Option<String>,
}

/// Of `ledger/tail`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TailQuery {
    /// How many of the last rows; 50 by default, at most 10,000.
    #[serde(default)]
    pub count: Option<u32>,
    /// Go on as rows come.
    #[serde(default)]
    pub follow: bool,
    /// Only this tenant's rows.
    #[serde(default)]
    pub tenant: Option<TenantId>,
}

/// One row of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerRow {
    /// Its number, from 1.
    pub seq: u64,
    /// When.
    pub at: Millis,
    /// `A` (durable before its effect) or `B` (in order).
    pub class: String,
    /// About whom, if about one tenant.
    pub tenant: Option<TenantId>,
    /// What happened.
    pub kind: String,
    /// The rest, as it was hashed.
    pub body: serde_json::Value,
}

/// Whether the ledger's chain is whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerVerified {
    /// Every row was read and every link fits.
    pub whole: bool,
    /// Rows read.
    pub rows: u64,
    /// The last row's hash, hex.
    pub head: String,
    /// The first thing that does not fit; empty if everything does.
    pub problem: String,
}

/// What can run in cells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtimes {
    /// Command entries first.
    pub runtimes: Vec<Runtime>,
}

/// One thing that can run in a cell.
#[expect(clippy::struct_field_names, reason = "the same word as in NewTenant")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    /// As in [`NewTenant::runtime`].
    pub runtime: String,
    /// `openclaw 2026.9.6`, or the command's program.
    pub what: String,
    /// How many tenants run it.
    pub tenants: u32,
}
