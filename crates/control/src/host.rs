//! The host as one value: everything that the tasks of control share, and what they write to the ledger.
//!
//! It owns no decision. Policies, approvals, tokens and secrets have modules of their own, each with its
//! part of `impl Host`. The threat: an effect that nobody wrote down; so the ways to the launcher and to a
//! warden's keys lead through [`Host::journal`].

use crate::{
    Error,
    approvals::Book,
    counter::Counter,
    db::{Db, Row},
    edge::Edge,
    facts::Facts,
    keys::Issuer,
    launcher::Launcher,
    models::Testers,
    scribe::Scribe,
    tenant::Tenant,
    webhook::Courier,
};
use cofferdam_base::{
    Clock, Millis, SecretName, TenantId,
    ipc::{
        edge::{Config, Report},
        seen::Seen,
        warden::{Record, Usage},
    },
};
use cofferdam_policy::Reason;
use cofferdam_store::ledger::{Body, Kind};
use cofferdam_sys::clock::SystemClock;
use cofferdam_vault::MasterKey;
use serde::Serialize;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock, atomic::Ordering},
};

/// No words of the edge are longer, in characters.
const LONGEST_WORDS: usize = 500;

/// Everything that the tasks share.
#[derive(Debug)]
pub struct Host {
    pub(crate) facts: Facts,
    pub(crate) db: Db,
    pub(crate) scribe: Scribe,
    pub(crate) counter: Counter,
    pub(crate) master: MasterKey,
    pub(crate) issuer: Issuer,
    pub(crate) book: Book,
    pub(crate) courier: Courier,
    pub(crate) testers: Testers,
    /// Held while a tenant is created, so that ids and slots are given out one at a time.
    pub(crate) creating: tokio::sync::Mutex<()>,
    launcher: Arc<Launcher>,
    edge: Edge,
    tenants: RwLock<BTreeMap<TenantId, Arc<Tenant>>>,
    started: Millis,
}

/// Why a warden is not configured.
#[derive(Debug)]
pub enum NotConfigured {
    /// It refused.
    Refused(String),
    /// It is gone, or what it needs could not be had.
    Lost,
}

impl Host {
    /// Puts the parts together. Call within the runtime.
    pub fn new(facts: Facts, db: Db, keys: (MasterKey, Issuer), launcher: Arc<Launcher>) -> Arc<Self> {
        let (master, issuer) = keys;
        Arc::new(Self {
            scribe: Scribe::start(db.clone()),
            counter: Counter::start(db.clone()),
            facts,
            db,
            master,
            issuer,
            book: Book::default(),
            courier: Courier::default(),
            testers: Testers::default(),
            creating: tokio::sync::Mutex::default(),
            launcher,
            edge: Edge::default(),
            tenants: RwLock::default(),
            started: SystemClock.now(),
        })
    }

    /// The launcher.
    pub fn launcher(&self) -> &Arc<Launcher> {
        &self.launcher
    }

    /// The edge.
    pub fn edge(&self) -> &Edge {
        &self.edge
    }

    /// When this control started.
    pub fn started_at(&self) -> Millis {
        self.started
    }

    /// The time.
    #[expect(clippy::unused_self, reason = "the time is the host's")]
    pub(crate) fn now(&self) -> Millis {
        SystemClock.now()
    }

