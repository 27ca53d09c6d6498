//! Asking: what a cell's policy does not name is held until somebody answers, and the model is reached by
//! the warden with a key that the cell never has.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod host;
mod world;

use host::{Host, until};
use serde_json::Value;
use std::process::{Child, Output};
use world::{MODEL_NAME, WEB, http::Reply, model::USAGE};

const UNKNOWN: &str = "unknown.example.com";
const URL: &str = "http://unknown.example.com/walls";

fn host() -> Host {
    let host = Host::with(&["acme"]);
    host.world.dns.answer(UNKNOWN, &[WEB[0]]);
    host.world.web.page("/walls", Reply::text(200, "the web answered"));
    host
}

fn curl(host: &Host) -> Child {
    host.begin("acme", &["curl", "-sS", "--max-time", "90", URL])
}

fn asked(host: &Host) -> Value {
    until("a question", || {
        let waiting = host.json(&["approvals", "list", "--tenant", "acme"]);
        waiting["approvals"].as_array()?.iter().find(|row| row["state"] == "waiting").cloned()
    })
}

fn answer(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_held_request_completes_after_one_approval_without_a_retry_and_once_is_once() {
    let host = host();
    let held = curl(&host);
    let question = asked(&host);
    assert_eq!(host.world.web.hits(), []);
    assert!(question.to_string().contains(UNKNOWN), "{question}");
    let id = question["id"].to_string();
    host.json(&["approvals", "approve", &id, "--once"]);
    assert_eq!(answer(&held.wait_with_output().unwrap()), "the web answered");
    assert_eq!(host.world.web.requests().len(), 1);
    // The next one is asked for again.
    let again = curl(&host);
    let next = asked(&host);
    assert_ne!(next["id"].to_string(), id);
    host.json(&["approvals", "deny", &next["id"].to_string(), "--reason", "not on a Tuesday"]);
    let refused = answer(&again.wait_with_output().unwrap());
    assert!(refused.contains("denied_by_person") && refused.contains("not on a Tuesday"), "{refused}");
    assert_eq!(host.world.web.requests().len(), 1);
}

#[test]
fn an_unanswered_request_is_refused_in_time_and_can_be_granted_afterwards() {
    let host = host();
    let held = curl(&host);
    let id = asked(&host)["id"].to_string();
    let refused = answer(&held.wait_with_output().unwrap());
    assert!(refused.contains("\"no_answer\""), "{refused}");
    assert_eq!(host.world.web.hits(), []);
    host.json(&["approvals", "approve", &id, "--once"]);
    assert_eq!(answer(&curl(&host).wait_with_output().unwrap()), "the web answered");
}

#[test]
fn a_policy_is_checked_explained_and_shown_and_a_wrong_one_changes_nothing() {
    let host = host();
    let good = format!("version: 1\ndefault: deny\nrules:\n  - {{allow: {UNKNOWN}, protocol: http}}\n");
    host.policy("acme", &good);
    assert_eq!(answer(&curl(&host).wait_with_output().unwrap()), "the web answered");
    let bad = "version: 1\nrules:\n  - allow: a.example.com\n    prots: [80]\n";
    for verb in ["check", "set"] {
        let refused = host.feed(&["policy", verb, "acme", "-"], bad);
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(text.contains("prots") && text.contains("line 4") && text.contains("column"), "{text}");
    }
    assert_eq!(host.json(&["policy", "show", "acme"])["text"], good.as_str());
    assert!(host.feed(&["policy", "check", "acme", "-"], &good).status.success());
    let explained = |to: &str| host.json(&["policy", "explain", "acme", to])["verdict"].clone();
    assert_eq!(explained("http://unknown.example.com"), "allow");
    assert_eq!(explained("http://other.example.com"), "deny");
    let effective = host.json(&["policy", "show", "acme", "--effective"]);
    assert_eq!(effective["default"], "deny");
    assert!(effective["rows"].to_string().contains("http://unknown.example.com:80"), "{effective}");
}

#[test]
fn a_turn_through_inference_local_gets_its_key_outside_and_is_metered() {
    let host = host();
    let key = "sk-of-acme-4711";
    assert!(host.feed(&["secret", "set", "acme", "KEY"], key).status.success());
    let body = r#"{"model":"any","messages":[{"role":"user","content":"hello"}]}"#;
    let turn = || {
        let own = "authorization: Bearer of-the-cell";
        let line = ["curl", "-sS", "-H", own, "-H", "content-type: application/json", "-d", body];
        answer(&host.exec("acme", &[&line[..], &["http://inference.local/v1/chat/completions"]].concat()))
    };
    assert!(turn().contains("no_model"));
    let url = format!("http://{MODEL_NAME}/v1");
    host.json(&["model", "set", "acme", "--url", &url, "--model", "scripted", "--secret", "KEY"]);
    host.policy("acme", &format!("version: 1\nrules:\n  - {{allow: {MODEL_NAME}, protocol: http}}\n"));
    let said: Value = serde_json::from_str(&turn()).unwrap();
    assert_eq!(said["choices"][0]["message"]["content"], "done", "{said}");
    assert_eq!(host.world.model.authorizations(), [Some(format!("Bearer {key}"))]);
    assert!(
        host.world.model.requests().iter().all(|request| !format!("{request:?}").contains("of-the-cell"))
    );
    let row = until("a usage row", || {
        let usage = host.json(&["usage", "acme"]);
        usage["rows"].as_array()?.first().cloned()
    });
    assert_eq!(
        (row["prompt_tokens"].as_u64(), row["completion_tokens"].as_u64()),
        (Some(USAGE.0), Some(USAGE.1))
    );
    assert_eq!(row["requests"], 1);
}
