//! `http://inference.local`: the cell's requests to its models, with the tenant's key added and nothing of the
//! cell's credentials kept.
//!
//! It owns which route a request takes, and which other one is asked when that fails. What a route may use is in
//! `allowance`, the connection in `dial`, a call for a person in `trial`.

mod allowance;
mod begun;
mod dial;
mod pool;
mod trial;

use crate::{
    check::{Check, keeps},
    intake::{Intake, NotTaken, Taken},
    keys::Keys,
    outbox::Outbox,
};
use allowance::Holding;
use begun::Begun;
use bytes::Bytes;
use cofferdam_base::{
    Clock, HostName, Provider, Secret,
    ipc::{
        model::{INFERENCE, ModelRoute, ModelRoutes, Patience, Spent, SpentByAll, Tokens, Trouble, Upstream},
        warden::{RecordKind, Usage},
    },
};
use cofferdam_egress::{
    Egress, Gate, Outlet, Pass, Refusal, Row,
    http::{Body, Local, full, passing, refused},
};
use cofferdam_inference::{Api, Asked, BaseUrl, Call, Error, Inbound, Route, Used};
use cofferdam_policy::{
    Policy, Reason,
    spend::{Amount, Books},
};
use cofferdam_sys::channel::AsyncChannel;
use dial::{Dial, Place};
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use pool::Pool;
use std::{
    fmt, io,
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// Where the built-in model is, for the head of a request; nothing resolves it.
const BUILTIN: &str = "http://builtin.invalid/v1";
/// How long a cell may take to send a request's body.
const BODY: Duration = Duration::from_mins(1);
/// How many requests of a tenant may be under way at one time.
const CHATS: usize = 8;
/// The header of an answer that names the route that gave it.
const ROUTE: &str = "cofferdam-route";

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
    /// What the routes used.
    pub(crate) books: Arc<Mutex<Books>>,
    pub(crate) limits: Limits,
}

/// What bounds the requests that are under way.
pub(crate) struct Limits {
    seats: Arc<Semaphore>,
    intake: Intake,
    pool: Arc<Pool>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { seats: Arc::new(Semaphore::new(CHATS)), intake: Intake::default(), pool: Arc::default() }
    }
}

/// What may change.
#[derive(Default)]
pub(crate) struct State {
    routes: Arc<ModelRoutes>,
    builtin: Option<Arc<AsyncChannel>>,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").finish_non_exhaustive()
    }
}

/// One request, whichever route it takes.
struct Once<'a> {
    call: &'a Call,
    headers: &'a HeaderMap,
    asked: &'a Asked,
    seat: Arc<OwnedSemaphorePermit>,
    /// How long the provider may take to begin, if the route does not say.
    begins: Option<Duration>,
}

/// A route that gave no answer.
struct Missed {
    trouble: Trouble,
    /// Why, for the operator.
    said: String,
    /// What the cell is told.
    response: Box<Response<Body>>,
}

impl Missed {
    fn new(trouble: Trouble, said: impl Into<String>, response: Response<Body>) -> Self {
        Self { trouble, said: said.into(), response: Box::new(response) }
    }

    fn of(trouble: Trouble, wire: Provider, error: &Error) -> Self {
        Self::new(trouble, error.to_string(), failed(wire, error))
    }

    /// Is another route asked instead? Not where this one is set up wrongly, or may use no more: that is to be seen.
    const fn falls_back(&self) -> bool {
        match self.trouble {
            Trouble::Resolve
            | Trouble::Guarded
            | Trouble::Connect
            | Trouble::Tls
            | Trouble::Slow
            | Trouble::BrokeOff
            | Trouble::TooMany
            | Trouble::Failed => true,
            Trouble::NotReady
            | Trouble::NoRoute
            | Trouble::NoKey
            | Trouble::BadKey
            | Trouble::KeyRefused
            | Trouble::Unpaid
            | Trouble::NoSuchModel
            | Trouble::Refused
            | Trouble::NoAnswer
            | Trouble::Unrecorded
            | Trouble::Budget => false,
        }
    }
}

