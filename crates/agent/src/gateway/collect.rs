//! What waits for its turn, and which of it becomes one run.

use super::{Active, Gateway, lock};
use crate::{
    store::{Message, Run, RunState},
    turn::Wish,
};
use serde_json::{Value, json};
use std::{collections::VecDeque, fmt::Write as _, sync::Arc};

/// A message whose turn comes later.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) active: Arc<Active>,
    pub(super) message: Message,
    pub(super) wish: Wish,
    /// It becomes one run with those next to it that are to be, too.
    pub(super) collect: bool,
}

impl Waiting {
    /// A run of its own.
    pub(super) fn alone(active: Arc<Active>, message: Message, wish: Wish) -> Self {
        Self { active, message, wish, collect: false }
    }
}

/// Takes the next of a queue, with all that becomes one run with it. Gives the messages that its own now contains.
pub(super) fn next(queue: &mut VecDeque<Waiting>) -> Option<(Waiting, Vec<String>)> {
    let mut next = queue.pop_front()?;
    let mut parts = Vec::new();
    while next.collect && queue.front().is_some_and(|other| other.collect && other.wish == next.wish) {
        let Some(other) = queue.pop_front() else { break };
        lock(&next.active.collected).push(other.active);
        parts.push(other.message);
    }
    let consumed = parts.iter().map(|message| message.id.clone()).collect();
    if !parts.is_empty() {
        parts.insert(0, next.message.clone());
        next.message.body["content"] = together(&parts);
    }
    Some((next, consumed))
}

/// Several messages as the content of one, in upstream's words.
fn together(parts: &[Message]) -> Value {
    let mut text = "[Queued messages while agent was busy]".to_owned();
    let mut content = Vec::new();
    for (number, message) in parts.iter().enumerate() {
        let _ = write!(text, "\n\n---\nQueued #{}\n{}", number + 1, message.said());
        let blocks = message.body["content"].as_array().into_iter().flatten();
        content.extend(blocks.filter(|block| block["type"] != "text").cloned());
    }
    content.insert(0, json!({ "type": "text", "text": text }));
    content.into()
}

impl Gateway {
    /// Ends the runs that this one answered besides its own.
    pub(super) fn end_collected(&self, active: &Active, run: &Run) {
        for other in std::mem::take(&mut *lock(&active.collected)) {
            let end = Run { id: other.id.clone(), started_at: other.started_at, ..run.clone() };
            self.put_end(&other, end);
            let state = match run.state {
                RunState::Done => "final",
                RunState::Aborted => "aborted",
                RunState::Running | RunState::Failed => "error",
            };
            let mut event = json!({ "state": state });
            if let (Some(error), "error") = (&run.error, state) {
                event["errorMessage"] = error.as_str().into();
            }
            self.chat_event(&other, event);
        }
    }
}
