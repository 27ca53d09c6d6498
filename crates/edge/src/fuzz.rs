//! What must hold of anything that a stranger sends the edge, for `fuzz/`.
//!
//! It owns no parser: each is called as the product calls it. The threats: a frame, a head or a token that
//! the edge and a gateway read differently, and a claim that was never signed.

use crate::{
    headers, methods, origin,
    proxy::{self, Reply},
    token::{Issuer, Verified},
    ws::{
        fuzz::{first_frame, framed},
        upgrade_answer, wanted,
    },
};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use cofferdam_base::{
    AUDIENCE, Claims, MAX_TOKEN, MemberId, Millis, Role, Scope, Slot, TenantId, ipc::edge::PublicKey,
};
use http::{HeaderMap, HeaderValue, Request, Response, header, request::Parts};
use std::{net::SocketAddr, sync::LazyLock};

/// The issuer's name and key, and the moment, in every run.
const ISSUER: &str = "fuzz";
const NOW: Millis = Millis(1_500_000);

static KEY: LazyLock<Ed25519KeyPair> =
    LazyLock::new(|| Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("any 32 bytes are a seed"));
static TRUSTED: LazyLock<Issuer> = LazyLock::new(|| {
    let x = B64.encode(KEY.public_key().as_ref());
    Issuer::new(ISSUER.into(), &[PublicKey { kid: "k1".into(), x }])
});

/// Any bytes as a token; and, if there is a line break in them, as a header and claims that our key signed.
pub fn token(bytes: &[u8]) {
    if let Ok(verified) = TRUSTED.verify(bytes, NOW) {
        genuine(bytes, &verified);
    }
    let Some(at) = bytes.iter().position(|byte| *byte == b'\n') else { return };
    let message = format!("{}.{}", B64.encode(&bytes[..at]), B64.encode(&bytes[at + 1..]));
    let signed = format!("{message}.{}", B64.encode(KEY.sign(message.as_bytes())));
    let Ok(verified) = TRUSTED.verify(signed.as_bytes(), NOW) else { return };
    genuine(signed.as_bytes(), &verified);
    let claims: Claims = serde_json::from_slice(&bytes[at + 1..]).expect("verified claims parse");
    assert_eq!(claims, verified.claims);
    // One bit of the signature, and one of what was signed.
    for place in [message.len() + 1, at / 2] {
        let mut forged = signed.clone().into_bytes();
        forged[place] = if forged[place] == b'A' { b'B' } else { b'A' };
        assert!(TRUSTED.verify(&forged, NOW).is_err(), "a forged token");
    }
    assert!(Issuer::default().verify(signed.as_bytes(), NOW).is_err(), "a key that nobody trusts");
}

/// A token that was taken is ours, whole, and no more than its role.
fn genuine(token: &[u8], verified: &Verified) {
    let Verified { claims, kid, scopes, user_header, scopes_header } = verified;
    assert!(token.len() <= MAX_TOKEN && kid == "k1");
    assert!(claims.iss == ISSUER && claims.aud == AUDIENCE);
    assert!(claims.iat < claims.exp && !verified.expired(NOW) && verified.expired(Millis(u64::MAX)));
    assert!(scopes.is_subset(&claims.role.ceiling()) && scopes.is_subset(&claims.scp));
    assert_eq!(user_header, claims.mid.as_str());
    assert_eq!(scopes_header.to_str().map(|list| list.split(',').count()).ok(), Some(scopes.len().max(1)));
    assert!(TRUSTED.knows(verified) && verified.at(&claims.tid).is_ok());
}

/// Any bytes as the frames of a client and of a gateway.
pub fn frames(bytes: &[u8]) {
    framed(bytes);
}

/// Any text as the first frame of a client, and as any later one.
pub fn connect(bytes: &[u8]) {
    first_frame(bytes);
}

/// How the HTTP of strangers is read.
pub fn reader() -> hyper::server::conn::http1::Builder {
    crate::connection::reader()
}

/// How requests are written into cells.
pub fn writer() -> hyper::client::conn::http1::Builder {
    proxy::builder()
}

