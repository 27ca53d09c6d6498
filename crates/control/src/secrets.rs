//! Secrets: sealed at once, kept sealed, handed to the tenant's warden only.
//!
//! A value is in clear in the request's body and in the sealing call, and is wiped after it; the one envelope that is
//! opened here is a rotated one, to be checked. Every first release of a data key to a warden is in the ledger before it happens.

use crate::{
    Error,
    api::types::{SecretRow, SecretValue, Secrets},
    canaries::{is_canary, planted, taken},
    host::{Host, NotConfigured},
    tenant::Tenant,
    warden::{InForce, Link},
};
use cofferdam_base::{
    Secret, SecretName, TenantId,
    binding::{Binding, FileName, Spot, Variable, placeholder},
    canary::Canary,
    ipc::launcher::Placeholder,
    ipc::warden::{Command, Configuration, SealedSecret},
    kind::Kind as Sent,
};
use cofferdam_store::ledger::Kind;
use cofferdam_vault::DataKey;
use serde_json::json;
use std::sync::Arc;

/// The longest value, in bytes.
const LONGEST: usize = 64 * 1024;
/// All envelopes of a tenant fit one packet to its warden, in bytes of base64.
const LONGEST_ALL: usize = 96 * 1024;
/// The longest envelope of a secret that a warden rotates, in bytes of base64.
const LONGEST_ROTATED: usize = 16 * 1024;
/// What a secret is for if nobody says.
const PURPOSE: &str = "model";
/// What one that is bound is for.
const BOUND: &str = "bound";
/// A shorter value cannot be looked for on its way back: it would be found where it is not.
const SHORTEST: usize = 8;
/// A longer one does not fit a header.
const LONGEST_BOUND: usize = 4096;

impl Host {
    /// The names of a tenant's secrets.
    pub async fn secret_list(&self, id: &TenantId) -> Result<Secrets, Error> {
        self.tenant(id)?;
        let id = id.clone();
        let kept = id.clone();
        let secrets = self.db.run(move |disk| disk.secret_rows(&kept)).await?;
        let key = if secrets.is_empty() { None } else { Some(self.data_key(&id).await?) };
        let secrets = secrets
            .into_iter()
            .filter(|row| !is_canary(&row.purpose))
            .map(|row| shown(row, &id, key.as_ref()))
            .collect();
        Ok(Secrets { secrets })
    }

    /// Sets or rotates a secret; when this returns it is durable and the warden, if one runs, was sent it.
    pub async fn secret_set(
        &self,
        id: &TenantId,
        name: SecretName,
        mut value: SecretValue,
    ) -> Result<SecretRow, Error> {
        let tenant = self.tenant(id)?;
        let (purpose, binding) = (value.purpose.take(), value.binding.take());
        let value = Secret::new(std::mem::take(&mut value.value).into_bytes());
        if value.expose().is_empty() || value.expose().len() > LONGEST {
            return Err(Error::Usage(format!("a secret is 1 to {LONGEST} bytes")));
        }
        let purpose = match &binding {
            Some(_) if purpose.is_some() => {
                return Err(Error::Usage("a secret that is bound has no other purpose".to_owned()));
            }
            Some(binding) => bound(binding, value.expose())?,
            None => purpose.unwrap_or_else(|| PURPOSE.to_owned()),
        };
        let plain = purpose.len() <= 64 && purpose.bytes().all(|b| b.is_ascii_graphic());
        if binding.is_none()
            && (purpose.is_empty()
                || !plain
                || is_canary(&purpose)
                || matches!(Binding::of_purpose(&purpose), Ok(Some(_)) | Err(_)))
        {
            return Err(Error::Usage("a purpose is 1 to 64 printable ASCII characters".to_owned()));
        }
        let _in_order = tenant.changes.lock().await;
        let key = self.data_key(id).await?;
        let (kept, wanted) = (id.clone(), name.clone());
        let rows = self.db.run(move |disk| disk.secret_rows(&kept)).await?;
        if rows.iter().any(|row| row.name == name && is_canary(&row.purpose)) {
            return Err(taken(&name, "canary", format!("cofferdam canary rm {id} {name}")));
        }
        let version =
            rows.iter().find(|row| row.name == wanted).map_or(1, |row| row.version.saturating_add(1));
        let sealed = key.seal_secret(id, &name, version, &purpose, &value)?;
        let unwatched = (value.expose().len() < SHORTEST).then(|| {
            format!("it has less than {SHORTEST} bytes, so nothing that the cell sends is searched for it")
        });
        drop(value);
        let kept = id.clone();
        let others = self.db.run(move |disk| disk.sealed(&kept)).await?;
        length_of(id, &sealed, &others)?;
        if let Some(other) = binding.and_then(|binding| clash(&seen(binding), &name, &others)) {
            return Err(other);
        }
        let body = json!({ "name": name, "version": version, "purpose": purpose });
        let (kept, row) = (id.clone(), self.row(Some(id), Kind::SecretSet, body));
        let at = self.now();
        self.db.run(move |disk| disk.set_secret(&kept, &sealed, at, &row)).await?;
        self.send_secrets(&tenant).await?;
        let row = SecretRow { name, version, purpose, binding: None, placeholder: None, at, unwatched };
        Ok(shown(row, id, Some(&key)))
    }

