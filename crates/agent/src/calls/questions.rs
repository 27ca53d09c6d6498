//! `question.*`: what the agent asks people, and what they answer.

use super::Answer;
use crate::{
    gateway::{Gateway, Outcome},
    protocol::{
        Fault,
        params::{self, Nothing},
        questions::{Asked, Get, Resolve, Wait},
    },
};
use serde_json::{Value, json, value::RawValue};
use std::{sync::Arc, time::Duration};

pub(super) fn request(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Result<Value, Fault> {
    let asked: Asked = params::read("question.request", params)?;
    asked.check()?;
    let (id, until) = gateway.pose(asked)?;
    Ok(json!({ "id": id, "expiresAtMs": until }))
}

pub(super) fn list(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Result<Value, Fault> {
    let Nothing {} = params::read("question.list", params)?;
    Ok(json!({ "questions": gateway.posed() }))
}

pub(super) fn get(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Result<Value, Fault> {
    let Get { id } = params::read("question.get", params)?;
    Ok(json!({ "question": gateway.posed_as(&id)? }))
}

pub(super) fn resolve(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Result<Value, Fault> {
    let asked: Resolve = params::read("question.resolve", params)?;
    let outcome = match (asked.answers, asked.cancel) {
        (Some(answers), false) => Outcome::Answered(answers),
        (None, true) => Outcome::Cancelled,
        _ => return Err(Fault::invalid("invalid question.resolve params: either `answers` or `cancel`")),
    };
    let shown = outcome.shown();
    gateway.answer(&asked.id, outcome)?;
    Ok(shown)
}

pub(super) fn wait(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Answer {
    let asked: Wait = match params::read("question.waitAnswer", params) {
        Ok(asked) => asked,
        Err(fault) => return Answer::Now(Err(fault)),
    };
    if let Err(fault) = gateway.posed_as(&asked.id) {
        return Answer::Now(Err(fault));
    }
    let gateway = Arc::clone(gateway);
    Answer::Later(Box::pin(async move {
        let patience = asked.timeout_ms.map_or(Duration::from_hours(24), Duration::from_millis);
        match tokio::time::timeout(patience, gateway.answered_to(&asked.id)).await {
            Ok(Some(outcome)) => Ok(outcome.shown()),
            Ok(None) | Err(_) => Ok(json!({ "status": "pending" })),
        }
    }))
}