impl Model {
    /// Sets the routes, and takes what was used of them.
    pub(crate) fn set_routes(&self, routes: ModelRoutes, spent: Vec<Spent>, by_all: Vec<SpentByAll>) {
        if keeps(Check::UsedBefore) {
            self.books.lock().unwrap_or_else(PoisonError::into_inner).restore(spent, by_all);
        }
        self.state.lock().unwrap_or_else(PoisonError::into_inner).routes = Arc::new(routes);
    }

    /// Sets the wire to the built-in model.
    pub(crate) fn set_builtin(&self, wire: AsyncChannel) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).builtin = Some(Arc::new(wire));
    }

    fn routes(&self) -> Arc<ModelRoutes> {
        Arc::clone(&self.state.lock().unwrap_or_else(PoisonError::into_inner).routes)
    }

    /// Where a route leads; none: to a built-in model that is not there.
    fn place(&self, route: &ModelRoute) -> Option<Place> {
        match &route.upstream {
            Upstream::Url(url) => Some(Place::Url(url.clone())),
            Upstream::Builtin => {
                let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                state.builtin.clone().map(Place::Builtin)
            }
        }
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
        let routes = self.routes();
        let Some(rules) = self.gate.rules() else { return self.no(Reason::NotReady, "") };
        let policy = &rules.policy;
        let served = routes.routes.iter().filter(|route| policy.serves(&route.route));
        let served: Vec<&str> = served.map(|route| route.route.as_str()).collect();
        if served.is_empty() {
            return self.no(Reason::NoModel, "");
        }
        match inbound {
            Inbound::Models(wire) => json(cofferdam_inference::models_answer(wire, &served)),
            Inbound::Call(api) => self.call(api, request, &routes, policy).await,
        }
    }

    async fn call(
        &self,
        api: Api,
        request: Request<Body>,
        routes: &ModelRoutes,
        policy: &Policy,
    ) -> Response<Body> {
        let failed = |error: &Error| failed(api.wire(), error);
        let Ok(seat) = Arc::clone(&self.limits.seats).try_acquire_owned() else {
            return self.no(Reason::TooManyChats, "");
        };
        let (head, body) = request.into_parts();
        let taken = match self.taken(body).await {
            Ok(taken) => taken,
            Err(Some(error)) => return failed(&error),
            Err(None) => return self.no(Reason::TooManyChats, ""),
        };
        let call = match Call::parse(api, &head.uri, &taken.bytes) {
            Ok(call) => call,
            Err(error) => return failed(&error),
        };
        let asked = Asked::read(&head.headers, &call);
        // The text is dropped, its room is kept until the provider has it: the parsed fields are as long.
        let _room = taken.room;
        drop(taken.bytes);
        let Some(first) = routes.choose(call.model()) else {
            let named = call.model().unwrap_or_default().chars().take(100).collect();
            let served = routes.routes.iter().filter(|route| policy.serves(&route.route));
            let known = served.map(|route| route.route.to_string()).collect();
            return failed(&Error::NoSuchModel { named, known });
        };
        // What was asked for is answered by nothing else, though something else may be used.
        if !policy.serves(&first.route) && keeps(Check::RouteAsked) {
            return self.no(Reason::RouteNotAllowed, first.route.as_str());
        }
        let seat = Arc::new(seat);
        let once = Once { call: &call, headers: &head.headers, asked: &asked, seat, begins: None };
        let may = |route: &&ModelRoute| policy.serves(&route.route) || !keeps(Check::RouteChain);
        let chain: Vec<_> = routes.chain(first).filter(may).collect();
        let mut chain = chain.into_iter().peekable();
        let mut response = None;
        while let Some(route) = chain.next() {
            let more = chain.peek().is_some();
            match self.attempt(&once, route, more).await {
                Ok(mut answer) => {
                    if let Ok(name) = HeaderValue::try_from(route.route.as_str()) {
                        answer.headers_mut().insert(ROUTE, name);
                    }
                    return answer;
                }
                Err(missed) => {
                    let (trouble, alias) = (missed.trouble, &route.route);
                    tracing::info!(%alias, ?trouble, said = missed.said, more, "a route gave no answer");
                    // One that may use no more is passed over, unless it is the first: what went wrong before is told.
                    let over = trouble == Trouble::Budget && response.is_some();
                    let on = over || missed.falls_back();
                    if !over {
                        response = Some(missed.response);
                    }
                    if !on {
                        break;
                    }
                }
            }
        }
        response.map_or_else(|| self.no(Reason::NoModel, ""), |response| *response)
    }

    /// A request's body, and its room; no error: there is no room for it.
    async fn taken(&self, body: Body) -> Result<Taken, Option<Error>> {
        match tokio::time::timeout(BODY, self.limits.intake.take(body)).await {
            Ok(Ok(taken)) => Ok(taken),
            Ok(Err(NotTaken::TooLong)) => Err(Some(Error::TooLong)),
            Ok(Err(NotTaken::NoRoom)) => Err(None),
            Ok(Err(NotTaken::Broken)) | Err(_) => {
                Err(Some(Error::Body("it did not arrive whole".to_owned())))
            }
        }
    }

    /// Asks one route. `more`: another one could be asked after it, so an answer that says to come later, and one that
    /// does not begin in time, is none.
    async fn attempt(
        &self,
        once: &Once<'_>,
        route: &ModelRoute,
        more: bool,
    ) -> Result<Response<Body>, Missed> {
        let wire = once.call.api().wire();
        let Some(place) = self.place(route) else {
            return Err(Missed::new(
                Trouble::Connect,
                "there is no built-in model",
                self.no(Reason::NoModel, ""),
            ));
        };
        let to = provider(once, route, &place)?;
        self.outbox.room_soon().await;
        let holding = self.allowed(route, once).await?;
        let pass = self.pass(&to, wire)?;
        let key = self.key(route)?;
        let dial =
            Dial { model: self, place, pass: &pass, trouble: Mutex::default(), line: Mutex::default() };
        let began = Instant::now();
        let Some(done) = self.done(once, route, holding, &pass) else {
            return Err(Missed::new(Trouble::Unrecorded, "", self.no(Reason::LedgerUnavailable, "")));
        };
        let answered = tokio::select! {
            biased;
            () = pass.withdrawn().cancelled() => {
                return Err(Missed::new(Trouble::NotReady, "withdrawn", self.no(Reason::Revoked, "")));
            }
            answered = cofferdam_inference::relay(once.call, once.headers, &to, key.as_ref(), &dial, done) => {
                answered
            }
        };
        let answer = answered.map_err(|error| missed(wire, &error, dial.trouble()))?;
        let trouble = Trouble::of_status(answer.status().as_u16());
        if more && let Some(trouble @ (Trouble::TooMany | Trouble::Failed | Trouble::Slow)) = trouble {
            let said = format!("HTTP {}", answer.status().as_u16());
            return Err(Missed::new(trouble, said, passed(&pass, Begun::at_once(answer))));
        }
        if !more || trouble.is_some() {
            return Ok(passed(&pass, Begun::at_once(answer)));
        }
        let left = to.patience.begin(once.call.streams()).saturating_sub(began.elapsed());
        let answer = Begun::within(left, answer).await;
        answer.map(|answer| passed(&pass, answer)).map_err(|error| missed(wire, &error, None))
    }

    /// The permission to dial.
    fn pass(&self, to: &Route, wire: Provider) -> Result<Arc<Pass>, Missed> {
        self.gate.admit_service(to.base.destination()).map(Arc::new).map_err(|refusal| {
            let (trouble, said) = (dial::of_refusal(&refusal), dial::told(&refusal));
            let response = if matches!(refusal.reason, Reason::TooManyRelays | Reason::NotReady) {
                refused(None, &refusal)
            } else {
                // Where the provider is, is not the cell's to know.
                failed(wire, &Error::Connect(io::Error::other(refusal.reason.code())))
            };
            Missed::new(trouble, said, response)
        })
    }

    /// Says what a request could use, and gives what is done once, when it is known what it did.
    fn done(
        &self,
        once: &Once<'_>,
        route: &ModelRoute,
        holding: Holding,
        pass: &Arc<Pass>,
    ) -> Option<impl FnOnce(Used) + Send + 'static> {
        let (clock, pass, seat) = (Arc::clone(&self.clock), Arc::clone(pass), Arc::clone(&once.seat));
        let price = route.price;
        let could = once.asked.tokens;
        let most = Usage {
            seq: 0,
            request: 0,
            at: clock.now(),
            route: route.route.clone(),
            model: route.model.clone(),
            prompt_tokens: could.prompt,
            completion_tokens: could.completion,
            status: 0,
            estimated: true,
            micros: price.map(|price| price.of(could)),
            user: once.asked.user.clone(),
            agent: once.asked.agent.clone(),
        };
        let place = self.outbox.usage_place(most.clone())?;
        Some(move |used: Used| {
            let tokens = Tokens { prompt: used.tokens.prompt, completion: used.tokens.completion };
            holding.settle(Amount::new(tokens, price));
            place.fill(Usage {
                at: clock.now(),
                prompt_tokens: tokens.prompt,
                completion_tokens: tokens.completion,
                status: used.status,
                estimated: used.estimated,
                micros: price.map(|price| price.of(tokens)),
                ..most
            });
            // Until now it was under way, though its reader may have left.
            drop((seat, pass));
        })
    }

    /// The route's key, opened for this request, its use recorded first.
    fn key(&self, route: &ModelRoute) -> Result<Option<Secret<Vec<u8>>>, Missed> {
        let by = match &route.secret {
            Some(name) => format!("secret {name}"),
            None => format!("route {}", route.route),
        };
        let (what, reason, request) = (RecordKind::Use, String::new(), String::new());
        let row = Row { what, destination: None, by, reason, request, seen: None, count: 1 };
        if self.outbox.record(row).is_none() {
            return Err(Missed::new(Trouble::Unrecorded, "", self.no(Reason::LedgerUnavailable, "")));
        }
        let Some(name) = &route.secret else { return Ok(None) };
        let no =
            |said: &str| Err(Missed::new(Trouble::NoKey, name.to_string(), self.no(Reason::NoModel, said)));
        match self.keys.open(name) {
            Ok(Some(key)) => Ok(Some(key)),
            Ok(None) => no("the model's key is not set"),
            Err(error) => {
                tracing::error!(%error, "a secret does not open");
                no("the model's key does not open")
            }
        }
    }
}

