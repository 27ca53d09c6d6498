//! `http://inference.local`: the cell's requests to its model, with the tenant's key added and nothing of the
//! cell's credentials kept.

use crate::{
    intake::{Intake, NotTaken},
    keys::Keys,
    outbox::Outbox,
    tls,
};
use bytes::Bytes;
use cofferdam_base::{
    Clock, HostName, Protocol, Provider, Secret,
    ipc::warden::{ModelRoute, RecordKind, Upstream, Usage},
};
use cofferdam_egress::{
    Egress, Gate, Outlet, Pass, Refusal, Row,
    http::{Body, Local, full, passing, refused},
};
use cofferdam_inference::{Api, BaseUrl, Call, Connect, Connecting, Error, Inbound, Route, Used};
use cofferdam_policy::Reason;
use cofferdam_sys::channel::AsyncChannel;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, Response, header};
use std::{
    fmt, io,
    os::fd::AsFd,
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
    time::Duration,
};
use tokio::sync::Semaphore;

/// The name under which a cell finds its model.
const NAME: &str = "inference.local";
/// Where the built-in model is, for the head of a request; nothing resolves it.
const BUILTIN: &str = "http://builtin.invalid/v1";
/// How long a cell may take to send a request's body.
const BODY: Duration = Duration::from_mins(1);
/// How long TLS to a provider may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How many requests of a tenant may be under way at one time.
const CHATS: usize = 8;

/// The model's desk.
pub(crate) struct Model {
    pub(crate) gate: Arc<Gate>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tls: Arc<rustls::ClientConfig>,
    /// What dials; set once, right after it was made with this desk as its local service.
    pub(crate) egress: OnceLock<Weak<Egress>>,
    pub(crate) state: Mutex<State>,
    pub(crate) limits: Limits,
}

/// What bounds the requests that are under way.
pub(crate) struct Limits {
    seats: Arc<Semaphore>,
    intake: Intake,
}

impl Default for Limits {
    fn default() -> Self {
        Self { seats: Arc::new(Semaphore::new(CHATS)), intake: Intake::default() }
    }
}

/// What may change.
#[derive(Default)]
pub(crate) struct State {
    route: Option<ModelRoute>,
    builtin: Option<Arc<AsyncChannel>>,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").finish_non_exhaustive()
    }
}

