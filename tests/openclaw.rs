//! Real OpenClaw in two tenants, through edge, cell, warden and a provider outside.
//!
//! One test, because a gateway takes ten seconds to start: its steps are printed as they pass.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod host;
mod world;

use host::{
    Host, PORT,
    gateway::{self, Socket, call, chat, compared, message, receive},
    until,
};
use serde_json::{Value, json};
use std::net::SocketAddr;
use world::{MODEL_NAME, WEB, WEB_NAME, http, model::Turn};

const KEY: &str = "sk-canary-1f0e2d3c4b5a";
const GLOBEX_KEY: &str = "sk-canary-of-globex";
/// The tenant whose gateway is our own.
const NATIVE: &str = "small";
/// Nobody answers about it in time.
const LATE_NAME: &str = "late.example.com";

#[test]
fn two_tenants_with_real_gateways_take_turns_and_stay_apart() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root, for the world of the test");
        return;
    }
    let mut host = Host::prepare("");
    // Before the host starts: it learns at its start what is installed.
    let tree = gateway::install(&host);
    host.world.dns.answer(LATE_NAME, &[WEB[0]]);
    host.world.web.page("/late", http::Reply::text(200, "better late"));
    host.serve();
    for (tenant, key) in [("acme", KEY), ("globex", GLOBEX_KEY)] {
        host.json(&["tenant", "create", tenant, "--runtime", "openclaw"]);
        assert!(host.feed(&["secret", "set", tenant, "PROVIDER"], key).status.success());
        let url = format!("http://{MODEL_NAME}/v1");
        host.json(&["model", "set", tenant, "--url", &url, "--model", "mock-1", "--secret", "PROVIDER"]);
    }
    std::thread::scope(|scope| {
        for tenant in ["acme", "globex"] {
            let host = &host;
            scope.spawn(move || host.json(&["tenant", "start", tenant]));
        }
    });
    let (admin, _) = host.token("acme", "admin");
    let (viewer, _) = host.token("acme", "viewer");
    step("both gateways answered a protocol-4 handshake");
    assert_eq!(host.json(&["approvals", "list", "--all"])["approvals"], json!([]));
    step("a start asks nobody anything: upstream's own look-ups are denied in silence");

    host.world.model.say(Turn::Text("hello from outside".into()));
    let answer = complete(&host, &admin, "hello");
    assert!(answer.contains("hello from outside"), "{answer}");
    assert!(answer.contains("data: [DONE]"), "{answer}");
    step("a turn by /v1/chat/completions with SSE");

    let authorizations = host.world.model.authorizations();
    assert!(
        authorizations.iter().all(|it| it.as_deref() == Some(&format!("Bearer {KEY}"))),
        "{authorizations:?}"
    );
    let models: Vec<Value> =
        host.world.model.requests().iter().map(|it| serde_json::from_slice(&it.body).unwrap()).collect();
    assert!(models.iter().all(|body| body["model"] == "mock-1"), "the route's model is asked for");
    step("the provider saw acme's key and the route's model, and never the cell's placeholder");

    let mut socket = connect(&host, &admin).unwrap();
    host.world.model.say(Turn::Text("final words".into()));
    let last = chat(&mut socket, "hello again");
    assert!(last.to_string().contains("final words"), "{last}");
    step("a turn by WebSocket, chat.send to final");

    let mut watching = connect(&host, &viewer).unwrap();
    assert_eq!(call(&mut watching, "health", &json!({}))["ok"], true);
    let refused = call(&mut watching, "chat.send", &message("hello"));
    assert_eq!(refused["error"]["code"], "FORBIDDEN", "{refused}");
    step("a viewer reads health and cannot chat.send");

    let (globex, _) = host.token("globex", "admin");
    host.world.model.say(Turn::Text("for globex".into()));
    let answer = complete_at(&host, "globex", &globex, "hello");
    assert!(answer.contains("for globex"), "{answer}");
    let authorizations = host.world.model.authorizations();
    assert_eq!(authorizations.last().unwrap().as_deref(), Some(&*format!("Bearer {GLOBEX_KEY}")));
    let said_to = |tenant: &str, token: &str| {
        let history = call(
            &mut connect_at(&host, tenant, token).unwrap(),
            "chat.history",
            &json!({ "sessionKey": "main" }),
        );
        assert_eq!(history["ok"], true, "{history}");
        history.to_string()
    };
    assert!(
        said_to("acme", &admin).contains("final words")
            && !said_to("globex", &globex).contains("final words")
    );
    step("globex takes a turn of its own, with its own key, and has nothing of acme's history");

    let refused = connect(&host, &globex).unwrap_err();
    assert_eq!(refused["error"]["details"]["code"], "AUTH_TOKEN_MISMATCH", "{refused}");
    step("globex's token at acme's gateway is refused");

    let said = client(&host, &tree, &admin, &["gateway", "call", "health", "--json"]);
    assert!(said.contains("\"ok\": true") || said.contains("\"ok\":true"), "{said}");
    host.world.model.say(Turn::Text("stock answer".into()));
    let said = client(&host, &tree, &admin, &["agent", "--agent", "main", "--message", "hi"]);
    assert!(said.contains("stock answer"), "{said}");
    step("the stock client's gateway call health and agent");

    the_native_gateway_does_the_same(&host, &tree, &admin);

    let fetch = format!("curl -s -m 60 http://{WEB_NAME}/tool");
    host.world.model.say(Turn::Exec(json!({ "command": fetch })));
    host.world.model.say(Turn::Text("the tool came back".into()));
    let answer = std::thread::scope(|scope| {
        let turn = scope.spawn(|| complete(&host, &admin, "fetch it"));
        let id = until("an approval that waits", || waiting(&host));
        host.json(&["approvals", "approve", &id.to_string(), "--once"]);
        turn.join().unwrap()
    });
    assert!(answer.contains("the tool came back"), "{answer}");
    assert_eq!(host.world.web.requests().iter().filter(|it| it.path == "/tool").count(), 1, "asked once");
    step("a tool's curl was held, approved once, and came back without a retry");

    host.world.model.say(Turn::Exec(json!({ "command": "curl -s -m 60 http://refused.example/" })));
    host.world.model.say(Turn::Text("understood".into()));
    std::thread::scope(|scope| {
        let turn = scope.spawn(|| complete(&host, &admin, "fetch that"));
        let id = until("an approval that waits", || waiting(&host));
        host.json(&["approvals", "deny", &id.to_string(), "--reason", "not in this house"]);
        turn.join().unwrap();
    });
    let seen = host.world.model.requests();
    let seen = String::from_utf8_lossy(&seen.last().unwrap().body).into_owned();
    assert!(seen.contains("not in this house"), "the tool's answer went to the model");
    step("a denied one learnt the reason");

    let forged = host.exec(
        "acme",
        &[
            "curl",
            "-sS",
            "-m",
            "5",
            "--noproxy",
            "*",
            "--interface",
            "198.19.255.1",
            "-H",
            "X-Cofferdam-User: m001",
            "-H",
            "X-Forwarded-For: 203.0.113.1",
            "-H",
            "X-OpenClaw-Scopes: operator.admin",
            "http://127.0.0.1:18789/v1/models",
        ],
    );
    // 7: the connection was reset before it was made.
    assert_eq!(forged.status.code(), Some(7), "{forged:?}");
    step("a tool that poses as the edge does not reach its own gateway");

    let written = host.exec("acme", &["sh", "-c", "ls /opt/config; touch /opt/config/x || echo refused"]);
    assert!(String::from_utf8_lossy(&written.stdout).contains("refused"), "{written:?}");
    let patched = call(
        &mut connect(&host, &admin).unwrap(),
        "config.patch",
        &json!({ "raw": "{\"update\":{\"checkOnStart\":true}}", "baseHash": "x" }),
    );
    assert_eq!(patched["ok"], false, "{patched}");
    step("neither a tool nor an admin changes the gateway's configuration");

    unanswered(&host, &admin);
    approvals_in_the_clients_own_socket(&host, &tree, &admin);

    // The control: what a tool keeps in memory only is found by the very same scan.
    let hold =
        "import time; kept = '-'.join(['kept', 'in', 'memory']); print(1, flush=True); time.sleep(600)";
    let mut holder = host.begin("acme", &["python3", "-I", "-c", hold]);
    let mut line = [0; 1];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut line).unwrap();
    assert!(!host.places("acme", &["kept-in-memory"]).is_empty());
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(host.cell_processes("acme").len() >= 2, "init and the gateway were scanned");
    for tenant in ["acme", "globex"] {
        assert_eq!(host.places(tenant, &[KEY, GLOBEX_KEY]), Vec::<String>::new(), "{tenant}");
    }
    step("no provider key is in any byte of a cell's memory, environment or files");

    deaths(&mut host, &admin);
}