/// The route as the provider's wire needs it.
fn provider(once: &Once<'_>, route: &ModelRoute, place: &Place) -> Result<Route, Missed> {
    let url = if let Place::Url(url) = place { url } else { BUILTIN };
    let base =
        BaseUrl::parse(url).map_err(|error| Missed::of(Trouble::Connect, once.call.api().wire(), &error))?;
    let Patience { first_byte_ms, idle_ms } = route.patience;
    let patience = cofferdam_inference::Patience {
        first_byte: first_byte_ms.map(Duration::from_millis).or(once.begins),
        idle: idle_ms.map(Duration::from_millis),
    };
    Ok(Route {
        name: route.route.to_string(),
        base,
        model: route.model.clone(),
        provider: route.provider,
        provider_tools: route.provider_tools,
        patience,
    })
}

/// Why a provider gave no answer. The cell learns less of it than the operator.
fn missed(wire: Provider, error: &Error, dialled: Option<(Trouble, String)>) -> Missed {
    let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    let (trouble, said) = dialled.unwrap_or_else(|| {
        let trouble = match error {
            Error::Slow => Trouble::Slow,
            Error::Key => Trouble::BadKey,
            Error::Upstream(_) | Error::Empty => Trouble::BrokeOff,
            Error::Answer(_) => Trouble::NoAnswer,
            // The call is none that this route serves: another one is no answer to that.
            Error::Harmful { .. } | Error::Untranslated { .. } | Error::NotServed { .. } => Trouble::Refused,
            _ => Trouble::Connect,
        };
        (trouble, if source.is_empty() { error.to_string() } else { source })
    });
    Missed::new(trouble, said, failed(wire, error))
}

/// An answer on its way to the cell, as long as its pass is good.
fn passed(pass: &Arc<Pass>, answer: Response<Begun<cofferdam_inference::Body>>) -> Response<Body> {
    answer.map(|body| passing(Arc::clone(pass), body))
}

/// The model's desk as a local service of the gate.
#[derive(Debug, Clone)]
pub(crate) struct Desk(pub(crate) Arc<Model>);

impl Local for Desk {
    fn serves(&self, name: &HostName) -> bool {
        name.as_str().strip_suffix(INFERENCE).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }

    fn respond(&self, name: HostName, request: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        if name.as_str() != INFERENCE {
            // Names below it are where people are asked about routes, so no cell may ask for one.
            let error = Error::UnknownPath(name.to_string());
            return Box::pin(async move { failed(Provider::OpenAi, &error) });
        }
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
