//! The disk as it is: the store's state database and ledger behind the trait.
//!
//! It owns the conversions between control's words and the store's, and nothing else. The threat: a kept
//! word that is not one of ours; it is an error, never a default.

use super::{Delivery, Disk, NewStoredTenant, RouteChange, StoredApproval, StoredRoute, StoredTenant};
use crate::{
    Error,
    api::types::{
        LastProof, LedgerRow, LedgerVerified, Policy, SecretRow, Token, UsageRow, Webhook, WebhookSet,
    },
    db::Row,
};
use cofferdam_base::{
    Clock, Digest, Millis, SecretName, Slot, TenantId,
    ipc::{
        launcher::Limits,
        model::{Spent, SpentByAll},
        warden::{SealedSecret, Usage},
    },
};
use cofferdam_policy::approval::State as Approved;
use cofferdam_store::{
    ledger::{Class, Ledger, NewRow, Reader, StoredRow, Told, Verified},
    state::{self, By, State},
};
use cofferdam_sys::clock::SystemClock;
use cofferdam_tenants::lifecycle::Desired;
use cofferdam_vault::WrappedDataKey;
use serde::{Serialize, de::DeserializeOwned};
use std::path::Path;

/// What is wanted of a tenant whose home is being filled.
const IMPORTING: &str = "\"importing\"";
/// So many rows at most are one page of the ledger.
const PAGE: usize = 1_000;
/// So many revisions at most are one page of a policy's history.
const REVISIONS: u32 = 16;

/// Opens the disk of control in its directory: `state.db`, `ledger/`, `backups/`. Starts no thread.
pub fn open(directory: &Path) -> Result<Box<dyn Disk>, Error> {
    let now = SystemClock.now();
    // The state first: while it is not whole, a host without a ledger counts as new.
    let mut state = State::open(directory, now)?;
    if let Some(error) = state.without_backup() {
        tracing::error!(%error, "no backup of the state could be made");
    }
    let mut ledger = Ledger::open(&directory.join("ledger"), now)?;
    let undone = state.settle(&mut ledger, now)?;
    if undone > 0 {
        tracing::warn!(undone, "the ledger told of changes that the state does not have");
    }
    Ok(Box::new(Sqlite { state, ledger }))
}

#[derive(Debug)]
struct Sqlite {
    state: State,
    ledger: Ledger,
}

impl Sqlite {
    fn change<T>(
        &mut self,
        row: &Row,
        change: impl FnOnce(&state::Tables<'_>) -> Result<T, cofferdam_store::Error>,
    ) -> Result<T, Error> {
        Ok(self.state.change(&mut self.ledger, &new_row(row, Class::A), change)?)
    }
}

impl super::Ledger for Reader {
    fn rows(&self) -> u64 {
        self.rows()
    }

    fn tail(&self, count: u32, tenant: Option<&TenantId>) -> Result<Vec<LedgerRow>, Error> {
        Ok(self.tail(count, tenant)?.into_iter().map(ledger_row).collect())
    }

    fn after(&self, seq: u64, tenant: Option<&TenantId>) -> Result<(Vec<LedgerRow>, u64), Error> {
        let (rows, through) = self.after(seq, tenant, PAGE)?;
        Ok((rows.into_iter().map(ledger_row).collect(), through))
    }

    fn verify(&self) -> Result<LedgerVerified, Error> {
        Ok(verified(self.verify()?))
    }
}

impl Disk for Sqlite {
    fn durable(&mut self, row: &Row) -> Result<(), Error> {
        debug_assert!(!row.kind.is_change(), "{} is a change", row.kind.as_str());
        self.ledger.append(&new_row(row, Class::A))?;
        Ok(())
    }

    fn append(&mut self, rows: &[Row]) -> Result<(), Error> {
        let rows: Vec<_> = rows.iter().map(|row| new_row(row, Class::B)).collect();
        if !rows.is_empty() {
            self.ledger.append_all(&rows)?;
        }
        Ok(())
    }

    fn told(&mut self) -> Told {
        self.ledger.told().clone()
    }

