//! `/hooks/*`: what other systems post, and the turn or the event that becomes of it.
//!
//! Whoever posts has shown the edge a member's token already; the hook's own token comes beside it, in
//! `X-OpenClaw-Token`. The threats: who guesses that token, what is posted without end, and words of strangers that a
//! model would follow. Each is marked as untrusted unless the configuration says of its mapping that it is not.

mod asked;
mod template;

use super::{Body, Caller, document, full};
use crate::{
    MAIN_SESSION,
    config::{self, Action, Hooks, SessionMode},
    cron::{self, WakeMode},
    gateway::{Active, Gateway, Taken},
    ids::uuid,
    protocol::{Code, Fault, params::Queue},
    store::Session,
    text,
    turn::Wish,
};
use asked::{Turn, Woken};
use cofferdam_base::Scope;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::{
    hint::black_box,
    sync::{Arc, Mutex, PoisonError},
};
use template::Posted;

/// The longest body. Source: upstream's own cap.
const LONGEST: usize = 256 * 1024;
/// Wrong tokens in a minute before all wrong ones are told to wait. Source: upstream's own.
const WRONG: u32 = 20;
/// What is taken in a minute.
const TAKEN: u32 = 60;
const MINUTE: u64 = 60_000;
/// The longest key by which what is sent again is known, in bytes.
const LONGEST_KEY: usize = 128;
/// Where the hook's token is.
const TOKEN: &str = "x-openclaw-token";
/// The answer of a hook that the main session is told of, in characters.
const TOLD: usize = 1000;

/// So many in a minute.
#[derive(Debug, Default)]
struct Window {
    began: u64,
    count: u32,
}

impl Window {
    /// One more; the error says how many seconds to wait.
    fn one_more(&mut self, now: u64, most: u32) -> Result<(), u64> {
        if now.saturating_sub(self.began) >= MINUTE || now < self.began {
            *self = Self { began: now, count: 0 };
        }
        if self.count >= most {
            return Err((self.began + MINUTE - now).div_ceil(1000));
        }
        self.count += 1;
        Ok(())
    }
}

/// How often somebody posted.
#[derive(Debug, Default)]
pub(crate) struct Counts(Mutex<(Window, Window)>);

impl Counts {
    fn wrong(&self, now: u64) -> Result<(), u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.one_more(now, WRONG)
    }

    fn taken(&self, now: u64) -> Result<(), u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.one_more(now, TAKEN)
    }
}

/// Is it a path of hooks? Gives what is below them.
pub(super) fn below(hooks: &Hooks, path: &str) -> Option<String> {
    let rest = path.strip_prefix(&hooks.base()).filter(|_| hooks.enabled)?;
    (rest.is_empty() || rest.starts_with('/')).then(|| rest.trim_matches('/').to_owned())
}

