//! Tenants as the API sees them: create, list, start, stop, delete, and the wish that each of these is.
//!
//! A wish is in the store and the ledger before anything happens (class A); the tenant's own task makes it
//! true, and goes on after any crash. Ids and slots are never used twice.

use crate::{
    Error,
    api::types::{self, NewTenant, Runtime, Runtimes, StateCount, Status, Tenants},
    disk::NewStoredTenant,
    host::Host,
    kill, limits, probe,
    tenant::{self, Inbox, Tenant, View, desired_word},
    warden::Heard,
};
use cofferdam_base::{
    Digest, Millis, TenantId,
    ipc::{
        edge::{Config, RuntimeKind},
        launcher::{CellSeen, Command, Event, Failure, RuntimeRef},
    },
};
use cofferdam_store::ledger::Kind;
use cofferdam_tenants::lifecycle::{Desired, Event as Happened, Phase, TenantState};
use serde_json::json;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// A deletion is waited for so long; it goes on.
const PATIENCE_DELETE: Duration = Duration::from_mins(2);

impl Host {
    /// Where the edge answers for this tenant alone.
    pub(crate) fn address(&self, tenant: &Tenant) -> SocketAddr {
        (tenant.slot.loopback_address(), self.facts.edge.port()).into()
    }

    /// The host in one document.
    pub async fn status(&self) -> Result<Status, Error> {
        let mut states = BTreeMap::new();
        for tenant in self.tenants() {
            *states.entry(tenant.view().phase.as_str()).or_insert(0) += 1;
        }
        let ledger_rows = self.ledger_rows().await?;
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            profile: self.facts.profile.to_owned(),
            started: self.started_at(),
            edge: self.edge().synced(),
            edge_url: format!("http://{}", self.facts.edge),
            tenants: states
                .into_iter()
                .map(|(state, count)| StateCount { state: state.to_owned(), count })
                .collect(),
            waiting: self.waiting().await,
            alerts: self.tenants().iter().map(|tenant| tenant.alerts.load(Ordering::Relaxed)).sum(),
            ledger_rows,
            degradations: self.facts.degradations.clone(),
        })
    }

    /// What can run in cells.
    pub fn runtimes(&self) -> Result<Runtimes, Error> {
        let tenants = self.tenants();
        let count = |runtime: &RuntimeRef| {
            u32::try_from(tenants.iter().filter(|t| t.runtime == *runtime).count()).unwrap_or(u32::MAX)
        };
        let commands = self.facts.commands.iter().map(|(name, program)| {
            let runtime = RuntimeRef::Command(name.clone());
            Runtime { tenants: count(&runtime), runtime: runtime_text(&runtime), what: program.clone() }
        });
        let installed = self.facts.openclaws()?;
        let openclaws = installed.into_iter().map(|(lock, version)| {
            let runtime = RuntimeRef::Openclaw(lock);
            let what = format!("openclaw {version}");
            Runtime { tenants: count(&runtime), runtime: runtime_text(&runtime), what }
        });
        let what = format!("the gateway of cofferdam {}", env!("CARGO_PKG_VERSION"));
        let native = Runtime { runtime: "native".to_owned(), what, tenants: count(&RuntimeRef::Native) };
        Ok(Runtimes { runtimes: std::iter::once(native).chain(commands).chain(openclaws).collect() })
    }

    /// All tenants.
    pub async fn list(&self) -> Result<Tenants, Error> {
        let mut tenants = Vec::new();
        for tenant in self.tenants() {
            tenants.push(self.describe(&tenant).await?);
        }
        Ok(Tenants { tenants })
    }

    /// One tenant.
    pub async fn show(&self, id: &TenantId) -> Result<types::Tenant, Error> {
        let tenant = self.tenant(id)?;
        let usage = if tenant.view().cell.is_some() { self.measure(&tenant).await } else { None };
        let next_due = if usage.is_some() { self.next_due(&tenant).await } else { None };
        Ok(types::Tenant { usage, next_due, ..self.describe(&tenant).await? })
    }

    /// When its gateway will do something by itself. Only a gateway of protocol 4 says so.
    async fn next_due(&self, tenant: &Tenant) -> Option<Millis> {
        let token = self.probe_token(tenant).ok().filter(|_| tenant.kind() == RuntimeKind::Openclaw)?;
        probe::due(self.address(tenant), &token, self.now()).await
    }

    pub(crate) async fn describe(&self, tenant: &Tenant) -> Result<types::Tenant, Error> {
        let View { desired, phase, generation, trouble, cell, receipt, struck: _ } = tenant.view();
        let policy_revision = self.revision(&tenant.id).await?;
        let limits = *tenant.limits.lock().await;
        // A policy that is none any more lowers nothing; the warden says what is wrong with it.
        let policy = self.policy_in_store(&tenant.id).await.ok();
        let policy_leaves = policy.as_ref().map(|policy| policy.lower(limits)).filter(|left| *left != limits);
        let link = tenant.seat.link();
        let port = self.facts.edge.port();
        let origin = match &self.facts.domain {
            Some(domain) => format!("https://{}.{domain}", tenant.id),
            None => format!("http://{}.localhost:{port}", tenant.id),
        };
        Ok(types::Tenant {
            id: tenant.id.clone(),
            slot: tenant.slot,
            runtime: runtime_text(&tenant.runtime),
            limits,
            policy_leaves,
            offered: policy.into_iter().flat_map(|policy| policy.read_only()).collect(),
            usage: None,
            next_due: None,
            desired: desired_word(desired).to_owned(),
            state: phase.as_str().to_owned(),
            generation,
            created: tenant.created,
            origin,
            address: format!("http://{}", self.address(tenant)),
            policy_revision,
            policy_in_force: link.as_ref().and_then(|link| link.revision()),
            warden: link.is_some(),
            alerts: tenant.alerts.load(Ordering::Relaxed),
            failure: match desired {
                Desired::Killed => Some(kill::standing(tenant)),
                Desired::Running if cell.is_none() && self.barred(tenant).is_some() => self.barred(tenant),
                _ => (!trouble.is_empty()).then(|| Failure {
                    message: trouble,
                    mend: format!("cofferdam tenant logs {}", tenant.id),
                }),
            },
            receipt,
            proof: tenant.proof(),
        })
    }

    /// Makes a tenant.
    pub async fn create(self: &Arc<Self>, new: NewTenant) -> Result<types::Tenant, Error> {
        let (start, wait) = (new.start, new.wait);
        let tenant = self.make(new, false).await?;
        if start && wait {
            self.wait_up(&tenant).await?;
        }
        self.describe(&tenant).await
    }

    /// The same; one whose home is to be filled is gone after a crash.
    pub(crate) async fn make(
        self: &Arc<Self>,
        new: NewTenant,
        importing: bool,
    ) -> Result<Arc<Tenant>, Error> {
        let NewTenant { id, runtime, limits: wanted, start, wait: _ } = new;
        let runtime = self.runtime(&runtime)?;
        let limits = limits::resolve(self.facts.limits, &runtime, wanted.unwrap_or_default())?;
        let desired = if start { Desired::Running } else { Desired::Stopped };
        let tenant = {
            let _one_at_a_time = self.creating.lock().await;
            let key = cofferdam_vault::DataKey::generate()?;
            let wrapped = self.master.wrap(&id, 1, &key)?;
            let body = json!({
                "runtime": runtime_text(&runtime), "limits": limits, "desired": desired_word(desired),
            });
            let row = self.row(Some(&id), Kind::TenantCreated, body);
            let new = NewStoredTenant {
                id: id.clone(),
                runtime: runtime.clone(),
                limits,
                desired,
                key: wrapped,
                policy: crate::policies::FIRST.to_owned(),
                importing,
            };
            let slot = self.db.run(move |disk| disk.create_tenant(&new, &row)).await?;
            let state = TenantState::new(desired, 0);
            let (tenant, inbox) =
                Tenant::new((id, slot), (runtime, limits), self.now(), &state, Heard::default());
            tenant.importing.store(importing, Ordering::Relaxed);
            self.insert(Arc::clone(&tenant));
            self.run(&tenant, state, inbox);
            tenant
        };
        self.edge().tell(&Config::Tenant(tenant.route())).await;
        tenant.tell(Happened::Observed { warden: false, cell: None }).await;
        Ok(tenant)
    }

    /// Starts a tenant's task.
    pub(crate) fn run(self: &Arc<Self>, tenant: &Arc<Tenant>, state: TenantState, inbox: Inbox) {
        tokio::spawn(tenant::run(Arc::clone(self), Arc::clone(tenant), state, inbox));
    }

    /// Wants it to run.
    pub async fn start(&self, id: &TenantId, wait: bool) -> Result<types::Tenant, Error> {
        let tenant = self.tenant(id)?;
        self.wish(&tenant, Desired::Running, Kind::TenantStart, Happened::Want(Desired::Running)).await?;
        if wait {
            self.wait_up(&tenant).await?;
        }
        self.describe(&tenant).await
    }

    /// Wants it stopped.
    pub async fn stop(&self, id: &TenantId, wait: bool) -> Result<types::Tenant, Error> {
        let tenant = self.tenant(id)?;
        self.wish(&tenant, Desired::Stopped, Kind::TenantStop, Happened::Want(Desired::Stopped)).await?;
        if wait {
            tenant.wait(|view| view.phase == Phase::Stopped || view.desired != Desired::Stopped).await;
        }
        self.describe(&tenant).await
    }

    /// Wants its cell stopped and started anew.
    pub async fn restart(&self, id: &TenantId, wait: bool) -> Result<types::Tenant, Error> {
        let tenant = self.tenant(id)?;
        self.wish(&tenant, Desired::Running, Kind::TenantRestart, Happened::Restart).await?;
        if wait {
            self.wait_up(&tenant).await?;
        }
        self.describe(&tenant).await
    }

    /// Deletes it and its home; returns when nothing is left, or says what it waits for.
    pub async fn delete(&self, id: &TenantId) -> Result<(), Error> {
        let tenant = self.tenant(id)?;
        self.wish(&tenant, Desired::Deleted, Kind::TenantDelete, Happened::Want(Desired::Deleted)).await?;
        // The task strikes it from the store after the view shows the end, and goes on trying.
        let ended = tokio::time::timeout(PATIENCE_DELETE, tenant.wait(|view| view.struck.is_some())).await;
        let View { struck, trouble, .. } = ended.unwrap_or_else(|_| tenant.view());
        let why = match struck {
            Some(Ok(())) => return Ok(()),
            Some(Err(why)) => why,
            None => trouble,
        };
        Err(Error::Conflict {
            code: "not_deleted_yet",
            message: format!("{id} is still being deleted, and it is tried again: {why}"),
            mend: format!("cofferdam tenant show {id}"),
        })
    }

    /// Notes what somebody wants and tells the tenant's task, one wish at a time: the last in the store is the
    /// last that the task hears.
    async fn wish(&self, tenant: &Tenant, desired: Desired, kind: Kind, wish: Happened) -> Result<(), Error> {
        let _in_order = tenant.wishes.lock().await;
        if tenant.view().desired == Desired::Deleted && desired != Desired::Deleted {
            return Err(Error::being_deleted(&tenant.id));
        }
        if tenant.view().desired == Desired::Killed && desired != Desired::Deleted {
            return Err(Error::killed(&tenant.id));
        }
        if tenant.importing.load(Ordering::Relaxed) && desired != Desired::Deleted {
            return Err(Error::Conflict {
                code: "importing",
                message: format!("the home of {} is being filled", tenant.id),
                mend: "wait for the import to end".to_owned(),
            });
        }
        if desired == Desired::Running {
            self.may_start(tenant)?;
        }
        let (id, row) = (tenant.id.clone(), self.row(Some(&tenant.id), kind, json!({})));
        self.db.run(move |disk| disk.set_desired(&id, desired, &row)).await?;
        tenant.tell(wish).await;
        Ok(())
    }

    pub(crate) async fn wait_up(&self, tenant: &Tenant) -> Result<(), Error> {
        let over = |view: &View| {
            view.desired != Desired::Running || matches!(view.phase, Phase::Running | Phase::Failed)
        };
        let view = tenant.wait(over).await;
        if view.phase == Phase::Running {
            return Ok(());
        }
        self.may_start(tenant)?;
        let mend = format!("cofferdam tenant logs {}", tenant.id);
        Err(Error::Launcher(Failure {
            message: format!("{} did not start: {}", tenant.id, view.trouble),
            mend,
        }))
    }

    /// The number of the cell's next start, durable before it is used.
    pub(crate) async fn started(&self, id: &TenantId, generation: u64) -> Result<(), Error> {
        // What was granted for the life of an earlier cell is over before there is another.
        self.cell_ended(id, generation.saturating_sub(1)).await?;
        let row = self.row(Some(id), Kind::StartCell, json!({ "generation": generation }));
        let id = id.clone();
        self.db.run(move |disk| disk.set_generation(&id, generation, &row)).await
    }

    /// Strikes a tenant of whom nothing is left.
    pub(crate) async fn forget(&self, tenant: &Tenant) -> Result<(), Error> {
        let (id, row) = (tenant.id.clone(), self.row(Some(&tenant.id), Kind::TenantDeleted, json!({})));
        self.db.run(move |disk| disk.forget_tenant(&id, &row)).await?;
        self.forget_approvals(&tenant.id).await;
        self.edge().tell(&Config::TenantGone { tenant: tenant.id.clone() }).await;
        self.remove(&tenant.id);
        Ok(())
    }

    /// Is there a cell in which something could be run?
    pub(crate) fn runs(&self, id: &TenantId) -> Result<CellSeen, Error> {
        let view = self.tenant(id)?.view();
        if view.desired == Desired::Killed {
            return Err(Error::killed(id));
        }
        view.cell.ok_or_else(|| Error::Conflict {
            code: "not_running",
            message: format!("tenant {id} has no running cell"),
            mend: format!("cofferdam tenant start {id}"),
        })
    }

    /// At the start, with all tenants inserted: asks the launcher what runs, starts every tenant's task and
    /// has what no tenant owns removed.
    pub async fn adopt(
        self: &Arc<Self>,
        stored: Vec<(Arc<Tenant>, TenantState, Inbox)>,
    ) -> Result<(), Error> {
        let observe = Command::Observe { op: self.launcher().op() };
        let (cells, wardens) = match self.launcher().ask(&observe, &[]).await? {
            Event::Observed { op: _, cells, wardens } => (cells, wardens),
            other => return Err(Error::LauncherGone(format!("to Observe it answered {other:?}"))),
        };
        let known: Vec<_> = stored.iter().map(|(tenant, ..)| Arc::clone(tenant)).collect();
        self.kill_again(&known).await?;
        for (tenant, state, inbox) in stored {
            let cell = cells.iter().find(|cell| cell.tenant == tenant.id);
            if let Some(cell) = cell {
                tenant.adopt(cell.clone());
            }
            let warden = wardens.contains(&tenant.id);
            tenant.post(Happened::Observed { warden, cell: cell.map(|cell| cell.generation) });
            self.run(&tenant, state, inbox);
        }
        for cell in &cells {
            // An earlier control may have ended between a change and its effect.
            if let Ok(tenant) = self.tenant(&cell.tenant) {
                self.limit_again(&tenant).await?;
            }
        }
        for cell in cells.into_iter().filter(|cell| self.tenant(&cell.tenant).is_err()) {
            let body = json!({ "what": "cell", "generation": cell.generation });
            self.journal(&cell.tenant, Kind::KillOrphan, body).await?;
            let kill = Command::KillCell { op: self.launcher().op(), tenant: cell.tenant };
            self.launcher().ask(&kill, &[]).await?;
        }
        for id in wardens.into_iter().filter(|id| self.tenant(id).is_err()) {
            self.journal(&id, Kind::KillOrphan, json!({ "what": "warden" })).await?;
            self.launcher().ask(&Command::StopWarden { op: self.launcher().op(), tenant: id }, &[]).await?;
        }
        Ok(())
    }

    fn runtime(&self, text: &str) -> Result<RuntimeRef, Error> {
        let missing = || Error::NotFound { what: "runtime", name: text.chars().take(80).collect() };
        match text.split_once(':') {
            Some(("command", name)) if self.facts.commands.contains_key(name) => {
                Ok(RuntimeRef::Command(name.to_owned()))
            }
            Some(("openclaw", lock)) => {
                let lock = Digest::try_from(lock).map_err(|e| Error::Usage(e.to_string()))?;
                self.facts
                    .openclaws()?
                    .contains_key(&lock)
                    .then_some(RuntimeRef::Openclaw(lock))
                    .ok_or_else(missing)
            }
            None if text == "native" => Ok(RuntimeRef::Native),
            None if text == "openclaw" => match self.facts.openclaws()?.keys().collect::<Vec<_>>()[..] {
                [lock] => Ok(RuntimeRef::Openclaw(*lock)),
                [] => Err(missing()),
                _ => Err(Error::Usage(
                    "several OpenClaws are installed: name one as openclaw:LOCK-DIGEST".to_owned(),
                )),
            },
            _ => Err(missing()),
        }
    }
}

/// As in [`NewTenant::runtime`].
fn runtime_text(runtime: &RuntimeRef) -> String {
    match runtime {
        RuntimeRef::Command(name) => format!("command:{name}"),
        RuntimeRef::Openclaw(lock) => format!("openclaw:{lock}"),
        RuntimeRef::Native => "native".to_owned(),
    }
}
