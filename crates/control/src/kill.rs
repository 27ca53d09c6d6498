//! The kill switch, as far as it is control's: durable, every token and grant revoked, the edge told.
//!
//! The launcher is told at once and the disk beside it: neither waits for the other, and a step that fails keeps
//! none of the others from being made. The threat: a kill that half-way gives up, and a tenant that comes back
//! after a crash; so a tenant that is killed in the store or in the launcher is killed in both.

use crate::{
    Error,
    api::types::{Killed, Kills, NewKill, Tenant as Shown},
    host::Host,
    plain,
    tenant::Tenant,
};
use cofferdam_base::{
    TenantId,
    ipc::{
        edge::Config,
        kill::{Fate, LONGEST_REASON, Severed},
        launcher::{Command, Event, Failure},
    },
};
use cofferdam_store::ledger::Kind;
use cofferdam_tenants::lifecycle::{Desired, Event as Happened};
use serde_json::json;
use std::sync::{Arc, PoisonError};

impl Host {
    /// Kills one tenant, or all; what could not be done is in the answer.
    pub async fn kill(self: &Arc<Self>, new: NewKill) -> Result<Kills, Error> {
        let NewKill { tenant, reason } = new;
        let reason = plain::line(&reason, LONGEST_REASON);
        let tenants = match tenant {
            Some(id) => vec![self.tenant(&id)?],
            None => self.tenants(),
        };
        let each = tenants.into_iter().map(|tenant| {
            let (host, reason) = (Arc::clone(self), reason.clone());
            tokio::spawn(async move { host.kill_one(&tenant, &reason).await })
        });
        let mut killed = Vec::new();
        for task in each.collect::<Vec<_>>() {
            killed.push(task.await.map_err(|e| Error::io("a kill", std::io::Error::other(e)))?);
        }
        Ok(Kills { killed })
    }

    /// The launcher was told by the operator itself.
    pub(crate) fn killed_already(self: &Arc<Self>, tenant: Option<TenantId>, reason: String) {
        let host = Arc::clone(self);
        tokio::spawn(async move { host.kill_and_tell(tenant, reason).await });
    }

    /// A kill that nobody waits for the answer of: what could not be done is said in the log.
    pub(crate) async fn kill_and_tell(self: &Arc<Self>, tenant: Option<TenantId>, reason: String) {
        match self.kill(NewKill { tenant, reason }).await {
            Ok(Kills { killed }) => {
                for row in killed.iter().filter(|row| !row.not_done.is_empty()) {
                    tracing::error!(tenant = %row.tenant, "not all of a kill was done: {:?}", row.not_done);
                }
            }
            Err(error) => tracing::error!(%error, "a kill is not recorded"),
        }
    }

    async fn kill_one(&self, tenant: &Arc<Tenant>, reason: &str) -> Killed {
        let mut not_done = Vec::new();
        let (severed, revoked) = tokio::join!(self.sever(tenant, reason), self.kill_durably(tenant, reason));
        let (cell, edge) = match severed {
            Ok(Severed { tenant: _, cell, warden: _, edge }) => (cell, edge),
            Err(error) => {
                not_done.push(format!("the launcher was not reached: {error}"));
                (Fate::Absent, false)
            }
        };
        if let Err(error) = revoked {
            let what = "it is not on disk, its tokens are not revoked, and it holds until the host ends";
            not_done.push(format!("{what}: {error}"));
        }
        let left = self.end_approvals(&tenant.id).await;
        if left > 0 {
            not_done.push(format!("{left} approvals could not be taken back"));
        }
        Killed { tenant: tenant.id.clone(), cell, edge, not_done }
    }

    async fn sever(&self, tenant: &Tenant, reason: &str) -> Result<Severed, Error> {
        let op = self.launcher().op();
        let kill = Command::Kill { op, tenant: tenant.id.clone(), reason: reason.to_owned() };
        match self.launcher().ask(&kill, &[]).await? {
            Event::Severed { op: _, severed } => Ok(severed),
            other => Err(Error::LauncherGone(format!("to Kill it answered {other:?}"))),
        }
    }

    /// The wish and the tokens in one step, and then whoever must know. Once killed it is not noted again.
    async fn kill_durably(&self, tenant: &Tenant, reason: &str) -> Result<(), Error> {
        let _in_order = tenant.wishes.lock().await;
        if tenant.view().desired == Desired::Killed {
            return Ok(());
        }
        *tenant.killed_for.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
        let (id, at) = (tenant.id.clone(), self.now());
        let row = self.row(Some(&tenant.id), Kind::TenantKilled, json!({ "reason": reason }));
        let revoked = self.db.run(move |disk| disk.kill_tenant(&id, at, &row)).await;
        // Whether or not it is on disk, this control starts nothing of it.
        if !matches!(revoked, Err(Error::Conflict { .. })) {
            tenant.tell(Happened::Want(Desired::Killed)).await;
        }
        let revoked = revoked?;
        for token in &revoked {
            let change = Config::Revoked { jti: token.jti.clone(), expires: token.expires.seconds() };
            self.edge().tell(&change).await;
        }
        Ok(())
    }

    /// What was killed may run again, in a new cell. Its old tokens stay revoked.
    pub async fn resume(&self, id: &TenantId, wait: bool) -> Result<Shown, Error> {
        let tenant = self.tenant(id)?;
        {
            let _in_order = tenant.wishes.lock().await;
            if tenant.view().desired != Desired::Killed {
                return Err(Error::Conflict {
                    code: "not_killed",
                    message: format!("tenant {id} is not killed"),
                    mend: format!("cofferdam tenant show {id}"),
                });
            }
            self.may_start(&tenant)?;
            // First the launcher: a control that dies between the two finds it killed in the store, as it was.
            let lift = Command::Resume { op: self.launcher().op(), tenant: id.clone() };
            self.launcher().ask(&lift, &[]).await?;
            let (kept, row) = (id.clone(), self.row(Some(id), Kind::TenantResumed, json!({})));
            let noted = self.db.run(move |disk| disk.set_desired(&kept, Desired::Running, &row)).await;
            if let Err(error) = noted {
                self.sever(&tenant, "it could not be resumed").await?;
                return Err(error);
            }
            tenant.tell(Happened::Want(Desired::Running)).await;
        }
        if wait {
            self.wait_up(&tenant).await?;
        }
        self.describe(&tenant).await
    }

    /// At the start, before anything is wanted: the launcher of a host that was started anew knows of no kill.
    pub(crate) async fn kill_again(&self, tenants: &[Arc<Tenant>]) -> Result<(), Error> {
        for tenant in tenants.iter().filter(|tenant| tenant.view().desired == Desired::Killed) {
            self.sever(tenant, "it was killed before").await?;
        }
        Ok(())
    }
}

impl Error {
    /// Nothing of a killed tenant starts, and nobody is let in.
    pub(crate) fn killed(id: &TenantId) -> Self {
        Self::Conflict {
            code: "killed",
            message: format!("tenant {id} is killed"),
            mend: format!("cofferdam tenant resume {id}"),
        }
    }
}

/// What is said of a killed tenant wherever it is shown.
pub(crate) fn standing(tenant: &Tenant) -> Failure {
    let reason = tenant.killed_for.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let why = reason.filter(|reason| !reason.is_empty()).map(|reason| format!(" ({reason})"));
    Failure {
        message: format!(
            "it was killed{}: nothing of it runs, and its tokens are revoked",
            why.unwrap_or_default()
        ),
        mend: format!("cofferdam tenant resume {}", tenant.id),
    }
}