/// What was wrong with a request.
enum Wrong {
    Text(StatusCode, &'static str),
    Wait(u64),
    Json(StatusCode, String),
}

fn bad(why: impl Into<String>) -> Wrong {
    Wrong::Json(StatusCode::BAD_REQUEST, why.into())
}

impl From<Fault> for Wrong {
    fn from(fault: Fault) -> Self {
        match fault.code {
            Code::InvalidRequest => bad(fault.message),
            _ => Self::Json(StatusCode::SERVICE_UNAVAILABLE, fault.message),
        }
    }
}

pub(super) async fn post(
    gateway: Arc<Gateway>,
    caller: Caller,
    below: String,
    request: Request<Incoming>,
) -> Response<Body> {
    let get = request.method() != Method::POST;
    let answered = if get {
        Err(Wrong::Text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed"))
    } else {
        answer(&gateway, &caller, &below, request).await
    };
    let mut response = match answered {
        Ok(answer) => document(StatusCode::OK, &answer),
        Err(Wrong::Json(status, error)) => document(status, &json!({ "ok": false, "error": error })),
        Err(Wrong::Text(status, text)) => plain(status, text),
        Err(Wrong::Wait(seconds)) => {
            let mut response = plain(StatusCode::TOO_MANY_REQUESTS, "Too Many Requests");
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
            response
        }
    };
    if get {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
    }
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

async fn answer(
    gateway: &Arc<Gateway>,
    caller: &Caller,
    below: &str,
    request: Request<Incoming>,
) -> Result<Value, Wrong> {
    let config = gateway.config();
    let hooks = &config.hooks;
    let (head, body) = request.into_parts();
    let query = head.uri.query().unwrap_or_default().to_owned();
    if template::pairs(&query).any(|(key, _)| key == "token") {
        let why = "Hook token must be provided via Authorization: Bearer <token> or X-OpenClaw-Token header (query \
                   parameters are not allowed).";
        return Err(Wrong::Text(StatusCode::BAD_REQUEST, why));
    }
    if !crate::protocol::methods::allows(&caller.cap, Scope::Write) {
        return Err(Wrong::Text(StatusCode::FORBIDDEN, "missing scope: operator.write"));
    }
    let token = hooks.token.as_deref().unwrap_or_default().trim();
    if token.is_empty() || !shown(&head.headers).is_some_and(|shown| same(shown, token)) {
        gateway.hooks.wrong(gateway.now()).map_err(Wrong::Wait)?;
        return Err(Wrong::Text(StatusCode::UNAUTHORIZED, "Unauthorized"));
    }
    if below.is_empty() {
        return Err(Wrong::Text(StatusCode::NOT_FOUND, "Not Found"));
    }
    let Ok(body) = Limited::new(body, LONGEST).collect().await else {
        return Err(Wrong::Json(StatusCode::PAYLOAD_TOO_LARGE, "payload too large".to_owned()));
    };
    let payload = payload(&body.to_bytes())?;
    gateway.hooks.taken(gateway.now()).map_err(Wrong::Wait)?;
    let posted = Posted { payload, headers: head.headers, query, path: below.to_owned(), now: gateway.now() };
    let key = again(&posted)?;
    match below {
        "wake" => wake(gateway, hooks, Woken::read(&posted.payload).map_err(bad)?, true),
        "agent" => {
            let turn = Turn::read(&posted.payload).map_err(bad)?;
            begin(gateway, hooks, below, key, turn)
        }
        _ => mapped(gateway, hooks, below, key, &posted),
    }
}

/// The token that a caller shows.
fn shown(headers: &HeaderMap) -> Option<&str> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let bearer = text("authorization")
        .filter(|auth| auth.get(..7).is_some_and(|it| it.eq_ignore_ascii_case("bearer ")));
    let bearer = bearer.map(|auth| auth[7..].trim()).filter(|token| !token.is_empty());
    bearer.or_else(|| text(TOKEN).filter(|token| !token.is_empty()))
}

/// Takes as long wherever they differ.
fn same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let differing = (0..other.len()).fold(one.len() ^ other.len(), |differing, at| {
        black_box(differing | usize::from(one.get(at).copied().unwrap_or(0) ^ other[at]))
    });
    differing == 0
}

fn payload(body: &[u8]) -> Result<Value, Wrong> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(json!({}));
    }
    let value: Value = serde_json::from_slice(body).map_err(|error| bad(error.to_string()))?;
    if value.is_object() { Ok(value) } else { Err(bad("the body is no JSON object")) }
}

/// The key by which what is sent again is known.
fn again(posted: &Posted) -> Result<Option<String>, Wrong> {
    let header = |name: &str| posted.headers.get(name).and_then(|value| value.to_str().ok());
    let given = header("idempotency-key")
        .or_else(|| header("x-openclaw-idempotency-key"))
        .or_else(|| posted.payload["idempotencyKey"].as_str());
    match given.map(str::trim).filter(|key| !key.is_empty()) {
        Some(key) if key.len() > LONGEST_KEY => {
            Err(bad(format!("the idempotency key is longer than {LONGEST_KEY} bytes")))
        }
        key => Ok(key.map(str::to_owned)),
    }
}

/// There is one agent.
fn is_ours(hooks: &Hooks, agent: Option<&str>) -> Result<(), Wrong> {
    if let Some(agent) = agent.filter(|agent| *agent != crate::AGENT) {
        return Err(bad(format!("unknown agentId \"{agent}\"")));
    }
    let allowed = |all: &Vec<String>| all.iter().any(|id| matches!(id.trim(), "*" | crate::AGENT));
    if hooks.allowed_agent_ids.as_ref().is_none_or(allowed) {
        return Ok(());
    }
    Err(bad("agentId is not allowed by hooks.allowedAgentIds"))
}

