//! Approvals that people can live with, on a whole host: what is shown, how long a yes holds, what makes an answer
//! stale, how people hear of it, and that nobody approves from inside a cell.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod host;
mod world;

use aws_lc_rs::hmac;
use host::{Host, PORT, until};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};
use world::{HOST, WEB, http::Reply};

const UNKNOWN: &str = "unknown.example.com";
const HOOKS: &str = "hooks.example.com";

fn host() -> Host {
    let host = Host::with(&["acme"]);
    host.world.dns.answer(UNKNOWN, &[WEB[0]]);
    host.world.dns.answer(HOOKS, &[WEB[0]]);
    host.world.web.page("/walls", Reply::text(200, "the web answered"));
    host.world.web.page("/doors", Reply::text(200, "the doors opened"));
    host
}

fn curl(host: &Host, path: &str) -> Child {
    host.begin("acme", &["curl", "-sS", "--max-time", "90", &format!("http://{UNKNOWN}{path}")])
}

fn said(child: Child) -> String {
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

fn list(host: &Host) -> Vec<Value> {
    let all = host.json(&["approvals", "list", "--tenant", "acme", "--all"]);
    all["approvals"].as_array().unwrap().clone()
}

/// Is this the row of that number?
fn is(row: &Value, id: &str) -> bool {
    row["id"].as_u64() == id.parse().ok()
}

fn state(host: &Host, id: &str) -> Value {
    list(host).into_iter().find(|row| is(row, id)).unwrap()
}

/// The number of the question that waits and of which this is true.
fn waiting(host: &Host, what: impl Fn(&Value) -> bool) -> String {
    until("a question", || {
        let found = list(host).into_iter().find(|row| row["state"] == "waiting" && what(row));
        found.map(|row| row["id"].to_string())
    })
}

#[test]
fn the_request_is_shown_counted_and_a_yes_for_once_is_for_it_alone() {
    let host = host();
    let first = curl(&host, "/walls?a=1");
    let id = waiting(&host, |_| true);
    let second = curl(&host, "/doors");
    until("a second connection", || (state(&host, &id)["count"] == 2).then_some(()));
    let row = state(&host, &id);
    assert_eq!(row["request"]["method"], "GET");
    assert_eq!(row["request"]["url"], format!("http://{UNKNOWN}/walls?a=1"));
    let yes = host.json(&["approvals", "approve", &id, "--once", "--reason", "it is the library"]);
    assert_eq!((&yes["approver"], &yes["answer"]), (&json!("operator"), &json!("it is the library")));
    assert_eq!(said(first), "the web answered");
    // The other one is another question, and was not let through by the first yes.
    let other = waiting(&host, |row| !is(row, &id));
    assert_eq!(state(&host, &other)["request"]["url"], format!("http://{UNKNOWN}/doors"));
    let paths: Vec<_> = host.world.web.requests().iter().map(|it| it.path.clone()).collect();
    assert_eq!(paths, ["/walls?a=1"]);
    host.json(&["approvals", "deny", &other, "--reason", "not these doors"]);
    assert!(said(second).contains("not these doors"));
}

#[test]
fn a_yes_for_a_cells_life_ends_when_it_is_started_anew() {
    let host = host();
    let held = curl(&host, "/walls");
    let id = waiting(&host, |_| true);
    assert_eq!(host.json(&["approvals", "approve", &id, "--cell"])["span"], "cell");
    assert_eq!(said(held), "the web answered");
    assert_eq!(said(curl(&host, "/doors")), "the doors opened", "any number of requests");
    host.json(&["tenant", "restart", "acme"]);
    host.ready("acme");
    assert_eq!(state(&host, &id)["state"], "expired");
    let asked = curl(&host, "/walls");
    let again = waiting(&host, |_| true);
    assert_ne!(again, id);
    assert_eq!(host.world.web.requests().len(), 2);
    host.json(&["approvals", "deny", &again]);
    asked.wait_with_output().unwrap();
}

#[test]
fn an_answer_under_an_older_policy_is_refused_and_says_what_to_do() {
    let host = host();
    let held = curl(&host, "/walls");
    let id = waiting(&host, |_| true);
    host.policy("acme", "version: 1\ndefault: ask\nrules:\n  - allow: elsewhere.example.com\n");
    let again = waiting(&host, |row| !is(row, &id));
    for words in [&["approve", &id, "--once"][..], &["approve", &id, "--always"], &["deny", &id]] {
        let refused = host.cli(&[&["approvals"], words].concat());
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(4), "{text}");
        assert!(text.contains("stale") && text.contains("approvals list --tenant acme"), "{text}");
    }
    assert_eq!(host.world.web.hits(), []);
    // What is held is the same connection, under its new number.
    host.json(&["approvals", "approve", &again, "--for", "1h"]);
    assert_eq!(said(held), "the web answered");
    // A yes was given under a policy too.
    host.policy("acme", "version: 1\ndefault: ask\n");
    assert_eq!(state(&host, &again)["state"], "stale");
    let asked = curl(&host, "/walls");
    host.json(&["approvals", "deny", &waiting(&host, |_| true)]);
    asked.wait_with_output().unwrap();
    assert_eq!(host.world.web.requests().len(), 1);
}