    /// A warden got a new refresh token, and sealed it. It is kept in the place of the one before, if that is still
    /// the one that it knew, and whatever is kept then is sent back.
    pub(crate) async fn secret_rotated(&self, tenant: &Tenant, new: SealedSecret) -> Result<(), Error> {
        let id = &tenant.id;
        let _in_order = tenant.changes.lock().await;
        let kept = id.clone();
        let all = self.db.run(move |disk| disk.sealed(&kept)).await?;
        let follows = |old: &&SealedSecret| {
            old.name == new.name
                && old.purpose == new.purpose
                && old.version.checked_add(1) == Some(new.version)
        };
        let fits = all.iter().any(|old| follows(&old)) && length_of(id, &new, &all).is_ok();
        if fits && self.is_rotation(id, &new).await? {
            let body =
                json!({ "name": new.name, "version": new.version, "purpose": new.purpose, "by": "warden" });
            let (kept, row, at) = (id.clone(), self.row(Some(id), Kind::SecretSet, body), self.now());
            self.db.run(move |disk| disk.set_secret(&kept, &new, at, &row)).await?;
        } else if !all.contains(&new) {
            tracing::warn!(tenant = %id, name = %new.name, "a refresh token was not kept: it does not follow what is");
        }
        self.send_secrets(tenant).await
    }

    /// Is this the value of a secret of its kind, sealed as it must be?
    async fn is_rotation(&self, id: &TenantId, new: &SealedSecret) -> Result<bool, Error> {
        let Ok(Some(Binding { kind: Some(kind @ Sent::Oauth(_)), .. })) = Binding::of_purpose(&new.purpose)
        else {
            return Ok(false);
        };
        let key = self.data_key(id).await?;
        Ok(new.envelope.len() <= LONGEST_ROTATED
            && key.open_secret(id, new).is_ok_and(|value| kind.check(value.expose()).is_ok()))
    }

    /// Removes a secret.
    pub async fn secret_remove(&self, id: &TenantId, name: &SecretName) -> Result<(), Error> {
        if self.canary_list(id).await?.canaries.iter().any(|canary| canary.name == *name) {
            return Err(taken(name, "canary", format!("cofferdam canary rm {id} {name}")));
        }
        self.forget_secret(id, name).await
    }

    pub(crate) async fn forget_secret(&self, id: &TenantId, name: &SecretName) -> Result<(), Error> {
        let tenant = self.tenant(id)?;
        let _in_order = tenant.changes.lock().await;
        let row = self.row(Some(id), Kind::SecretRemoved, json!({ "name": name }));
        let (kept, gone) = (id.clone(), name.clone());
        if !self.db.run(move |disk| disk.remove_secret(&kept, &gone, &row)).await? {
            return Err(Error::NotFound { what: "secret", name: name.to_string() });
        }
        self.send_secrets(&tenant).await
    }

