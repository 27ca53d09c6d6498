//! The order of runs: one at a time in a session; what is said meanwhile steers, waits or interrupts.

use super::{Active, Gateway, Taken, collect, collect::Waiting, lock};
use crate::{
    commands,
    ids::uuid,
    images::{self, Image},
    protocol::{
        Fault,
        params::{Queue, is_message},
    },
    store::{Error, Message, Role, Run, RunState, Session, Store},
    turn::{self, Wish, model::Answer},
};
use serde_json::{Value, json};
use std::{collections::VecDeque, sync::Arc};

/// Messages that may wait for their turn in one session.
const WAITING: usize = 32;
/// The longest id of a run.
const LONGEST_ID: usize = 256;

/// What is said to an agent.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) text: String,
    pub(crate) images: Vec<Image>,
    /// Where it comes from, if not from a person.
    pub(crate) provenance: Option<Value>,
}

impl From<&String> for Said {
    fn from(text: &String) -> Self {
        text.as_str().into()
    }
}

impl From<&str> for Said {
    fn from(text: &str) -> Self {
        Self { text: text.to_owned(), ..Self::default() }
    }
}

impl Said {
    /// As a message; its images are kept.
    fn body(&self, store: &Store, key: &str) -> Result<Value, Error> {
        let mut content = Vec::new();
        if !self.text.is_empty() {
            content.push(json!({ "type": "text", "text": self.text }));
        }
        for image in &self.images {
            content.push(images::keep(store, key, image)?);
        }
        let mut body = json!({ "content": content });
        if let Some(provenance) = &self.provenance {
            body["provenance"] = provenance.clone();
        }
        Ok(body)
    }
}