/// The session of a hook. `asked`: a caller's words are in its key.
fn session(hooks: &Hooks, key: Option<&str>, asked: bool) -> Result<String, Wrong> {
    if key.is_some() && asked && !hooks.allow_request_session_key {
        return Err(bad(
            "sessionKey is disabled for externally supplied hook payload values; set hooks.allowRequestSessionKey=true to enable",
        ));
    }
    let key = key
        .or(hooks.default_session_key.as_deref())
        .map_or_else(|| format!("hook:{}", uuid()), str::to_owned);
    if !hooks.allows_key(&key) {
        let prefixes = hooks.prefixes().unwrap_or_default().join(", ");
        return Err(bad(format!("sessionKey must start with one of: {prefixes}")));
    }
    config::full_key(&key).ok_or_else(|| bad(format!("unknown session key: {key}")))
}

fn wake(gateway: &Arc<Gateway>, hooks: &Hooks, woken: Woken, asked: bool) -> Result<Value, Wrong> {
    is_ours(hooks, woken.agent.as_deref())?;
    let key = match &woken.session {
        Some(key) => session(hooks, Some(key), asked)?,
        None => MAIN_SESSION.to_owned(),
    };
    let text = if woken.trusted { woken.text } else { text::untrusted("hook:wake", &woken.text) };
    if !cron::wake(gateway, &key, &text, woken.mode)? {
        let why = format!("{} events wait for this session already", cron::EVENTS);
        return Err(Wrong::Json(StatusCode::SERVICE_UNAVAILABLE, why));
    }
    Ok(json!({ "ok": true, "mode": woken.mode, "eventOutcome": "queued" }))
}

/// Begins a turn.
fn begin(
    gateway: &Arc<Gateway>,
    hooks: &Hooks,
    below: &str,
    again: Option<String>,
    turn: Turn,
) -> Result<Value, Wrong> {
    is_ours(hooks, turn.agent.as_deref())?;
    if turn.asked && turn.mode == SessionMode::Persistent {
        if turn.session.is_none() {
            return Err(bad("sessionKey is required when sessionMode is persistent"));
        }
        if hooks.prefixes().is_none() {
            return Err(bad(
                "hooks.allowedSessionKeyPrefixes is required when direct hook sessionMode is persistent",
            ));
        }
    }
    let key = session(hooks, turn.session.as_deref(), turn.asked)?;
    if key == MAIN_SESSION && turn.mode == SessionMode::Isolated {
        return Err(bad("the main session does not begin anew for a hook: set sessionMode to persistent"));
    }
    let source = source(below);
    let id = format!("{source}:{}", again.unwrap_or_else(uuid));
    let lost = |error: crate::store::Error| Wrong::from(Fault::unavailable(error.to_string()));
    if turn.model.is_some() && turn.mode == SessionMode::Persistent {
        return Err(bad("model: a persistent session keeps its own"));
    }
    if gateway.run(&id).map_err(lost)?.is_none() && turn.mode == SessionMode::Isolated {
        if gateway.running(&key).is_some() {
            let why = format!("something runs in {key}: it begins anew when that has ended");
            return Err(Wrong::Json(StatusCode::SERVICE_UNAVAILABLE, why));
        }
        let session = gateway.reset(&key).map_err(lost)?;
        let label = Some(format!("Hook: {}", turn.name.chars().take(80).collect::<String>()));
        gateway.store.put_session(&Session { model: turn.model, label, ..session }).map_err(lost)?;
        cron::past::forget(gateway, &key);
    }
    let name = text::shown(&turn.name, 80).replace('\n', " ");
    // Its name is the caller's, too.
    let message = format!("{name}: {}", turn.message);
    let message = if turn.trusted { message } else { text::untrusted(&source, &message) };
    let patience_ms = turn.timeout_seconds.map(|seconds| seconds.saturating_mul(1000));
    let wish = Wish { thinking: turn.thinking, patience_ms, plain: true, ..Wish::default() };
    let (active, taken) = gateway.send(&key, &id, &message, Queue::Followup, wish)?;
    if key != MAIN_SESSION && !matches!(taken, Taken::Known(_)) {
        tokio::spawn(tell_main(Arc::clone(gateway), Arc::clone(&active), name));
    }
    Ok(json!({ "ok": true, "runId": active.id }))
}

