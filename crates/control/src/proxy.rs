//! What the operator's proxy wants to hear: one secret of the host, sealed by the master key, in `control/keys`.
//!
//! It belongs to no tenant, and every warden has it: each gets it sealed under its tenant's data key, with its
//! snapshot. So a tenant who takes over a warden learns it, and may then do what the proxy lets it do. The threat
//! besides: somebody who reads the disk, who finds an envelope.

use crate::{Error, api::types, host::Host, tenant::Tenant};
use cofferdam_base::{
    Secret, SecretName,
    ipc::warden::{Command, SealedSecret},
};
use cofferdam_store::ledger::Kind;
use cofferdam_vault::DataKey;
use serde_json::json;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The file, and the name under which it is sealed.
const NAME: &str = "upstream-proxy";
/// Longer credentials no proxy takes, in bytes.
const LONGEST: usize = 1024;

impl Host {
    /// The proxy as it is configured, and whether there are credentials for it.
    pub fn proxy_show(&self) -> types::UpstreamProxy {
        let proxy = self.facts.wardens.upstream_proxy.clone();
        let credentials = self.proxy_file().exists();
        types::UpstreamProxy {
            url: proxy.as_ref().map(|proxy| format!("http://{}", proxy.address)),
            resolves_names: proxy.as_ref().is_some_and(|proxy| proxy.resolves_names),
            no_proxy: proxy.map(|proxy| proxy.no_proxy).unwrap_or_default(),
            credentials,
        }
    }

    /// Sets the credentials: durable when this returns, and sent to every warden that runs.
    pub async fn proxy_set(&self, mut new: types::ProxyCredentials) -> Result<types::UpstreamProxy, Error> {
        let value = Secret::new(std::mem::take(&mut new.value).into_bytes());
        let text = value.expose();
        let printable = text.iter().all(|byte| matches!(byte, b' '..=b'~'));
        if !printable || !text.contains(&b':') || text.len() > LONGEST {
            return Err(Error::Usage(format!(
                "a proxy's credentials are USER:PASSWORD, printable ASCII, at most {LONGEST} bytes"
            )));
        }
        let sealed = self.master.seal_host(NAME, &value)?;
        let row = self.row(None, Kind::HostSecretSet, json!({ "name": NAME }));
        self.db.run(move |disk| disk.durable(&row)).await?;
        let path = self.proxy_file();
        replace(&path, &sealed).map_err(|error| Error::io(path.display().to_string(), error))?;
        self.tell_proxy_credentials().await?;
        Ok(self.proxy_show())
    }

    /// Forgets them.
    pub async fn proxy_remove(&self) -> Result<types::UpstreamProxy, Error> {
        let path = self.proxy_file();
        if !path.exists() {
            return Err(Error::NotFound { what: "secret of the host", name: NAME.to_owned() });
        }
        let row = self.row(None, Kind::HostSecretRemoved, json!({ "name": NAME }));
        self.db.run(move |disk| disk.durable(&row)).await?;
        fs::remove_file(&path).map_err(|error| Error::io(path.display().to_string(), error))?;
        self.tell_proxy_credentials().await?;
        Ok(self.proxy_show())
    }

    /// They for one tenant's warden. What does not open is left out, and the proxy will say what it lacks.
    pub(crate) fn proxy_credentials(&self, tenant: &Tenant, key: &DataKey) -> Result<Command, Error> {
        let sealed = match fs::read(self.proxy_file()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            read => match read
                .map_err(|e| Error::io(NAME, e))
                .and_then(|it| Ok(self.master.open_host(NAME, &it)?))
            {
                Ok(value) => Some(sealed(tenant, key, &value)?),
                Err(error) => {
                    tracing::error!(%error, "the credentials of the upstream proxy do not open: set them anew");
                    None
                }
            },
        };
        Ok(Command::ProxyCredentials { credentials: sealed })
    }

    async fn tell_proxy_credentials(&self) -> Result<(), Error> {
        let mut told = Ok(());
        for tenant in self.tenants() {
            let Some(link) = tenant.seat.link() else { continue };
            let command =
                self.data_key(&tenant.id).await.and_then(|key| self.proxy_credentials(&tenant, &key));
            // One tenant's error keeps them from no other; its own next wire begins with them.
            if let Err(error) = command.and_then(|command| link.send(&tenant, &command)) {
                tracing::warn!(tenant = %tenant.id, %error, "the warden does not hear of the proxy's credentials");
                told = told.and(Err(error));
            }
        }
        told
    }

    fn proxy_file(&self) -> PathBuf {
        self.facts.keys.join(NAME)
    }
}

fn sealed(tenant: &Tenant, key: &DataKey, value: &Secret<Vec<u8>>) -> Result<SealedSecret, Error> {
    let name = SecretName::try_from(NAME).map_err(|error| Error::Usage(error.to_string()))?;
    Ok(key.seal_secret(&tenant.id, &name, 1, NAME, value)?)
}

/// Puts a whole file in another's place.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let next = path.with_extension("next");
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    cofferdam_vault::write_whole(&next, bytes)?;
    fs::rename(&next, path)?;
    fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}
