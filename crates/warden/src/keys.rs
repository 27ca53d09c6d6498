//! The tenant's secrets: sealed as they came, opened for one use and wiped after it; those that are bound to a
//! destination are held open as long as they are in force.

use crate::Error;
use cofferdam_base::{
    Secret, SecretName, TenantId,
    binding::{Binding, placeholder},
    canary::Canary,
    ipc::warden::SealedSecret,
};
use cofferdam_egress::{
    Authority,
    credentials::{Credential, Credentials},
    loss::{Known, Watch},
};
use cofferdam_vault::DataKey;
use std::{
    collections::HashMap,
    fmt,
    fs::File,
    os::fd::OwnedFd,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// How long control may take to fill the pipe that it sent.
const PATIENCE: Duration = Duration::from_secs(5);

/// The keys of one tenant.
pub(crate) struct Keys {
    tenant: TenantId,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    key: Option<DataKey>,
    sealed: HashMap<SecretName, SealedSecret>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("tenant", &self.tenant).finish_non_exhaustive()
    }
}

impl Keys {
    pub(crate) fn new(tenant: TenantId) -> Self {
        Self { tenant, state: Mutex::default() }
    }

    /// Reads the data key from a pipe, and gives the authority that follows from it: the same for every warden of
    /// this tenant, so that a cell that outlives one trusts the next.
    pub(crate) async fn receive(&self, pipe: OwnedFd) -> Result<Authority, Error> {
        let read = tokio::task::spawn_blocking(move || DataKey::read_from(File::from(pipe)));
        let key = tokio::time::timeout(PATIENCE, read)
            .await
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?
            .map_err(std::io::Error::other)??;
        let authority = Authority::of_seed(self.tenant.as_str(), &key.derive("inspection authority")?)?;
        self.state.lock().unwrap_or_else(PoisonError::into_inner).key = Some(key);
        Ok(authority)
    }

    /// Replaces the sealed secrets.
    pub(crate) fn seal(&self, secrets: Vec<SealedSecret>) {
        let sealed = secrets.into_iter().map(|secret| (secret.name.clone(), secret)).collect();
        self.state.lock().unwrap_or_else(PoisonError::into_inner).sealed = sealed;
    }

    /// Everything that is bound, opened: on the way back it is looked for in every answer. What does not open, or is
    /// not bound as this program binds, is left out, and its placeholder stands for nothing.
    pub(crate) fn credentials(&self) -> Credentials {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(key) = &state.key else { return Credentials::default() };
        let one = |sealed: &SealedSecret| {
            let binding = match Binding::of_purpose(&sealed.purpose) {
                Ok(binding) => binding?,
                Err(error) => {
                    tracing::error!(name = %sealed.name, %error, "a binding cannot be read");
                    return None;
                }
            };
            match key.open_secret(&self.tenant, sealed) {
                Ok(value) => Some(Credential {
                    name: sealed.name.clone(),
                    placeholder: placeholder(&key.placeholder(&self.tenant, &sealed.name)),
                    binding,
                    value,
                }),
                Err(error) => {
                    tracing::error!(name = %sealed.name, %error, "a secret does not open");
                    None
                }
            }
        };
        Credentials::new(state.sealed.values().filter_map(one).collect())
    }

    /// Everything that must not leave: all secrets, whatever they are for, and the canaries.
    pub(crate) fn watch(&self) -> Watch {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(key) = &state.key else { return Watch::default() };
        let one = |sealed: &SealedSecret| {
            let name = sealed.name.clone();
            // What does not open is told of where it is used.
            let value = key.open_secret(&self.tenant, sealed).ok()?;
            Some(Known { name, canary: !matches!(Canary::of_purpose(&sealed.purpose), Ok(None)), value })
        };
        Watch::new(&state.sealed.values().filter_map(one).collect::<Vec<_>>())
    }

    /// Opens a secret for one use; none if it, or the data key, is not here.
    pub(crate) fn open(&self, name: &SecretName) -> Result<Option<Secret<Vec<u8>>>, Error> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(key), Some(sealed)) = (&state.key, state.sealed.get(name)) else { return Ok(None) };
        Ok(Some(key.open_secret(&self.tenant, sealed)?))
    }
}
