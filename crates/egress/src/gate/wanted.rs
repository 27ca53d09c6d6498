//! What is asked of the gate, and what the rules say of it.

use crate::{
    Refusal, Rules, Ruling,
    check::{Check, keeps},
};
use cofferdam_base::{Destination, ipc::seen::Seen};
use cofferdam_policy::{Reason, RequestFacts};
use std::sync::Arc;

/// What somebody wants: a connection, or one request.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) destination: Destination,
    pub(super) request: Option<Arc<RequestFacts>>,
    /// It is no connection but a question of the warden's own, which no rule answers.
    pub(super) question: Option<String>,
}

impl Wanted {
    pub(super) fn connection(destination: &Destination) -> Self {
        Self { destination: destination.clone(), request: None, question: None }
    }

    pub(super) fn question(destination: &Destination, why: String) -> Self {
        Self { question: Some(why), ..Self::connection(destination) }
    }

    pub(super) fn request(facts: RequestFacts) -> Self {
        let destination = facts.destination.clone();
        Self { destination, request: Some(Arc::new(facts)), question: None }
    }

    /// Would nobody see what passes?
    pub(super) const fn is_opaque(&self) -> bool {
        self.request.is_none() && self.question.is_none()
    }

    /// The request in words, if it is one.
    pub(super) fn summary(&self) -> String {
        self.request.as_ref().map(|facts| facts.summary()).unwrap_or_default()
    }

    /// The request as it is recorded, if it is one.
    pub(super) fn seen(&self) -> Option<Box<Seen>> {
        self.request.as_ref().and_then(|facts| facts.seen()).map(Box::new)
    }

    /// A refusal of it.
    pub(super) fn refused(&self, refusal: Refusal) -> Refusal {
        Refusal { request: self.summary().into(), seen: self.seen(), ..refusal }
    }

    /// What the rules say of it. A connection whose requests are to be judged, and of which none is seen, is
    /// refused.
    pub(super) fn ruling(&self, rules: &Rules) -> Ruling {
        if let Some(why) = &self.question
            && keeps(Check::OwnQuestions)
        {
            return Ruling::Ask { why: why.clone(), by_rule: true };
        }
        let ruling = match &self.request {
            Some(facts) => rules.judge_request(facts),
            None => rules.judge(&self.destination),
        };
        match ruling {
            Ruling::Inspect { by } if keeps(Check::Inspected) => {
                Ruling::Deny(Refusal::new(Reason::NotInspected, by))
            }
            Ruling::Inspect { by } => Ruling::Allow { by, budget: None },
            ruling => ruling,
        }
    }
}
