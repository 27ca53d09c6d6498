//! Every way in which a token is no good, each beside one that is.
#![allow(clippy::unwrap_used)]

use super::*;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use cofferdam_base::{MemberId, Role};
use jsonwebtoken::{EncodingKey, Header};
use proptest::prelude::*;
use serde_json::{Value, json};

/// An issuer's private side.
pub(crate) struct Signer {
    kid: String,
    pkcs8: Vec<u8>,
    pub(crate) public: PublicKey,
}

impl Signer {
    pub(crate) fn new(kid: &str) -> Self {
        use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
        let pair = Ed25519KeyPair::generate().unwrap();
        let public = PublicKey { kid: kid.into(), x: B64.encode(pair.public_key().as_ref()) };
        Self { kid: kid.into(), pkcs8: pair.to_pkcs8v1().unwrap().as_ref().to_vec(), public }
    }

    pub(crate) fn sign(&self, claims: &impl serde::Serialize) -> String {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.kid.clone());
        jsonwebtoken::encode(&header, claims, &EncodingKey::from_ed_der(&self.pkcs8)).unwrap()
    }

    /// Signs exactly this header and payload, whatever they say.
    pub(crate) fn sign_raw(&self, header: &str, payload: &str) -> String {
        let message = format!("{}.{}", B64.encode(header), B64.encode(payload));
        let key = EncodingKey::from_ed_der(&self.pkcs8);
        let signature = crypto::sign(message.as_bytes(), &key, Algorithm::EdDSA).unwrap();
        format!("{message}.{signature}")
    }

    pub(crate) fn issuer(&self) -> Issuer {
        Issuer::new("test-host".into(), std::slice::from_ref(&self.public))
    }

    pub(crate) fn verified(&self, claims: &Claims) -> Verified {
        self.issuer().verify(self.sign(claims).as_bytes(), Millis(claims.iat * 1000)).unwrap()
    }
}

pub(crate) fn claims(tenant: &str) -> Claims {
    Claims {
        iss: "test-host".into(),
        aud: AUDIENCE.into(),
        sub: "ada".into(),
        tid: TenantId::try_from(tenant).unwrap(),
        mid: MemberId::of(1),
        role: Role::Member,
        scp: Scope::ALL.into(),
        jti: "j1".into(),
        iat: 1_000,
        exp: 2_000,
    }
}

const NOW: Millis = Millis(1_500_000);

fn changed(change: impl FnOnce(&mut Value)) -> Value {
    let mut value = serde_json::to_value(claims("acme")).unwrap();
    change(&mut value);
    value
}

#[test]
fn a_good_token_is_good_until_its_last_millisecond() {
    let signer = Signer::new("k1");
    let token = signer.sign(&claims("acme"));
    let issuer = signer.issuer();
    let verified = issuer.verify(token.as_bytes(), NOW).unwrap();
    assert_eq!(verified.claims, claims("acme"));
    assert_eq!(verified.scopes, Role::Member.ceiling());
    assert!(issuer.verify(token.as_bytes(), Millis(1_999_999)).is_ok());
    assert_eq!(issuer.verify(token.as_bytes(), Millis(2_000_000)).unwrap_err(), TokenError::Expired);
    assert!(issuer.verify(token.as_bytes(), Millis(940_000)).is_ok());
    assert_eq!(issuer.verify(token.as_bytes(), Millis(939_000)).unwrap_err(), TokenError::NotYet);
    assert_eq!(verified.at(&TenantId::try_from("globex").unwrap()), Err(TokenError::OtherTenant));
    assert_eq!(verified.at(&TenantId::try_from("acme").unwrap()), Ok(()));
}

#[test]
fn every_claim_is_required_and_no_other_is_taken() {
    let signer = Signer::new("k1");
    let issuer = signer.issuer();
    let verdict = |value: &Value| issuer.verify(signer.sign(value).as_bytes(), NOW).map(|_| ());
    assert_eq!(verdict(&changed(|_| ())), Ok(()));
    for claim in ["iss", "aud", "sub", "tid", "mid", "role", "scp", "jti", "iat", "exp"] {
        let without = changed(|value| {
            value.as_object_mut().unwrap().remove(claim);
        });
        assert_eq!(verdict(&without), Err(TokenError::Claims), "{claim}");
    }
    for (claim, value, error) in [
        ("aud", json!("another"), TokenError::Audience),
        ("aud", json!(["cofferdam"]), TokenError::Claims),
        ("iss", json!("another"), TokenError::Audience),
        ("tid", json!("../x"), TokenError::Claims),
        ("mid", json!("root"), TokenError::Claims),
        ("role", json!("owner"), TokenError::Claims),
        ("scp", json!("operator.read"), TokenError::Claims),
        ("exp", json!("2000"), TokenError::Claims),
        ("exp", json!(1000), TokenError::NotYet),
        ("exp", json!(1001), TokenError::Expired),
        ("nbf", json!(1), TokenError::Claims),
        ("jti", json!(""), TokenError::Claims),
        ("sub", json!("a\nb"), TokenError::Claims),
    ] {
        let other = changed(|object| object[claim] = value.clone());
        assert_eq!(verdict(&other), Err(error), "{claim} {value}");
    }
}

