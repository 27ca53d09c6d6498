//! Tokens at the edge of a whole host: whose opens what, what is no token of ours, and how soon a revocation
//! is felt. What is not refused streams both ways.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod host;
mod world;

use aws_lc_rs::hmac;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use host::Host;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use std::{
    fs,
    time::{Duration, Instant},
};
use tokio_tungstenite::tungstenite::Message;

fn part(token: &str, number: usize) -> Value {
    serde_json::from_slice(&BASE64.decode(token.split('.').nth(number).unwrap()).unwrap()).unwrap()
}

#[test]
fn a_token_opens_its_own_tenant_and_nothing_else_is_a_token() {
    let host = Host::with(&["acme", "globex"]);
    let (token, jti) = host.token("acme", "member");
    assert_eq!(host.get("acme", "/", &token).status, 200);
    let foreign = host.get("globex", "/", &token);
    assert_eq!((foreign.status, foreign.header("cofferdam-reason")), (401, Some("token_other_tenant")));
    assert_eq!(host.get("globex", "/", &host.token("globex", "viewer").0).status, 200);
    assert_eq!(host.http("acme", "/", &[]).status, 401);

    // Signed with the host's own key, so that nothing but the claim itself is wrong.
    let key = fs::read_dir(host.dir.join("control/keys")).unwrap().flatten().map(|entry| entry.path());
    let key = key.into_iter().find(|path| !path.ends_with("master.key")).unwrap();
    let pkcs8 = fs::read(key).unwrap();
    let head = part(&token, 0);
    let kid = head["kid"].as_str().unwrap().to_owned();
    let good = part(&token, 1);
    let sign = |change: &dyn Fn(&mut Value)| {
        let mut claims = good.clone();
        change(&mut claims);
        let header = Header { kid: Some(kid.clone()), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ed_der(&pkcs8)).unwrap()
    };
    let body = token.split('.').nth(1).unwrap();
    let unsigned = |algorithm: &str| {
        let header = json!({"typ": "JWT", "alg": algorithm, "kid": kid});
        format!("{}.{body}", BASE64.encode(header.to_string()))
    };
    let pair = aws_lc_rs::signature::Ed25519KeyPair::from_pkcs8(&pkcs8).unwrap();
    let public = aws_lc_rs::signature::KeyPair::public_key(&pair).as_ref().to_vec();
    let by_public = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &public), unsigned("HS256").as_bytes());
    let issued = good["iat"].as_u64().unwrap();
    // The control of the forger: what it signs unchanged is good.
    assert_eq!(host.get("acme", "/", &sign(&|_| {})).status, 200);
    for (what, bad, code) in [
        ("no exp", sign(&|claims| drop(claims.as_object_mut().unwrap().remove("exp"))), "token_claims"),
        ("aud", sign(&|claims| claims["aud"] = "another".into()), "token_audience"),
        ("none", format!("{}.", unsigned("none")), "token_algorithm"),
        ("HS256", format!("{}.{}", unsigned("HS256"), BASE64.encode(by_public)), "token_algorithm"),
        (
            "expired",
            sign(&|claims| {
                claims["iat"] = (issued - 900).into();
                claims["exp"] = (issued - 600).into();
            }),
            "token_expired",
        ),
    ] {
        let refused = host.get("acme", "/", &bad);
        assert_eq!((refused.status, refused.header("cofferdam-reason")), (401, Some(code)), "{what}");
    }
    let bearer = format!("Authorization: Bearer {token}");
    let own = format!("Origin: http://acme.localhost:{}", host::PORT);
    assert_eq!(host.http("acme", "/", &[&bearer, &own]).status, 200);
    let other = own.replace("acme", "globex");
    assert_eq!(host.http("acme", "/", &[&bearer, &other]).status, 403);

    host.json(&["token", "revoke", &jti]);
    let revoked = host.get("acme", "/", &token);
    assert_eq!((revoked.status, revoked.header("cofferdam-reason")), (401, Some("token_revoked")));
}

#[test]
fn events_and_messages_pass_the_edge_and_a_socket_closes_within_a_second_of_revocation() {
    let host = Host::with(&["acme", "globex"]);
    let (token, jti) = host.token("acme", "member");
    let events = host.get("acme", "/sse?n=5", &token);
    assert_eq!(events.header("content-type"), Some("text/event-stream"));
    let data = (1..=5).fold(String::new(), |text, number| text + &format!("data: {number}\n\n"));
    assert_eq!(events.body(), data);

    assert_eq!(host.ws("globex", &token).err(), Some(401));
    let mut socket = host.ws("acme", &token).unwrap();
    let (kept, _) = host.token("acme", "member");
    let mut other = host.ws("acme", &kept).unwrap();
    for text in ["hello", &"x".repeat(200_000)] {
        for socket in [&mut socket, &mut other] {
            socket.send(Message::text(text)).unwrap();
            assert_eq!(socket.read().unwrap(), Message::text(text));
        }
    }
    host.json(&["token", "revoke", &jti]);
    let revoked = Instant::now();
    while socket.read().is_ok_and(|message| !message.is_close()) {}
    assert!(revoked.elapsed() < Duration::from_secs(1), "{:?}", revoked.elapsed());
    assert_eq!(host.ws("acme", &token).err(), Some(401));
    // Another token's socket goes on.
    other.send(Message::text("still")).unwrap();
    assert_eq!(other.read().unwrap(), Message::text("still"));
}