/// What a request that was read becomes on its way into the cell of `acme`, if it may go there at all.
pub fn inward(parts: &Parts) -> Option<Request<()>> {
    let acme = TenantId::try_from("acme").expect("an id");
    let by_slot = |slot: Slot| match slot.number() {
        2 => Some(acme.clone()),
        3 => TenantId::try_from("globex").ok(),
        _ => None,
    };
    let local = SocketAddr::from(([127, 0, 0, 1], 8471));
    let arrival = origin::Arrival { tenant: None, local };
    let tenant = origin::addressed(&parts.headers, &arrival, by_slot).ok()?;
    origin::admissible(&parts.headers, &tenant, Slot::FIRST, local.port()).ok()?;
    let host = origin::only(&parts.headers, &header::HOST).expect("an admitted request has one Host");
    assert!(host.len() <= 64 && !host.contains(['/', '@', ' ']), "{host}");
    if wanted(&parts.headers) {
        upgrade(upgrade_answer(&parts.method, &parts.headers).ok()?);
    }
    // Whoever reads only, at most asks; nobody is let into the control plane.
    let viewer = Role::Viewer.ceiling();
    if methods::http::gate(&parts.method, parts.uri.path(), &viewer) == methods::Gate::Open {
        assert!(parts.method.is_safe(), "{}", parts.method);
    }
    assert!(!parts.uri.path().contains("/api/v1/admin/") || closed(parts));
    let token = member(tenant);
    let host = HeaderValue::from_str(host).expect("it was a header");
    let identity = headers::Identity { token: &token, peer: local.ip(), host: &host };
    alone(&headers::inbound(parts.headers.clone(), &identity), &token);
    proxy::inside(parts.clone(), &identity).ok()
}

fn closed(parts: &Parts) -> bool {
    let admin = Role::Admin.ceiling();
    methods::http::gate(&parts.method, parts.uri.path(), &admin) == methods::Gate::ControlOnly
}

fn member(tid: TenantId) -> Verified {
    let claims = Claims {
        iss: ISSUER.into(),
        aud: AUDIENCE.into(),
        sub: "ada".into(),
        tid,
        mid: MemberId::of(1),
        role: Role::Member,
        scp: Scope::ALL.into(),
        jti: "j".into(),
        iat: 1_000,
        exp: 2_000,
    };
    let payload = serde_json::to_vec(&claims).expect("claims are JSON");
    let message =
        format!("{}.{}", B64.encode(r#"{"alg":"EdDSA","typ":"JWT","kid":"k1"}"#), B64.encode(payload));
    let signed = format!("{message}.{}", B64.encode(KEY.sign(message.as_bytes())));
    TRUSTED.verify(signed.as_bytes(), NOW).expect("our own token")
}

/// Who asks is said once, by us, and nothing else says it.
fn alone(headers: &HeaderMap, token: &Verified) {
    let once = |name: &str| {
        let mut values = headers.get_all(name).iter();
        let first = values.next().cloned();
        assert!(values.next().is_none(), "{name} twice");
        first
    };
    assert_eq!(once("x-cofferdam-user").as_ref(), Some(&token.user_header));
    assert_eq!(once("x-openclaw-scopes").as_ref(), Some(&token.scopes_header));
    for name in ["host", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"] {
        assert!(once(name).is_some(), "{name}");
    }
    for name in ["authorization", "cookie", "connection", "upgrade", "transfer-encoding", "te", "forwarded"] {
        assert!(!headers.contains_key(name), "{name}");
    }
    assert!(headers.keys().all(|name| !name.as_str().contains('_')));
}

/// An upgrade that is granted promises a version and a protocol that we speak, and no extension.
fn upgrade(answer: Response<Reply>) {
    assert_eq!(answer.status(), http::StatusCode::SWITCHING_PROTOCOLS);
    let accepted = origin::only(answer.headers(), &header::SEC_WEBSOCKET_ACCEPT).map(str::len);
    assert_eq!(accepted, Some(28));
    assert_eq!(answer.headers().len(), 3);
}