impl Gateway {
    /// Takes a message. When this returns, it is on disk.
    pub(crate) fn send(
        self: &Arc<Self>,
        key: &str,
        id: &str,
        said: impl Into<Said>,
        queue: Queue,
        wish: Wish,
    ) -> Result<(Arc<Active>, Taken), Fault> {
        let lost = |error: Error| Fault::unavailable(error.to_string());
        let said = said.into();
        let text = &*said.text;
        if said.images.is_empty() || !text.is_empty() {
            is_message(text)?;
        }
        if id.is_empty() || id.len() > LONGEST_ID {
            return Err(Fault::invalid(format!("`idempotencyKey` has 1 to {LONGEST_ID} bytes")));
        }
        if let Some(known) = self.known(id).map_err(lost)? {
            return Ok(known);
        }
        if let Some(focus) = turn::compact_asked(text, &wish) {
            return self.compact_command(key, id, focus);
        }
        if !wish.plain
            && let Some(answer) = commands::answer(self, key, text)
        {
            return self.answered(key, id, answer.map_err(lost)?).map_err(lost);
        }
        let called = if wish.plain { None } else { self.skill_called(text) };
        let text = called.as_deref().unwrap_or(text).to_owned();
        let (session, now) = (self.session(key).map_err(lost)?, self.now());
        let session = Session { updated_at: now, ..session };
        let said = Said { text, ..said };
        let body = said.body(&self.store, key).map_err(lost)?;
        let message = Message::new(&session, Some(id), Role::User, body, now);
        let active = Arc::new(Active::new(id.to_owned(), &session, now).wished(&wish));
        let mut state = self.state();
        let running = state.active.get(key).map(Arc::clone);
        let steering = running.as_ref().map_or(0, |running| lock(&running.steering).len());
        if steering + state.waiting.get(key).map_or(0, VecDeque::len) >= WAITING {
            return Err(Fault::unavailable(format!("{WAITING} messages wait in this session already")));
        }
        let taken = match (&running, queue) {
            (None, _) => Taken::Started,
            (Some(running), Queue::Steer) if running.hears(&wish) => Taken::Steered,
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
                let collect = queue == Queue::Collect;
                let waiting = Waiting { active: Arc::clone(&active), message, wish, collect };
                state.waiting.entry(key.to_owned()).or_default().push_back(waiting);
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
    pub(crate) fn answered(
        self: &Arc<Self>,
        key: &str,
        id: &str,
        text: String,
    ) -> Result<(Arc<Active>, Taken), Error> {
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
        let wanted = |active: &Active| id.is_none_or(|id| active.is(id));
        let mut stopped = Vec::new();
        let mut parents = id.is_none();
        if let Some(active) = state.active.get(key).filter(|active| wanted(active)) {
            active.stop.cancel();
            stopped.push(active.id.clone());
            parents = true;
        }
        let waiting = state.waiting.remove(key).unwrap_or_default();
        let (cut, kept): (VecDeque<_>, VecDeque<_>) =
            waiting.into_iter().partition(|waiting| wanted(&waiting.active));
        if !kept.is_empty() {
            state.waiting.insert(key.to_owned(), kept);
        }
        drop(state);
        if parents {
            self.stop_children(key, id);
        }
        for Waiting { active, message, .. } in cut {
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

    pub(super) fn put_end(&self, active: &Active, run: Run) {
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

    /// What an answer used, in its run and its session: it is as long now as that.
    pub(crate) fn used(&self, active: &Active, answer: &Answer) -> Result<(), Error> {
        lock(&active.usage).stop.clone_from(&answer.stop);
        let context_tokens = answer.input_tokens.saturating_add(answer.output_tokens);
        let session = self.counted(active, answer)?;
        self.store.used(&Session { context_tokens, ..session })?;
        self.agent_event(
            active,
            "usage",
            json!({
                "inputTokens": answer.input_tokens, "outputTokens": answer.output_tokens,
            }),
        );
        Ok(())
    }

    /// What an answer used that is no part of the conversation.
    pub(crate) fn spent(&self, active: &Active, answer: &Answer) -> Result<(), Error> {
        self.store.used(&self.counted(active, answer)?)
    }

    fn counted(&self, active: &Active, answer: &Answer) -> Result<Session, Error> {
        let mut usage = lock(&active.usage);
        usage.input = usage.input.saturating_add(answer.input_tokens);
        usage.output = usage.output.saturating_add(answer.output_tokens);
        usage.model.clone_from(&answer.model);
        drop(usage);
        let (key, model) = (&active.session_key, &answer.model);
        self.store.count_usage(self.now(), key, model, answer.input_tokens, answer.output_tokens)?;
        let session = self.session(&active.session_key)?;
        Ok(Session {
            input_tokens: session.input_tokens.saturating_add(answer.input_tokens),
            output_tokens: session.output_tokens.saturating_add(answer.output_tokens),
            ..session
        })
    }

    /// A run has ended: whoever waits hears it, and the next one of its session begins.
    pub(crate) fn ended(self: &Arc<Self>, active: &Arc<Active>, run: Run) {
        tracing::info!(
            run = run.id,
            session = run.session_key,
            state = run.state.as_str(),
            "a run has ended"
        );
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
                state.waiting.entry(key.clone()).or_default().push_front(Waiting::alone(
                    next,
                    message,
                    Wish::default(),
                ));
            }
        }
        let next = state.waiting.get_mut(key).and_then(collect::next);
        if state.waiting.get(key).is_some_and(VecDeque::is_empty) {
            state.waiting.remove(key);
        }
        if let Some((next, _)) = &next {
            state.active.insert(key.clone(), Arc::clone(&next.active));
        }
        drop(state);
        // Whoever stopped it did not mean that its words begin another; they are kept.
        for message in late {
            self.keep_unread(active, message);
        }
        self.end_collected(active, &run);
        active.end.send_replace(Some(run.clone()));
        self.sessions_changed(key, "run");
        if let Some((Waiting { active: next, message, wish, .. }, contained)) = next {
            let begun = self.session(key).and_then(|session| {
                // The transcript may be another by now.
                let message = Message { session: session.id.clone(), ..message };
                let seq = self.store.begin_waiting(&session, &message, &next.row(), &contained)?;
                self.tell_message(key, &Message { seq, ..message });
                Ok(())
            });
            if let Err(error) = begun {
                tracing::error!(%error, run = next.id, "a run that waited does not begin");
                next.stop.cancel();
            }
            tokio::spawn(turn::run(Arc::clone(self), next, wish));
        }
        self.child_ended(active, &run);
    }
}
