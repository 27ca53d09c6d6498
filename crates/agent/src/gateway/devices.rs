//! Devices: which are let in, which ask to be, and what became of it.
//!
//! A device narrows what a client may and never widens it. A member who may let devices in lets their own in by
//! connecting; all others wait until somebody who may has said so.

use super::{Gateway, lock};
use crate::{
    ids,
    protocol::{
        Code, Fault,
        connect::Connect,
        device::{Proven, prove},
        methods::allows,
    },
    server::{Caller, Client},
    store::{Device, Error},
};
use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest::{SHA256, digest},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use cofferdam_base::Scope;
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

/// Devices that may wait; of more, the first is forgotten.
const WAITING: usize = 32;
/// How long one waits, in milliseconds.
const PATIENCE: u64 = 5 * 60 * 1000;
/// How long after its answer a connection ends.
const FAREWELL: Duration = Duration::from_secs(1);
/// Devices that may be in.
const MOST: usize = 1000;

/// The device of a client that is in, and a new token for it.
pub(crate) type Admitted = (Option<String>, Option<String>);

/// Those that wait.
#[derive(Debug, Default)]
pub(crate) struct Waiting(Mutex<VecDeque<Pending>>);

/// A device that waits.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) request: String,
    pub(crate) device: Device,
    /// It was in before, with less.
    pub(crate) again: bool,
    pub(crate) at: u64,
}

impl Pending {
    /// As clients read it.
    pub(crate) fn shown(&self) -> Value {
        let Device { id, public_key, client_id, client_mode, platform, name, scopes, .. } = &self.device;
        let mut shown = json!({
            "requestId": self.request, "deviceId": id, "publicKey": public_key, "platform": platform,
            "clientId": client_id, "clientMode": client_mode, "role": "operator", "roles": ["operator"],
            "scopes": scopes, "silent": false, "isRepair": self.again, "ts": self.at,
        });
        if let Some(name) = name {
            shown["displayName"] = name.as_str().into();
        }
        shown
    }
}

fn lost(error: Error) -> Fault {
    Fault::unavailable(error.to_string())
}

/// A new token, and what is kept of it.
pub(crate) fn fresh_token() -> (String, Vec<u8>) {
    let token = URL_SAFE_NO_PAD.encode(ids::random::<32>());
    let kept = digest(&SHA256, token.as_bytes()).as_ref().to_vec();
    (token, kept)
}

impl Gateway {
    /// Lets a client in: one without a device, and one whose device proves itself and may come in. Gives the device, and
    /// a token for it if it has none.
    pub(crate) fn admit(&self, caller: &Caller, connect: &Connect, nonce: &str) -> Result<Admitted, Fault> {
        let Some(device) = &connect.device else {
            return match connect.auth.as_ref().and_then(|auth| auth.device_token.as_deref()) {
                Some(token) => is_token(None, token).map(|()| (None, None)),
                None => Ok((None, None)),
            };
        };
        let proven = prove(device, connect, nonce, self.now())?;
        let id = proven.id.clone();
        self.admit_device(caller, connect, proven).map(|token| (Some(id), token))
    }

    fn admit_device(
        &self,
        caller: &Caller,
        connect: &Connect,
        proven: Proven,
    ) -> Result<Option<String>, Fault> {
        let wanted: Vec<String> =
            connect.allowed(&caller.cap).iter().map(|scope| scope.as_str().to_owned()).collect();
        let known = self.store.device(&proven.id).map_err(lost)?.filter(|device| device.user == caller.user);
        if let Some(token) = connect.auth.as_ref().and_then(|auth| auth.device_token.as_deref()) {
            is_token(known.as_ref(), token)?;
        }
        let had = known.as_ref().map(|device| device.scopes.clone());
        let device = self.described(caller, connect, proven, known);
        let more = wanted.iter().any(|scope| !device.scopes.contains(scope));
        if had.is_some() && !more {
            return self.seat(device);
        }
        let mut scopes = device.scopes.clone();
        scopes.extend(wanted.into_iter().filter(|scope| !device.scopes.contains(scope)));
        let device = Device { scopes, ..device };
        if allows(&caller.cap, Scope::Pairing) {
            if had.is_none() && self.store.devices().map_err(lost)?.len() >= MOST {
                return Err(Fault::unavailable(format!("{MOST} devices are in already: remove some")));
            }
            tracing::info!(
                device = device.id,
                user = caller.user,
                "a device of a member who may let it in is in"
            );
            let id = device.id.clone();
            let token = self.seat(Device { approved_at: self.now(), ..device })?;
            self.tell_resolved(&ids::uuid(), &id, "approved");
            return Ok(token);
        }
        Err(self.wait(device, had))
    }

    fn described(&self, caller: &Caller, connect: &Connect, proven: Proven, known: Option<Device>) -> Device {
        let client = &connect.client;
        let (scopes, approved_via, approved_at, token) = known.map_or_else(
            || (Vec::new(), "trusted-proxy".to_owned(), self.now(), None),
            |device| (device.scopes, device.approved_via, device.approved_at, device.token),
        );
        Device {
            id: proven.id,
            public_key: proven.public_key,
            user: caller.user.clone(),
            client_id: client.id.clone(),
            client_mode: client.mode.clone(),
            platform: client.platform.clone(),
            name: client.display_name.clone(),
            scopes,
            approved_via,
            approved_at,
            seen_at: self.now(),
            token,
        }
    }

