//! What control told the edge: who signs tokens, which tenants there are, which tokens are revoked.
//!
//! It owns the replacement of one snapshot by the next. The threat: serving on knowledge that is gone; so
//! nothing is served before the first whole snapshot, what is not sent again is forgotten, and each change
//! makes every connection look again ([`State::epoch`]).

use crate::approvals::{Asked, Ended, Questions};
use crate::check::{Check, keeps};
use crate::token::{Cache, Issuer, TokenError, Verified};
use cofferdam_base::{
    Clock, Millis, Slot, TenantId,
    ipc::edge::{Config, TenantRoute},
};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::watch;

/// The edge's knowledge.
pub struct State {
    table: RwLock<Table>,
    pending: Mutex<Option<Table>>,
    cache: Mutex<Cache>,
    epoch: AtomicU64,
    changed: watch::Sender<()>,
    clock: Arc<dyn Clock>,
}

#[derive(Clone, Default)]
struct Table {
    synced: bool,
    issuer: Arc<Issuer>,
    routes: HashMap<TenantId, Arc<TenantRoute>>,
    slots: HashMap<Slot, TenantId>,
    revoked: HashMap<String, u64>,
    questions: Questions,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl State {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            table: RwLock::default(),
            pending: Mutex::default(),
            cache: Mutex::default(),
            epoch: AtomicU64::new(0),
            changed: watch::Sender::new(()),
            clock,
        }
    }

    /// The time.
    pub fn now(&self) -> Millis {
        self.clock.now()
    }

    /// Takes one message of control's. Between `Begin` and `Synced` the old knowledge serves on.
    pub fn apply(&self, config: Config) {
        let now = self.now().seconds();
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        match config {
            Config::Begin {} => {
                *pending = Some(Table::default());
                return;
            }
            Config::Synced {} => {
                let Some(mut next) = pending.take() else { return };
                next.synced = true;
                next.revoked.retain(|_, expires| *expires > now);
                *self.write() = next;
                self.cache.lock().unwrap_or_else(PoisonError::into_inner).clear();
            }
            // A revocation does not wait for the snapshot's end.
            Config::Revoked { jti, expires } => {
                if let Some(next) = pending.as_mut() {
                    next.revoked.insert(jti.clone(), expires);
                }
                self.cache.lock().unwrap_or_else(PoisonError::into_inner).forget(&jti);
                let mut table = self.write();
                if table.revoked.len() % 1024 == 1023 {
                    table.revoked.retain(|_, expires| *expires > now);
                }
                table.revoked.insert(jti, expires);
            }
            Config::Recorded { .. } | Config::Answered { .. } => return,
            change @ (Config::Issuer { .. }
            | Config::Tenant(_)
            | Config::TenantGone { .. }
            | Config::Asked { .. }
            | Config::AskedNoMore { .. }) => {
                if let Some(next) = pending.as_mut() {
                    next.change(change);
                    return;
                }
                if matches!(change, Config::Issuer { .. }) {
                    self.cache.lock().unwrap_or_else(PoisonError::into_inner).clear();
                }
                self.write().change(change);
            }
        }
        drop(pending);
        self.touch();
    }

    /// Makes every connection look again.
    pub fn touch(&self) {
        self.epoch.fetch_add(1, Ordering::Release);
        self.changed.send_replace(());
    }

    /// Changes when anything did; what was found true at one epoch is true while it lasts.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Tells of each change.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Has a whole snapshot come?
    pub fn synced(&self) -> bool {
        self.read().synced
    }

    /// The tenant of a slot.
    pub fn tenant_of(&self, slot: Slot) -> Option<TenantId> {
        self.read().slots.get(&slot).cloned()
    }

    /// What is known of a tenant.
    pub fn route(&self, tenant: &TenantId) -> Option<Arc<TenantRoute>> {
        self.read().routes.get(tenant).cloned()
    }

    /// What waits for an answer at this tenant, oldest first.
    pub(crate) fn asked(&self, tenant: &TenantId) -> Vec<Arc<Asked>> {
        self.read().questions.of(tenant)
    }

    /// What became of a question, if that is remembered.
    pub(crate) fn ended(&self, tenant: &TenantId, approval: u64) -> Option<Ended> {
        self.read().questions.ended(tenant, approval)
    }

    /// Checks a token for this tenant, wholly.
    pub fn verify(&self, token: &[u8], tenant: &TenantId) -> Result<Arc<Verified>, TokenError> {
        let issuer = Arc::clone(&self.read().issuer);
        let token = Cache::verify(&self.cache, &issuer, token, self.now())?;
        token.at(tenant)?;
        self.recheck(&token)?;
        Ok(token)
    }

    /// Is a token that was verified once still good?
    pub fn recheck(&self, token: &Verified) -> Result<(), TokenError> {
        if token.expired(self.now()) {
            return Err(TokenError::Expired);
        }
        let table = self.read();
        if keeps(Check::TokenRevoked) && table.revoked.contains_key(&token.claims.jti) {
            return Err(TokenError::Revoked);
        }
        if keeps(Check::TokenKey) && !table.issuer.knows(token) {
            return Err(TokenError::UnknownKey);
        }
        if keeps(Check::TenantKnown) && !table.routes.contains_key(&token.claims.tid) {
            return Err(TokenError::OtherTenant);
        }
        Ok(())
    }

    // A table that a panic left is whole: each change of it is one assignment.
    fn read(&self) -> std::sync::RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn change(&mut self, change: Config) {
        match change {
            Config::Issuer { issuer, keys } => self.issuer = Arc::new(Issuer::new(issuer, &keys)),
            Config::Tenant(route) => {
                self.forget(&route.tenant.clone());
                self.slots.insert(route.slot, route.tenant.clone());
                self.routes.insert(route.tenant.clone(), Arc::new(route));
            }
            Config::TenantGone { tenant } => {
                self.questions.forget(&tenant);
                self.forget(&tenant);
            }
            Config::Asked { question, asked, until, count, yes_of } => {
                self.questions.asked(Asked::new(question, asked, until, count, yes_of));
            }
            Config::AskedNoMore { tenant, approval, outcome, by } => {
                self.questions.over(&tenant, approval, outcome, by);
            }
            Config::Begin {}
            | Config::Synced {}
            | Config::Revoked { .. }
            | Config::Recorded { .. }
            | Config::Answered { .. } => {}
        }
    }

    fn forget(&mut self, tenant: &TenantId) {
        if let Some(old) = self.routes.remove(tenant) {
            self.slots.remove(&old.slot);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::token::tests::{Signer, claims};
    use cofferdam_base::ipc::edge::RuntimeKind;

    struct At;
    impl Clock for At {
        fn now(&self) -> Millis {
            Millis(1_500_000)
        }
    }

    fn id(text: &str) -> TenantId {
        TenantId::try_from(text).unwrap()
    }

    fn tenant(name: &str, slot: u16) -> Config {
        Config::Tenant(TenantRoute {
            tenant: id(name),
            slot: Slot::try_from(slot).unwrap(),
            state: "running".into(),
            runtime: RuntimeKind::Command,
        })
    }

    fn issuer(signer: &Signer) -> Config {
        Config::Issuer { issuer: "test-host".into(), keys: vec![signer.public.clone()] }
    }

    #[test]
    fn a_snapshot_replaces_what_was_known_and_not_before_it_is_whole() {
        let signer = Signer::new("k1");
        let state = State::new(Arc::new(At));
        let token = signer.sign(&claims("acme"));
        for config in [Config::Begin {}, issuer(&signer), tenant("acme", 2), tenant("globex", 3)] {
            state.apply(config);
        }
        assert!(!state.synced());
        assert!(state.verify(token.as_bytes(), &id("acme")).is_err());
        state.apply(Config::Synced {});
        assert!(state.synced());
        assert!(state.verify(token.as_bytes(), &id("acme")).is_ok());
        assert_eq!(state.verify(token.as_bytes(), &id("globex")).unwrap_err(), TokenError::OtherTenant);
        for config in [Config::Begin {}, issuer(&signer), tenant("globex", 3)] {
            state.apply(config);
        }
        assert!(state.route(&id("acme")).is_some());
        state.apply(Config::Synced {});
        assert!(state.route(&id("acme")).is_none());
        assert_eq!(state.tenant_of(Slot::try_from(2).unwrap()), None);
        assert_eq!(state.tenant_of(Slot::try_from(3).unwrap()), Some(id("globex")));
    }

    #[test]
    fn a_revocation_counts_at_once_even_inside_a_snapshot() {
        let signer = Signer::new("k1");
        let state = State::new(Arc::new(At));
        for config in [Config::Begin {}, issuer(&signer), tenant("acme", 2), Config::Synced {}] {
            state.apply(config);
        }
        let token = signer.sign(&claims("acme"));
        let verified = state.verify(token.as_bytes(), &id("acme")).unwrap();
        let before = state.epoch();
        state.apply(Config::Begin {});
        state.apply(Config::Revoked { jti: "j1".into(), expires: 2_000 });
        assert_eq!(state.recheck(&verified), Err(TokenError::Revoked));
        assert_eq!(state.verify(token.as_bytes(), &id("acme")).unwrap_err(), TokenError::Revoked);
        assert!(state.epoch() > before);
        state.apply(issuer(&signer));
        state.apply(tenant("acme", 2));
        state.apply(Config::Synced {});
        assert_eq!(state.recheck(&verified), Err(TokenError::Revoked));
    }

    #[test]
    fn a_key_that_is_gone_takes_its_tokens_along() {
        let signer = Signer::new("k1");
        let state = State::new(Arc::new(At));
        for config in [Config::Begin {}, issuer(&signer), tenant("acme", 2), Config::Synced {}] {
            state.apply(config);
        }
        let token = signer.sign(&claims("acme"));
        let verified = state.verify(token.as_bytes(), &id("acme")).unwrap();
        assert_eq!(state.recheck(&verified), Ok(()));
        state.apply(issuer(&Signer::new("k2")));
        assert_eq!(state.recheck(&verified), Err(TokenError::UnknownKey));
    }
}