    /// All tenants, by id.
    pub fn tenants(&self) -> Vec<Arc<Tenant>> {
        self.tenants.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// One tenant.
    pub fn tenant(&self, id: &TenantId) -> Result<Arc<Tenant>, Error> {
        let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
        tenants.get(id).cloned().ok_or_else(|| Error::no_tenant(id))
    }

    /// Adds a tenant.
    pub(crate) fn insert(&self, tenant: Arc<Tenant>) {
        self.tenants.write().unwrap_or_else(PoisonError::into_inner).insert(tenant.id.clone(), tenant);
    }

    /// Takes a tenant away.
    pub(crate) fn remove(&self, id: &TenantId) {
        self.tenants.write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Who signs tokens, for the edge.
    pub(crate) fn issuer_message(&self) -> Config {
        Config::Issuer { issuer: self.facts.issuer.clone(), keys: vec![self.issuer.public()] }
    }

    /// A row of class A: on disk when this returns.
    pub(crate) async fn journal(&self, tenant: &TenantId, kind: Kind, body: Value) -> Result<(), Error> {
        let row = self.row(Some(tenant), kind, body);
        self.db.run(move |disk| disk.durable(&row)).await
    }

    /// A row of class B about something that control saw itself.
    pub(crate) async fn observe(&self, tenant: Option<&TenantId>, kind: Kind, body: Value) {
        self.scribe.note(self.row(tenant, kind, body)).await;
    }

    /// A warden's record; `done` once it is on disk. A gap before it is a row of its own.
    pub(crate) async fn record(
        &self,
        tenant: &Tenant,
        boot: u64,
        record: &Record,
        missing: u64,
        done: impl FnOnce() + Send + Sync + 'static,
    ) {
        if missing > 0 {
            let body = json!({ "boot": boot, "before": record.seq, "missing": missing });
            self.observe(Some(&tenant.id), Kind::Gap, body).await;
        }
        let Record { seq, at, what, destination, by, reason, request, seen, secrets, count } = record;
        if reason == Reason::PlaceholderElsewhere.code() {
            tenant.alerts.fetch_add(u64::from(*count), Ordering::Relaxed);
            tracing::warn!(tenant = %tenant.id, by, "a placeholder was sent where its secret is not bound");
        }
        // It names a secret or a canary; what else is refused after a canary is no further alarm.
        if reason == Reason::LossBlocked.code() && by != "canary" {
            tenant.alerts.fetch_add(u64::from(*count), Ordering::Relaxed);
            let subject = by.clone();
            let (tenant, what) = (Some(tenant.id.clone()), "loss_blocked".to_owned());
            self.alarm(crate::api::types::Alarm { tenant, at: *at, what, subject, count: *count });
        }
        let destination = destination.as_ref().map(ToString::to_string);
        let body = Told {
            boot,
            seq: *seq,
            destination,
            by,
            reason,
            request,
            seen: seen.as_deref(),
            secrets,
            count: *count,
        };
        let kind = match what {
            cofferdam_base::ipc::warden::RecordKind::Allow => Kind::Allow,
            cofferdam_base::ipc::warden::RecordKind::Deny => Kind::Deny,
            cofferdam_base::ipc::warden::RecordKind::Hold => Kind::Hold,
            cofferdam_base::ipc::warden::RecordKind::Use => Kind::Use,
        };
        let row = Row { at: *at, tenant: Some(tenant.id.clone()), kind, body: Body::of(&body) };
        self.scribe.record(row, done).await;
    }

    /// The edge's report; `done` once it is on disk.
    pub(crate) async fn record_edge(
        &self,
        report: Report,
        missing: u64,
        done: impl FnOnce() + Send + Sync + 'static,
    ) {
        if missing > 0 {
            let body = json!({ "edge": true, "before": report.seq, "missing": missing });
            self.observe(None, Kind::Gap, body).await;
        }
        let Report { seq, at, tenant, what, subject, jti, reason, count } = report;
        let [what, subject, jti, reason] =
            [what, subject, jti, reason].map(|text| crate::plain::line(&text, LONGEST_WORDS));
        let kind = match what.as_str() {
            "refused" => Kind::EdgeRefused,
            "forged" => Kind::Forged,
            _ => Kind::Edge,
        };
        if kind == Kind::Forged {
            let (tenant, what, subject) = (tenant.clone(), reason.clone(), subject.clone());
            self.alarm(crate::api::types::Alarm { tenant, at, what, subject, count });
        }
        let body = json!({
            "seq": seq, "what": what, "subject": subject, "jti": jti, "reason": reason, "count": count,
        });
        self.scribe.record(Row { at, tenant, kind, body: body.into() }, done).await;
    }

    /// Tokens that an inference request used: in the store for the sums, in the ledger for the order; `done` once
    /// they are summed. What was not summed the warden keeps for its next wire.
    pub(crate) async fn used(
        &self,
        tenant: &TenantId,
        usage: Usage,
        done: impl FnOnce() + Send + Sync + 'static,
    ) {
        self.scribe.note(usage_row(tenant, &usage)).await;
        self.counter.count(tenant, usage, done).await;
    }

    pub(crate) fn row(&self, tenant: Option<&TenantId>, kind: Kind, body: Value) -> Row {
        Row { at: self.now(), tenant: tenant.cloned(), kind, body: body.into() }
    }
}

fn usage_row(tenant: &TenantId, usage: &Usage) -> Row {
    Row { at: usage.at, tenant: Some(tenant.clone()), kind: Kind::Usage, body: Body::of(usage) }
}

/// The body of a row that tells of a [`Record`], under the number `seq` of the start `boot` of its warden.
#[derive(Serialize)]
struct Told<'a> {
    boot: u64,
    seq: u64,
    destination: Option<String>,
    by: &'a str,
    reason: &'a str,
    request: &'a str,
    seen: Option<&'a Seen>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    secrets: &'a [SecretName],
    count: u32,
}