    /// It is in: kept as it is seen now.
    fn seat(&self, device: Device) -> Result<Option<String>, Fault> {
        let (token, device) = if device.token.is_some() {
            (None, device)
        } else {
            let (token, kept) = fresh_token();
            (Some(token), Device { token: Some((kept, self.now())), ..device })
        };
        self.store.put_device(&device).map_err(lost)?;
        Ok(token)
    }

    /// Lets it wait, once however often it comes, and says so to it and to those who may let it in.
    fn wait(&self, device: Device, had: Option<Vec<String>>) -> Fault {
        let mut all = lock(&self.waiting_devices.0);
        all.retain(|it| self.now().saturating_sub(it.at) < PATIENCE);
        let same = |it: &&Pending| {
            (&it.device.id, &it.device.user, &it.device.scopes) == (&device.id, &device.user, &device.scopes)
        };
        let known = all.iter().find(same).cloned();
        let new = known.is_none();
        let pending = known.unwrap_or_else(|| {
            // Whoever asks for something else does not want the old any more.
            all.retain(|it| it.device.id != device.id);
            if all.len() >= WAITING {
                all.pop_front();
            }
            let (request, again) = (ids::uuid(), had.is_some());
            let pending = Pending { request, device, again, at: self.now() };
            all.push_back(pending.clone());
            pending
        });
        drop(all);
        if new {
            self.tell("device.pair.requested", &pending.shown(), |client| client.may(Scope::Pairing));
        }
        let (reason, needs, hint) = match had {
            None => (
                "not-paired",
                "device is not approved yet",
                "Approve this device from the pending pairing requests.",
            ),
            Some(_) => (
                "scope-upgrade",
                "device is asking for more scopes than currently approved",
                "Review the requested scopes, then approve the pending upgrade.",
            ),
        };
        let mut details = json!({
            "code": "PAIRING_REQUIRED", "reason": reason, "requestId": pending.request, "remediationHint": hint,
            "deviceId": pending.device.id, "requestedRole": "operator", "requestedScopes": pending.device.scopes,
        });
        if let Some(scopes) = had {
            details["approvedRoles"] = json!(["operator"]);
            details["approvedScopes"] = scopes.into();
        }
        Fault { code: Code::NotPaired, message: format!("pairing required: {needs}"), details: Some(details) }
    }

    /// Those that wait, the first first.
    pub(crate) fn devices_waiting(&self) -> Vec<Pending> {
        let mut all = lock(&self.waiting_devices.0);
        all.retain(|it| self.now().saturating_sub(it.at) < PATIENCE);
        all.iter().cloned().collect()
    }

    /// Takes one out of those that wait, because it was decided.
    pub(crate) fn decided(&self, request: &str, decision: &str) {
        let mut all = lock(&self.waiting_devices.0);
        let found = all.iter().position(|it| it.request == request).and_then(|at| all.remove(at));
        drop(all);
        if let Some(Pending { device, .. }) = found {
            tracing::info!(device = device.id, decision, "a device that waited");
            self.tell_resolved(request, &device.id, decision);
        }
    }

    fn tell_resolved(&self, request: &str, device: &str, decision: &str) {
        let payload =
            json!({ "requestId": request, "deviceId": device, "decision": decision, "ts": self.now() });
        self.tell("device.pair.resolved", &payload, |client| client.may(Scope::Pairing));
    }

    /// Ends the connections of a device; one of its own that asks for it is answered before.
    pub(crate) fn part(&self, device: &str, asking: &Arc<Client>, why: &'static str) {
        for client in self.state().clients.values().filter(|client| client.device() == Some(device)) {
            if Arc::ptr_eq(client, asking) {
                let client = Arc::clone(client);
                tokio::spawn(async move {
                    tokio::time::sleep(FAREWELL).await;
                    client.end(why);
                });
            } else {
                client.end(why);
            }
        }
    }

    /// Is it connected?
    pub(crate) fn has_device(&self, device: &str) -> bool {
        self.state().clients.values().any(|client| client.device() == Some(device))
    }
}

fn is_token(device: Option<&Device>, token: &str) -> Result<(), Fault> {
    let given = digest(&SHA256, token.as_bytes());
    let kept = device.and_then(|device| device.token.as_ref());
    if kept.is_some_and(|kept| verify_slices_are_equal(&kept.0, given.as_ref()).is_ok()) {
        return Ok(());
    }
    Err(Fault::invalid("unauthorized: device token mismatch (rotate/reissue device token)").with(json!({
        "code": "AUTH_DEVICE_TOKEN_MISMATCH", "authReason": "device_token_mismatch",
        "canRetryWithDeviceToken": false, "recommendedNextStep": "update_auth_credentials",
    })))
}
