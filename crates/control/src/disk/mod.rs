//! What control needs of the disk, as a trait of its own: the state database and the ledger behind it.
//!
//! Each method that takes a [`Row`] makes the change and the row of class A durable together, before it
//! returns; if it fails, nothing was changed. It owns no format. The threat: an effect without its record.

mod sqlite;

pub use sqlite::open;

use crate::{
    Error,
    api::types::{
        LastProof, LedgerRow, LedgerVerified, ModelRoute, Policy, SecretRow, Token, UsageRow, Webhook,
        WebhookSet,
    },
    db::Row,
};
use cofferdam_base::{
    Destination, Millis, SecretName, Slot, TenantId,
    ipc::{
        asked::RequestShown,
        launcher::{Limits, RuntimeRef},
        model::{Alias, Spent, SpentByAll},
        warden::{SealedSecret, Usage},
    },
};
use cofferdam_policy::approval::State;
pub use cofferdam_store::state::RouteRow as StoredRoute;
use cofferdam_store::{ledger::Told, state::By};
use cofferdam_tenants::lifecycle::Desired;
use cofferdam_vault::WrappedDataKey;

/// A tenant as it is kept.
#[derive(Clone, Debug)]
pub struct StoredTenant {
    /// The id.
    pub id: TenantId,
    /// The slot.
    pub slot: Slot,
    /// What runs in its cell.
    pub runtime: RuntimeRef,
    /// What its cell may use.
    pub limits: Limits,
    /// What somebody asked for.
    pub desired: Desired,
    /// The number of the last start.
    pub generation: u64,
    /// When it was made.
    pub created: Millis,
    /// What its last proof found.
    pub proof: Option<LastProof>,
}

/// A tenant to be made.
#[derive(Clone, Debug)]
pub struct NewStoredTenant {
    /// The id.
    pub id: TenantId,
    /// What runs in its cell.
    pub runtime: RuntimeRef,
    /// What its cell may use.
    pub limits: Limits,
    /// What somebody asked for.
    pub desired: Desired,
    /// Its data key.
    pub key: WrappedDataKey,
    /// Its first policy.
    pub policy: String,
    /// Its home is being filled. It counts as deleted until somebody says what is wanted of it: an import that was
    /// cut off leaves nothing.
    pub importing: bool,
}

/// An approval as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredApproval {
    /// Its number, 0 before it was kept.
    pub id: u64,
    /// Whose cell asked.
    pub tenant: TenantId,
    /// For what.
    pub destination: Destination,
    /// Why the policy asks.
    pub why: String,
    /// Since when.
    pub asked: Millis,
    /// Where it stands.
    pub state: State,
    /// The reason of a denial; empty if there is none.
    pub answer: String,
    /// When it was answered, or nobody did in time.
    pub answered: Option<Millis>,
    /// The revision of the policy that asked.
    pub revision: u64,
    /// The request that asked first, where one could be read.
    pub request: Option<RequestShown>,
    /// How often the same was asked.
    pub count: u64,
    /// Who answered; empty if nobody did.
    pub approver: String,
}

/// Something to be posted to a webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Its number, never used again.
    pub id: u64,
    /// Whose.
    pub tenant: TenantId,
    /// To where, and signed with what.
    pub webhook: Webhook,
    /// What: JSON.
    pub body: String,
    /// How often it was tried.
    pub tries: u32,
}

/// A change of a tenant's inference routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteChange {
    /// This one, in place of the one of its name.
    Set(Box<ModelRoute>),
    /// The one of this name goes.
    Remove(Alias),
    /// The one of this name is the default.
    Default(Alias),
}

/// The ledger as it was at one moment.
pub trait Ledger: Send {
    /// How many rows it had.
    fn rows(&self) -> u64;
    /// The last rows, oldest first.
    fn tail(&self, count: u32, tenant: Option<&TenantId>) -> Result<Vec<LedgerRow>, Error>;
    /// The rows after this number, oldest first, at most 1,000; and up to which one was looked.
    fn after(&self, seq: u64, tenant: Option<&TenantId>) -> Result<(Vec<LedgerRow>, u64), Error>;
    /// Reads the whole chain.
    fn verify(&self) -> Result<LedgerVerified, Error>;
}

/// The disk.
pub trait Disk: Send {
    /// Puts one row of class A on disk.
    fn durable(&mut self, row: &Row) -> Result<(), Error>;
    /// Puts rows of class B on disk, all or none, in this order.
    fn append(&mut self, rows: &[Row]) -> Result<(), Error>;
    /// The last record of each tenant's warden that was in the ledger at the start.
    fn told(&mut self) -> Told;
    /// How many rows the ledger has.
    fn ledger_rows(&mut self) -> Result<u64, Error>;
    /// The ledger as it is now, to be read on another thread: reading must not stop what is written.
    fn ledger(&mut self) -> Result<Box<dyn Ledger>, Error>;
    /// What was found whole, unless something stands behind the end that nobody wrote.
    fn ledger_end(&mut self, found: LedgerVerified) -> Result<LedgerVerified, Error>;

    /// Makes the day's backup of the state, if there is none yet.
    fn keep_backup(&mut self) -> Result<(), Error>;

