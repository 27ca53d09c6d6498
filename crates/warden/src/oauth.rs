//! Access tokens: asked for when a request wants one, kept in memory until shortly before they end.
//!
//! It owns the asking, one at a time for each secret, and the way of a new refresh token into the vault: the warden
//! seals it, control keeps it, and only then the access token that came with it is used. The endpoint is dialled as
//! every service of the warden's own, by the guard. The threats: an endpoint that is asked again and again, which is
//! let alone for a while after a no; and a refresh token that is lost, so one that is not kept yet is said again on
//! each new wire.

use crate::{keys::Keys, outbox::Outbox, tls};
use bytes::Bytes;
use cofferdam_base::{
    Millis, SecretName,
    ipc::warden::{RecordKind, Report, SealedSecret},
    kind::{Oauth, OauthValue},
};
use cofferdam_egress::{
    BoxStream, Egress, Outlet, Refusal, Row,
    credentials::oauth::{Granted, LONGEST_ANSWER, Mint, form, granted},
};
use cofferdam_inference::BaseUrl;
use cofferdam_policy::Reason;
use futures_util::future::BoxFuture;
use http::{Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};
use tokio::time::timeout;
use zeroize::Zeroizing;

/// How long an endpoint may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long control may take to keep a refresh token.
const KEEPING: Duration = Duration::from_secs(10);
/// An endpoint that said no, or nothing, is let alone for so long, in milliseconds.
const REST: u64 = 5_000;

/// How often a token that is good by its time is replaced because a server refused it, and in what time: who can have
/// a server say so must not wear out the endpoint.
const REPLACED: u32 = 3;
const WHILE: u64 = 60_000;

/// Makes access tokens for one tenant.
#[derive(Clone)]
pub(crate) struct Tokens {
    pub(crate) keys: Arc<Keys>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) tls: Arc<rustls::ClientConfig>,
    pub(crate) egress: Weak<Egress>,
    turns: Arc<Mutex<HashMap<SecretName, Arc<tokio::sync::Mutex<Turn>>>>>,
}

/// What became of one secret's tokens.
#[derive(Default)]
struct Turn {
    no: Option<No>,
    /// Since when tokens were replaced, and how many.
    replaced: (Millis, u32),
}

/// A no, to which secret, and when.
struct No {
    envelope: String,
    at: Millis,
    said: String,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

impl Tokens {
    pub(crate) fn new(
        keys: Arc<Keys>,
        outbox: Arc<Outbox>,
        tls: Arc<rustls::ClientConfig>,
        egress: Weak<Egress>,
    ) -> Self {
        Self { keys, outbox, tls, egress, turns: Arc::default() }
    }

