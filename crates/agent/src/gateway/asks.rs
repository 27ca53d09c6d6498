//! Questions of the gateway that a person with the scope of approvals answers.
//!
//! They live as long as the gateway does: whoever asked finds the same thing again at the next start, and asks again.
//! Unanswered is no.

use super::{Gateway, lock};
use crate::{ids::uuid, store::Error};
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex},
};

/// How many wait; the oldest is given up for a new one.
const WAITING: usize = 64;

/// What is done with the answer.
type Then = Box<dyn FnOnce(&Arc<Gateway>, bool) -> Result<(), Error> + Send>;

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    /// At most 80 characters.
    pub(crate) title: String,
    /// At most 512.
    pub(crate) description: String,
    /// For the one who answers, at most 16,384.
    pub(crate) detail: String,
}

struct Ask {
    id: String,
    question: Question,
    at: u64,
    then: Then,
}

/// All that wait.
#[derive(Default)]
pub(crate) struct Asks(Mutex<VecDeque<Ask>>);

impl fmt::Debug for Asks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Asks")
    }
}

fn cut(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

impl Gateway {
    /// Asks, and gives the id under which it is answered.
    pub(crate) fn ask(
        &self,
        question: Question,
        then: impl FnOnce(&Arc<Self>, bool) -> Result<(), Error> + Send + 'static,
    ) -> String {
        let id = uuid();
        let mut asks = lock(&self.asks.0);
        if asks.len() >= WAITING {
            asks.pop_front();
        }
        asks.push_back(Ask { id: id.clone(), question, at: self.now(), then: Box::new(then) });
        id
    }

    /// Takes a question back.
    pub(crate) fn unask(&self, id: &str) {
        lock(&self.asks.0).retain(|ask| ask.id != id);
    }

    /// What waits, as `plugin.approval.list` tells.
    pub(crate) fn asked(&self) -> Vec<Value> {
        let one = |Ask { id, question: Question { title, description, detail }, at, .. }: &Ask| {
            json!({ "id": id, "createdAtMs": at, "request": {
                "title": cut(title, 80), "description": cut(description, 512), "detail": cut(detail, 16_384),
                "severity": "warning",
            }})
        };
        lock(&self.asks.0).iter().map(one).collect()
    }

    /// Answers one; false if nothing is asked under this id. What follows from it is done when this returns.
    pub(crate) fn answer_ask(self: &Arc<Self>, id: &str, yes: bool) -> Result<bool, Error> {
        let mut asks = lock(&self.asks.0);
        let Some(at) = asks.iter().position(|ask| ask.id == id) else { return Ok(false) };
        let ask = asks.remove(at);
        drop(asks);
        match ask {
            Some(ask) => (ask.then)(self, yes).map(|()| true),
            None => Ok(false),
        }
    }
}
