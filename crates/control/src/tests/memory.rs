//! A disk in memory, which can be told to fail.

use crate::{
    Error,
    api::types::{
        LastProof, LedgerRow, LedgerVerified, Policy, SecretRow, Token, UsageRow, Webhook, WebhookSet,
    },
    db::Row,
    disk::{Delivery, Disk, Ledger, NewStoredTenant, RouteChange, StoredApproval, StoredRoute, StoredTenant},
};
use cofferdam_base::{
    Millis, SecretName, Slot, TenantId,
    ipc::{
        launcher::Limits,
        model::{Span, Spent, SpentByAll},
        warden::{SealedSecret, Usage},
    },
};
use cofferdam_policy::approval::State;
use cofferdam_store::{ledger::Told, state::By};
use cofferdam_tenants::lifecycle::Desired;
use cofferdam_vault::WrappedDataKey;
use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// The tables; whether everything fails, and how often it did; whether the disk is full; whether no tenant
/// can be forgotten; whether no use is counted.
#[derive(Clone, Default)]
pub(super) struct Memory(
    Arc<Mutex<Tables>>,
    pub(super) Arc<AtomicBool>,
    pub(super) Arc<AtomicUsize>,
    pub(super) Arc<AtomicBool>,
    pub(super) Arc<AtomicBool>,
    pub(super) Arc<AtomicBool>,
);

#[derive(Default)]
struct Tables {
    rows: Vec<LedgerRow>,
    tenants: Vec<(StoredTenant, WrappedDataKey)>,
    policies: Vec<(TenantId, Policy)>,
    secrets: Vec<(TenantId, SealedSecret, Millis)>,
    routes: Vec<(TenantId, StoredRoute)>,
    tokens: Vec<Token>,
    approvals: Vec<StoredApproval>,
    usage: Vec<(TenantId, Usage)>,
    /// In how many changes.
    counted: usize,
    webhooks: Vec<(TenantId, Webhook, String)>,
    deliveries: Vec<(Delivery, Millis)>,
    last_delivery: u64,
}

impl Memory {
    fn open(&self) -> Result<MutexGuard<'_, Tables>, Error> {
        if self.1.load(Ordering::Relaxed) {
            self.2.fetch_add(1, Ordering::Relaxed);
            return Err(Error::Store("the disk is full".to_owned()));
        }
        Ok(self.0.lock().unwrap())
    }

    /// The tables, for a change with these rows.
    fn change(&self, rows: &[Row]) -> Result<MutexGuard<'_, Tables>, Error> {
        if self.3.load(Ordering::Relaxed) && rows.iter().any(|row| !row.kind.is_essential()) {
            self.2.fetch_add(1, Ordering::Relaxed);
            return Err(Error::DiskFull);
        }
        self.open()
    }

    /// Makes every revision of every policy older by so many milliseconds.
    pub(super) fn age_policies(&self, by: u64) {
        for (_, policy) in &mut self.0.lock().unwrap().policies {
            policy.at = Millis(policy.at.0 - by);
        }
    }

    /// How many uses of models are counted, and in how many changes.
    pub(super) fn counted(&self) -> (usize, usize) {
        let tables = self.0.lock().unwrap();
        (tables.usage.len(), tables.counted)
    }

    pub(super) fn kinds(&self) -> Vec<String> {
        self.0.lock().unwrap().rows.iter().map(|row| row.kind.clone()).collect()
    }
}

impl Tables {
    fn add(&mut self, row: &Row, class: &str) {
        let seq = self.rows.len() as u64 + 1;
        let Row { at, tenant, kind, body } = row.clone();
        let (class, kind) = (class.to_owned(), kind.as_str().to_owned());
        let body = serde_json::from_str(body.as_str()).unwrap();
        self.rows.push(LedgerRow { seq, at, class, tenant, kind, body });
    }

    fn post(&mut self, whose: &TenantId, body: &str, due: Millis) {
        let webhook = self.webhooks.iter().find(|(tenant, ..)| tenant == whose);
        let Some((tenant, webhook, _)) = webhook.cloned() else { return };
        self.last_delivery += 1;
        let (id, body) = (self.last_delivery, body.to_owned());
        self.deliveries.push((Delivery { id, tenant, webhook, body, tries: 0 }, due));
    }

