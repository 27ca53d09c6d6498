//! Who waits for an answer, by destination: the first to wait makes the question, the others share it.

use crate::Refusal;
use cofferdam_base::{Destination, ipc::asked::RequestShown};
use std::collections::BTreeMap;
use tokio::sync::oneshot;

/// What a waiter is told.
#[derive(Clone, Debug)]
pub(crate) enum Wake {
    /// Something changed: try again.
    Retry,
    /// Somebody said no.
    Refuse(Refusal),
}

/// Every waiter of a cell.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    held: BTreeMap<Destination, Held>,
    next: u64,
}

#[derive(Debug)]
struct Held {
    why: String,
    waiters: BTreeMap<u64, Waiter>,
}

#[derive(Debug)]
struct Waiter {
    request: Option<RequestShown>,
    wake: oneshot::Sender<Wake>,
}

/// A question: to where, why, and the request of who waits longest.
pub(crate) type Question = (Destination, String, Option<RequestShown>);

impl Held {
    fn question(&self, destination: &Destination) -> Question {
        let request = self.waiters.first_key_value().and_then(|(_, waiter)| waiter.request.clone());
        (destination.clone(), self.why.clone(), request)
    }
}

impl Holds {
    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.held.values().map(|held| held.waiters.len()).sum()
    }

    /// Does somebody wait for this destination already?
    pub(crate) fn holds(&self, destination: &Destination) -> bool {
        self.held.contains_key(destination)
    }

    /// Adds a waiter; true if it is the first for its destination, so that somebody must be asked.
    pub(crate) fn wait(
        &mut self,
        destination: &Destination,
        why: &str,
        request: Option<RequestShown>,
    ) -> (u64, oneshot::Receiver<Wake>, bool) {
        let (wake, receiver) = oneshot::channel();
        self.next += 1;
        let ask = !self.held.contains_key(destination);
        let held = self
            .held
            .entry(destination.clone())
            .or_insert_with(|| Held { why: why.to_owned(), waiters: BTreeMap::new() });
        held.waiters.insert(self.next, Waiter { request, wake });
        (self.next, receiver, ask)
    }

    /// A waiter gave up; true if it was the last that nobody had answered.
    pub(crate) fn leave(&mut self, destination: &Destination, id: u64) -> bool {
        let Some(held) = self.held.get_mut(destination) else { return false };
        let unanswered = held.waiters.remove(&id).is_some();
        let last = held.waiters.is_empty();
        if last {
            self.held.remove(destination);
        }
        unanswered && last
    }

    /// Tells everybody who waits for this destination.
    pub(crate) fn wake_all(&mut self, destination: &Destination, wake: &Wake) {
        for (_, waiter) in self.held.remove(destination).into_iter().flat_map(|held| held.waiters) {
            // A waiter that left in this very moment needs no answer.
            let _ = waiter.wake.send(wake.clone());
        }
    }

    /// Lets the one that waits longest try again, of those with this request if one is given. If others go on
    /// waiting, gives what they ask: the answer was for one only, so somebody must be asked again.
    pub(crate) fn wake_one(
        &mut self,
        destination: &Destination,
        request: Option<&RequestShown>,
    ) -> Option<Question> {
        let held = self.held.get_mut(destination)?;
        let fits = |waiter: &Waiter| request.is_none() || waiter.request.as_ref() == request;
        while let Some(id) = held.waiters.iter().find(|(_, waiter)| fits(waiter)).map(|(id, _)| *id) {
            let Some(waiter) = held.waiters.remove(&id) else { break };
            if waiter.wake.send(Wake::Retry).is_ok() {
                break;
            }
        }
        if held.waiters.is_empty() {
            self.held.remove(destination);
            return None;
        }
        Some(held.question(destination))
    }

    /// What is waited for.
    pub(crate) fn destinations(&self) -> Vec<Destination> {
        self.held.keys().cloned().collect()
    }

    /// What is asked.
    pub(crate) fn asks(&self) -> impl Iterator<Item = Question> {
        self.held.iter().map(|(destination, held)| held.question(destination))
    }
}