/// The stock client's words at our own gateway; its tools, and what it remembers after a kill.
fn the_native_gateway_does_the_same(host: &Host, tree: &std::path::Path, acme: &str) {
    host.json(&["tenant", "create", NATIVE, "--runtime", "native", "--start"]);
    assert!(host.feed(&["secret", "set", NATIVE, "PROVIDER"], KEY).status.success());
    let url = format!("http://{MODEL_NAME}/v1");
    host.json(&["model", "set", NATIVE, "--url", &url, "--model", "mock-1", "--secret", "PROVIDER"]);
    let (admin, _) = host.token(NATIVE, "admin");
    let said = client_at(host, tree, NATIVE, &admin, &["gateway", "call", "health", "--json"]);
    assert!(said.contains("\"ok\": true") || said.contains("\"ok\":true"), "{said}");
    client_at(host, tree, NATIVE, &admin, &["health"]);
    host.world.model.say(Turn::Text("native answer".into()));
    let said = client_at(host, tree, NATIVE, &admin, &["agent", "--agent", "main", "--message", "hi"]);
    assert!(said.contains("native answer"), "{said}");
    let authorizations = host.world.model.authorizations();
    assert_eq!(authorizations.last().unwrap().as_deref(), Some(&*format!("Bearer {KEY}")));
    host.world.model.say(Turn::Exec(json!({ "command": "id -u; echo kept > note.txt; cat note.txt" })));
    host.world.model.say(Turn::Text("done".into()));
    let last = chat(&mut connect_at(host, NATIVE, &admin).unwrap(), "use a tool");
    assert!(last.to_string().contains("done"), "{last}");
    let seen = host.world.model.requests();
    let seen: Value = serde_json::from_slice(&seen.last().unwrap().body).unwrap();
    let result = seen["messages"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&result["role"], &result["content"]), (&json!("tool"), &json!("1000\nkept\n")), "{result}");
    step("the native gateway: the stock client's health and agent, a turn by WebSocket, a tool in the cell");

    answers_are_of_one_shape(host, acme, &admin);
    jobs_by_the_stock_client(host, tree, &admin);

    let history = || {
        let mut socket = connect_at(host, NATIVE, &admin).unwrap();
        call(&mut socket, "chat.history", &json!({ "sessionKey": "main" }))["payload"]["messages"].clone()
    };
    let before = history();
    assert_eq!(before.as_array().unwrap().len(), 7, "{before}");
    let number = until("the native gateway", || host.part(&format!("init {NATIVE}")));
    let pid = rustix::process::Pid::from_raw(number).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    until("its end", || (host.part(&format!("init {NATIVE}")) != Some(number)).then_some(()));
    host.ready(NATIVE);
    assert_eq!(history(), before);
    host.json(&["tenant", "delete", NATIVE, "--yes"]);
    step("the native gateway: what was said is there after its cell was killed");
}