impl Model {
    /// Sets or forgets the route.
    pub(crate) fn set_route(&self, route: Option<ModelRoute>) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).route = route;
    }

    /// Sets the wire to the built-in model.
    pub(crate) fn set_builtin(&self, wire: AsyncChannel) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).builtin = Some(Arc::new(wire));
    }

    /// Where requests go now.
    fn route(&self) -> Option<(ModelRoute, Place)> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let route = state.route.clone()?;
        let place = match &route.upstream {
            Upstream::Builtin => Place::Builtin(state.builtin.clone()?),
            Upstream::Url(url) => Place::Url(url.clone()),
        };
        Some((route, place))
    }

    fn no(&self, reason: Reason, said: &str) -> Response<Body> {
        refused(None, &self.gate.refuse(None, Refusal::new(reason, "inference").said(said)))
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let inbound = match cofferdam_inference::accept(request.method(), request.uri().path()) {
            Ok(inbound) => inbound,
            Err(error) => return failed(Provider::OpenAi, &error),
        };
        if !self.gate.is_ready() {
            return self.no(Reason::NotReady, "");
        }
        let Some((route, place)) = self.route() else { return self.no(Reason::NoModel, "") };
        match inbound {
            Inbound::Models(wire) => json(cofferdam_inference::models_answer(wire, &[&route.model])),
            Inbound::Call(api) => self.call(api, request, route, place).await,
        }
    }

    async fn call(
        &self,
        api: Api,
        request: Request<Body>,
        route: ModelRoute,
        place: Place,
    ) -> Response<Body> {
        let failed = |error: &Error| failed(api.wire(), error);
        let Ok(seat) = Arc::clone(&self.limits.seats).try_acquire_owned() else {
            return self.no(Reason::TooManyChats, "");
        };
        let Some(place_for_usage) = self.outbox.usage_place() else {
            return self.no(Reason::LedgerUnavailable, "");
        };
        let (head, body) = request.into_parts();
        let taken = match tokio::time::timeout(BODY, self.limits.intake.take(body)).await {
            Ok(Ok(taken)) => taken,
            Ok(Err(NotTaken::TooLong)) => return failed(&Error::TooLong),
            Ok(Err(NotTaken::NoRoom)) => return self.no(Reason::TooManyChats, ""),
            Ok(Err(NotTaken::Broken)) | Err(_) => {
                return failed(&Error::Body("it did not arrive whole".to_owned()));
            }
        };
        let call = match Call::parse(api, &head.uri, &taken.bytes) {
            Ok(call) => call,
            Err(error) => return failed(&error),
        };
        // The text is dropped, its room is kept until the provider has it: the parsed fields are as long.
        let _room = taken.room;
        drop(taken.bytes);
        let url = if let Place::Url(url) = &place { url } else { BUILTIN };
        let base = match BaseUrl::parse(url) {
            Ok(base) => base,
            Err(error) => return failed(&error),
        };
        let pass = match self.gate.admit_service(base.destination()) {
            Ok(pass) => Arc::new(pass),
            Err(refusal) if matches!(refusal.reason, Reason::TooManyRelays | Reason::NotReady) => {
                return refused(None, &refusal);
            }
            // Where the provider is, is not the cell's to know.
            Err(refusal) => return failed(&Error::Connect(io::Error::other(refusal.reason.code()))),
        };
        let key = match self.key(&route) {
            Ok(key) => key,
            Err(response) => return response,
        };
        let (name, model) = (route.route.clone(), route.model.clone());
        let to = Route { name, base, model, provider: Provider::OpenAi, provider_tools: false };
        let connect = Dial { model: self, place, pass: &pass };
        let done = {
            let (clock, pass) = (Arc::clone(&self.clock), Arc::clone(&pass));
            move |used: Used| {
                place_for_usage.fill(Usage {
                    seq: 0,
                    at: clock.now(),
                    route: route.route,
                    model: route.model,
                    prompt_tokens: used.tokens.prompt,
                    completion_tokens: used.tokens.completion,
                    status: used.status,
                    estimated: used.estimated,
                });
                // Until now it was under way, though its reader may have left.
                drop((seat, pass));
            }
        };
        let answered = tokio::select! {
            biased;
            () = pass.withdrawn().cancelled() => return self.no(Reason::Revoked, ""),
            answered = cofferdam_inference::relay(&call, &head.headers, &to, key.as_ref(), &connect, done) => {
                answered
            }
        };
        match answered {
            Ok(answer) => answer.map(|body| passing(pass, body)),
            Err(error) => {
                tracing::info!(%error, source = ?std::error::Error::source(&error), "a model request failed");
                failed(&error)
            }
        }
    }

    /// The route's key, opened for this request, its use recorded first.
    #[expect(clippy::result_large_err, reason = "the refusal is the answer, once a request")]
    fn key(&self, route: &ModelRoute) -> Result<Option<Secret<Vec<u8>>>, Response<Body>> {
        let by = match &route.secret {
            Some(name) => format!("secret {name}"),
            None => format!("route {}", route.route),
        };
        let (what, reason, request) = (RecordKind::Use, String::new(), String::new());
        let row = Row { what, destination: None, by, reason, request, count: 1 };
        if !self.outbox.record(row) {
            return Err(self.no(Reason::LedgerUnavailable, ""));
        }
        let Some(name) = &route.secret else { return Ok(None) };
        match self.keys.open(name) {
            Ok(Some(key)) => Ok(Some(key)),
            Ok(None) => Err(self.no(Reason::NoModel, "the model's key is not set")),
            Err(error) => {
                tracing::error!(%error, "a secret does not open");
                Err(self.no(Reason::NoModel, "the model's key does not open"))
            }
        }
    }
}

enum Place {
    Url(String),
    Builtin(Arc<AsyncChannel>),
}

/// Dials for one request: through the guard like everything else.
struct Dial<'a> {
    model: &'a Model,
    place: Place,
    pass: &'a Arc<Pass>,
}

impl Connect for Dial<'_> {
    fn connect<'a>(&'a self, route: &'a Route) -> Connecting<'a> {
        Box::pin(async move {
            if let Place::Builtin(wire) = &self.place {
                let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
                wire.send(&(), &[theirs.as_fd()]).await.map_err(io::Error::other)?;
                ours.set_nonblocking(true)?;
                let stream = tokio::net::UnixStream::from_std(ours)?;
                return Ok(Box::new(stream) as Box<dyn cofferdam_inference::Stream>);
            }
            let destination = route.base.destination();
            let egress = self.model.egress.get().and_then(Weak::upgrade);
            let egress = egress.ok_or(io::ErrorKind::NotConnected)?;
            let (_, stream) = egress.dial(self.pass).await.map_err(|refusal| {
                let refusal = self.model.gate.refuse_service(destination, refusal);
                io::Error::other(refusal.reason.code())
            })?;
            if destination.protocol != Protocol::Https {
                return Ok(Box::new(stream) as Box<dyn cofferdam_inference::Stream>);
            }
            let handshake = tls::connect(&self.model.tls, &destination.host, stream);
            let stream = tokio::time::timeout(HANDSHAKE, handshake).await??;
            Ok(Box::new(stream) as Box<dyn cofferdam_inference::Stream>)
        })
    }
}

/// The model's desk as a local service of the gate.
#[derive(Debug, Clone)]
pub(crate) struct Desk(pub(crate) Arc<Model>);

impl Local for Desk {
    fn serves(&self, name: &HostName) -> bool {
        name.as_str() == NAME
    }

    fn respond(&self, _: HostName, request: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        let model = Arc::clone(&self.0);
        Box::pin(async move { model.answer(request).await })
    }
}

fn json(text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(text));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn failed(wire: Provider, error: &Error) -> Response<Body> {
    let mut response = json(error.to_json(wire));
    *response.status_mut() = error.status();
    response
}

#[cfg(test)]
mod tests;
