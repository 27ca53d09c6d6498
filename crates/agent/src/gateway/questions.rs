//! What the agent asks people while it works, and their answers.
//!
//! Questions live as long as their run waits: a gateway that ends takes them with it, and nobody believes that one was
//! answered. They are bounded in number and in time.

use super::{Gateway, lock};
use crate::{
    ids::uuid,
    protocol::{
        Fault,
        questions::{Answers, Asked},
    },
};
use cofferdam_base::Scope;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::watch;

/// How many may wait, and of how many that are over it is remembered how they ended.
const WAITING: usize = 32;
const ENDED: usize = 64;
/// How long one waits if it does not say, and at most.
const USUAL: Duration = Duration::from_mins(10);
const LONGEST: Duration = Duration::from_hours(24);

/// All of them, by their ids.
#[derive(Debug, Default)]
pub(crate) struct Questions(Mutex<BTreeMap<String, Question>>);

#[derive(Debug)]
struct Question {
    /// As clients read it.
    record: Value,
    asked_at: u64,
    end: watch::Sender<Option<Outcome>>,
}

/// How one ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    Answered(Answers),
    Cancelled,
    Expired,
}

impl Outcome {
    /// As methods and events say it.
    pub(crate) fn shown(&self) -> Value {
        match self {
            Self::Answered(answers) => json!({ "status": "answered", "answers": answers }),
            Self::Cancelled => json!({ "status": "cancelled" }),
            Self::Expired => json!({ "status": "expired" }),
        }
    }
}

impl Question {
    fn shown(&self) -> Value {
        let mut record = self.record.clone();
        if let Some(outcome) = &*self.end.borrow() {
            let shown = outcome.shown();
            for (key, value) in shown.as_object().into_iter().flatten() {
                record[key] = value.clone();
            }
        }
        record
    }
}

fn unknown(id: &str) -> Fault {
    Fault::invalid(format!("unknown question: {id}"))
}

impl Gateway {
    /// Asks. Gives the question's id and when it expires.
    pub(crate) fn pose(self: &Arc<Self>, asked: Asked) -> Result<(String, u64), Fault> {
        let Asked { id, questions, agent_id, session_key, run_id, timeout_ms } = asked;
        let id = id.unwrap_or_else(uuid);
        let patience = timeout_ms.map_or(USUAL, Duration::from_millis).min(LONGEST);
        let now = self.now();
        let until = now.saturating_add(u64::try_from(patience.as_millis()).unwrap_or(u64::MAX));
        let mut record = json!({
            "id": id, "questions": questions, "createdAtMs": now, "expiresAtMs": until, "status": "pending",
        });
        for (key, value) in [("agentId", agent_id), ("sessionKey", session_key), ("runId", run_id)] {
            if let Some(value) = value {
                record[key] = value.into();
            }
        }
        let mut all = lock(&self.questions.0);
        if all.contains_key(&id) {
            return Err(Fault::invalid(format!("the question {id} was asked before")));
        }
        if all.values().filter(|it| it.end.borrow().is_none()).count() >= WAITING {
            return Err(Fault::unavailable(format!("{WAITING} questions wait for their answers already")));
        }
        let mut ended: Vec<(u64, String)> = (all.iter().filter(|(_, it)| it.end.borrow().is_some()))
            .map(|(id, it)| (it.asked_at, id.clone()))
            .collect();
        ended.sort();
        for (_, old) in ended.into_iter().rev().skip(ENDED - 1) {
            all.remove(&old);
        }
        let end = watch::Sender::new(None);
        all.insert(id.clone(), Question { record: record.clone(), asked_at: now, end });
        drop(all);
        self.tell("question.requested", &record, |client| client.may(Scope::Questions));
        let (gateway, waits) = (Arc::clone(self), id.clone());
        tokio::spawn(async move {
            // In time or not, it has an end afterwards.
            if tokio::time::timeout(patience, gateway.answered_to(&waits)).await.is_err() {
                let _ = gateway.answer(&waits, Outcome::Expired);
            }
        });
        Ok((id, until))
    }

    /// Ends a question. One that has ended already stays as it ended.
    pub(crate) fn answer(&self, id: &str, outcome: Outcome) -> Result<(), Fault> {
        let all = lock(&self.questions.0);
        let question = all.get(id).ok_or_else(|| unknown(id))?;
        if let (Outcome::Answered(answers), Some(asked)) = (&outcome, question.record["questions"].as_array())
        {
            let known = |name: &String| asked.iter().any(|it| it["questionId"] == **name);
            if let Some(other) = answers.names().find(|name| !known(name)) {
                return Err(Fault::invalid(format!("{other:?} was not asked")));
            }
        }
        let first = question.end.send_if_modified(|end| {
            let first = end.is_none();
            if first {
                *end = Some(outcome.clone());
            }
            first
        });
        drop(all);
        if !first {
            return Err(Fault::invalid(format!("the question {id} is over already")));
        }
        let mut event = outcome.shown();
        event["id"] = id.into();
        self.tell("question.resolved", &event, |client| client.may(Scope::Questions));
        Ok(())
    }

    /// Waits for the end of a question; none if there is no such question.
    pub(crate) async fn answered_to(&self, id: &str) -> Option<Outcome> {
        let mut end = lock(&self.questions.0).get(id)?.end.subscribe();
        end.wait_for(Option::is_some).await.ok()?.clone()
    }

    /// Those that wait.
    pub(crate) fn posed(&self) -> Vec<Value> {
        let all = lock(&self.questions.0);
        all.values().filter(|it| it.end.borrow().is_none()).map(Question::shown).collect()
    }

    /// One of them.
    pub(crate) fn posed_as(&self, id: &str) -> Result<Value, Fault> {
        lock(&self.questions.0).get(id).map(Question::shown).ok_or_else(|| unknown(id))
    }
}