    /// The placeholders that a tenant's cell is to see, each with where.
    pub(crate) async fn placeholders(&self, id: &TenantId) -> Result<Vec<Placeholder>, Error> {
        let kept = id.clone();
        let sealed = self.db.run(move |disk| disk.sealed(&kept)).await?;
        let key = self.data_key(id).await?;
        let one = |sealed: SealedSecret| {
            if let Some(canary) = planted(&sealed) {
                let digest = key.canary(id, &sealed.name, sealed.version);
                let Canary { like, env, file } = canary;
                return Some([Some(Placeholder { digest, env, file, canary: Some(like) }), None]);
            }
            let binding = Binding::of_purpose(&sealed.purpose).ok().flatten()?;
            let digest = key.placeholder(id, &sealed.name);
            let more = second_variable(&binding).map(|env| Placeholder {
                digest,
                env: Some(env),
                file: None,
                canary: None,
            });
            let Binding { to: _, spot: _, format: _, resource: _, env, file, kind: _ } = binding;
            let seen = env.is_some() || file.is_some();
            Some([seen.then_some(Placeholder { digest, env, file, canary: None }), more])
        };
        Ok(sealed.into_iter().filter_map(one).flatten().flatten().collect())
    }

    pub(crate) async fn data_key(&self, id: &TenantId) -> Result<DataKey, Error> {
        let kept = id.clone();
        let wrapped = self.db.run(move |disk| disk.wrapped_key(&kept)).await?;
        Ok(self.master.unwrap(id, &wrapped)?)
    }

    pub(crate) async fn send_secrets(&self, tenant: &Tenant) -> Result<(), Error> {
        let Some(link) = tenant.seat.link() else { return Ok(()) };
        let id = tenant.id.clone();
        let secrets = self.db.run(move |disk| disk.sealed(&id)).await?;
        link.send(tenant, &Command::Secrets { secrets })
    }

    /// Sends a warden all there is and waits until it enforces it.
    pub(crate) async fn configure(self: &Arc<Self>, tenant: &Arc<Tenant>) -> Result<(), NotConfigured> {
        let Some(link) = tenant.seat.link() else { return Err(NotConfigured::Lost) };
        let revision = match self.send_snapshot(tenant, &link).await {
            Ok(revision) => revision,
            Err(error) => {
                tracing::warn!(tenant = %tenant.id, %error, "the warden could not be sent its snapshot");
                return Err(NotConfigured::Lost);
            }
        };
        link.in_force(tenant, revision).await.map_err(|error| match error {
            InForce::Refused(why) => NotConfigured::Refused(why),
            InForce::Lost => NotConfigured::Lost,
        })
    }

    async fn send_snapshot(self: &Arc<Self>, tenant: &Arc<Tenant>, link: &Link) -> Result<u64, Error> {
        self.settled(tenant, link).await?;
        let _in_order = tenant.changes.lock().await;
        let id = tenant.id.clone();
        let (policy, revision, secrets) = self
            .db
            .run(move |disk| {
                let policy = disk.policy(&id)?;
                Ok((policy.text, policy.revision, disk.sealed(&id)?))
            })
            .await?;
        if let Ok(policy) = cofferdam_policy::Policy::parse(&policy) {
            self.withdraw(&tenant.id, &policy).await;
        }
        let key = self.data_key(&tenant.id).await?;
        self.journal(&tenant.id, Kind::KeyReleased, released(&secrets)).await?;
        link.send_key(tenant, &key)?;
        link.send(tenant, &self.proxy_credentials(tenant, &key)?)?;
        link.send(tenant, &Command::Configure(self.configuration(tenant, policy, revision)))?;
        link.send(tenant, &Command::Secrets { secrets })?;
        self.send_models(tenant, link).await?;
        self.send_grants(tenant, link).await?;
        link.send(tenant, &Command::Ready {})?;
        Ok(revision)
    }

    /// The standing configuration of one warden.
    pub(crate) fn configuration(&self, tenant: &Tenant, policy: String, revision: u64) -> Configuration {
        let facts = self.facts.wardens.clone();
        Configuration {
            tenant: tenant.id.clone(),
            policy,
            revision,
            ceiling: facts.ceiling,
            nameservers: facts.nameservers,
            operator_private: facts.operator_private,
            upstream_proxy: facts.upstream_proxy,
            host_addresses: facts.host_addresses,
            hold_ms: facts.hold_ms,
            relays: facts.relays,
            holds: facts.holds,
            names_per_second: facts.names_per_second,
        }
    }
}