    fn ledger_rows(&mut self) -> Result<u64, Error> {
        Ok(self.ledger.rows())
    }

    fn ledger(&mut self) -> Result<Box<dyn super::Ledger>, Error> {
        Ok(Box::new(self.ledger.reader()))
    }

    fn ledger_end(&mut self, found: LedgerVerified) -> Result<LedgerVerified, Error> {
        let LedgerVerified { whole, rows, head, problem } = found;
        let head = Digest::try_from(head).map_err(|e| Error::Store(e.to_string()))?;
        Ok(verified(self.ledger.end(Verified { whole, rows, head, problem })?))
    }

    fn keep_backup(&mut self) -> Result<(), Error> {
        self.state.keep_backup(SystemClock.now())?;
        Ok(())
    }

    fn tenants(&mut self) -> Result<Vec<StoredTenant>, Error> {
        self.state.read().tenants()?.into_iter().map(stored_tenant).collect()
    }

    fn create_tenant(&mut self, new: &NewStoredTenant, row: &Row) -> Result<Slot, Error> {
        let NewStoredTenant { id, runtime, limits, desired, key, policy, importing } = new;
        let new = state::NewTenantRow {
            id: id.clone(),
            runtime: runtime.clone(),
            limits: *limits,
            desired: if *importing { IMPORTING.to_owned() } else { write(desired)? },
            created: row.at,
            data_key: key.to_string(),
            policy: policy.clone(),
        };
        self.change(row, |tables| tables.create_tenant(&new))
    }

    fn set_desired(&mut self, id: &TenantId, desired: Desired, row: &Row) -> Result<(), Error> {
        let (desired, last) = (write(&desired)?, write(&Desired::Deleted)?);
        let row = new_row(row, Class::A);
        let change = |tables: &state::Tables<'_>| tables.set_desired(id, &desired, &last);
        self.state.change_if(&mut self.ledger, &row, change)?.ok_or_else(|| Error::being_deleted(id))
    }

    fn kill_tenant(&mut self, id: &TenantId, at: Millis, row: &Row) -> Result<Vec<Token>, Error> {
        let (desired, last) = (write(&Desired::Killed)?, write(&Desired::Deleted)?);
        let row = new_row(row, Class::A);
        let change = |tables: &state::Tables<'_>| match tables.set_desired(id, &desired, &last)? {
            Some(()) => tables.revoke_tokens(id, at).map(Some),
            None => Ok(None),
        };
        let revoked = self.state.change_if(&mut self.ledger, &row, change)?;
        Ok(revoked.ok_or_else(|| Error::being_deleted(id))?.into_iter().map(token).collect())
    }

    fn set_limits(&mut self, id: &TenantId, limits: &Limits, row: &Row) -> Result<(), Error> {
        self.change(row, |tables| tables.set_limits(id, limits))
    }

    fn set_proof(&mut self, id: &TenantId, proof: &LastProof, row: &Row) -> Result<(), Error> {
        let proof = write(proof)?;
        self.change(row, |tables| tables.set_proof(id, &proof))
    }

    fn set_generation(&mut self, id: &TenantId, generation: u64, row: &Row) -> Result<(), Error> {
        self.change(row, |tables| tables.set_generation(id, generation))
    }

    fn forget_tenant(&mut self, id: &TenantId, row: &Row) -> Result<(), Error> {
        self.change(row, |tables| tables.forget_tenant(id))?;
        self.state.scrub();
        Ok(())
    }

    fn policy(&mut self, id: &TenantId) -> Result<Policy, Error> {
        Ok(policy(self.state.read().policy(id)?))
    }

    fn policies(&mut self, id: &TenantId, below: u64) -> Result<Vec<Policy>, Error> {
        Ok(self.state.read().policies(id, below, REVISIONS)?.into_iter().map(policy).collect())
    }

    fn add_policy(&mut self, id: &TenantId, text: &str, by: &str, row: &Row) -> Result<u64, Error> {
        self.change(row, |tables| tables.add_policy(id, text, by, row.at))
    }

