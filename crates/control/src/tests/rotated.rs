//! A refresh token that a warden got and sealed: what is kept of that, and what is not.

use super::{
    hubs::{next, running},
    memory::Memory,
    world::{Warden, acme, globex},
};
use crate::{api::types::SecretValue, host::Host};
use cofferdam_base::{
    Secret, SecretName,
    binding::Binding,
    ipc::warden::{Command, Report, SealedSecret},
};
use cofferdam_vault::DataKey;
use serde_json::json;
use std::sync::Arc;

const FIRST: &str = r#"{"refresh_token":"refresh-token-1"}"#;
const SECOND: &str = r#"{"refresh_token":"refresh-token-2"}"#;

fn binding(kind: &serde_json::Value) -> Binding {
    let binding = json!({
        "to": "https://api.example.com:443/**", "spot": "header:authorization", "format": "{}", "kind": kind
    });
    serde_json::from_value(binding).unwrap()
}

fn oauth(client: &str) -> Binding {
    binding(&json!({ "oauth": { "endpoint": "https://auth.example.com/token", "client_id": client } }))
}

fn named(name: &str) -> SecretName {
    name.parse().unwrap()
}

async fn put(host: &Host, name: &str, binding: Option<Binding>, value: &str) {
    let value = SecretValue { value: value.to_owned(), purpose: None, binding };
    host.secret_set(&acme(), named(name), value).await.unwrap();
}

/// How often a secret was set, by the ledger.
fn set(disk: &Memory) -> usize {
    disk.kinds().iter().filter(|kind| *kind == "secret_set").count()
}

fn sealed(key: &DataKey, name: &str, version: u32, purpose: &str, value: &str) -> SealedSecret {
    let value = Secret::new(value.as_bytes().to_vec());
    key.seal_secret(&acme(), &named(name), version, purpose, &value).unwrap()
}

/// What its warden is sent of the secrets after it told that one rotated.
async fn told(warden: &Arc<Warden>, secret: &SealedSecret) -> Vec<SealedSecret> {
    warden.report(&Report::Rotated { secret: secret.clone() });
    secrets(warden).await
}

async fn secrets(warden: &Arc<Warden>) -> Vec<SealedSecret> {
    loop {
        if let Command::Secrets { secrets } = next(warden).await {
            return secrets;
        }
    }
}

#[tokio::test]
async fn a_rotated_refresh_token_is_kept_if_it_is_one_that_follows_and_nothing_else_is() {
    let (world, warden) = running().await;
    let host = &world.host;
    let aws = binding(&json!({ "aws": "s3/eu-west-1" }));
    let keys = r#"{"access_key_id":"AKIA0123456789","secret_access_key":"a-secret-access-key"}"#;
    let bound = Binding { kind: None, ..aws.clone() };
    let mut before = Vec::new();
    for (name, binding, value) in [
        ("TOKEN", Some(oauth("cofferdam")), FIRST),
        ("KEYS", Some(aws.clone()), keys),
        ("BOUND", Some(bound.clone()), "a-bound-value"),
        ("PLAIN", None, "a-plain-value"),
    ] {
        put(host, name, binding, value).await;
        before = secrets(&warden).await;
    }
    assert_eq!(before.len(), 4);
    let written = set(&world.disk);
    let key = host.data_key(&acme()).await.unwrap();
    let purpose = oauth("cofferdam").to_purpose();
    let good = sealed(&key, "TOKEN", 2, &purpose, SECOND);
    let other_key = DataKey::generate().unwrap();
    let other_tenant = key
        .seal_secret(&globex(), &named("TOKEN"), 2, &purpose, &Secret::new(SECOND.as_bytes().to_vec()))
        .unwrap();
    let long = format!("{}{SECOND}", " ".repeat(20_000));
    for (what, refused) in [
        ("no envelope", SealedSecret { envelope: "AAAA".to_owned(), ..good.clone() }),
        ("an envelope of another key", sealed(&other_key, "TOKEN", 2, &purpose, SECOND)),
        ("an envelope of another tenant", other_tenant),
        (
            "an envelope of another name",
            SealedSecret { name: named("TOKEN"), ..sealed(&key, "KEYS", 2, &purpose, SECOND) },
        ),
        ("one that is too long", sealed(&key, "TOKEN", 2, &purpose, &long)),
        ("no refresh token", sealed(&key, "TOKEN", 2, &purpose, "refresh-token-2")),
        ("the version that is kept", sealed(&key, "TOKEN", 1, &purpose, SECOND)),
        ("a version too far", sealed(&key, "TOKEN", 3, &purpose, SECOND)),
        ("another client's", sealed(&key, "TOKEN", 2, &oauth("another").to_purpose(), SECOND)),
        ("a secret that is not there", sealed(&key, "OTHER", 1, &purpose, SECOND)),
        ("AWS keys", sealed(&key, "KEYS", 2, &aws.to_purpose(), keys)),
        ("a bound value", sealed(&key, "BOUND", 2, &bound.to_purpose(), "another-value")),
        ("a value that is not bound", sealed(&key, "PLAIN", 2, "model", "another-value")),
    ] {
        assert_eq!(told(&warden, &refused).await, before, "{what}");
        assert_eq!(set(&world.disk), written, "{what}");
    }
    let after = told(&warden, &good).await;
    assert!(after.contains(&good) && after.len() == 4, "{after:?}");
    assert_eq!(set(&world.disk), written + 1);
    // Told again it changes nothing, and neither does the one before it.
    let first = before.iter().find(|it| it.name == good.name).unwrap();
    for again in [&good, first] {
        assert_eq!(told(&warden, again).await, after);
        assert_eq!(set(&world.disk), written + 1);
    }
}