#[test]
fn a_webhook_is_posted_signed_by_the_warden_and_again_until_somebody_takes_it() {
    let mut host = host();
    let url = format!("http://{HOOKS}/hook");
    let missing = host.cli(&["approvals", "webhook", "set", "acme", &url, "--secret", "HOOK"]);
    assert!(String::from_utf8_lossy(&missing.stderr).contains("--purpose webhook"), "{missing:?}");
    let key = "the key of the hook";
    assert!(host.feed(&["secret", "set", "acme", "HOOK", "--purpose", "webhook"], key).status.success());
    host.json(&["approvals", "webhook", "set", "acme", &url, "--secret", "HOOK"]);
    host.world.web.page("/hook", Reply::text(503, "not now"));
    let held = curl(&host, "/walls");
    let id = waiting(&host, |_| true);
    let hooks = |host: &Host| {
        let all = host.world.web.requests();
        all.into_iter().filter(|it| it.path == "/hook").collect::<Vec<_>>()
    };
    until("a try that failed", || {
        let set = host.json(&["approvals", "webhook", "show", "acme"]);
        set["last_error"].as_str().filter(|it| it.contains("answered 503")).map(drop)
    });
    // What is not delivered outlives the host.
    host.restart();
    host.ready("acme");
    host.world.web.page("/hook", Reply::text(204, ""));
    until("everything delivered", || {
        let set = host.json(&["approvals", "webhook", "show", "acme"]);
        (set["waiting"] == 0 && set["last_error"] == "").then_some(())
    });
    held.wait_with_output().unwrap();
    let posted = hooks(&host).into_iter().find(|it| {
        let body: Value = serde_json::from_slice(&it.body).unwrap();
        is(&body, &id) && body["state"] == "waiting"
    });
    let posted = posted.unwrap();
    let header = |name: &str| {
        posted.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()).unwrap()
    };
    let body: Value = serde_json::from_slice(&posted.body).unwrap();
    assert_eq!(body["type"], "approval");
    assert_eq!(body["request"]["url"], format!("http://{UNKNOWN}/walls"));
    let signed = format!("{}.{}.", header("cofferdam-delivery"), header("cofferdam-timestamp"));
    let message = [signed.as_bytes(), &posted.body].concat();
    let text = header("cofferdam-signature");
    let hex = text.strip_prefix("v1=").unwrap();
    let signature: Vec<u8> =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
    let right = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
    hmac::verify(&right, &message, &signature).unwrap();
    let wrong = hmac::Key::new(hmac::HMAC_SHA256, b"another");
    assert!(hmac::verify(&wrong, &message, &signature).is_err());
    assert_eq!(host.places("acme", &[key]), Vec::<String>::new(), "the key is nowhere in the cell");
}