    fn wrapped_key(&mut self, id: &TenantId) -> Result<WrappedDataKey, Error> {
        Ok(self.state.read().data_key(id)?.parse()?)
    }

    fn secret_rows(&mut self, id: &TenantId) -> Result<Vec<SecretRow>, Error> {
        let rows = self.state.read().secrets(id)?.into_iter();
        let shown = |row| {
            let state::SecretRow { name, version, purpose, envelope: _, at } = row;
            SecretRow { name, version, purpose, binding: None, placeholder: None, at, unwatched: None }
        };
        Ok(rows.map(shown).collect())
    }

    fn sealed(&mut self, id: &TenantId) -> Result<Vec<SealedSecret>, Error> {
        let rows = self.state.read().secrets(id)?.into_iter();
        let sealed = |row| {
            let state::SecretRow { name, version, purpose, envelope, at: _ } = row;
            SealedSecret { name, version, purpose, envelope }
        };
        Ok(rows.map(sealed).collect())
    }

    fn set_secret(
        &mut self,
        id: &TenantId,
        sealed: &SealedSecret,
        at: Millis,
        row: &Row,
    ) -> Result<(), Error> {
        let SealedSecret { name, version, purpose, envelope } = sealed.clone();
        let kept = state::SecretRow { name, version, purpose, envelope, at };
        self.change(row, |tables| tables.set_secret(id, &kept))?;
        self.state.scrub();
        Ok(())
    }

    fn remove_secret(&mut self, id: &TenantId, name: &SecretName, row: &Row) -> Result<bool, Error> {
        let row = new_row(row, Class::A);
        let gone = self
            .state
            .change_if(&mut self.ledger, &row, |tables| Ok(tables.remove_secret(id, name)?.then_some(())))?;
        self.state.scrub();
        Ok(gone.is_some())
    }

    fn routes(&mut self, id: &TenantId) -> Result<Vec<StoredRoute>, Error> {
        Ok(self.state.read().routes(id)?)
    }

    fn change_routes(&mut self, id: &TenantId, change: &RouteChange, row: &Row) -> Result<bool, Error> {
        let at = row.at;
        let row = new_row(row, Class::A);
        let changed = self.state.change_if(&mut self.ledger, &row, |tables| {
            let changed = match change {
                RouteChange::Set(route) => tables.set_route(id, route, at).map(|()| true),
                RouteChange::Remove(alias) => tables.remove_route(id, alias),
                RouteChange::Default(alias) => tables.set_default_route(id, alias),
            };
            Ok(changed?.then_some(()))
        })?;
        Ok(changed.is_some())
    }

    fn spent(&mut self, id: &TenantId) -> Result<Vec<Spent>, Error> {
        Ok(self.state.read().spent(id)?)
    }

    fn spent_by_all(&mut self, id: &TenantId) -> Result<Vec<SpentByAll>, Error> {
        Ok(self.state.read().spent_by_all(id)?)
    }

    fn add_token(&mut self, token: &Token, row: &Row) -> Result<u16, Error> {
        let Token { jti, tenant, subject, role, issued, expires, revoked } = token.clone();
        let kept = state::TokenRow { jti, tenant, subject, role, issued, expires, revoked };
        self.change(row, |tables| tables.add_token(&kept))
    }

    fn tokens(&mut self, tenant: Option<&TenantId>) -> Result<Vec<Token>, Error> {
        Ok(self.state.read().tokens(tenant)?.into_iter().map(token).collect())
    }

    fn revoke_token(&mut self, jti: &str, at: Millis, row: &Row) -> Result<Option<Token>, Error> {
        let row = new_row(row, Class::A);
        let revoked = self.state.change_if(&mut self.ledger, &row, |tables| tables.revoke_token(jti, at))?;
        Ok(revoked.map(token))
    }

    fn approvals(&mut self, all: bool) -> Result<Vec<StoredApproval>, Error> {
        self.state.read().approvals(all)?.into_iter().map(stored_approval).collect()
    }