/// The purpose of a secret that is bound like this.
fn bound(binding: &Binding, value: &[u8]) -> Result<String, Error> {
    if let Some(kind) = &binding.kind {
        kind.check(value).map_err(|said| Error::Usage(said.to_owned()))?;
        let plain = binding.spot.to_string() == "header:authorization" && binding.format.to_string() == "{}";
        if matches!(kind, Sent::Aws(_)) && !plain {
            return Err(Error::Usage(
                "a signature goes to header:authorization, in its own format".to_owned(),
            ));
        }
        return Ok(binding.to_purpose());
    }
    let plain = value.iter().all(u8::is_ascii_graphic);
    if !plain || !(SHORTEST..=LONGEST_BOUND).contains(&value.len()) {
        return Err(Error::Usage(format!(
            "a secret that is bound is {SHORTEST} to {LONGEST_BOUND} printable ASCII characters without spaces"
        )));
    }
    if binding.spot == Spot::Body && !binding.format.is_plain() {
        return Err(Error::Usage(
            "in a body the placeholder alone is exchanged: leave --format out".to_owned(),
        ));
    }
    Ok(binding.to_purpose())
}

/// An error if all secrets together are more than one packet.
pub(crate) fn length_of(id: &TenantId, new: &SealedSecret, others: &[SealedSecret]) -> Result<(), Error> {
    let kept = others.iter().filter(|other| other.name != new.name);
    if kept.chain([new]).map(length).sum::<usize>() <= LONGEST_ALL {
        return Ok(());
    }
    Err(Error::Refused {
        code: "too_many_secrets",
        message: format!("all secrets of {id} together would be over what its warden takes"),
        mend: format!("cofferdam secret rm {id} NAME"),
    })
}

/// How much of a packet a secret takes.
fn length(sealed: &SealedSecret) -> usize {
    sealed.envelope.len() + sealed.purpose.len() * 2 + 256
}

/// Clients of AWS do not sign without a second key. What they take for it does not matter: the placeholder.
fn second_variable(binding: &Binding) -> Option<Variable> {
    let aws = matches!(binding.kind, Some(Sent::Aws(_)));
    let first = binding.env.as_ref().is_some_and(|name| name.as_str() == "AWS_ACCESS_KEY_ID");
    if aws && first { "AWS_SECRET_ACCESS_KEY".parse().ok() } else { None }
}

/// The variables and the file of a cell in which a placeholder or a canary is.
pub(crate) type Seen = (Vec<Variable>, Option<FileName>);

fn seen(binding: Binding) -> Seen {
    let second = second_variable(&binding);
    (binding.env.into_iter().chain(second).collect(), binding.file)
}

/// Another secret or canary in the same variable, or in a file of the same name.
pub(crate) fn clash((variables, file): &Seen, name: &SecretName, others: &[SealedSecret]) -> Option<Error> {
    let same = |other: &&SealedSecret| {
        let canary = planted(other).map(|canary| (canary.env.into_iter().collect(), canary.file));
        let bound = || Binding::of_purpose(&other.purpose).ok().flatten().map(seen);
        let Some(theirs) = canary.or_else(bound) else { return false };
        let in_env = variables.iter().any(|variable| theirs.0.contains(variable));
        other.name != *name && (in_env || (file.is_some() && theirs.1 == *file))
    };
    let other = others.iter().find(same)?;
    Some(Error::Conflict {
        code: "placeholder_taken",
        message: format!("the placeholder of {} is in that variable or file already", other.name),
        mend: "name another with --env or --file".to_owned(),
    })
}

/// A row as it is shown.
fn shown(row: SecretRow, tenant: &TenantId, key: Option<&DataKey>) -> SecretRow {
    let binding = Binding::of_purpose(&row.purpose).ok().flatten();
    let placeholder = binding.as_ref().and(key).map(|key| placeholder(&key.placeholder(tenant, &row.name)));
    let purpose = if binding.is_some() { BOUND.to_owned() } else { row.purpose };
    SecretRow { purpose, binding, placeholder, ..row }
}

/// What a released key opens, for the ledger.
fn released(secrets: &[SealedSecret]) -> serde_json::Value {
    let names: Vec<_> = secrets.iter().map(|s| json!({ "name": s.name, "version": s.version })).collect();
    json!({ "secrets": names })
}
