//! The gateway: its sessions, the runs under way, and who is told what.
//!
//! It owns the order of runs: one at a time in a session, each told to its end. The threats are a client that does not
//! read, which is closed once too much waits for it, and the same message sent twice, which is one run.

mod active;

pub(crate) use active::Active;

use crate::{
    commands,
    ids::uuid,
    protocol::{Fault, event, methods, params::is_message},
    server::Client,
    store::{Error, Message, Role, Run, RunState, Session, Store},
    tools::{Bench, Processes},
    turn::{
        self, Wish,
        model::{Answer, Model},
    },
};
use cofferdam_base::{Clock, Scope};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
};

/// Messages that may wait for their turn in one session.
const WAITING: usize = 32;
/// The longest id of a run.
const LONGEST_ID: usize = 256;
/// Runs whose end is remembered in memory; older ones are in the store.
const REMEMBERED: usize = 256;

/// Everything that one tenant's gateway is.
pub(crate) struct Gateway {
    pub(crate) store: Store,
    pub(crate) model: Model,
    pub(crate) workspace: PathBuf,
    processes: Processes,
    /// Of this start.
    pub(crate) boot: String,
    pub(crate) started_at: u64,
    clock: Box<dyn Clock>,
    state: Mutex<State>,
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").field("boot", &self.boot).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    clients: BTreeMap<u64, Arc<Client>>,
    last_client: u64,
    /// How often somebody came or went.
    presence: u64,
    /// What runs, by session.
    active: HashMap<String, Arc<Active>>,
    /// What waits for its turn, by session.
    waiting: HashMap<String, VecDeque<(Arc<Active>, Message, Wish)>>,
    /// Runs by their ids, the newest last.
    ends: VecDeque<Arc<Active>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics between two changes that belong together.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a message is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is a run of its own, which began.
    Started,
    /// It waits for its turn.
    Queued,
    /// It goes into the run that is under way.
    Steered,
    /// It was sent before.
    Known(RunState),
}

impl Gateway {
    pub(crate) fn new(
        store: Store,
        model: Model,
        workspace: PathBuf,
        clock: Box<dyn Clock>,
    ) -> Result<Arc<Self>, Error> {
        let now = clock.now().0;
        for run in store.interrupt(now)? {
            tracing::warn!(run = run.id, "a run was cut off by the end of the gateway");
            if let Some(session) = store.session(&run.session_key)? {
                store.put_session(&Session { last_error: run.error, ..session })?;
            }
        }
        let state = Mutex::default();
        let (boot, processes) = (uuid(), Processes::default());
        Ok(Arc::new(Self { store, model, workspace, processes, boot, started_at: now, clock, state }))
    }