/// The stock client makes a job, runs it, reads what came of it and removes it; outside, its time is seen.
fn jobs_by_the_stock_client(host: &Host, tree: &std::path::Path, admin: &str) {
    let config = r#"echo '{"cron":{"enabled":true}}' > /sandbox/.cofferdam/config.json"#;
    let wrote = host.cli(&["tenant", "exec", NATIVE, "--", "sh", "-c", config]);
    assert!(wrote.status.success(), "{wrote:?}");
    host.json(&["tenant", "restart", NATIVE]);
    host.ready(NATIVE);
    let cron = |arguments: &[&str]| -> Value {
        let said = client_at(host, tree, NATIVE, admin, &[&["cron"], arguments].concat());
        serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}"))
    };
    let turn = ["--every", "1h", "--message", "look", "--announce", "--json"];
    let job = cron(&[&["add", "--name", "look"], &turn[..]].concat());
    let id = job["id"].as_str().unwrap();
    let at = ["--at", "+2h", "--system-event", "tea", "--session", "main", "--json"];
    let tea = cron(&[&["add", "--name", "tea"], &at[..]].concat());
    assert_eq!(cron(&["list", "--json"])["jobs"].as_array().unwrap().len(), 2);
    assert_eq!(host.json(&["tenant", "show", NATIVE])["next_due"], job["nextRunAtMs"]);
    host.world.model.say(Turn::Text("looked".into()));
    let ran = cron(&["run", id, "--wait", "--json"]);
    assert_eq!((&ran["status"], &ran["run"]["summary"]), (&json!("ok"), &json!("looked")), "{ran}");
    assert_eq!(cron(&["runs", id, "--json"])["total"], 1);
    assert_eq!(cron(&["disable", id, "--json"])["enabled"], false);
    assert_eq!(cron(&["show", id, "--json"])["status"], "disabled");
    for id in [id, tea["id"].as_str().unwrap()] {
        assert_eq!(cron(&["rm", id, "--json"])["removed"], true);
    }
    assert_eq!(cron(&["status", "--json"])["jobs"], 0);
    step("the native gateway: the stock client's cron, and what is due is seen outside");
}