    async fn see_to(&self, name: &SecretName, refused: Option<Zeroizing<Vec<u8>>>) -> Result<(), Refusal> {
        let no = |said: String| Refusal::new(Reason::SecretUnusable, format!("secret {name}")).said(said);
        let egress = self.egress.upgrade().ok_or_else(|| no("the warden ends".to_owned()))?;
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(name.clone()).or_default())
        };
        // Whoever comes while it is asked for waits here, and finds it made.
        let mut last = turn.lock().await;
        let now = egress.gate.now();
        if self.keys.has_token(name, now, refused.as_deref().map(Vec::as_slice)) {
            return Ok(());
        }
        if refused.is_some() {
            let (since, times) = last.replaced;
            let fresh = now.0.saturating_sub(since.0) < WHILE;
            if fresh && times >= REPLACED {
                // The server's no is the answer.
                return Ok(());
            }
            last.replaced = if fresh { (since, times + 1) } else { (now, 1) };
        }
        if let Some(pending) = self.keys.pending_of(name) {
            // Control may have failed to keep it when it was said first.
            self.outbox.say(Report::Rotated { secret: pending.clone() });
            if timeout(KEEPING, self.keys.kept(&pending)).await.is_err() {
                return Err(no("the last refresh token is not kept yet: try again".to_owned()));
            }
        }
        let wanted = self.keys.oauth(name).map_err(|error| no(error.to_string()))?;
        let Some((sealed, oauth, value)) = wanted else {
            return Err(no("it is not set any more".to_owned()));
        };
        if let Some(last) = &last.no
            && last.envelope == sealed.envelope
            && now.0.saturating_sub(last.at.0) < REST
        {
            return Err(no(last.said.clone()));
        }
        let made = match self.ask(&egress, name, &oauth, &value).await {
            Ok(granted) => self.take(&egress, sealed.clone(), &value, granted).await,
            Err(said) => Err(said),
        };
        made.map_err(|said| {
            tracing::warn!(%name, said, "no access token");
            last.no = Some(No { envelope: sealed.envelope, at: egress.gate.now(), said: said.clone() });
            no(said)
        })
    }

    /// Asks the endpoint.
    async fn ask(
        &self,
        egress: &Arc<Egress>,
        name: &SecretName,
        oauth: &Oauth,
        value: &OauthValue,
    ) -> Result<Granted, String> {
        let base = BaseUrl::parse(oauth.endpoint.as_str()).map_err(|error| error.to_string())?;
        let asked = timeout(PATIENCE, self.exchange(egress, name, &base, form(oauth, value)));
        let (status, body) =
            asked.await.map_err(|_| "the token endpoint did not answer in time".to_owned())??;
        granted(status, &body)
    }

    async fn exchange(
        &self,
        egress: &Arc<Egress>,
        name: &SecretName,
        base: &BaseUrl,
        form: Zeroizing<String>,
    ) -> Result<(u16, Zeroizing<Vec<u8>>), String> {
        let gate = &egress.gate;
        let refused = |refusal: Refusal| {
            let said = if refusal.said.is_empty() { String::new() } else { format!(", {}", refusal.said) };
            format!("the token endpoint is not reached: {}{said}", refusal.reason.code())
        };
        let pass = gate.admit_service(base.destination()).map_err(refused)?;
        let row = Row {
            what: RecordKind::Use,
            destination: Some(base.destination().clone()),
            by: format!("secret {name}"),
            reason: String::new(),
            request: "refresh_token".to_owned(),
            seen: None,
            count: 1,
        };
        if self.outbox.record(row).is_none() {
            return Err("the ledger takes nothing now".to_owned());
        }
        let (_, stream) =
            egress.dial(&pass).await.map_err(|no| refused(gate.refuse_service(base.destination(), no)))?;
        let secured = tls::connect(&self.tls, &base.destination().host, stream).await;
        let stream: BoxStream =
            Box::new(secured.map_err(|error| format!("no TLS with the token endpoint: {error}"))?);
        let broke = |_| "the token endpoint broke the connection".to_owned();
        let request = Request::post(base.join(""))
            .header(header::HOST, base.authority())
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, "cofferdam")
            .body(Full::new(Bytes::copy_from_slice(form.as_bytes())))
            .map_err(|error| error.to_string())?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broke)?;
        let connection = tokio::spawn(connection);
        let answered = async {
            let answer = sender.send_request(request).await.map_err(broke)?;
            let status = answer.status().as_u16();
            let body = Limited::new(answer.into_body(), LONGEST_ANSWER).collect().await;
            let body =
                body.map_err(|_| "the token endpoint's answer broke off, or is too long".to_owned())?;
            Ok((status, Zeroizing::new(body.to_bytes().to_vec())))
        };
        let answered = tokio::select! {
            answered = answered => answered,
            () = pass.withdrawn().cancelled() => Err("the way to the token endpoint was withdrawn".to_owned()),
        };
        connection.abort();
        answered
    }

    /// Puts an access token in force, once the refresh token that came with it is kept.
    async fn take(
        &self,
        egress: &Arc<Egress>,
        mut sealed: SealedSecret,
        value: &OauthValue,
        granted: Granted,
    ) -> Result<(), String> {
        let Granted { access_token, seconds, refresh_token } = granted;
        if let Some(new) = refresh_token.filter(|new| **new != value.refresh_token) {
            sealed = self.keys.rotate(&sealed, value, &new).map_err(|error| error.to_string())?;
            self.outbox.say(Report::Rotated { secret: sealed.clone() });
            let kept = timeout(KEEPING, self.keys.kept(&sealed)).await;
            match kept {
                Ok(true) => {}
                Ok(false) => return Err("it was set anew meanwhile: send the request again".to_owned()),
                Err(_) => {
                    return Err("the new refresh token could not be kept yet, and is tried again".to_owned());
                }
            }
        }
        let until = Millis(egress.gate.now().0.saturating_add(seconds.saturating_mul(1000)));
        self.keys.put_token(&sealed, access_token, egress.gate.now(), until);
        egress.set_credentials(self.keys.credentials());
        egress.set_watch(self.keys.watch());
        Ok(())
    }

    /// What control has not kept, as far as anybody knows: to be said on a new wire.
    pub(crate) fn say_again(&self) {
        for secret in self.keys.pending() {
            self.outbox.say(Report::Rotated { secret });
        }
    }
}

impl Mint for Tokens {
    fn mint<'a>(
        &'a self,
        name: &'a SecretName,
        refused: Option<Zeroizing<Vec<u8>>>,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        let (this, name) = (self.clone(), name.clone());
        // By itself: a client that leaves must not lose the refresh token that its request made the endpoint give.
        let made = tokio::spawn(async move { this.see_to(&name, refused).await });
        let broke = |_| Refusal::new(Reason::SecretUnusable, "warden").said("making its token broke off");
        Box::pin(async move { made.await.map_err(broke)? })
    }
}