#[test]
fn no_other_algorithm_header_or_key_is_taken() {
    let signer = Signer::new("k1");
    let issuer = signer.issuer();
    let payload = serde_json::to_string(&claims("acme")).unwrap();
    let verdict = |token: &str| issuer.verify(token.as_bytes(), NOW).map(|_| ());
    let good = r#"{"alg":"EdDSA","typ":"JWT","kid":"k1"}"#;
    assert_eq!(verdict(&signer.sign_raw(good, &payload)), Ok(()));
    for (header, error) in [
        (r#"{"alg":"none","typ":"JWT","kid":"k1"}"#, TokenError::Algorithm),
        (r#"{"alg":"HS256","typ":"JWT","kid":"k1"}"#, TokenError::Algorithm),
        (r#"{"alg":"EdDSA","kid":"k1"}"#, TokenError::Algorithm),
        (r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k1"}"#, TokenError::Algorithm),
        (r#"{"alg":"EdDSA","typ":"JWT"}"#, TokenError::Algorithm),
        (r#"{"alg":"EdDSA","alg":"EdDSA","typ":"JWT","kid":"k1"}"#, TokenError::Algorithm),
        (r#"{"alg":"EdDSA","typ":"JWT","kid":"k1","crit":["b64"]}"#, TokenError::Algorithm),
        (r#"{"alg":"EdDSA","typ":"JWT","kid":"k2"}"#, TokenError::UnknownKey),
    ] {
        assert_eq!(verdict(&signer.sign_raw(header, &payload)), Err(error), "{header}");
    }
    // HMAC under the public key, as a verifier that trusts the header would compute it.
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("k1".into());
    let public = B64.decode(&signer.public.x).unwrap();
    let forged = jsonwebtoken::encode(&header, &claims("acme"), &EncodingKey::from_secret(&public)).unwrap();
    assert_eq!(verdict(&forged), Err(TokenError::Algorithm));
    let unsigned =
        format!("{}.{}.", B64.encode(r#"{"alg":"none","typ":"JWT","kid":"k1"}"#), B64.encode(&payload));
    assert_eq!(verdict(&unsigned), Err(TokenError::Algorithm));
    let bare = format!("{}.{}.", B64.encode(good), B64.encode(&payload));
    assert_eq!(verdict(&bare), Err(TokenError::Signature));
    let stranger = Signer::new("k1").sign(&claims("acme"));
    assert_eq!(verdict(&stranger), Err(TokenError::Signature));
    assert_eq!(verdict(&"a".repeat(MAX_TOKEN + 1)), Err(TokenError::Malformed));
    for text in ["", ".", "..", "...", "a.b", "a.b.c.d", "é.é.é"] {
        assert!(verdict(text).is_err(), "{text}");
    }
}

#[test]
fn the_cache_keeps_what_is_used_and_forgets_what_is_revoked() {
    let token = std::sync::Arc::new(Signer::new("k1").verified(&claims("acme")));
    let mut cache = Cache::default();
    let first = cache::key(b"first");
    cache.keep(first, token.clone());
    for round in 0..cache::CAPACITY {
        cache.keep(cache::key(&round.to_be_bytes()), token.clone());
        assert!(cache.find(&first).is_some(), "used in round {round}");
    }
    let mut idle = Cache::default();
    idle.keep(first, token.clone());
    for round in 0..cache::CAPACITY {
        idle.keep(cache::key(&round.to_be_bytes()), token.clone());
    }
    assert!(idle.find(&first).is_none());
    cache.forget("j2");
    assert!(cache.find(&first).is_some());
    cache.forget("j1");
    assert!(cache.find(&first).is_none());
}

proptest! {
    #[test]
    fn no_text_panics(token in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Issuer::default().verify(&token, NOW).is_err());
    }

    #[test]
    fn no_changed_byte_passes(at in 0usize..300, bit in 0u8..8) {
        let signer = Signer::new("k1");
        let mut token = signer.sign(&claims("acme")).into_bytes();
        let at = at % token.len();
        token[at] ^= 1 << bit;
        prop_assert!(signer.issuer().verify(&token, NOW).is_err());
    }
}