/// What both gateways say has one type wherever both say it. What only one says is printed, for docs/compatibility.md.
fn answers_are_of_one_shape(host: &Host, acme: &str, small: &str) {
    let methods = [
        ("health", json!({})),
        ("status", json!({})),
        ("system-presence", json!({})),
        ("agents.list", json!({})),
        ("agents.files.list", json!({ "agentId": "main" })),
        ("agents.files.get", json!({ "agentId": "main", "name": "AGENTS.md" })),
        ("agent.identity.get", json!({ "agentId": "main" })),
        ("sessions.list", json!({})),
        ("sessions.describe", json!({ "key": "agent:main:main" })),
        ("chat.history", json!({ "sessionKey": "agent:main:main" })),
        ("models.list", json!({})),
        ("tools.catalog", json!({})),
        ("commands.list", json!({})),
        ("wizard.nobody", json!({})),
        ("chat.send", json!({ "sessionKey": "main" })),
    ];
    let mut upstream = connect(host, acme).unwrap();
    let mut ours = connect_at(host, NATIVE, small).unwrap();
    let mut wrong = Vec::new();
    for (method, params) in methods {
        let (theirs, ours) = (call(&mut upstream, method, &params), call(&mut ours, method, &params));
        wrong.extend(compared(method, &theirs, &ours));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    step("both gateways answer in one shape where both answer");
}

fn unanswered(host: &Host, admin: &str) {
    let fetch = format!("curl -s -m 60 http://{LATE_NAME}/late");
    let ask = || {
        // The gateway would put a command aside after ten seconds.
        host.world.model.say(Turn::Exec(json!({ "command": fetch, "yieldMs": 60_000 })));
        host.world.model.say(Turn::Text("noted".into()));
        complete(host, admin, "fetch the late one");
        let seen = host.world.model.requests();
        String::from_utf8_lossy(&seen.last().unwrap().body).into_owned()
    };
    let heard = ask();
    assert!(heard.contains("no_answer"), "{}", &heard[heard.len().saturating_sub(3000)..]);
    assert!(host.world.web.requests().iter().all(|it| it.path != "/late"));
    let list = host.json(&["approvals", "list", "--tenant", "acme"]);
    let open = list["approvals"].as_array().unwrap().iter().find(|row| row.to_string().contains(LATE_NAME));
    let id = open.unwrap_or_else(|| panic!("{list}"))["id"].to_string();
    host.json(&["approvals", "approve", &id, "--once"]);
    assert!(ask().contains("better late"), "granted afterwards");
    step("an unanswered one was refused in time, and could be granted afterwards");
}

/// The edge shows what is asked in the clients' own sockets and takes the answers; the gateway has no part in it.
fn approvals_in_the_clients_own_socket(host: &Host, tree: &std::path::Path, admin: &str) {
    let (approver, _) = host.token("acme", "approver");
    let mut socket = connect(host, &approver).unwrap();
    let turn = |path: &str| {
        let fetch = format!("curl -s -m 60 http://asked.example/{path}");
        host.world.model.say(Turn::Exec(json!({ "command": fetch, "yieldMs": 60_000 })));
        host.world.model.say(Turn::Text("noted".into()));
        complete(host, admin, "fetch what you have to ask for");
        let seen = host.world.model.requests();
        String::from_utf8_lossy(&seen.last().unwrap().body).into_owned()
    };
    let shown = |socket: &mut Socket, event: &str| loop {
        let frame = receive(socket);
        if frame["event"] == event {
            return frame["payload"].clone();
        }
    };
    host.world.dns.answer("asked.example", &[WEB[0]]);
    host.world.web.page("/own", http::Reply::text(200, "by the own socket"));
    let heard = std::thread::scope(|scope| {
        let turn = scope.spawn(|| turn("own"));
        let asked = shown(&mut socket, "plugin.approval.requested");
        let id = asked["id"].as_str().unwrap();
        assert!(
            asked["request"]["description"].as_str().unwrap().contains("http://asked.example/own"),
            "{asked}"
        );
        let params = json!({ "id": id, "decision": "allow-once" });
        let answer = call(&mut socket, "plugin.approval.resolve", &params);
        assert_eq!(answer["payload"], json!({ "ok": true }), "{answer}");
        turn.join().unwrap()
    });
    assert!(heard.contains("by the own socket"), "{}", &heard[heard.len().saturating_sub(2000)..]);
    let all = host.json(&["approvals", "list", "--tenant", "acme", "--all"]);
    let row = all["approvals"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&row["state"], &row["approver"]), (&json!("used"), &json!("ann")), "{row}");
    step("an approver answered in the client's own socket, and is in the record");

    std::thread::scope(|scope| {
        let turn = scope.spawn(|| turn("cli"));
        until("an approval that waits", || waiting(host));
        let pending = client(host, tree, &approver, &["approvals", "pending", "--json"]);
        let at = pending.find("plugin:cofferdam-").unwrap_or_else(|| panic!("{pending}"));
        let id = pending[at..].split('"').next().unwrap().to_owned();
        client(host, tree, &approver, &["approvals", "resolve", &id, "deny"]);
        turn.join().unwrap();
    });
    let all = host.json(&["approvals", "list", "--tenant", "acme", "--all"]);
    assert_eq!(all["approvals"].as_array().unwrap().last().unwrap()["state"], "denied", "{all}");
    step("the stock client listed what waits and denied it");
}