    fn add_policy(&mut self, id: &TenantId, text: &str, by: &str, at: Millis) -> u64 {
        let revision = self.policies.iter().filter(|(whose, _)| whose == id).count() as u64 + 1;
        let policy = Policy { text: text.to_owned(), revision, at, by: by.to_owned(), in_force: None };
        self.policies.push((id.clone(), policy));
        revision
    }
}

fn about(tenant: Option<&TenantId>, row: &LedgerRow) -> bool {
    tenant.is_none() || row.tenant.as_ref() == tenant
}

struct Rows(Vec<LedgerRow>);

impl Ledger for Rows {
    fn rows(&self) -> u64 {
        self.0.len() as u64
    }
    fn tail(&self, count: u32, tenant: Option<&TenantId>) -> Result<Vec<LedgerRow>, Error> {
        let rows: Vec<_> = self.0.iter().filter(|row| about(tenant, row)).cloned().collect();
        Ok(rows[rows.len().saturating_sub(count as usize)..].to_vec())
    }
    fn after(&self, seq: u64, tenant: Option<&TenantId>) -> Result<(Vec<LedgerRow>, u64), Error> {
        let rows = self.0.iter().filter(|row| row.seq > seq && about(tenant, row)).cloned().collect();
        Ok((rows, self.rows()))
    }
    fn verify(&self) -> Result<LedgerVerified, Error> {
        Ok(LedgerVerified { whole: true, rows: self.rows(), head: String::new(), problem: String::new() })
    }
}

