//! A device's proof: that whoever connects holds the key of which the device's name is made.
//!
//! It is bound to this one connection by the challenge's nonce, and it grants nothing: who a client is and what it may,
//! says the edge.

use super::{Fault, connect::Connect};
use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{ED25519, UnparsedPublicKey},
};
use base64::{
    Engine as _,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::URL_SAFE_NO_PAD},
};
use serde::Deserialize;
use serde_json::json;
use std::fmt::Write as _;

/// How far a client's clock may be from ours, in milliseconds.
const SKEW: u64 = 120_000;
/// The longest key or signature, as text.
const LONGEST: usize = 4096;
/// What is before the 32 bytes of an Ed25519 key in its DER form.
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// `device` of `connect`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Device {
    id: String,
    public_key: String,
    signature: String,
    signed_at: u64,
    nonce: String,
}

/// `auth` of `connect`. The edge takes it out; what comes all the same is a part of what a device signs.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "no gateway here has a token or password of its own, but clients send them")]
pub struct Auth {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    bootstrap_token: Option<String>,
    /// What the gateway gave the device before.
    #[serde(default)]
    pub device_token: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    approval_runtime_token: Option<String>,
    #[serde(default)]
    agent_runtime_identity_token: Option<String>,
}

/// A device that proved itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The digest of its key.
    pub id: String,
    /// Its key, as it is written.
    pub public_key: String,
}

/// Judges a proof made for the challenge with this nonce.
pub fn prove(device: &Device, connect: &Connect, nonce: &str, now: u64) -> Result<Proven, Fault> {
    let key = key(&device.public_key);
    let id = key.map(|key| name(&key)).filter(|id| *id == device.id);
    let (Some(key), Some(id)) = (key, id) else {
        return Err(refused("DEVICE_ID_MISMATCH", "device-id-mismatch", "device identity mismatch"));
    };
    if now.abs_diff(device.signed_at) > SKEW {
        return Err(refused("SIGNATURE_EXPIRED", "device-signature-stale", "device signature expired"));
    }
    let given = device.nonce.trim();
    if given.is_empty() {
        return Err(refused("NONCE_REQUIRED", "device-nonce-missing", "device nonce required"));
    }
    if given != nonce {
        return Err(refused("NONCE_MISMATCH", "device-nonce-mismatch", "device nonce mismatch"));
    }
    let signature = decoded(&device.signature).unwrap_or_default();
    let (v2, v3) = signed(device, connect, nonce);
    let verifies =
        |text: &str| UnparsedPublicKey::new(&ED25519, key).verify(text.as_bytes(), &signature).is_ok();
    if !verifies(&v3) && !verifies(&v2) {
        return Err(refused("SIGNATURE_INVALID", "device-signature", "device signature invalid"));
    }
    Ok(Proven { id, public_key: URL_SAFE_NO_PAD.encode(key) })
}

fn refused(code: &str, reason: &str, message: &str) -> Fault {
    Fault::invalid(message).with(json!({ "code": format!("DEVICE_AUTH_{code}"), "reason": reason }))
}

/// What a device signs, in the two forms that there are.
fn signed(device: &Device, connect: &Connect, nonce: &str) -> (String, String) {
    let client = &connect.client;
    let auth = connect.auth.as_ref();
    let token = auth.and_then(|auth| {
        auth.token.as_ref().or(auth.device_token.as_ref()).or(auth.bootstrap_token.as_ref())
    });
    let body = [
        &*device.id,
        &*client.id,
        &*client.mode,
        connect.role.as_deref().unwrap_or("operator"),
        &*connect.scopes.as_deref().unwrap_or_default().join(","),
        &*device.signed_at.to_string(),
        token.map_or("", String::as_str),
        nonce,
    ]
    .join("|");
    let plain = |text: &str| text.trim().to_ascii_lowercase();
    let family = client.device_family.as_deref().unwrap_or_default();
    (format!("v2|{body}"), format!("v3|{body}|{}|{}", plain(&client.platform), plain(family)))
}