/// Every part dies once under a gateway in use; what was said is still there.
fn deaths(host: &mut Host, admin: &str) {
    for part in ["__edge", "__control", "__warden acme", "init acme", "launcher"] {
        let number = until(part, || host.part(part));
        let pid = rustix::process::Pid::from_raw(number).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        if part == "launcher" {
            host.ended();
            host.serve();
        } else {
            until("its end", || (host.part(part) != Some(number)).then_some(()));
        }
        for tenant in ["acme", "globex"] {
            host.ready(tenant);
        }
        let words = format!("after the death of {part}");
        host.world.model.say(Turn::Text(words.clone()));
        let answer = until("a turn", || {
            let reply = post(host, "acme", admin, "still there?");
            (reply.0 == 200).then_some(reply.1)
        });
        assert!(answer.contains(&words), "{answer}");
        let history =
            call(&mut connect(host, admin).unwrap(), "chat.history", &json!({ "sessionKey": "main" }));
        assert!(history.to_string().contains("final words"), "{part}: {history}");
        assert_eq!(host.json(&["ledger", "verify"])["whole"], true);
        step(&format!("{words} the gateway takes turns and remembers"));
    }
}

fn step(what: &str) {
    static BEGUN: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    println!("  ok: {what} ({} s)", BEGUN.elapsed().as_secs());
}

fn address_of(tenant: &str) -> SocketAddr {
    let created = ["acme", "globex", NATIVE].iter().position(|it| *it == tenant).unwrap();
    gateway::address(u8::try_from(created).unwrap())
}

/// A whole turn over HTTP; the streamed text.
fn complete(host: &Host, token: &str, text: &str) -> String {
    complete_at(host, "acme", token, text)
}

fn complete_at(host: &Host, tenant: &str, token: &str, text: &str) -> String {
    let (status, text) = post(host, tenant, token, text);
    assert_eq!(status, 200, "{text}\n{}", host.log());
    text
}

fn post(host: &Host, tenant: &str, token: &str, text: &str) -> (u16, String) {
    let body =
        json!({ "model": "openclaw", "stream": true, "messages": [{ "role": "user", "content": text }] });
    let headers = format!("Authorization: Bearer {token}\r\nContent-Type: application/json\r\n");
    let name = format!("{tenant}.localhost:{PORT}");
    let reply =
        host.world.host(|| http::post(host::edge(), &name, "/v1/chat/completions", &headers, &body)).unwrap();
    (reply.status, String::from_utf8_lossy(&reply.parts.concat()).into_owned())
}

fn waiting(host: &Host) -> Option<u64> {
    let list = host.json(&["approvals", "list", "--tenant", "acme"]);
    let row = list["approvals"].as_array().unwrap().iter().find(|row| row["state"] == "waiting")?;
    row["id"].as_u64()
}

/// The stock client against acme, in the host namespace.
fn client(host: &Host, tree: &std::path::Path, token: &str, arguments: &[&str]) -> String {
    client_at(host, tree, "acme", token, arguments)
}

fn client_at(host: &Host, tree: &std::path::Path, tenant: &str, token: &str, arguments: &[&str]) -> String {
    let home = tempfile::tempdir().unwrap();
    let mut command = gateway::stock(tree, home.path(), address_of(tenant), token, arguments);
    let output = host.world.output(&mut command);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    text
}

/// A connection to acme after hello-ok, or the refusal.
fn connect(host: &Host, token: &str) -> Result<Socket, Value> {
    connect_at(host, "acme", token)
}

fn connect_at(host: &Host, tenant: &str, token: &str) -> Result<Socket, Value> {
    gateway::connect(host, address_of(tenant), token)
}