    fn add_approval(&mut self, approval: &StoredApproval, row: &Row) -> Result<u64, Error> {
        let new = approval_row(approval)?;
        self.change(row, |tables| {
            let id = tables.add_approval(&new)?;
            let kept = StoredApproval { id, ..approval.clone() };
            tables.post(&kept.tenant, &crate::webhook::body(&kept), row.at)?;
            Ok(id)
        })
    }

    fn set_approval(
        &mut self,
        approval: &StoredApproval,
        policy: Option<&str>,
        row: &Row,
    ) -> Result<u64, Error> {
        let changed = approval_row(approval)?;
        self.change(row, |tables| {
            tables.set_approval(&changed)?;
            tables.post(&changed.tenant, &crate::webhook::body(approval), row.at)?;
            let by = format!("approval {}", changed.id);
            let Some(text) = policy else { return Ok(0) };
            let revision = tables.add_policy(&changed.tenant, text, &by, row.at)?;
            tables.rebind_approvals(&changed.tenant, changed.revision, revision)?;
            Ok(revision)
        })
    }

    fn grant_held(&mut self, granted: &StoredApproval, row: &Row) -> Result<(), Error> {
        let used = approval_row(&StoredApproval { state: Approved::Used, ..granted.clone() })?;
        let new = new_row(row, Class::A);
        // What is to be posted must outlive a loss of power, as the row does.
        let posted = self.state.read().webhook(&granted.tenant)?.is_some();
        let change = |tables: &state::Tables<'_>| {
            tables.set_approval(&used)?;
            tables.post(&used.tenant, &crate::webhook::body(granted), row.at)
        };
        if posted {
            return Ok(self.state.change(&mut self.ledger, &new, change)?);
        }
        Ok(self.state.end_approval(&mut self.ledger, &new, used.id, &used.state, change)?)
    }

    fn add_usage(&mut self, uses: &[(TenantId, Usage)]) -> Result<(), Error> {
        Ok(self.state.change_quietly(|tables| tables.add_usage(uses))?)
    }

    fn usage(&mut self, tenant: Option<&TenantId>, since: Millis, by: &[By]) -> Result<Vec<UsageRow>, Error> {
        Ok(self.state.read().usage(tenant, since, by)?.into_iter().map(usage_row).collect())
    }

    fn webhook(&mut self, id: &TenantId) -> Result<WebhookSet, Error> {
        let found = self.state.read().webhook(id)?;
        Ok(found.map_or_else(WebhookSet::default, |row| {
            let state::WebhookRow { url, secret, waiting, error } = row;
            WebhookSet { webhook: Some(Webhook { url, secret }), waiting, last_error: error }
        }))
    }

    fn set_webhook(&mut self, id: &TenantId, webhook: Option<&Webhook>, row: &Row) -> Result<(), Error> {
        let webhook = webhook.map(|it| (it.url.as_str(), &it.secret));
        self.change(row, |tables| tables.set_webhook(id, webhook))
    }

    fn post(&mut self, id: &TenantId, body: &str, row: &Row) -> Result<(), Error> {
        self.change(row, |tables| tables.post(id, body, row.at))
    }

    fn due_deliveries(&mut self, now: Millis) -> Result<Vec<Delivery>, Error> {
        Ok(self.state.read().due_deliveries(now)?.into_iter().map(delivery).collect())
    }

    fn delivered(
        &mut self,
        id: &TenantId,
        number: u64,
        error: &str,
        again: Option<Millis>,
    ) -> Result<(), Error> {
        Ok(self.state.change_quietly(|tables| tables.delivered(id, number, error, again))?)
    }
}

fn usage_row(row: state::UsageRow) -> UsageRow {
    let state::UsageRow {
        tenant,
        day,
        route,
        model,
        user,
        agent,
        requests,
        prompt_tokens,
        completion_tokens,
        micros,
        unpriced,
    } = row;
    let day = day.map(|day| Millis(day.saturating_mul(86_400_000)));
    UsageRow {
        tenant,
        day,
        route,
        model,
        user,
        agent,
        requests,
        prompt_tokens,
        completion_tokens,
        micros,
        unpriced,
    }
}

