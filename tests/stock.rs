//! Upstream's own client at both gateways, in the same test: `health`, `sessions`, `cron`, and a message typed and answered
//! in `tui`. And what both gateways say of one and the same turn, event by event.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod host;
mod world;

use host::{
    Host,
    gateway::{self, Socket, address, call, compared, message},
    until,
};
use rustix::{
    process::{Pid, Signal, kill_process_group},
    pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read as _, Write as _},
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio_tungstenite::tungstenite::Message;
use world::{MODEL_NAME, model::Turn};

/// A tenant and its runtime.
const TENANTS: [(&str, &str); 2] = [("acme", "openclaw"), ("small", "native")];

#[test]
fn upstreams_client_finds_in_both_gateways_what_it_looks_for() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root, for the world of the test");
        return;
    }
    let mut host = Host::prepare("");
    // Before the host starts: it learns at its start what is installed.
    let tree = gateway::install(&host);
    host.serve();
    let mut turns = Vec::new();
    for (number, (tenant, runtime)) in TENANTS.into_iter().enumerate() {
        host.json(&["tenant", "create", tenant, "--runtime", runtime]);
        assert!(host.feed(&["secret", "set", tenant, "PROVIDER"], "sk-canary").status.success());
        let url = format!("http://{MODEL_NAME}/v1");
        host.json(&["model", "set", tenant, "--url", &url, "--model", "mock-1", "--secret", "PROVIDER"]);
        host.json(&["tenant", "start", tenant]);
        let at = address(u8::try_from(number).unwrap());
        let (admin, _) = host.token(tenant, "admin");
        let mut socket = gateway::connect(&host, at, &admin).unwrap();
        sessions(&host, &tree, at, &admin, &mut socket);
        println!("  ok: {tenant}: sessions archive, compact, delete");
        if runtime == "native" {
            // Jobs are asked for there.
            let base = call(&mut socket, "config.get", &json!({}))["payload"]["hash"].clone();
            let raw = json!({ "cron": { "enabled": true } }).to_string();
            let patched = call(&mut socket, "config.patch", &json!({ "raw": raw, "baseHash": base }));
            assert_eq!(patched["ok"], true, "{patched}");
        }
        jobs(&host, &tree, at, &admin);
        println!("  ok: {tenant}: health, and cron add, list, disable, rm");
        typed(&host, &tree, at, &admin, tenant);
        println!("  ok: {tenant}: a message typed and answered in tui");
        turns.push(events(&host, &mut socket));
    }
    let (theirs, ours) = (&turns[0], &turns[1]);
    let mut wrong = Vec::new();
    for (what, payload) in ours {
        match theirs.get(what) {
            Some(other) => wrong.extend(compared(what, other, payload)),
            None => println!("  ours alone: {what}"),
        }
    }
    for what in theirs.keys().filter(|what| !ours.contains_key(*what)) {
        println!("  theirs alone: {what}");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for what in
        ["chat delta", "chat final", "agent lifecycle start", "agent lifecycle end", "session.message user"]
    {
        assert!(theirs.contains_key(what) && ours.contains_key(what), "{what}");
    }
}

/// Runs the client in an empty home: did it end well, and what it said.
fn run(host: &Host, tree: &Path, at: SocketAddr, token: &str, arguments: &[&str]) -> (bool, Value) {
    let home = tempfile::tempdir().unwrap();
    let output = host.world.output(&mut gateway::stock(tree, home.path(), at, token, arguments));
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.success(), serde_json::from_str(&told).unwrap_or(Value::String(told)))
}

fn jobs(host: &Host, tree: &Path, at: SocketAddr, token: &str) {
    assert!(run(host, tree, at, token, &["health"]).0);
    let cron = |arguments: &[&str]| {
        let (ok, told) = run(host, tree, at, token, &[&["cron"], arguments, &["--json"]].concat());
        assert!(ok, "{arguments:?}: {told}");
        told
    };
    let made = cron(&["add", "--name", "tea", "--at", "+2h", "--system-event", "tea", "--session", "main"]);
    let id = made["id"].as_str().unwrap_or_else(|| panic!("{made}"));
    let listed = |told: &Value| told["jobs"].as_array().unwrap().iter().any(|job| job["id"] == id);
    assert!(listed(&cron(&["list"])));
    assert_eq!(cron(&["disable", id])["enabled"], false);
    assert_eq!(cron(&["rm", id])["removed"], true);
    assert!(!listed(&cron(&["list", "--all"])));
}

/// Conversations are put away, summed up and deleted.
fn sessions(host: &Host, tree: &Path, at: SocketAddr, token: &str, socket: &mut Socket) {
    let run = |arguments: &[&str]| run(host, tree, at, token, &[&["sessions"], arguments].concat());
    let key = "agent:main:dashboard:kept";
    let made = call(socket, "sessions.create", &json!({ "key": key, "agentId": "main" }));
    assert_eq!(made["ok"], true, "{made}");
    // Upstream's gateway calls it a failure.
    let (_, told) = run(&["compact", key, "--json"]);
    assert_eq!((&told["key"], &told["compacted"]), (&json!(key), &json!(false)), "{told}");
    assert!(told["reason"].as_str().unwrap().to_lowercase().contains("nothing to compact"), "{told}");
    for status in ["archived", "already_archived"] {
        let (ok, told) = run(&["archive", key, "--json"]);
        assert!(ok && told["results"][0]["status"] == status, "{status}: {told}");
    }
    let (ok, told) = run(&["delete", key, "--json"]);
    assert!(!ok && told["results"][0]["status"] == "failed", "nobody said yes: {told}");
    let (ok, told) = run(&["delete", key, "--yes", "--json"]);
    assert!(ok && told["results"][0]["status"] == "deleted", "{told}");
    let (ok, told) = run(&["delete", key, "--yes", "--json"]);
    assert!(!ok && told["results"][0]["status"] == "not_found", "{told}");
}

