//! `channels.*`: what runs, and who would like to write.

use super::lost;
use crate::{
    channels::{ACCOUNT, PENDING, TTL_MS},
    gateway::Gateway,
    protocol::{
        Fault,
        channels::{Decide, Pairing, Status},
        params,
    },
    store::PairingRequest,
};
use serde_json::{Map, Value, json, value::RawValue};
use std::sync::Arc;

fn label(channel: &str) -> String {
    let mut letters = channel.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

pub(super) fn status(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Result<Value, Fault> {
    let Status { channel, .. } = params::read("channels.status", params)?;
    let mut shown = gateway.channels.shown();
    shown.retain(|(name, _)| channel.as_ref().is_none_or(|wanted| wanted == name));
    let order: Vec<&String> = shown.iter().map(|(name, _)| name).collect();
    let map = |of: &dyn Fn(&String, &Value) -> Value| -> Value {
        shown.iter().map(|(name, account)| (name.clone(), of(name, account))).collect::<Map<_, _>>().into()
    };
    Ok(json!({
        "ts": gateway.now(),
        "channelOrder": order,
        "channelLabels": map(&|name, _| label(name).into()),
        "channels": map(&|_, account| json!({
            "configured": true, "running": true, "connected": account["connected"], "lastError": account["lastError"],
        })),
        "channelAccounts": map(&|_, account| json!([account])),
        "channelDefaultAccountId": map(&|_, _| ACCOUNT.into()),
    }))
}

pub(super) fn requests(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Result<Value, Fault> {
    let Pairing { channel, account_id } = params::read("channels.pairing.list", params)?;
    let wanted = |it: &str| channel.as_ref().is_none_or(|channel| channel == it);
    let ours = account_id.is_none_or(|it| it == ACCOUNT);
    let account = |name: &String| json!({ "channel": name, "channelLabel": label(name), "accountId": ACCOUNT, "notifySupported": true });
    let accounts: Vec<Value> = gateway
        .channels
        .shown()
        .iter()
        .filter(|(name, _)| wanted(name) && ours)
        .map(|(name, _)| account(name))
        .collect();
    let since = gateway.now().saturating_sub(TTL_MS);
    let requests: Vec<Value> = gateway
        .store
        .pairing_requests(since)
        .map_err(lost)?
        .iter()
        .filter(|it| wanted(&it.channel) && ours)
        .map(request)
        .collect();
    Ok(json!({
        "accounts": accounts, "requests": requests, "commandOwnerConfigured": true,
        "limits": { "pendingPerAccount": PENDING, "ttlMs": TTL_MS },
    }))
}

fn request(it: &PairingRequest) -> Value {
    let PairingRequest { id, channel, sender, name, chat: _, created, seen, expires } = it;
    json!({
        "requestId": id, "channel": channel, "channelLabel": label(channel), "accountId": ACCOUNT, "senderId": sender,
        "senderLabel": if name.is_empty() { sender } else { name }, "createdAt": created, "lastSeenAt": seen,
        "expiresAt": expires, "notifySupported": true,
    })
}

/// Takes the request away, if it is one of that channel.
fn decided(gateway: &Gateway, asked: &Decide, paired: bool) -> Result<PairingRequest, Fault> {
    let since = gateway.now().saturating_sub(TTL_MS);
    let known = gateway.store.pairing_requests(since).map_err(lost)?;
    let of = |it: &PairingRequest| it.id == asked.request_id && it.channel == asked.channel;
    if asked.account_id != ACCOUNT || !known.iter().any(of) {
        return Err(Fault::invalid(format!("unknown pairing request: {}", asked.request_id)));
    }
    let decided = gateway.store.decide(&asked.request_id, gateway.now(), paired).map_err(lost)?;
    decided.ok_or_else(|| Fault::invalid(format!("unknown pairing request: {}", asked.request_id)))
}

pub(super) fn approve(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> super::Answer {
    let asked: Decide = match params::read("channels.pairing.approve", params) {
        Ok(asked) => asked,
        Err(fault) => return super::Answer::Now(Err(fault)),
    };
    let gateway = Arc::clone(gateway);
    super::Answer::Later(Box::pin(async move {
        let request = decided(&gateway, &asked, true)?;
        let notification = match (asked.notify, gateway.channels.get(&request.channel)) {
            (Some(true), Some(link)) => {
                match link.say(&request.chat, "You may write to this agent now.").await {
                    Ok(()) => "sent",
                    Err(_) => "failed",
                }
            }
            (Some(true), None) => "failed",
            _ => "not-requested",
        };
        Ok(json!({
            "requestId": request.id, "senderId": request.sender, "notification": notification,
            "commandOwnerBootstrap": "not-requested",
        }))
    }))
}

pub(super) fn dismiss(gateway: &Arc<Gateway>, params: Option<&RawValue>) -> Result<Value, Fault> {
    let asked: Decide = params::read("channels.pairing.dismiss", params)?;
    let request = decided(gateway, &asked, false)?;
    Ok(json!({ "requestId": request.id, "senderId": request.sender }))
}
