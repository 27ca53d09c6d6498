//! The tenant's secrets: sealed as they came, opened for one use and wiped after it; those that are bound to a
//! destination are held open as long as they are in force.

use crate::Error;
use cofferdam_base::{
    Millis, Secret, SecretName, TenantId,
    binding::{Binding, placeholder},
    canary::Canary,
    ipc::warden::SealedSecret,
    kind::{AwsValue, Kind, Oauth, OauthValue},
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
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;
use zeroize::Zeroizing;

/// How long control may take to fill the pipe that it sent.
const PATIENCE: Duration = Duration::from_secs(5);

/// The keys of one tenant.
pub(crate) struct Keys {
    tenant: TenantId,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    key: Option<DataKey>,
    sealed: HashMap<SecretName, SealedSecret>,
    /// Access tokens, and the refresh tokens that control has not kept yet.
    tokens: HashMap<SecretName, Token>,
    /// Access tokens that were replaced before their time: they are still good.
    past: Vec<(SecretName, Token)>,
    pending: HashMap<SecretName, Pending>,
}

/// A rotated secret, and the envelope from which it was made.
struct Pending {
    base: String,
    secret: SealedSecret,
}

/// How many replaced tokens are remembered.
const PAST: usize = 64;

/// An access token, of which envelope, and until when.
struct Token {
    value: Zeroizing<String>,
    of: String,
    until: Millis,
}

impl State {
    /// The access token that belongs to a secret as it is now.
    fn token(&self, sealed: &SealedSecret) -> Option<&Token> {
        self.tokens.get(&sealed.name).filter(|token| token.of == sealed.envelope)
    }

    /// The access tokens of a secret that were replaced before their time.
    fn past(&self, name: &SecretName) -> impl Iterator<Item = Secret<Vec<u8>>> {
        let same = self.past.iter().filter(move |(of, _)| of == name);
        same.map(|(_, token)| Secret::new(token.value.as_bytes().to_vec()))
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("tenant", &self.tenant).finish_non_exhaustive()
    }
}

impl Keys {
    pub(crate) fn new(tenant: TenantId) -> Self {
        Self { tenant, state: Mutex::default(), changed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.lock().key = Some(key);
        Ok(authority)
    }

    /// Replaces the sealed secrets.
    pub(crate) fn seal(&self, secrets: Vec<SealedSecret>) {
        let sealed: HashMap<_, _> = secrets.into_iter().map(|secret| (secret.name.clone(), secret)).collect();
        let mut state = self.lock();
        // What was rotated is kept, or control went on without it.
        state.pending.retain(|name, ours| sealed.get(name).is_some_and(|now| now.envelope == ours.base));
        state.sealed = sealed;
        drop(state);
        self.changed.notify_waiters();
    }

    /// Everything that is bound, opened: on the way back it is looked for where it is bound. What does not open, or is
    /// not bound as this program binds, is left out, and its placeholder stands for nothing.
    pub(crate) fn credentials(&self) -> Credentials {
        let state = self.lock();
        let Some(key) = &state.key else { return Credentials::default() };
        let mut all = Vec::new();
        for sealed in state.sealed.values() {
            let binding = match Binding::of_purpose(&sealed.purpose) {
                Ok(Some(binding)) => binding,
                Ok(None) => continue,
                Err(error) => {
                    tracing::error!(name = %sealed.name, %error, "a binding cannot be read");
                    continue;
                }
            };
            let value = match key.open_secret(&self.tenant, sealed) {
                Ok(value) => value,
                Err(error) => {
                    tracing::error!(name = %sealed.name, %error, "a secret does not open");
                    continue;
                }
            };
            let parts = parts(&binding, &value).into_iter().chain(state.past(&sealed.name)).collect();
            let value = match &binding.kind {
                Some(Kind::Oauth(_)) => {
                    let token = state.token(sealed).map(|token| token.value.as_bytes().to_vec());
                    Secret::new(token.unwrap_or_default())
                }
                Some(Kind::Aws(_)) | None => value,
            };
            let placeholder = placeholder(&key.placeholder(&self.tenant, &sealed.name));
            all.push((Credential { name: sealed.name.clone(), placeholder, binding, value }, parts));
        }
        Credentials::made_of(all)
    }

    /// A secret from which access tokens are made, as it is now; none if there is none of this name.
    pub(crate) fn oauth(
        &self,
        name: &SecretName,
    ) -> Result<Option<(SealedSecret, Oauth, OauthValue)>, Error> {
        let state = self.lock();
        let (Some(key), Some(sealed)) = (&state.key, state.sealed.get(name)) else { return Ok(None) };
        let binding = Binding::of_purpose(&sealed.purpose).ok().flatten();
        let Some(Kind::Oauth(oauth)) = binding.and_then(|binding| binding.kind) else { return Ok(None) };
        let value = key.open_secret(&self.tenant, sealed)?;
        Ok(OauthValue::read(value.expose()).map(|value| (sealed.clone(), oauth, value)))
    }

    /// Is there an access token that is good, and another than the one that was refused?
    pub(crate) fn has_token(&self, name: &SecretName, now: Millis, refused: Option<&[u8]>) -> bool {
        let state = self.lock();
        let token = state.sealed.get(name).and_then(|sealed| state.token(sealed));
        token.is_some_and(|token| now < token.until && refused != Some(token.value.as_bytes()))
    }

    /// Keeps an access token that was made from this secret.
    pub(crate) fn put_token(
        &self,
        sealed: &SealedSecret,
        value: Zeroizing<String>,
        now: Millis,
        until: Millis,
    ) {
        let token = Token { value, of: sealed.envelope.clone(), until };
        let mut state = self.lock();
        state.past.retain(|(_, token)| now < token.until);
        if let Some(replaced) = state.tokens.insert(sealed.name.clone(), token) {
            let over = state.past.len().saturating_sub(PAST - 1);
            state.past.drain(..over);
            state.past.push((sealed.name.clone(), replaced));
        }
    }

    /// The next version of a secret, with a new refresh token in it; until control has it, it is pending.
    pub(crate) fn rotate(
        &self,
        sealed: &SealedSecret,
        value: &OauthValue,
        refresh_token: &str,
    ) -> Result<SealedSecret, Error> {
        let next = OauthValue {
            refresh_token: refresh_token.to_owned(),
            client_secret: value.client_secret.clone(),
        };
        let next = Secret::new(serde_json::to_vec(&next).map_err(std::io::Error::other)?);
        let mut state = self.lock();
        let key = state.key.as_ref().ok_or(Error::Start("there is no data key yet"))?;
        let version = sealed.version.saturating_add(1);
        let next = key.seal_secret(&self.tenant, &sealed.name, version, &sealed.purpose, &next)?;
        let pending = Pending { base: sealed.envelope.clone(), secret: next.clone() };
        state.pending.insert(next.name.clone(), pending);
        Ok(next)
    }

    /// Waits until control has kept this one: true; or went on without it: false.
    pub(crate) async fn kept(&self, ours: &SealedSecret) -> bool {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            match self.lock().sealed.get(&ours.name) {
                Some(now) if now.version < ours.version => {}
                now => return now == Some(ours),
            }
            changed.await;
        }
    }

    /// What control has not kept yet.
    pub(crate) fn pending(&self) -> Vec<SealedSecret> {
        self.lock().pending.values().map(|pending| pending.secret.clone()).collect()
    }

    /// What control has not kept yet of this secret.
    pub(crate) fn pending_of(&self, name: &SecretName) -> Option<SealedSecret> {
        self.lock().pending.get(name).map(|pending| pending.secret.clone())
    }

    /// Opens what control sealed under the data key of this tenant.
    pub(crate) fn unseal(&self, sealed: &SealedSecret) -> Result<Secret<Vec<u8>>, Error> {
        let state = self.lock();
        let key = state.key.as_ref().ok_or(Error::Start("there is no data key yet"))?;
        Ok(key.open_secret(&self.tenant, sealed)?)
    }

    /// Everything that must not leave: all secrets, whatever they are for, and the canaries.
    pub(crate) fn watch(&self) -> Watch {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(key) = &state.key else { return Watch::default() };
        let mut all = Vec::new();
        for sealed in state.sealed.values() {
            let canary = Canary::of_purpose(&sealed.purpose);
            let value = match (key.open_secret(&self.tenant, sealed), &canary) {
                (Ok(value), _) => value,
                // It is planted whether its envelope opens or not.
                (Err(_), Ok(Some(canary))) => {
                    let digest = key.canary(&self.tenant, &sealed.name, sealed.version);
                    Secret::new(canary.like.text(&digest).into_bytes())
                }
                (Err(error), _) => {
                    tracing::error!(name = %sealed.name, %error, "a secret that does not open is not watched for");
                    continue;
                }
            };
            let canary = !matches!(canary, Ok(None));
            let binding = Binding::of_purpose(&sealed.purpose).ok().flatten();
            let parts = binding.map_or_else(Vec::new, |binding| parts(&binding, &value));
            let token = state.token(sealed).map(|token| Secret::new(token.value.as_bytes().to_vec()));
            let known = |value| Known { name: sealed.name.clone(), canary, value };
            all.extend(
                [value].into_iter().chain(parts).chain(token).chain(state.past(&sealed.name)).map(known),
            );
        }
        Watch::new(&all)
    }

    /// Opens a secret for one use; none if it, or the data key, is not here.
    pub(crate) fn open(&self, name: &SecretName) -> Result<Option<Secret<Vec<u8>>>, Error> {
        let state = self.lock();
        let (Some(key), Some(sealed)) = (&state.key, state.sealed.get(name)) else { return Ok(None) };
        Ok(Some(key.open_secret(&self.tenant, sealed)?))
    }
}

/// What access tokens or signatures are made of.
fn parts(binding: &Binding, value: &Secret<Vec<u8>>) -> Vec<Secret<Vec<u8>>> {
    let both = |first: &str, second: Option<&str>| {
        let part = |text: &str| Secret::new(text.as_bytes().to_vec());
        [Some(first), second].into_iter().flatten().map(part).collect()
    };
    match &binding.kind {
        Some(Kind::Oauth(_)) => OauthValue::read(value.expose())
            .map_or_else(Vec::new, |value| both(&value.refresh_token, value.client_secret.as_deref())),
        Some(Kind::Aws(_)) => AwsValue::read(value.expose())
            .map_or_else(Vec::new, |value| both(&value.secret_access_key, value.session_token.as_deref())),
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use cofferdam_base::canary::Like;
    use cofferdam_egress::loss::Scan;

    /// It is planted by its name and version, so it is known though its envelope is broken.
    #[test]
    fn a_canary_is_watched_for_though_its_envelope_does_not_open() {
        let keys = Keys::new("acme".parse().unwrap());
        let key = DataKey::generate().unwrap();
        let name: SecretName = "BAIT".parse().unwrap();
        let text = Like::Github.text(&key.canary(&keys.tenant, &name, 3));
        let purpose = Canary { like: Like::Github, env: None, file: None }.to_purpose();
        keys.lock().key = Some(key);
        keys.seal(vec![SealedSecret { name, version: 3, purpose, envelope: "AAAA".to_owned() }]);
        let found = Scan::default().push(&keys.watch(), text.as_bytes(), Millis(0));
        assert!(found.is_some_and(|found| found.canary));
    }
}