#[test]
fn a_webhook_leads_nowhere_that_the_guard_refuses() {
    let host = host();
    assert!(host.feed(&["secret", "set", "acme", "HOOK", "--purpose", "webhook"], "key").status.success());
    host.world.dns.answer("inside.example.com", &["10.9.9.9"]);
    let held = curl(&host, "/walls");
    waiting(&host, |_| true);
    for target in ["169.254.169.254", HOST[0], "inside.example.com", "metadata.google.internal"] {
        let url = format!("http://{target}/hook");
        host.json(&["approvals", "webhook", "set", "acme", &url, "--secret", "HOOK"]);
        let asked = curl(&host, &format!("/{target}"));
        let id = waiting(&host, |_| true);
        host.json(&["approvals", "deny", &id]);
        until("a refusal", || {
            let set = host.json(&["approvals", "webhook", "show", "acme"]);
            let error = set["last_error"].as_str()?.to_owned();
            (error.contains("refused") || error.contains("not reached")).then_some(())
        });
        asked.wait_with_output().unwrap();
        host.json(&["approvals", "webhook", "remove", "acme"]);
    }
    held.wait_with_output().unwrap();
    assert_eq!(host.world.traps.hits(), []);
}

#[test]
fn events_for_the_console_tell_of_each_change() {
    let host = host();
    let mut stream = Command::new("curl")
        .args(["-sSN", "--max-time", "90", "--unix-socket"])
        .arg(host.dir.join("run/control.sock"))
        .arg("http://localhost/api/v1/events?tenant=acme")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(stream.stdout.take().unwrap()).lines().map(Result::unwrap);
    let held = curl(&host, "/walls");
    let mut next = |state: &str| {
        let data = lines.find_map(|line| {
            let data: Value = serde_json::from_str(line.strip_prefix("data: ")?).unwrap();
            (data["state"] == state).then_some(data)
        });
        data.unwrap()
    };
    let asked = next("waiting");
    assert_eq!((&asked["type"], &asked["tenant"]), (&json!("approval"), &json!("acme")));
    host.json(&["approvals", "deny", &asked["id"].to_string(), "--reason", "no"]);
    let denied = next("denied");
    assert_eq!((&denied["approver"], &denied["answer"]), (&json!("operator"), &json!("no")));
    held.wait_with_output().unwrap();
    stream.kill().unwrap();
    stream.wait().unwrap();
}

#[test]
fn nobody_approves_from_inside_a_cell_not_even_with_an_approvers_token() {
    let host = host();
    let held = curl(&host, "/walls");
    let id = waiting(&host, |_| true);
    let (token, _) = host.token("acme", "approver");
    // The control: with this token the edge is reached from outside.
    assert_eq!(host.get("acme", "/", &token).status, 200);
    let bearer = format!("Authorization: Bearer {token}");
    let name = format!("Host: acme.localhost:{PORT}");
    for place in ["127.0.0.1", "127.18.0.2", HOST[0], "acme.localhost", "198.19.255.1"] {
        let url = format!("http://{place}:{PORT}/");
        let line = ["curl", "-sS", "-m", "10", "--noproxy", "*", "-o", "/dev/null", "-w", "%{http_code}"];
        let tried = host.exec("acme", &[&line[..], &["-H", &bearer, "-H", &name, &url]].concat());
        let code = String::from_utf8_lossy(&tried.stdout).into_owned();
        assert!(code == "000" || code == "403" || code == "421", "{place}: {code} {tried:?}");
    }
    // Nor is there a control socket, by any path.
    let socket = host.dir.join("run/control.sock");
    let found = host.exec("acme", &["test", "-e", socket.to_str().unwrap()]);
    assert_eq!(found.status.code(), Some(1), "{found:?}");
    assert_eq!(state(&host, &id)["state"], "waiting");
    host.json(&["approvals", "deny", &id]);
    held.wait_with_output().unwrap();
    assert_eq!(host.world.web.hits(), []);
}
