//! `plugin.approval.list` and `plugin.approval.resolve`: what the gateway asks of a person.

use super::lost;
use crate::{
    gateway::Gateway,
    protocol::{Fault, params},
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Resolve {
    id: String,
    decision: String,
}

pub(super) fn list(gateway: &Arc<Gateway>) -> Value {
    gateway.asked().into()
}

pub(super) fn resolve(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Result<Value, Fault> {
    let Resolve { id, decision } = params::read("plugin.approval.resolve", params)?;
    let yes = match decision.as_str() {
        "allow-always" | "allow-once" => true,
        "deny" => false,
        _ => return Err(Fault::invalid("`decision` is allow-once, allow-always or deny")),
    };
    if !gateway.answer_ask(&id, yes).map_err(lost)? {
        return Err(Fault::invalid("unknown or expired approval id"));
    }
    Ok(json!({ "ok": true }))
}
