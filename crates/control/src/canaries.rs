//! Canaries: planted by the operator, and what happens when one is about to be sent.
//!
//! The warden has closed itself by the time it tells. Here the cell is frozen first, then the alarm is raised and
//! made durable, then the webhook has its chance, and then all of the kill switch follows: the tenant runs again only
//! when the operator says so. The threats: a control that dies half-way (the warden tells every control again, and
//! what the launcher froze stays so), and a receiver that never answers and holds up the kill.

use crate::{
    Error,
    api::types::{Alarm, Canaries, CanaryRow, Happening, NewCanary},
    host::Host,
    secrets::{clash, length_of},
    tenant::Tenant,
};
use cofferdam_base::{
    Destination, Secret, SecretName, TenantId,
    canary::Canary,
    ipc::{
        launcher::{Command, Event},
        warden::SealedSecret,
    },
};
use cofferdam_store::ledger::Kind;
use cofferdam_tenants::lifecycle::Desired;
use serde_json::json;
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// How long the webhook has before its warden is killed with the rest.
const CHANCE: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(100);

impl Host {
    /// A tenant's canaries.
    pub async fn canary_list(&self, id: &TenantId) -> Result<Canaries, Error> {
        self.tenant(id)?;
        let kept = id.clone();
        let rows = self.db.run(move |disk| disk.secret_rows(&kept)).await?;
        let canaries = rows.into_iter().filter_map(|row| {
            let Canary { like, env, file } = Canary::of_purpose(&row.purpose).ok().flatten()?;
            Some(CanaryRow { name: row.name, version: row.version, like, env, file, at: row.at })
        });
        Ok(Canaries { canaries: canaries.collect() })
    }

    /// Plants a canary, or plants it anew: it is looked for at once, and in the cell from its next start on.
    pub async fn canary_add(
        &self,
        id: &TenantId,
        name: SecretName,
        new: NewCanary,
    ) -> Result<CanaryRow, Error> {
        let tenant = self.tenant(id)?;
        let NewCanary { like, env, file } = new;
        if env.is_none() && file.is_none() {
            return Err(Error::Usage("a canary is planted in a variable or in a file".to_owned()));
        }
        let _in_order = tenant.changes.lock().await;
        let (kept, key) = (id.clone(), self.data_key(id).await?);
        let others = self.db.run(move |disk| disk.sealed(&kept)).await?;
        let before = others.iter().find(|other| other.name == name);
        if before.is_some_and(|other| !is_canary(&other.purpose)) {
            return Err(taken(&name, "secret", format!("cofferdam secret rm {id} {name}")));
        }
        let version = before.map_or(1, |other| other.version.saturating_add(1));
        let canary = Canary { like, env: env.clone(), file: file.clone() };
        let text = like.text(&key.canary(id, &name, version));
        let value = Secret::new(text.into_bytes());
        let sealed = key.seal_secret(id, &name, version, &canary.to_purpose(), &value)?;
        if let Some(error) = clash(&(env.iter().cloned().collect(), file.clone()), &name, &others) {
            return Err(error);
        }
        length_of(id, &sealed, &others)?;
        let body = json!({ "name": name, "version": version, "purpose": canary.to_purpose() });
        let (kept, row, at) = (id.clone(), self.row(Some(id), Kind::SecretSet, body), self.now());
        self.db.run(move |disk| disk.set_secret(&kept, &sealed, at, &row)).await?;
        self.send_secrets(&tenant).await?;
        Ok(CanaryRow { name, version, like, env, file, at })
    }

    /// Takes a canary away; it is in the cell until that ends, and nobody looks for it.
    pub async fn canary_remove(&self, id: &TenantId, name: &SecretName) -> Result<(), Error> {
        if !self.canary_list(id).await?.canaries.iter().any(|canary| canary.name == *name) {
            return Err(Error::NotFound { what: "canary", name: name.to_string() });
        }
        self.forget_secret(id, name).await
    }

    /// A warden says that a canary was about to be sent. Whoever reads its wire does not wait.
    pub(crate) fn tripped(self: &Arc<Self>, tenant: &Arc<Tenant>, canary: SecretName, to: Destination) {
        if tenant.view().desired == Desired::Killed || tenant.tripped.swap(true, Ordering::SeqCst) {
            return;
        }
        let (host, tenant) = (Arc::clone(self), Arc::clone(tenant));
        tokio::spawn(async move {
            let reason = format!("canary {canary} was about to be sent to {to}");
            if let Err(error) = host.freeze(&tenant, &reason).await {
                tracing::error!(tenant = %tenant.id, %error, "a cell that sent a canary is not frozen yet");
            }
            if let Err(error) = host.raise(&tenant, &canary, &reason).await {
                tracing::error!(tenant = %tenant.id, %error, "a canary is not in the ledger");
            }
            host.kill_and_tell(Some(tenant.id.clone()), reason).await;
            tenant.tripped.store(false, Ordering::SeqCst);
        });
    }

    async fn freeze(&self, tenant: &Tenant, reason: &str) -> Result<(), Error> {
        let op = self.launcher().op();
        let freeze = Command::Freeze { op, tenant: tenant.id.clone(), reason: reason.to_owned() };
        match self.launcher().ask(&freeze, &[]).await? {
            Event::Severed { .. } => Ok(()),
            other => Err(Error::LauncherGone(format!("to Freeze it answered {other:?}"))),
        }
    }

    /// Raises the alarm: to whoever watches, into the ledger, and to the webhook, which has a moment for it.
    async fn raise(&self, tenant: &Tenant, canary: &SecretName, reason: &str) -> Result<(), Error> {
        let alarm = Alarm {
            tenant: Some(tenant.id.clone()),
            at: self.now(),
            what: "canary".to_owned(),
            subject: canary.to_string(),
            count: 1,
        };
        // Strings and numbers only.
        let body = serde_json::to_string(&Happening::Alarm(alarm.clone())).unwrap_or_default();
        self.alarm(alarm);
        let row = self.row(Some(&tenant.id), Kind::Tripped, json!({ "canary": canary, "reason": reason }));
        let kept = tenant.id.clone();
        self.db.run(move |disk| disk.post(&kept, &body, &row)).await?;
        let delivered = async {
            loop {
                self.post_due().await;
                if !self.webhook_show(&tenant.id).await.is_ok_and(|set| set.waiting > 0) {
                    return;
                }
                tokio::time::sleep(AGAIN).await;
            }
        };
        if tokio::time::timeout(CHANCE, delivered).await.is_err() {
            tracing::warn!(tenant = %tenant.id, "the webhook has not taken the alarm: it goes out after resume");
        }
        Ok(())
    }
}

/// Does a purpose say canary?
pub(crate) fn is_canary(purpose: &str) -> bool {
    !matches!(Canary::of_purpose(purpose), Ok(None))
}

/// The digest's place in the cell of a sealed canary.
pub(crate) fn planted(sealed: &SealedSecret) -> Option<Canary> {
    Canary::of_purpose(&sealed.purpose).ok().flatten()
}

/// A name that something else has.
pub(crate) fn taken(name: &SecretName, what: &str, mend: String) -> Error {
    Error::Conflict { code: "name_taken", message: format!("there is a {what} {name}"), mend }
}
