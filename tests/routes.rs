//! Inference routes: real curl in a cell, a scripted provider outside, and the host's own command line.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod host;
mod world;

use host::{Host, until};
use serde_json::{Value, json};
use std::process::Output;
use world::{MODEL_NAME, model::Turn};

fn host() -> Host {
    let host = Host::with(&["acme"]);
    assert!(host.feed(&["secret", "set", "acme", "KEY"], "sk-of-acme-4711").status.success());
    host
}

fn set(host: &Host, alias: &str, more: &[&str]) -> Value {
    let url = format!("http://{MODEL_NAME}/v1");
    let model = format!("real-{alias}");
    let line = ["model", "set", "acme", alias, "--url", &url, "--model", &model, "--secret", "KEY"];
    host.json(&[&line[..], more].concat())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

const CHAT: &str = "http://inference.local/v1/chat/completions";

/// The arguments of curl for a turn.
fn turn<'a>(body: &'a str, url: &'a str) -> Vec<&'a str> {
    vec!["curl", "-sS", "-i", "--max-time", "90", "-H", "content-type: application/json", "-d", body, url]
}

fn ask(host: &Host, model: &str, url: &str) -> String {
    let messages = json!([{ "role": "user", "content": "hello" }]);
    let body = json!({ "model": model, "user": "ada", "max_tokens": 5, "messages": messages }).to_string();
    let output = host.exec("acme", &turn(&body, url));
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout)
}

/// The models that the provider was asked for.
fn models(host: &Host) -> Vec<String> {
    let requests = host.world.model.requests();
    let model =
        |body: &[u8]| serde_json::from_slice::<Value>(body).unwrap()["model"].as_str().unwrap().to_owned();
    requests.iter().filter(|request| request.method == "POST").map(|request| model(&request.body)).collect()
}

fn test(host: &Host, alias: &str) -> Output {
    host.cli(&["model", "test", "acme", alias])
}

#[test]
fn a_cell_chooses_its_route_falls_back_and_everything_is_counted_and_tested() {
    let host = host();
    set(&host, "good", &[]);
    set(&host, "fast", &["--fallback", "good", "--price", "1:2"]);
    let listed = host.json(&["model", "list", "acme"]);
    assert_eq!(
        (&listed["default"], listed["routes"].as_array().unwrap().len()),
        (&json!("good"), 2),
        "{listed}"
    );
    assert!(ask(&host, "default", CHAT).contains("cofferdam-route: good"));
    host.world.model.say(Turn::Fail(503));
    let fallen = ask(&host, "fast", CHAT);
    assert!(fallen.starts_with("HTTP/1.1 200") && fallen.contains("cofferdam-route: good"), "{fallen}");
    // Over TLS too, which curl believes by what is in its environment; captured and by CONNECT.
    let secure = "https://inference.local/v1/chat/completions";
    assert!(ask(&host, "fast", secure).contains("cofferdam-route: fast"));
    let through = host.exec(
        "acme",
        &["curl", "-sS", "--proxy", "http://127.0.0.1:3128", "https://inference.local/v1/models"],
    );
    assert!(text(&through.stdout).contains("\"id\":\"fast\""), "{through:?}");
    let unknown = ask(&host, "gpt-5", CHAT);
    assert!(unknown.contains("404") && unknown.contains("use fast, good"), "{unknown}");
    assert_eq!(models(&host), ["real-good", "real-fast", "real-good", "real-fast"]);
    assert_eq!(host.json(&["model", "default", "acme", "fast"])["default"], "fast");
    assert!(ask(&host, "", CHAT).contains("cofferdam-route: fast"));
    // What another falls back to does not go, nor the default before the others.
    for alias in ["good", "fast"] {
        assert_eq!(host.cli(&["model", "rm", "acme", alias]).status.code(), Some(4), "{alias}");
    }
    // A call for a person, and what it says of a failure.
    let works = test(&host, "good");
    assert!(works.status.success() && text(&works.stdout).contains("done"), "{works:?}");
    for (status, said) in
        [(401, "refused the key"), (404, "no such model"), (429, "no more requests"), (500, "failed")]
    {
        host.world.model.say(Turn::Fail(status));
        let told = test(&host, "good");
        let (told, code) = (text(&told.stdout), told.status.code());
        assert!(
            code == Some(1) && told.contains(said) && told.contains("scripted failure"),
            "{status}: {told}"
        );
    }
    host.json(&["model", "set", "acme", "gone", "--url", "https://gone.example.com/v1", "--model", "m"]);
    let told = test(&host, "gone");
    assert!(text(&told.stdout).contains("does not resolve"), "{told:?}");
    counted(&host);
}