impl Disk for Memory {
    fn durable(&mut self, row: &Row) -> Result<(), Error> {
        self.change(std::slice::from_ref(row))?.add(row, "A");
        Ok(())
    }
    fn append(&mut self, rows: &[Row]) -> Result<(), Error> {
        let mut tables = self.change(rows)?;
        for row in rows {
            tables.add(row, "B");
        }
        Ok(())
    }
    fn told(&mut self) -> Told {
        let rows = self.0.lock().unwrap();
        let record = |row: &LedgerRow| {
            let numbers = (row.body["boot"].as_u64()?, row.body["seq"].as_u64()?);
            Some((row.tenant.clone()?, numbers))
        };
        rows.rows.iter().filter_map(record).collect()
    }
    fn ledger_rows(&mut self) -> Result<u64, Error> {
        Ok(self.open()?.rows.len() as u64)
    }
    fn ledger(&mut self) -> Result<Box<dyn Ledger>, Error> {
        Ok(Box::new(Rows(self.open()?.rows.clone())))
    }
    fn ledger_end(&mut self, found: LedgerVerified) -> Result<LedgerVerified, Error> {
        self.open().map(|_| found)
    }
    fn keep_backup(&mut self) -> Result<(), Error> {
        self.open().map(drop)
    }
    fn tenants(&mut self) -> Result<Vec<StoredTenant>, Error> {
        Ok(self.open()?.tenants.iter().map(|(tenant, _)| tenant.clone()).collect())
    }
    fn create_tenant(&mut self, new: &NewStoredTenant, row: &Row) -> Result<Slot, Error> {
        let mut tables = self.change(std::slice::from_ref(row))?;
        if tables.tenants.iter().any(|(tenant, _)| tenant.id == new.id) {
            let message = format!("tenant {} is there already", new.id);
            return Err(Error::Conflict { code: "exists", message, mend: String::new() });
        }
        let slot = Slot::try_from(u16::try_from(tables.tenants.len()).unwrap() + 2).unwrap();
        let NewStoredTenant { id, runtime, limits, desired, key, policy, importing } = new.clone();
        let desired = if importing { Desired::Deleted } else { desired };
        tables.add_policy(&id, &policy, "default", row.at);
        let (generation, created, proof) = (0, row.at, None);
        let stored = StoredTenant { id, slot, runtime, limits, desired, generation, created, proof };
        tables.tenants.push((stored, key));
        tables.add(row, "A");
        Ok(slot)
    }
    fn set_desired(&mut self, id: &TenantId, desired: Desired, row: &Row) -> Result<(), Error> {
        let mut tables = self.change(std::slice::from_ref(row))?;
        tables.tenants.iter_mut().filter(|(t, _)| t.id == *id).for_each(|(t, _)| t.desired = desired);
        tables.add(row, "A");
        Ok(())
    }
    fn kill_tenant(&mut self, id: &TenantId, at: Millis, row: &Row) -> Result<Vec<Token>, Error> {
        let mut tables = self.change(std::slice::from_ref(row))?;
        tables.tenants.iter_mut().filter(|(t, _)| t.id == *id).for_each(|(t, _)| t.desired = Desired::Killed);
        let live = tables.tokens.iter_mut().filter(|token| token.tenant == *id && token.revoked.is_none());
        let revoked = live.map(|token| {
            token.revoked = Some(at);
            token.clone()
        });
        let revoked = revoked.collect();
        tables.add(row, "A");
        Ok(revoked)
    }
    fn set_limits(&mut self, id: &TenantId, limits: &Limits, row: &Row) -> Result<(), Error> {
        let mut tables = self.change(std::slice::from_ref(row))?;
        tables.tenants.iter_mut().filter(|(t, _)| t.id == *id).for_each(|(t, _)| t.limits = *limits);
        tables.add(row, "A");
        Ok(())
    }
    fn set_proof(&mut self, id: &TenantId, proof: &LastProof, row: &Row) -> Result<(), Error> {
        let mut tables = self.change(std::slice::from_ref(row))?;
        let found = tables.tenants.iter_mut().filter(|(t, _)| t.id == *id);
        found.for_each(|(t, _)| t.proof = Some(proof.clone()));
        tables.add(row, "A");
        Ok(())
    }
    fn set_generation(&mut self, id: &TenantId, generation: u64, row: &Row) -> Result<(), Error> {
        let mut tables = self.change(std::slice::from_ref(row))?;
        tables.tenants.iter_mut().filter(|(t, _)| t.id == *id).for_each(|(t, _)| t.generation = generation);
        tables.add(row, "A");
        Ok(())
    }
    fn forget_tenant(&mut self, id: &TenantId, row: &Row) -> Result<(), Error> {
        if self.4.load(Ordering::Relaxed) {
            return Err(Error::Store("no tenant can be forgotten".to_owned()));
        }
        let mut tables = self.change(std::slice::from_ref(row))?;
        tables.tenants.retain(|(tenant, _)| tenant.id != *id);
        tables.add(row, "A");
        Ok(())
    }
    fn policy(&mut self, id: &TenantId) -> Result<Policy, Error> {
        Ok(self.open()?.policies.iter().rfind(|(whose, _)| whose == id).unwrap().1.clone())
    }
    fn policies(&mut self, id: &TenantId, below: u64) -> Result<Vec<Policy>, Error> {
        let tables = self.open()?;
        let mine =
            tables.policies.iter().rev().filter(|(whose, policy)| whose == id && policy.revision < below);
        Ok(mine.map(|(_, policy)| policy.clone()).take(2).collect())
    }
    fn add_policy(&mut self, id: &TenantId, text: &str, by: &str, row: &Row) -> Result<u64, Error> {
        let mut tables = self.change(std::slice::from_ref(row))?;
        tables.add(row, "A");
        Ok(tables.add_policy(id, text, by, row.at))
    }
    fn wrapped_key(&mut self, id: &TenantId) -> Result<WrappedDataKey, Error> {
        Ok(self.open()?.tenants.iter().find(|(tenant, _)| tenant.id == *id).unwrap().1.clone())
    }
    fn secret_rows(&mut self, id: &TenantId) -> Result<Vec<SecretRow>, Error> {
        let tables = self.open()?;
        let mine = tables.secrets.iter().filter(|(whose, ..)| whose == id);
        Ok(mine
            .map(|(_, s, at)| SecretRow {
                name: s.name.clone(),
                version: s.version,
                purpose: s.purpose.clone(),
                binding: None,
                placeholder: None,
                at: *at,
                unwatched: None,
            })
            .collect())
    }
    fn sealed(&mut self, id: &TenantId) -> Result<Vec<SealedSecret>, Error> {
        let tables = self.open()?;
        Ok(tables.secrets.iter().filter(|(whose, ..)| whose == id).map(|(_, s, _)| s.clone()).collect())
    }
    fn set_secret(
        &mut self,
        id: &TenantId,
        sealed: &SealedSecret,
        at: Millis,
        row: &Row,
    ) -> Result<(), Error> {
        let mut tables = self.change(std::slice::from_ref(row))?;
        tables.secrets.retain(|(whose, s, _)| !(whose == id && s.name == sealed.name));
        tables.secrets.push((id.clone(), sealed.clone(), at));
        tables.add(row, "A");
        Ok(())
    }
    fn remove_secret(&mut self, id: &TenantId, name: &SecretName, row: &Row) -> Result<bool, Error> {
        let mut tables = self.change(std::slice::from_ref(row))?;
        let before = tables.secrets.len();
        tables.secrets.retain(|(whose, s, _)| !(whose == id && s.name == *name));
        let gone = tables.secrets.len() < before;
        if gone {
            tables.add(row, "A");
        }
        Ok(gone)
    }
    fn routes(&mut self, id: &TenantId) -> Result<Vec<StoredRoute>, Error> {
        let tables = self.open()?;
        Ok(tables.routes.iter().filter(|(whose, _)| whose == id).map(|(_, row)| row.clone()).collect())
    }
    fn change_routes(&mut self, id: &TenantId, change: &RouteChange, row: &Row) -> Result<bool, Error> {
        let mut tables = self.change(std::slice::from_ref(row))?;
        match change {
            RouteChange::Set(route) => {
                tables.routes.retain(|(whose, kept)| whose != id || kept.route.route != route.route);
                let main = !tables.routes.iter().any(|(whose, _)| whose == id);
                let kept = StoredRoute { route: (**route).clone(), at: row.at, main };
                tables.routes.push((id.clone(), kept));
            }
            RouteChange::Remove(alias) => {
                tables.routes.retain(|(whose, kept)| whose != id || kept.route.route != *alias);
            }
            RouteChange::Default(alias) => {
                let ours = tables.routes.iter_mut().filter(|(whose, _)| whose == id);
                ours.for_each(|(_, kept)| kept.main = kept.route.route == *alias);
            }
        }
        tables.add(row, "A");
        Ok(true)
    }
    fn spent(&mut self, _: &TenantId) -> Result<Vec<Spent>, Error> {
        Ok(Vec::new())
    }
    fn spent_by_all(&mut self, id: &TenantId) -> Result<Vec<SpentByAll>, Error> {
        let tables = self.open()?;
        let own = tables.usage.iter().filter(|(tenant, _)| tenant == id);
        let tokens = own.map(|(_, usage)| usage.prompt_tokens + usage.completion_tokens).sum();
        Ok(vec![SpentByAll { span: Span::Day, begin: Millis(0), tokens, micros: 0 }])
    }
    fn add_token(&mut self, token: &Token, row: &Row) -> Result<u16, Error> {
        let mut tables = self.change(std::slice::from_ref(row))?;
        tables.tokens.push(token.clone());
        tables.add(row, "A");
        Ok(1)
    }
    fn tokens(&mut self, tenant: Option<&TenantId>) -> Result<Vec<Token>, Error> {
        let tables = self.open()?;
        Ok(tables.tokens.iter().filter(|t| tenant.is_none_or(|id| t.tenant == *id)).cloned().collect())
    }
    fn revoke_token(&mut self, jti: &str, at: Millis, row: &Row) -> Result<Option<Token>, Error> {
        let mut tables = self.change(std::slice::from_ref(row))?;
        let found = tables.tokens.iter_mut().find(|token| token.jti == jti).map(|token| {
            token.revoked.get_or_insert(at);
            token.clone()
        });
        if found.is_some() {
            tables.add(row, "A");
        }
        Ok(found)
    }
    fn approvals(&mut self, all: bool) -> Result<Vec<StoredApproval>, Error> {
        Ok(self.open()?.approvals.iter().filter(|row| all || !row.state.is_over()).cloned().collect())
    }
    fn add_approval(&mut self, approval: &StoredApproval, row: &Row) -> Result<u64, Error> {
        let mut tables = self.change(std::slice::from_ref(row))?;
        let id = tables.approvals.len() as u64 + 1;
        tables.approvals.push(StoredApproval { id, ..approval.clone() });
        let body = crate::webhook::body(&StoredApproval { id, ..approval.clone() });
        tables.post(&approval.tenant, &body, row.at);
        tables.add(row, "A");
        Ok(id)
    }
    fn set_approval(&mut self, new: &StoredApproval, policy: Option<&str>, row: &Row) -> Result<u64, Error> {
        let mut tables = self.change(std::slice::from_ref(row))?;
        tables.add(row, "A");
        *tables.approvals.iter_mut().find(|old| old.id == new.id).unwrap() = new.clone();
        tables.post(&new.tenant, &crate::webhook::body(new), row.at);
        let Some(text) = policy else { return Ok(0) };
        let revision = tables.add_policy(&new.tenant, text, "approval", row.at);
        let bound = |old: &&mut StoredApproval| {
            old.tenant == new.tenant && !old.state.is_over() && old.revision == new.revision
        };
        tables.approvals.iter_mut().filter(bound).for_each(|old| old.revision = revision);
        Ok(revision)
    }
    fn grant_held(&mut self, granted: &StoredApproval, row: &Row) -> Result<(), Error> {
        self.set_approval(&StoredApproval { state: State::Used, ..granted.clone() }, None, row).map(drop)
    }
    fn add_usage(&mut self, uses: &[(TenantId, Usage)]) -> Result<(), Error> {
        if self.5.load(Ordering::Relaxed) {
            self.2.fetch_add(1, Ordering::Relaxed);
            return Err(Error::Store("the disk stands still".to_owned()));
        }
        let mut tables = self.open()?;
        tables.usage.extend_from_slice(uses);
        tables.counted += 1;
        Ok(())
    }
    fn usage(&mut self, tenant: Option<&TenantId>, _: Millis, _: &[By]) -> Result<Vec<UsageRow>, Error> {
        let row = |(tenant, usage): &(TenantId, Usage)| UsageRow {
            tenant: tenant.to_string(),
            day: None,
            route: usage.route.to_string(),
            model: usage.model.clone(),
            user: usage.user.clone(),
            agent: usage.agent.clone(),
            requests: 1,
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            micros: usage.micros.unwrap_or_default(),
            unpriced: u64::from(usage.micros.is_none()),
        };
        let tables = self.open()?;
        Ok(tables.usage.iter().filter(|(id, _)| tenant.is_none_or(|it| it == id)).map(row).collect())
    }
    fn webhook(&mut self, id: &TenantId) -> Result<WebhookSet, Error> {
        let tables = self.open()?;
        let waiting = tables.deliveries.iter().filter(|(it, _)| it.tenant == *id).count();
        let found = tables.webhooks.iter().find(|(whose, ..)| whose == id).cloned();
        Ok(found.map_or_else(WebhookSet::default, |(_, webhook, last_error)| WebhookSet {
            webhook: Some(webhook),
            waiting: u32::try_from(waiting).unwrap(),
            last_error,
        }))
    }
    fn set_webhook(&mut self, id: &TenantId, webhook: Option<&Webhook>, row: &Row) -> Result<(), Error> {
        let mut tables = self.change(std::slice::from_ref(row))?;
        tables.webhooks.retain(|(whose, ..)| whose != id);
        tables.webhooks.extend(webhook.map(|it| (id.clone(), it.clone(), String::new())));
        tables.add(row, "A");
        Ok(())
    }
    fn post(&mut self, id: &TenantId, body: &str, row: &Row) -> Result<(), Error> {
        let mut tables = self.change(std::slice::from_ref(row))?;
        tables.post(id, body, row.at);
        tables.add(row, "A");
        Ok(())
    }
    fn due_deliveries(&mut self, now: Millis) -> Result<Vec<Delivery>, Error> {
        let tables = self.open()?;
        Ok(tables.deliveries.iter().filter(|(_, due)| *due <= now).map(|(it, _)| it.clone()).collect())
    }
    fn delivered(
        &mut self,
        id: &TenantId,
        delivery: u64,
        error: &str,
        again: Option<Millis>,
    ) -> Result<(), Error> {
        let mut tables = self.open()?;
        if let Some(due) = again {
            let tried = tables.deliveries.iter_mut().find(|(it, _)| it.id == delivery).unwrap();
            (tried.0.tries, tried.1) = (tried.0.tries + 1, due);
        } else {
            tables.deliveries.retain(|(it, _)| it.id != delivery);
        }
        tables
            .webhooks
            .iter_mut()
            .filter(|(whose, ..)| whose == id)
            .for_each(|it| error.clone_into(&mut it.2));
        Ok(())
    }
}