    /// All tenants, by id.
    fn tenants(&mut self) -> Result<Vec<StoredTenant>, Error>;
    /// Makes a tenant with a slot that none ever had. An id that is, or was, in use is [`Error::Conflict`].
    fn create_tenant(&mut self, new: &NewStoredTenant, row: &Row) -> Result<Slot, Error>;
    /// Notes what is wanted; [`Error::Conflict`] if it is being deleted.
    fn set_desired(&mut self, id: &TenantId, desired: Desired, row: &Row) -> Result<(), Error>;
    /// Notes that it is killed and revokes all its tokens, in one step; those that were good until now.
    /// [`Error::Conflict`] if it is being deleted.
    fn kill_tenant(&mut self, id: &TenantId, at: Millis, row: &Row) -> Result<Vec<Token>, Error>;
    /// Notes other limits.
    fn set_limits(&mut self, id: &TenantId, limits: &Limits, row: &Row) -> Result<(), Error>;
    /// Notes what its last proof found.
    fn set_proof(&mut self, id: &TenantId, proof: &LastProof, row: &Row) -> Result<(), Error>;
    /// Notes the number of a start.
    fn set_generation(&mut self, id: &TenantId, generation: u64, row: &Row) -> Result<(), Error>;
    /// Strikes a tenant with its secrets, policies, tokens and approvals.
    fn forget_tenant(&mut self, id: &TenantId, row: &Row) -> Result<(), Error>;

    /// The current policy (`in_force` is left empty).
    fn policy(&mut self, id: &TenantId) -> Result<Policy, Error>;
    /// The newest revisions below this number, the newest first; some of them.
    fn policies(&mut self, id: &TenantId, below: u64) -> Result<Vec<Policy>, Error>;
    /// Adds a revision; its number.
    fn add_policy(&mut self, id: &TenantId, text: &str, by: &str, row: &Row) -> Result<u64, Error>;

    /// The tenant's data key.
    fn wrapped_key(&mut self, id: &TenantId) -> Result<WrappedDataKey, Error>;
    /// Secrets without values.
    fn secret_rows(&mut self, id: &TenantId) -> Result<Vec<SecretRow>, Error>;
    /// The newest envelope of each secret.
    fn sealed(&mut self, id: &TenantId) -> Result<Vec<SealedSecret>, Error>;
    /// Keeps a secret's new version.
    fn set_secret(
        &mut self,
        id: &TenantId,
        sealed: &SealedSecret,
        at: Millis,
        row: &Row,
    ) -> Result<(), Error>;
    /// Removes a secret; false if there is none.
    fn remove_secret(&mut self, id: &TenantId, name: &SecretName, row: &Row) -> Result<bool, Error>;
    /// The inference routes, by name.
    fn routes(&mut self, id: &TenantId) -> Result<Vec<StoredRoute>, Error>;
    /// Changes them; false if there is nothing to change. The first is the default, which goes last.
    fn change_routes(&mut self, id: &TenantId, change: &RouteChange, row: &Row) -> Result<bool, Error>;
    /// What they used in the last minute, day and month in which they used anything.
    fn spent(&mut self, id: &TenantId) -> Result<Vec<Spent>, Error>;
    /// The same of all of them together, removed ones included.
    fn spent_by_all(&mut self, id: &TenantId) -> Result<Vec<SpentByAll>, Error>;

    /// Keeps a token; the number of its subject within the tenant, from 1, never used for another.
    fn add_token(&mut self, token: &Token, row: &Row) -> Result<u16, Error>;
    /// Tokens, oldest first.
    fn tokens(&mut self, tenant: Option<&TenantId>) -> Result<Vec<Token>, Error>;
    /// Revokes a token; none if there is none. One revoked already stays as it was.
    fn revoke_token(&mut self, jti: &str, at: Millis, row: &Row) -> Result<Option<Token>, Error>;

    /// Approvals by number; without `all` only those that are not over.
    fn approvals(&mut self, all: bool) -> Result<Vec<StoredApproval>, Error>;
    /// Keeps a new approval; its number.
    fn add_approval(&mut self, approval: &StoredApproval, row: &Row) -> Result<u64, Error>;
    /// Keeps the state of an approval and, if given, a new policy of its tenant in the same step; that
    /// policy's revision, else 0. What else was asked under the approval's revision counts under the new one.
    fn set_approval(
        &mut self,
        approval: &StoredApproval,
        policy: Option<&str>,
        row: &Row,
    ) -> Result<u64, Error>;

    /// Keeps an approval that was just granted once as used, with the row of the grant, in one flush: it may be used
    /// without another one.
    fn grant_held(&mut self, granted: &StoredApproval, row: &Row) -> Result<(), Error>;

    /// Adds these to the sums of usage, all or none; one of a tenant that is not there adds nothing.
    fn add_usage(&mut self, uses: &[(TenantId, Usage)]) -> Result<(), Error>;
    /// The sums of usage from the day of this moment on, told apart by these.
    fn usage(&mut self, tenant: Option<&TenantId>, since: Millis, by: &[By]) -> Result<Vec<UsageRow>, Error>;

    /// A tenant's webhook and how it stands.
    fn webhook(&mut self, id: &TenantId) -> Result<WebhookSet, Error>;
    /// Sets a webhook, or removes it with all that waits.
    fn set_webhook(&mut self, id: &TenantId, webhook: Option<&Webhook>, row: &Row) -> Result<(), Error>;
    /// Queues something for the tenant's webhook, if it has one.
    fn post(&mut self, id: &TenantId, body: &str, row: &Row) -> Result<(), Error>;
    /// What is to be posted now. It became durable with the approval that it tells of.
    fn due_deliveries(&mut self, now: Millis) -> Result<Vec<Delivery>, Error>;
    /// What became of one: it is struck, or tried again.
    fn delivered(
        &mut self,
        id: &TenantId,
        delivery: u64,
        error: &str,
        again: Option<Millis>,
    ) -> Result<(), Error>;
}