/// The name of a device: the digest of its key.
fn name(key: &[u8]) -> String {
    digest(&SHA256, key).as_ref().iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// A key: 32 bytes in base64 of either alphabet, or PEM.
fn key(text: &str) -> Option<[u8; 32]> {
    let der = text.trim().strip_prefix("-----BEGIN PUBLIC KEY-----").map(|rest| {
        let body = rest.strip_suffix("-----END PUBLIC KEY-----")?;
        decoded(&body.split_whitespace().collect::<String>())?.strip_prefix(&SPKI).map(<[u8]>::to_vec)
    });
    der.unwrap_or_else(|| decoded(text))?.try_into().ok()
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let alphabet = if text.contains(['+', '/']) { &STANDARD } else { &URL_SAFE };
    (text.len() <= LONGEST).then(|| GeneralPurpose::new(alphabet, config).decode(text).ok())?
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
    use base64::engine::general_purpose;
    use serde_json::Value;

    /// The parameters of a `connect` with a device of this seed, signed as a stock client does.
    pub(crate) fn signed_connect(seed: u8, version: &str, nonce: &str, at: u64, mut params: Value) -> Value {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let key = pair.public_key().as_ref();
        let scopes: Vec<&str> =
            params["scopes"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let token = [&params["auth"]["token"], &params["auth"]["deviceToken"]].map(text);
        let mut payload = [
            version,
            &name(key),
            &text(&params["client"]["id"]),
            &text(&params["client"]["mode"]),
            "operator",
            &scopes.join(","),
            &at.to_string(),
            token.iter().find(|token| !token.is_empty()).map_or("", String::as_str),
            nonce,
        ]
        .join("|");
        if version == "v3" {
            payload = format!("{payload}|{}|", text(&params["client"]["platform"]).to_lowercase());
        }
        params["device"] = json!({
            "id": name(key), "publicKey": URL_SAFE_NO_PAD.encode(key), "nonce": nonce, "signedAt": at,
            "signature": URL_SAFE_NO_PAD.encode(pair.sign(payload.as_bytes())),
        });
        params
    }

    fn params() -> Value {
        json!({
            "minProtocol": 4, "maxProtocol": 4, "role": "operator", "scopes": ["operator.read", "operator.write"],
            "client": { "id": "cli", "version": "1", "platform": "Linux", "mode": "cli" }, "auth": { "token": "T" },
        })
    }

    fn judged(params: &Value, nonce: &str, now: u64) -> Result<Proven, Fault> {
        let connect = Connect::parse(&params.to_string()).unwrap();
        prove(connect.device.as_ref().unwrap(), &connect, nonce, now)
    }

    #[test]
    fn both_forms_of_a_proof_hold_for_their_challenge_and_nothing_else() {
        let now = 1_795_330_345_458;
        for version in ["v2", "v3"] {
            let good = signed_connect(1, version, "n1", now - SKEW, params());
            let proven = judged(&good, "n1", now).unwrap();
            assert_eq!(proven.id, good["device"]["id"]);
            let code = |params: &Value, nonce: &str, now: u64| {
                judged(params, nonce, now).unwrap_err().details.unwrap()["code"].as_str().unwrap().to_owned()
            };
            assert_eq!(code(&good, "n2", now), "DEVICE_AUTH_NONCE_MISMATCH");
            assert_eq!(code(&good, "n1", now + 1), "DEVICE_AUTH_SIGNATURE_EXPIRED");
            assert_eq!(code(&good, "n1", now - 2 * SKEW - 1), "DEVICE_AUTH_SIGNATURE_EXPIRED");
            let with = |pointer: &str, value: Value| {
                let mut bad = good.clone();
                *bad.pointer_mut(pointer).unwrap() = value;
                code(&bad, "n1", now)
            };
            assert_eq!(with("/device/nonce", json!(" ")), "DEVICE_AUTH_NONCE_REQUIRED");
            let other = signed_connect(2, version, "n1", now, params());
            assert_eq!(
                with("/device/publicKey", other["device"]["publicKey"].clone()),
                "DEVICE_AUTH_DEVICE_ID_MISMATCH"
            );
            assert_eq!(with("/device/publicKey", json!("?")), "DEVICE_AUTH_DEVICE_ID_MISMATCH");
            // Whatever was signed is meant.
            for (pointer, value) in [
                ("/device/signature", other["device"]["signature"].clone()),
                ("/device/signature", json!("")),
                ("/device/signedAt", json!(now - 1)),
                ("/scopes/0", json!("operator.admin")),
                ("/client/id", json!("openclaw-tui")),
                ("/client/mode", json!("ui")),
                ("/auth/token", json!("U")),
            ] {
                assert_eq!(with(pointer, value), "DEVICE_AUTH_SIGNATURE_INVALID", "{version} {pointer}");
            }
        }
        let mut moved = signed_connect(1, "v3", "n1", now, params());
        moved["client"]["platform"] = json!("darwin");
        assert!(judged(&moved, "n1", now).is_err());
    }

    #[test]
    fn a_key_is_read_in_each_form_in_which_clients_write_it() {
        let raw = [251_u8; 32];
        let der = [&SPKI[..], &raw].concat();
        let pem = |der: &[u8]| {
            format!(
                "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
                general_purpose::STANDARD.encode(der)
            )
        };
        for text in [URL_SAFE_NO_PAD.encode(raw), general_purpose::STANDARD.encode(raw), pem(&der)] {
            assert_eq!(key(&text), Some(raw), "{text}");
        }
        for text in ["", "?", &URL_SAFE_NO_PAD.encode(&raw[1..]), &pem(&raw), &"A".repeat(LONGEST + 1)] {
            assert_eq!(key(text), None, "{text}");
        }
    }
}