/// A program in a terminal of its own.
struct Terminal {
    ours: File,
    child: Child,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn begin(host: &Host, command: &mut Command) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags).unwrap();
        unlockpt(&ours).unwrap();
        tcsetwinsize(&ours, Winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let theirs = ioctl_tiocgptpeer(&ours, flags).unwrap();
        // Whatever it starts ends with it.
        command.env("TERM", "xterm-256color").process_group(0);
        command.stdin(theirs.try_clone().unwrap()).stdout(theirs.try_clone().unwrap()).stderr(theirs);
        let child = host.world.host(|| command.spawn()).unwrap();
        // Else its ends stay open here, and whoever reads never hears of the end.
        command
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        let ours = File::from(ours);
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut from, to) = (ours.try_clone().unwrap(), Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = from.read(&mut piece) {
                to.lock().unwrap().extend_from_slice(&piece[..length]);
            }
        });
        Self { ours, child, shown }
    }

    fn shows(&self, words: &str) {
        until(words, || {
            let shown = self.shown.lock().unwrap();
            shown.windows(words.len()).any(|piece| piece == words.as_bytes()).then_some(())
        });
    }

    fn types(&mut self, keys: &str) {
        self.ours.write_all(keys.as_bytes()).unwrap();
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("{}", String::from_utf8_lossy(&self.shown.lock().unwrap()));
        }
    }
}

fn typed(host: &Host, tree: &Path, at: SocketAddr, token: &str, tenant: &str) {
    let home = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::begin(host, &mut gateway::stock(tree, home.path(), at, token, &["tui"]));
    terminal.shows("connected");
    host.world.model.say(Turn::Text(format!("{tenant}-has-answered")));
    terminal.types("what-is-typed-here");
    terminal.shows("what-is-typed-here");
    terminal.types("\r");
    terminal.shows(&format!("{tenant}-has-answered"));
}

/// What a client hears of a turn with a tool, by event and kind; all of one kind as one.
fn events(host: &Host, socket: &mut Socket) -> BTreeMap<String, Value> {
    call(socket, "sessions.subscribe", &json!({}));
    call(socket, "sessions.messages.subscribe", &json!({ "key": "agent:main:main" }));
    // That of the terminal before is over.
    until("the end of what was typed", || {
        let history =
            call(socket, "chat.history", &json!({ "sessionKey": "agent:main:main" }))["payload"].clone();
        let last = history["messages"].as_array().and_then(|messages| messages.last().cloned());
        let answered = last
            .is_some_and(|last| last["role"] == "assistant" && last.to_string().contains("-has-answered"));
        (answered && history["inFlightRun"].is_null()).then_some(())
    });
    host.world.model.say(Turn::Exec(json!({ "command": "echo one" })));
    host.world.model.say(Turn::Text("that was one".into()));
    let send = json!({ "type": "req", "id": "turn", "method": "chat.send", "params": message("say one") });
    socket.send(Message::text(send.to_string())).unwrap();
    let mut heard: BTreeMap<String, Value> = BTreeMap::new();
    let (mut last, mut run, mut over, begun) = (0, Value::Null, false, Instant::now());
    while let Ok(frame) = socket.read() {
        assert!(begun.elapsed() < Duration::from_mins(2), "it does not end: {heard:?}");
        let Message::Text(text) = frame else { continue };
        let frame: Value = serde_json::from_str(&text).unwrap();
        let payload = &frame["payload"];
        if frame["type"] != "event" {
            assert_eq!(frame["ok"], true, "{frame}");
            run = payload["runId"].clone();
            continue;
        }
        let seq = frame["seq"].as_u64().unwrap_or_else(|| panic!("no seq: {frame}"));
        assert!(seq > last, "{seq} after {last}");
        last = seq;
        let event = frame["event"].as_str().unwrap();
        let kinds = match event {
            "chat" => vec![&payload["state"]],
            "agent" => vec![&payload["stream"], &payload["data"]["phase"]],
            "session.message" => vec![&payload["message"]["role"]],
            "sessions.changed" => vec![&payload["reason"]],
            _ => Vec::new(),
        };
        let kinds = kinds.iter().filter_map(|kind| kind.as_str()).map(|kind| format!(" {kind}"));
        let what = format!("{event}{}", kinds.collect::<String>());
        heard.entry(what).or_insert_with(|| json!([])).as_array_mut().unwrap().push(payload.clone());
        let goes_on = ["delta", "status"].iter().any(|state| payload["state"] == *state);
        if event == "chat" && payload["runId"] == run && !goes_on {
            assert_eq!(payload["state"], "final", "{payload}");
            // What follows is said at once, or not at all; a tick is said for ever.
            over = true;
            socket.get_ref().set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        }
        if over && event == "tick" {
            break;
        }
    }
    assert!(over, "no end was told: {heard:?}");
    heard
}