    /// Where its tools work.
    pub(crate) fn bench(&self) -> Bench<'_> {
        Bench { workspace: &self.workspace, store: &self.store, processes: &self.processes }
    }

    pub(crate) fn now(&self) -> u64 {
        self.clock.now().0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// A client that is in.
    pub(crate) fn join(&self, client: &Arc<Client>) -> u64 {
        let mut state = self.state();
        state.last_client += 1;
        let number = state.last_client;
        state.clients.insert(number, Arc::clone(client));
        state.presence += 1;
        drop(state);
        self.tell_presence();
        number
    }

    /// A client that left.
    pub(crate) fn leave(&self, number: u64) {
        let mut state = self.state();
        state.clients.remove(&number);
        state.presence += 1;
        drop(state);
        self.tell_presence();
    }

    /// Who is connected, and how often that changed.
    pub(crate) fn presence(&self) -> (Value, u64) {
        let state = self.state();
        let rows: Vec<Value> = state.clients.values().map(|client| client.presence()).collect();
        (rows.into(), state.presence)
    }

    fn tell_presence(&self) {
        let (presence, _) = self.presence();
        self.tell("presence", &json!({ "presence": presence }), |client| client.may(Scope::Read));
    }

    /// Tells an event to those who are to hear it.
    fn tell(&self, name: &str, payload: &Value, hears: impl Fn(&Client) -> bool) {
        let clients: Vec<_> = self.state().clients.values().filter(|it| hears(it)).map(Arc::clone).collect();
        for client in clients {
            client.event(|seq| event(name, payload, Some(seq)));
        }
    }

    /// Sessions were made, changed or removed.
    pub(crate) fn sessions_changed(&self, key: &str, reason: &str) {
        let payload = json!({ "sessionKey": key, "reason": reason, "ts": self.now() });
        self.tell("sessions.changed", &payload, |client| {
            client.may(Scope::Read) && client.follows_sessions()
        });
    }

    pub(crate) fn agent_event(&self, active: &Active, stream: &str, data: Value) {
        let seq = active.seq.fetch_add(1, Ordering::Relaxed) + 1;
        let payload = json!({
            "runId": active.id, "sessionKey": active.session_key, "sessionId": active.session_id,
            "agentId": crate::AGENT, "stream": stream, "data": data, "seq": seq, "ts": self.now(),
            "isHeartbeat": false,
        });
        let tools = matches!(stream, "tool" | "item");
        self.tell("agent", &payload, |client| {
            client.may(Scope::Read) && (!tools || client.can("tool-events"))
        });
    }

    pub(crate) fn chat_event(&self, active: &Active, mut fields: Value) {
        fields["runId"] = active.id.as_str().into();
        fields["sessionKey"] = active.session_key.as_str().into();
        fields["agentId"] = crate::AGENT.into();
        fields["seq"] = active.seq.load(Ordering::Relaxed).into();
        self.tell("chat", &fields, |client| client.may(Scope::Read));
    }

    pub(crate) fn status(&self, active: &Active, phase: &str) {
        active.seq.fetch_add(1, Ordering::Relaxed);
        self.chat_event(active, json!({ "state": "status", "phase": phase }));
    }

    /// Keeps a message, and tells it to those who follow its session.
    pub(crate) fn append(&self, session: &Session, message: Message) -> Result<u64, Error> {
        let seq = self.store.append(&message)?;
        self.tell_message(&session.key, &Message { seq, ..message });
        Ok(seq)
    }

    fn tell_message(&self, key: &str, message: &Message) {
        let payload = json!({
            "sessionKey": key, "messageId": message.id, "messageSeq": message.seq, "message": shown(message, None),
        });
        self.tell("session.message", &payload, |client| client.may(Scope::Read) && client.follows(key));
    }

    /// A session that is there, or a new one of this key.
    pub(crate) fn session(&self, key: &str) -> Result<Session, Error> {
        Ok(self.store.session(key)?.unwrap_or_else(|| Session::new(key, uuid(), self.now())))
    }

    /// Takes a message of a person. When this returns, it is on disk.
    pub(crate) fn send(
        self: &Arc<Self>,
        key: &str,
        id: &str,
        text: &str,
        queue: crate::protocol::params::Queue,
        wish: Wish,
    ) -> Result<(Arc<Active>, Taken), Fault> {
        use crate::protocol::params::Queue;
        let lost = |error: Error| Fault::unavailable(error.to_string());
        is_message(text)?;
        if id.is_empty() || id.len() > LONGEST_ID {
            return Err(Fault::invalid(format!("`idempotencyKey` has 1 to {LONGEST_ID} bytes")));
        }
        if let Some(known) = self.known(id).map_err(lost)? {
            return Ok(known);
        }
        if !wish.plain
            && let Some(answer) = commands::answer(self, key, text)
        {
            return self.answered(key, id, answer.map_err(lost)?).map_err(lost);
        }
        let (session, now) = (self.session(key).map_err(lost)?, self.now());
        let session = Session { updated_at: now, ..session };
        let message = Message::text(&session, Some(id), Role::User, text, now);
        let active = Arc::new(Active::new(id.to_owned(), &session, now));
        let mut state = self.state();
        let running = state.active.get(key).map(Arc::clone);
        let steering = running.as_ref().map_or(0, |running| lock(&running.steering).len());
        if steering + state.waiting.get(key).map_or(0, VecDeque::len) >= WAITING {
            return Err(Fault::unavailable(format!("{WAITING} messages wait in this session already")));
        }
        let taken = match (&running, queue) {
            (None, _) => Taken::Started,
            (Some(running), Queue::Steer) if !running.stop.is_cancelled() => Taken::Steered,
            (Some(_), _) => Taken::Queued,
        };
        // Under the lock, so that the order of messages is that of runs.
        let steered = Run { state: RunState::Done, ended_at: Some(now), ..active.row() };
        if taken == Taken::Started {
            let seq = self.store.begin(&session, &message, &active.row()).map_err(lost)?;
            state.active.insert(key.to_owned(), Arc::clone(&active));
            state.remember(&active);
            drop(state);
            self.tell_message(key, &Message { seq, ..message });
            tokio::spawn(turn::run(Arc::clone(self), Arc::clone(&active), wish));
        } else {
            let row = if taken == Taken::Steered { steered.clone() } else { active.row() };
            self.store.pend(&session, &message, &row).map_err(lost)?;
            state.remember(&active);
            if let (Taken::Steered, Some(running)) = (taken, &running) {
                lock(&running.steering).push_back(message);
                drop(state);
                active.end.send_replace(Some(steered));
            } else {
                state.waiting.entry(key.to_owned()).or_default().push_back((
                    Arc::clone(&active),
                    message,
                    wish,
                ));
                drop(state);
                if let (Queue::Interrupt, Some(running)) = (queue, running) {
                    running.stop.cancel();
                }
            }
        }
        self.sessions_changed(key, "message");
        Ok((active, taken))
    }

    /// A run that ended as it began: a command was answered.
    fn answered(self: &Arc<Self>, key: &str, id: &str, text: String) -> Result<(Arc<Active>, Taken), Error> {
        let (session, now) = (self.session(key)?, self.now());
        let active = Arc::new(Active::new(id.to_owned(), &session, now));
        let run =
            Run { state: RunState::Done, ended_at: Some(now), said: Some(text.clone()), ..active.row() };
        self.store.end(&Session { updated_at: now, ..session }, &run)?;
        self.state().remember(&active);
        active.end.send_replace(Some(run));
        let (gateway, told) = (Arc::clone(self), Arc::clone(&active));
        // Behind the answer to whoever sent it.
        tokio::spawn(async move {
            let message = json!({ "role": "assistant", "timestamp": now,
                "content": [{ "type": "text", "text": text }] });
            gateway.chat_event(&told, json!({ "state": "final", "stopReason": "stop", "message": message }));
            gateway.sessions_changed(&told.session_key, "command");
        });
        Ok((active, Taken::Started))
    }

    /// Gives a session a new transcript under the same key; the old one stays in the search of past conversations.
    pub(crate) fn reset(&self, key: &str) -> Result<Session, Error> {
        self.abort(key, None);
        let Session { label, model, thinking, .. } = self.session(key)?;
        let session = Session { label, model, thinking, ..Session::new(key, uuid(), self.now()) };
        self.store.put_session(&session)?;
        self.sessions_changed(key, "reset");
        Ok(session)
    }

    /// A run that was asked for before.
    fn known(&self, id: &str) -> Result<Option<(Arc<Active>, Taken)>, Error> {
        let found = self.state().ends.iter().find(|active| active.id == id).map(Arc::clone);
        if let Some(active) = found {
            let state = active.end.borrow().as_ref().map_or(RunState::Running, |run| run.state);
            return Ok(Some((active, Taken::Known(state))));
        }
        let Some(run) = self.store.run(id)? else { return Ok(None) };
        let active = Active::new(id.to_owned(), &self.session(&run.session_key)?, run.started_at);
        let state = run.state;
        active.end.send_replace(Some(run));
        Ok(Some((Arc::new(active), Taken::Known(state))))
    }

    /// A run by its id, as long as it is remembered, or from the store.
    pub(crate) fn run(&self, id: &str) -> Result<Option<Arc<Active>>, Error> {
        Ok(self.known(id)?.map(|(active, _)| active))
    }

    /// What runs in a session.
    pub(crate) fn running(&self, key: &str) -> Option<Arc<Active>> {
        self.state().active.get(key).map(Arc::clone)
    }

    /// Stops what runs in a session, or one run of it, and what waits; gives the ids of those.
    pub(crate) fn abort(&self, key: &str, id: Option<&str>) -> Vec<String> {
        let mut state = self.state();
        let wanted = |active: &Active| id.is_none_or(|id| id == active.id);
        let mut stopped = Vec::new();
        if let Some(active) = state.active.get(key).filter(|active| wanted(active)) {
            active.stop.cancel();
            stopped.push(active.id.clone());
        }
        let waiting = state.waiting.remove(key).unwrap_or_default();
        let (cut, kept): (VecDeque<_>, VecDeque<_>) =
            waiting.into_iter().partition(|(active, _, _)| wanted(active));
        if !kept.is_empty() {
            state.waiting.insert(key.to_owned(), kept);
        }
        drop(state);
        for (active, message, _) in cut {
            if let Err(error) = self.store.forget(&message.id) {
                tracing::error!(%error, "a message that waited is not forgotten");
            }
            let run = Run {
                state: RunState::Aborted,
                ended_at: Some(self.now()),
                error: Some("it was stopped before its turn".to_owned()),
                ..active.row()
            };
            self.put_end(&active, run);
            self.chat_event(&active, json!({ "state": "aborted", "stopReason": "aborted" }));
            stopped.push(active.id.clone());
        }
        stopped
    }

    /// What was said into a run that was stopped, among its session's messages; unless that is another one, or gone.
    fn keep_unread(&self, active: &Active, message: Message) {
        let kept = self.store.session(&active.session_key).and_then(|session| match session {
            Some(session) if session.id == message.session => self.append(&session, message).map(drop),
            _ => self.store.forget(&message.id),
        });
        if let Err(error) = kept {
            tracing::error!(%error, run = active.id, "what was said into a run is not kept");
        }
    }

    fn put_end(&self, active: &Active, run: Run) {
        let kept = self.session(&active.session_key).and_then(|session| self.store.end(&session, &run));
        if let Err(error) = kept {
            tracing::error!(%error, run = run.id, "the end of a run is not kept");
        }
        active.end.send_replace(Some(run));
    }

    /// Puts what was said meanwhile into the transcript; false if there was nothing.
    pub(crate) fn steer(&self, active: &Active) -> Result<bool, Error> {
        let said = std::mem::take(&mut *lock(&active.steering));
        let any = !said.is_empty();
        for message in said {
            let session = self.session(&active.session_key)?;
            self.append(&session, message)?;
        }
        Ok(any)
    }

    /// What an answer used, in its run and its session.
    pub(crate) fn used(&self, active: &Active, answer: &Answer) -> Result<(), Error> {
        let mut usage = lock(&active.usage);
        usage.input = usage.input.saturating_add(answer.input_tokens);
        usage.output = usage.output.saturating_add(answer.output_tokens);
        usage.model.clone_from(&answer.model);
        drop(usage);
        let session = self.session(&active.session_key)?;
        self.store.used(&Session {
            input_tokens: session.input_tokens.saturating_add(answer.input_tokens),
            output_tokens: session.output_tokens.saturating_add(answer.output_tokens),
            context_tokens: answer.input_tokens.saturating_add(answer.output_tokens),
            ..session
        })?;
        self.agent_event(
            active,
            "usage",
            json!({
                "inputTokens": answer.input_tokens, "outputTokens": answer.output_tokens,
            }),
        );
        Ok(())
    }

    /// A run has ended: whoever waits hears it, and the next one of its session begins.
    pub(crate) fn ended(self: &Arc<Self>, active: &Arc<Active>, run: Run) {
        let key = &active.session_key;
        let mut state = self.state();
        state.active.remove(key);
        let mut late = std::mem::take(&mut *lock(&active.steering));
        if run.state != RunState::Aborted {
            // What was said too late to be read in this run is the next one.
            for message in late.drain(..).rev() {
                let session = match self.session(key) {
                    Ok(session) => session,
                    Err(error) => {
                        tracing::error!(%error, "what was said waits on disk for the next start");
                        continue;
                    }
                };
                let next = Arc::new(Active::new(uuid(), &session, self.now()));
                state.waiting.entry(key.clone()).or_default().push_front((next, message, Wish::default()));
            }
        }
        let queue = state.waiting.get_mut(key);
        let next = queue.and_then(VecDeque::pop_front);
        if state.waiting.get(key).is_some_and(VecDeque::is_empty) {
            state.waiting.remove(key);
        }
        if let Some((next, _, _)) = &next {
            state.active.insert(key.clone(), Arc::clone(next));
        }
        drop(state);
        // Whoever stopped it did not mean that its words begin another; they are kept.
        for message in late {
            self.keep_unread(active, message);
        }
        active.end.send_replace(Some(run));
        self.sessions_changed(key, "run");
        if let Some((next, message, wish)) = next {
            let begun = self.session(key).and_then(|session| {
                // The transcript may be another by now.
                let message = Message { session: session.id.clone(), ..message };
                let seq = self.store.begin(&session, &message, &next.row())?;
                self.tell_message(key, &Message { seq, ..message });
                Ok(())
            });
            if let Err(error) = begun {
                tracing::error!(%error, run = next.id, "a run that waited does not begin");
                next.stop.cancel();
            }
            tokio::spawn(turn::run(Arc::clone(self), next, wish));
        }
    }
}