fn counted(host: &Host) {
    let rows =
        |line: &[&str]| host.json(&[&["usage", "acme"], line].concat())["rows"].as_array().unwrap().clone();
    let fast = until("what was used", || {
        let rows = rows(&["--by", "route,user,agent"]);
        rows.into_iter().find(|row| row["route"] == "fast" && row["user"] == "ada" && row["requests"] == 3)
    });
    assert_eq!(
        (&fast["agent"], &fast["prompt_tokens"], &fast["micros"]),
        (&json!("curl"), &json!(22), &json!(50))
    );
    assert!(
        rows(&["--by", "day", "--since", "1d"]).len() <= 2 && rows(&["--since", "2999-01-01"]).is_empty()
    );
    let csv = text(&host.cli(&["usage", "--by", "route,user", "--csv"]).stdout);
    assert!(csv.starts_with("route,user,requests,") && csv.contains("fast,ada,3,22,14,0.00005,0"), "{csv}");
    let metrics = text(&host.cli(&["usage", "--prometheus", "--by", "tenant,route"]).stdout);
    let series = "cofferdam_model_prompt_tokens_total{tenant=\"acme\",route=\"fast\"} 22";
    assert!(metrics.lines().any(|line| line == series), "{metrics}");
}

#[test]
fn a_budget_holds_over_a_wardens_death_and_a_soft_limit_asks_first() {
    let host = host();
    set(&host, "main", &["--limit", "tokens/day=60", "--ask-past", "tokens/day=35"]);
    // About 27 could be used, and 18 are.
    assert!(ask(&host, "x", CHAT).starts_with("HTTP/1.1 200"));
    until("the first is counted", || {
        let spent = host.json(&["model", "list", "acme"])["routes"][0]["spent"].clone();
        spent.as_array()?.iter().any(|it| it["span"] == "day" && it["tokens"] == 18).then_some(())
    });
    let messages = json!([{ "role": "user", "content": "hello" }]);
    let body = json!({ "max_tokens": 5, "messages": messages }).to_string();
    let held = host.begin("acme", &turn(&body, CHAT));
    let question = until("a question", || {
        let waiting = host.json(&["approvals", "list", "--tenant", "acme"]);
        waiting["approvals"].as_array()?.iter().find(|row| row["state"] == "waiting").cloned()
    });
    let id = question["id"].to_string();
    assert!(question.to_string().contains("soft limit tokens/day=35"), "{question}");
    assert_eq!(models(&host).len(), 1);
    let for_ever = host.cli(&["approvals", "approve", &id, "--always"]);
    assert!(!for_ever.status.success() && text(&for_ever.stderr).contains("--ask-past"), "{for_ever:?}");
    host.json(&["approvals", "approve", &id, "--once"]);
    let answered = held.wait_with_output().unwrap();
    assert!(text(&answered.stdout).starts_with("HTTP/1.1 200"), "{answered:?}");
    until("the second is counted", || {
        let spent = host.json(&["model", "list", "acme"])["routes"][0]["spent"].clone();
        spent.as_array()?.iter().any(|it| it["span"] == "day" && it["tokens"] == 36).then_some(())
    });
    let over = |host: &Host| {
        let answer = ask(host, "x", CHAT);
        answer.starts_with("HTTP/1.1 429")
            && answer.contains("model_budget")
            && answer.contains("tokens/day=60")
    };
    assert!(over(&host));
    let warden = host.part("__warden acme").unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(warden).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    until("another warden", || {
        let ready = host.json(&["tenant", "show", "acme"])["warden"] == true;
        (ready && host.part("__warden acme").is_some_and(|now| now != warden)).then_some(())
    });
    until("the budget of the warden before", || {
        let answer = ask(&host, "x", CHAT);
        assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer.contains("model_budget").then_some(())
    });
    assert_eq!(models(&host).len(), 2);
}
