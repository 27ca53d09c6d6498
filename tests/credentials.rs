//! A credential that never enters a cell, on a whole host with a real curl: its placeholder goes in, the secret goes
//! out where it is bound, and nowhere else.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod host;
mod world;

use host::{Host, until};
use serde_json::{Value, json};
use world::{WEB_NAME, http::Reply};

const KEY: &str = "sk-bound/Zx81-0123456789";
const POLICY: &str = "version: 1\ndefault: deny\nrules:\n  - {allow: web.example.com, protocol: http}\n  - {allow: models.example.com, protocol: http}\n";

/// The variable, as a shell in the cell knows it.
const RUNTIME: &str = "$API_KEY";

fn set(host: &Host, name: &str, arguments: &[&str], value: &str) -> std::process::Output {
    host.feed(&[&["--json", "secret", "set", "acme", name], arguments].concat(), value)
}

fn shell(host: &Host, script: &str) -> String {
    let output = host.exec("acme", &["sh", "-c", script]);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn rows(host: &Host) -> Vec<Value> {
    let output = host.cli(&["--json", "ledger", "tail", "--count", "1000"]);
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn denials(host: &Host) -> usize {
    let elsewhere = |row: &Value| row["kind"] == "deny" && row["body"]["reason"] == "placeholder_elsewhere";
    rows(host).iter().filter(|row| elsewhere(row)).count()
}

/// The secrets that requests bore, by what was asked for.
fn borne(host: &Host) -> Vec<(String, Value)> {
    let allowed = |row: &Value| {
        let body = &row["body"];
        let asked = body["request"].as_str().filter(|asked| row["kind"] == "allow" && !asked.is_empty())?;
        Some((asked.to_owned(), body["secrets"].clone()))
    };
    rows(host).iter().filter_map(allowed).collect()
}

#[test]
fn a_key_arrives_where_it_is_bound_and_is_nowhere_in_the_cell() {
    let mut host = Host::with(&["acme", "globex"]);
    host.world.web.page("/v1/me", Reply::text(200, "it arrived"));
    host.world.web.page("/v1/echo", Reply::text(200, &format!("you sent {KEY}, did you not")));
    host.policy("acme", POLICY);
    let bind =
        ["--bind", "http://web.example.com:80/v1/**", "--in", "header:X-Api-Key", "--format", "Key {}"];
    let output = set(&host, "KEY", &[&bind[..], &["--env", "API_KEY", "--file", "api-key"]].concat(), KEY);
    assert!(output.status.success(), "{output:?}");
    let row: Value = serde_json::from_slice(&output.stdout).unwrap();
    let placeholder = row["placeholder"].as_str().unwrap().to_owned();
    assert!(placeholder.starts_with("cofferdam_placeholder_") && row["binding"]["env"] == "API_KEY", "{row}");
    let listed = String::from_utf8(host.cli(&["secret", "list", "acme"]).stdout).unwrap();
    let shown = "http://web.example.com:80/v1/** in header:x-api-key as \"Key {}\", env API_KEY";
    assert!(listed.contains(shown) && !listed.contains(KEY), "{listed}");
    host.json(&["tenant", "restart", "acme"]);
    host.ready("acme");

    // What the runtime sees, and a curl with it.
    assert_eq!(shell(&host, &format!("printf %s {RUNTIME}")), placeholder);
    assert_eq!(shell(&host, "cat /opt/cofferdam/placeholders/api-key"), placeholder);
    let curl = |header: &str, url: &str| shell(&host, &format!("curl -sS -m 60 -H \"{header}\" {url}"));
    let mine = format!("X-Api-Key: Key {RUNTIME}");
    assert_eq!(curl(&mine, "http://web.example.com/v1/me"), "it arrived");
    let arrived = host.world.web.requests();
    let key = |request: &world::http::Request| {
        request.headers.iter().find(|(name, _)| name == "x-api-key").map(|(_, value)| value.clone())
    };
    assert_eq!(key(&arrived[0]), Some(format!("Key {KEY}")));

    // It comes back, and is covered.
    let stars = "*".repeat(KEY.len());
    assert_eq!(curl(&mine, "http://web.example.com/v1/echo"), format!("you sent {stars}, did you not"));
    assert_eq!(curl("A: b", "http://web.example.com/v1/echo"), format!("you sent {stars}, did you not"));
    // The ledger says which request bore it.
    let key_of = |asked: &str, secrets| (format!("GET /v1/{asked}"), secrets);
    let mine_only =
        [key_of("me", json!(["KEY"])), key_of("echo", json!(["KEY"])), key_of("echo", Value::Null)];
    until("rows of three requests", || (borne(&host) == mine_only).then_some(()));

    // Anywhere else it is blocked, told and recorded.
    let before = host.world.web.requests().len();
    for (header, url) in [
        (mine.clone(), "http://web.example.com/v2/me".to_owned()),
        (mine.clone(), "http://models.example.com/v1/me".to_owned()),
        (mine.replace("X-Api", "X-Other"), "http://web.example.com/v1/me".to_owned()),
        ("A: b".to_owned(), format!("http://web.example.com/v1/{RUNTIME}")),
        ("A: b".to_owned(), format!("http://web.example.com/v1/me?key={RUNTIME}")),
        ("A: b".to_owned(), format!("-d key={RUNTIME} http://web.example.com/v1/me")),
    ] {
        let answer = curl(&header, &url);
        assert!(answer.contains("placeholder_elsewhere"), "{header} {url}: {answer}");
    }
    let after = &host.world.web.requests()[before..];
    let leaked = format!("{after:?}");
    assert!(!leaked.contains(KEY) && !leaked.contains(&placeholder), "{leaked}");
    until("a denial in the ledger", || (denials(&host) >= 1).then_some(()));
    let raised = host.json(&["tenant", "show", "acme"])["alerts"].as_u64().unwrap();
    assert!(raised >= 1, "{raised}");

    // Neither the key nor its usual forms are in the cell; a canary in the same cell is found by the same scan.
    assert_eq!(host.places("acme", &[KEY, "sk-bound%2FZx81", "c2stYm91bmQvWng4MS0w"]), Vec::<String>::new());
    shell(&host, "echo canary-4711 > /sandbox/canary");
    assert!(!host.places("acme", &["canary-4711"]).is_empty());
    assert!(!host.places("acme", &[&placeholder]).is_empty(), "the placeholder is");

    // It is this tenant's alone, and the same after a restart; a new value goes by the same placeholder.
    assert!(
        set(&host, "KEY", &[&bind[..], &["--env", "API_KEY"]].concat(), "sk-rotated-value").status.success()
    );
    host.restart();
    host.ready("acme");
    assert_eq!(shell(&host, &format!("printf %s {RUNTIME}")), placeholder);
    let count = host.world.web.requests().len();
    assert_eq!(shell(&host, &format!("curl -sS -m 60 -H \"{mine}\" http://{WEB_NAME}/v1/me")), "it arrived");
    assert_eq!(key(&host.world.web.requests()[count]), Some("Key sk-rotated-value".to_owned()));
    let theirs = host.feed(&[&["--json", "secret", "set", "globex", "KEY"], &bind[..]].concat(), KEY);
    let theirs: Value = serde_json::from_slice(&theirs.stdout).unwrap();
    assert_ne!(theirs["placeholder"], placeholder);
}

#[test]
fn what_cannot_be_bound_is_refused_with_what_can() {
    let host = Host::with(&["acme"]);
    for (arguments, code) in [
        (&["--bind", "web.example.com"][..], 2),
        (&["--bind", "10.0.0.1", "--in", "header:A"], 2),
        (&["--bind", "web.example.com", "--in", "header:Host"], 2),
        (&["--bind", "web.example.com", "--in", "header:A", "--env", "LD_PRELOAD"], 2),
        (&["--bind", "web.example.com", "--in", "header:A", "--format", "x"], 2),
        (&["--bind", "web.example.com", "--in", "header:A", "--purpose", "model"], 2),
        (&["--env", "TOKEN"], 2),
    ] {
        let output = set(&host, "KEY", arguments, KEY);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    }
    let good = ["--bind", "web.example.com", "--in", "header:Authorization", "--env", "TOKEN"];
    for short in ["1234567", "with a space"] {
        assert_eq!(set(&host, "KEY", &good, short).status.code(), Some(2), "{short}");
    }
    assert!(set(&host, "KEY", &good, KEY).status.success());
    assert_eq!(set(&host, "OTHER", &good, KEY).status.code(), Some(4), "the variable is taken");
}