impl State {
    fn remember(&mut self, active: &Arc<Active>) {
        if self.ends.len() >= REMEMBERED {
            // Of one that has not ended, whoever waits for it wants to hear.
            let ended = self.ends.iter().position(|it| it.end.borrow().is_some());
            self.ends.remove(ended.unwrap_or(0));
        }
        self.ends.push_back(Arc::clone(active));
    }
}

/// A message as clients read it; of each text so many characters.
pub(crate) fn shown(message: &Message, max_chars: Option<usize>) -> Value {
    let mut out = message.body.clone();
    if let (Some(max), Some(blocks)) = (max_chars, out["content"].as_array_mut()) {
        for block in blocks {
            if let Some(text) = block["text"].as_str()
                && text.chars().count() > max
            {
                block["text"] = text.chars().take(max).collect::<String>().into();
            }
        }
    }
    out["role"] = message.role.as_str().into();
    out["timestamp"] = message.at.into();
    out["__openclaw"] = json!({
        "id": message.id, "seq": message.seq, "runId": message.run, "recordTimestampMs": message.at,
    });
    out
}

/// May these scopes call a method? The fault says which one is missing.
pub(crate) fn permitted(client: &Client, method: &str) -> Result<(), Fault> {
    let Some(scope) = methods::scope(method) else {
        return Err(Fault::invalid(format!("unknown method: {method}")));
    };
    if client.may(scope) {
        return Ok(());
    }
    let scope = scope.as_str();
    Err(Fault {
        code: crate::protocol::Code::Forbidden,
        message: format!("missing scope: {scope}"),
        details: Some(json!({ "code": "MISSING_SCOPE", "missingScope": scope, "requiredScopes": [scope] })),
    })
}