/// What of a path names its hook: a caller may have written it.
fn source(below: &str) -> String {
    let plain = |sign: &char| sign.is_ascii_alphanumeric() || matches!(sign, '-' | '_' | '/' | '.');
    format!("hook:{}", below.chars().filter(plain).take(64).collect::<String>())
}

/// What came of it, for the next turn of the main session. A stranger's words may be in it.
async fn tell_main(gateway: Arc<Gateway>, active: Arc<Active>, name: String) {
    let run = active.ended().await;
    let said = run.said.or(run.error).unwrap_or_default();
    if matches!(said.trim(), "" | "NO_REPLY" | "HEARTBEAT_OK") {
        return;
    }
    let said = format!("Hook {name}: {}", said.chars().take(TOLD).collect::<String>());
    let told = cron::wake(&gateway, MAIN_SESSION, &text::untrusted("hook", &said), WakeMode::NextHeartbeat);
    if !matches!(told, Ok(true)) {
        tracing::warn!(run = run.id, "the main session is not told what came of a hook");
    }
}

/// What becomes of it by the first mapping that matches.
fn mapped(
    gateway: &Arc<Gateway>,
    hooks: &Hooks,
    below: &str,
    again: Option<String>,
    posted: &Posted,
) -> Result<Value, Wrong> {
    let matches = |mapping: &&config::Mapping| {
        let path = mapping.matches.path.as_deref().map(|path| path.trim().trim_matches('/'));
        let source = mapping.matches.source.as_deref().map(str::trim);
        path.is_none_or(|path| path == below)
            && source.is_none_or(|source| posted.payload["source"].as_str() == Some(source))
    };
    let Some(mapping) = hooks.mappings.iter().find(matches) else {
        return Err(Wrong::Text(StatusCode::NOT_FOUND, "Not Found"));
    };
    let render = |template: &Option<String>| {
        template.as_deref().map(|template| posted.render(template).trim().to_owned())
    };
    let asked = mapping.session_key.as_deref().is_some_and(|key| key.contains("{{"));
    let session = render(&mapping.session_key);
    if session.as_deref() == Some("") {
        return Err(bad("hook mapping sessionKey template rendered empty"));
    }
    let (agent, trusted) = (mapping.agent_id.clone(), mapping.allow_unsafe_external_content);
    match mapping.action {
        Action::Wake => {
            let text = render(&mapping.text_template).unwrap_or_default();
            let woken = Woken { text, mode: mapping.wake_mode, agent, session, trusted };
            wake(gateway, hooks, woken.whole().map_err(bad)?, asked)
        }
        Action::Agent => {
            let message = render(&mapping.message_template).unwrap_or_default();
            if message.is_empty() {
                return Err(bad("hook mapping requires message"));
            }
            let turn = Turn {
                message,
                name: render(&mapping.name)
                    .filter(|name| !name.is_empty())
                    .unwrap_or_else(|| "Hook".to_owned()),
                agent,
                session,
                mode: mapping.session_mode,
                model: render(&mapping.model),
                thinking: render(&mapping.thinking),
                timeout_seconds: mapping.timeout_seconds,
                asked,
                trusted,
            };
            begin_mapped(gateway, hooks, below, again, turn)
        }
    }
}

/// Its session and its mode are the configuration's, but for what a template puts into its key.
fn begin_mapped(
    gateway: &Arc<Gateway>,
    hooks: &Hooks,
    below: &str,
    again: Option<String>,
    turn: Turn,
) -> Result<Value, Wrong> {
    let key = turn.session.as_deref();
    if turn.asked {
        session(hooks, key, true)?;
    }
    begin(gateway, hooks, below, again, Turn { asked: false, ..turn })
}