fn delivery(row: state::DeliveryRow) -> Delivery {
    let state::DeliveryRow { id, tenant, url, secret, body, tries } = row;
    Delivery { id, tenant, webhook: Webhook { url, secret }, body, tries }
}

impl From<cofferdam_store::Error> for Error {
    fn from(error: cofferdam_store::Error) -> Self {
        use cofferdam_store::Error as Store;
        match error {
            Store::Conflict(message) => Self::Conflict { code: "exists", message, mend: String::new() },
            Store::DiskFull => Self::DiskFull,
            // Neither says that the state is damaged: another try may help.
            passing if passing.may_pass() => {
                Self::io("the state database", std::io::Error::other(passing.to_string()))
            }
            Store::NotFound { what, name } => Self::NotFound { what, name },
            Store::TooMany { .. } => Self::Refused {
                code: "too_many",
                message: error.to_string(),
                mend: "issue the token for a subject that has one: cofferdam token list".to_owned(),
            },
            other => Self::Store(other.to_string()),
        }
    }
}

fn new_row(row: &Row, class: Class) -> NewRow {
    let Row { at, tenant, kind, body } = row.clone();
    NewRow { at, class, tenant, kind: kind.as_str().to_owned(), body }
}

fn verified(Verified { whole, rows, head, problem }: Verified) -> LedgerVerified {
    LedgerVerified { whole, rows, head: head.to_string(), problem }
}

fn ledger_row(row: StoredRow) -> LedgerRow {
    let StoredRow { seq, at, class, tenant, kind, body } = row;
    let class = match class {
        Class::A => "A",
        Class::B => "B",
    };
    LedgerRow { seq, at, class: class.to_owned(), tenant, kind, body }
}

fn stored_tenant(row: state::TenantRow) -> Result<StoredTenant, Error> {
    let state::TenantRow { id, slot, runtime, limits, desired, generation, created, proof } = row;
    let desired = if desired == IMPORTING { Desired::Deleted } else { read(&desired)? };
    let proof = read(&proof)?;
    Ok(StoredTenant { id, slot, runtime, limits, desired, generation, created, proof })
}

fn policy(row: state::PolicyRow) -> Policy {
    let state::PolicyRow { revision, at, author, document } = row;
    Policy { text: document, revision, at, by: author, in_force: None }
}

fn token(row: state::TokenRow) -> Token {
    let state::TokenRow { jti, tenant, subject, role, issued, expires, revoked } = row;
    Token { jti, tenant, subject, role, issued, expires, revoked }
}

fn approval_row(approval: &StoredApproval) -> Result<state::ApprovalRow, Error> {
    let StoredApproval {
        id,
        tenant,
        destination,
        why,
        asked,
        state,
        answer,
        answered,
        revision,
        request,
        count,
        approver,
    } = approval.clone();
    let (over, state, request) = (state.is_over(), write(&state)?, write(&request)?);
    Ok(state::ApprovalRow {
        id,
        tenant,
        destination,
        why,
        asked,
        state,
        over,
        answer,
        answered,
        revision,
        request,
        count,
        approver,
    })
}

fn stored_approval(row: state::ApprovalRow) -> Result<StoredApproval, Error> {
    let state::ApprovalRow {
        id,
        tenant,
        destination,
        why,
        asked,
        state,
        over: _,
        answer,
        answered,
        revision,
        request,
        count,
        approver,
    } = row;
    let (state, request) = (read(&state)?, read(&request)?);
    Ok(StoredApproval {
        id,
        tenant,
        destination,
        why,
        asked,
        state,
        answer,
        answered,
        revision,
        request,
        count,
        approver,
    })
}

fn write<T: Serialize>(value: &T) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|e| Error::Store(format!("a value has no text: {e}")))
}

fn read<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    serde_json::from_str(text)
        .map_err(|e| Error::Store(format!("the state database holds a malformed value: {e}")))
}
