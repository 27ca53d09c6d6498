//! `device.*`: who may let devices in, and out.
//!
//! Whoever comes with a device and is no admin is asked about that device alone, as upstream does.

use super::lost;
use crate::{
    gateway::{Gateway, Pending, fresh_token},
    protocol::{
        Fault,
        devices::{Nothing, OfDevice, OfRequest, OfToken},
        params,
    },
    server::Client,
    store::Device,
};
use cofferdam_base::Scope;
use serde_json::{Value, json, value::RawValue};
use std::sync::Arc;

/// May this client decide about that device?
fn decides(client: &Client, device: &str) -> bool {
    client.may(Scope::Admin) || client.device().is_none_or(|own| own == device)
}

fn shown(gateway: &Gateway, device: &Device) -> Value {
    let Device { id, public_key, client_id, client_mode, platform, name, scopes, .. } = device;
    let mut shown = json!({
        "deviceId": id, "publicKey": public_key, "platform": platform, "clientId": client_id,
        "clientMode": client_mode, "role": "operator", "roles": ["operator"], "scopes": scopes,
        "approvedScopes": scopes, "approvedVia": device.approved_via, "approvedAtMs": device.approved_at,
        "createdAtMs": device.approved_at, "lastSeenAtMs": device.seen_at, "connected": gateway.has_device(id),
        "tokens": [],
    });
    if let Some((_, since)) = device.token {
        shown["tokens"] = json!([{ "role": "operator", "scopes": scopes, "createdAtMs": since }]);
    }
    if let Some(name) = name {
        shown["displayName"] = name.as_str().into();
    }
    shown
}

pub(super) fn list(gateway: &Gateway, client: &Client, params: Option<&RawValue>) -> Result<Value, Fault> {
    let Nothing {} = params::read("device.pair.list", params)?;
    let pending = gateway.devices_waiting();
    let pending = pending.iter().filter(|it| decides(client, &it.device.id)).map(Pending::shown);
    let paired = gateway.store.devices().map_err(lost)?;
    let paired =
        paired.iter().filter(|device| decides(client, &device.id)).map(|device| shown(gateway, device));
    Ok(json!({ "pending": pending.collect::<Vec<_>>(), "paired": paired.collect::<Vec<_>>() }))
}

pub(super) fn approve(gateway: &Gateway, client: &Client, params: Option<&RawValue>) -> Result<Value, Fault> {
    let OfRequest { request_id } = params::read("device.pair.approve", params)?;
    let waiting = gateway.devices_waiting().into_iter().find(|it| it.request == request_id.trim());
    let Some(pending) = waiting else { return Err(Fault::invalid("unknown requestId")) };
    if !decides(client, &pending.device.id) {
        return Err(Fault::invalid("device pairing approval denied"));
    }
    // Nobody lets a device do what they may not do themselves.
    let missing = pending.device.scopes.iter().find(|name| {
        Scope::ALL.into_iter().find(|scope| scope.as_str() == **name).is_none_or(|scope| !client.may(scope))
    });
    if let Some(scope) = missing {
        return Err(Fault::invalid(format!("missing scope: {scope}")));
    }
    let at = gateway.now();
    let device = Device { approved_via: "owner".to_owned(), approved_at: at, ..pending.device };
    gateway.store.put_device(&device).map_err(lost)?;
    gateway.decided(&pending.request, "approved");
    Ok(json!({ "requestId": pending.request, "device": shown(gateway, &device) }))
}

pub(super) fn reject(gateway: &Gateway, client: &Client, params: Option<&RawValue>) -> Result<Value, Fault> {
    let OfRequest { request_id } = params::read("device.pair.reject", params)?;
    let waiting = gateway.devices_waiting().into_iter().find(|it| it.request == request_id.trim());
    let Some(pending) = waiting else { return Err(Fault::invalid("unknown requestId")) };
    if !decides(client, &pending.device.id) {
        return Err(Fault::invalid("device pairing rejection denied"));
    }
    gateway.decided(&pending.request, "rejected");
    Ok(json!({ "requestId": pending.request, "deviceId": pending.device.id }))
}

pub(super) fn remove(
    gateway: &Gateway,
    client: &Arc<Client>,
    params: Option<&RawValue>,
) -> Result<Value, Fault> {
    let OfDevice { device_id } = params::read("device.pair.remove", params)?;
    if !decides(client, &device_id) {
        return Err(Fault::invalid("device pairing removal denied"));
    }
    if !gateway.store.remove_device(&device_id).map_err(lost)? {
        return Err(Fault::invalid("unknown deviceId"));
    }
    gateway.part(&device_id, client, "device removed");
    Ok(json!({ "deviceId": device_id }))
}

/// The device that a change of its token is about.
fn with_token(gateway: &Gateway, client: &Client, asked: &OfToken) -> Result<Device, Fault> {
    let denied = || Fault::invalid("device token change denied");
    if !decides(client, &asked.device_id) || asked.role != "operator" {
        return Err(denied());
    }
    gateway.store.device(&asked.device_id).map_err(lost)?.ok_or_else(denied)
}

pub(super) fn rotate(
    gateway: &Gateway,
    client: &Arc<Client>,
    params: Option<&RawValue>,
) -> Result<Value, Fault> {
    let asked: OfToken = params::read("device.token.rotate", params)?;
    let device = with_token(gateway, client, &asked)?;
    // A token with less: the device has less from now on. It never has more than it was let in with.
    let scopes = match asked.scopes {
        Some(scopes) if scopes.iter().all(|scope| device.scopes.contains(scope)) => scopes,
        Some(_) => return Err(Fault::invalid("device token rotation denied")),
        None => device.scopes.clone(),
    };
    let (token, kept) = fresh_token();
    let at = gateway.now();
    let device = Device { scopes, token: Some((kept, at)), ..device };
    gateway.store.put_device(&device).map_err(lost)?;
    let own = client.device() == Some(&*device.id);
    let mut answer = json!({
        "deviceId": device.id, "role": "operator", "scopes": device.scopes, "rotatedAtMs": at,
        "tokenDelivery": if own { "in-band" } else { "withheld-cross-device" },
    });
    if own {
        answer["token"] = token.into();
    }
    gateway.part(&device.id, client, "device token rotated");
    Ok(answer)
}

pub(super) fn revoke(
    gateway: &Gateway,
    client: &Arc<Client>,
    params: Option<&RawValue>,
) -> Result<Value, Fault> {
    let asked: OfToken = params::read("device.token.revoke", params)?;
    if asked.scopes.is_some() {
        return Err(Fault::invalid("invalid device.token.revoke params: `scopes` is of device.token.rotate"));
    }
    let device = with_token(gateway, client, &asked)?;
    // It is in with nothing: what it asks for next waits to be allowed again.
    gateway.store.put_device(&Device { token: None, scopes: Vec::new(), ..device }).map_err(lost)?;
    gateway.part(&asked.device_id, client, "device token revoked");
    Ok(json!({ "deviceId": asked.device_id, "role": "operator", "revokedAtMs": gateway.now() }))
}
