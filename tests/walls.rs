//! The walls of a cell on a whole host: what acme's code reaches of globex, of the host and of the network,
//! and what it does not. Each refusal stands beside something of the same kind that works.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod host;
mod world;

use host::{Host, until};
use serde_json::{Value, json};
use std::{fs, net::TcpListener};
use world::{MODEL_NAME, TRAPS, WEB, WEB_NAME, http::Reply};

/// Tries each of `targets` in a cell; prints `{"target": "open" or the error}`.
const REACH: &str = r#"
import json, socket, sys
result = {}
for host, port in json.loads(TARGETS):
    try:
        stream = socket.create_connection((host, port), timeout=60)
        stream.settimeout(60)
        stream.sendall(b"GET /walls HTTP/1.1\r\nHost: " + NAME.get(host, host).encode() + b"\r\nConnection: close\r\n\r\n")
        answer = b""
        while True:
            piece = stream.recv(65536)
            if not piece: break
            answer += piece
        result[f"{host} {port}"] = answer.decode("latin-1") or "closed"
    except OSError as error:
        result[f"{host} {port}"] = type(error).__name__
print(json.dumps(result))
"#;

const OPEN: &str = "version: 1\ndefault: deny\nrules:\n  - {allow: web.example.com, protocol: http, ports: [80]}\n  - {allow: inside.example.com, protocol: http}\n  - {allow: 10.9.9.9, protocol: http}\n  - {allow: 169.254.169.254, protocol: http}\n  - {allow: 192.0.2.1, protocol: http, ports: [8471, 9999]}\n  - {allow: 127.0.0.1, protocol: http, ports: [8471, 9999]}\n";

fn reach(host: &Host, targets: &[(&str, u16)]) -> Value {
    let quoted = json!(json!(targets).to_string());
    let program = format!("TARGETS = {quoted}\nNAME = {{}}\n{REACH}");
    serde_json::from_str(&host.python("acme", &program)).unwrap()
}

#[test]
fn a_cell_reaches_no_neighbour_host_metadata_or_private_address_even_by_a_rule() {
    let host = Host::with(&["acme", "globex"]);
    host.world.web.page("/walls", Reply::text(200, "the web answered"));
    host.world.dns.answer("inside.example.com", &["10.9.9.9"]);
    host.policy("acme", OPEN);
    // Listeners of the host, at every address that it has.
    let _listeners: Vec<TcpListener> = host.world.host(|| {
        ["127.0.0.1:9999", "192.0.2.1:9999", "[2001:db8::1]:9999"]
            .map(|address| TcpListener::bind(address).unwrap())
            .into()
    });
    let globex = host.json(&["tenant", "show", "globex"]);
    let globex = globex["address"].as_str().unwrap();
    let globex = globex.trim_start_matches("http://").rsplit_once(':').unwrap().0.to_owned();

    let mut targets = vec![
        (globex.as_str(), host::PORT),
        ("127.0.0.1", host::PORT),
        ("127.0.0.1", 9999),
        ("192.0.2.1", 9999),
        ("192.0.2.1", host::PORT),
        ("192.0.2.2", 80),
        ("2001:db8::1", 9999),
        ("inside.example.com", 80),
        ("metadata.google.internal", 80),
        // Metadata in other spellings.
        ("2852039166", 80),
        ("0xa9.254.169.254", 80),
        ("0251.0376.0251.0376", 80),
        ("::ffff:169.254.169.254", 80),
        ("64:ff9b::a9fe:a9fe", 80),
        ("2002:a9fe:a9fe::", 80),
    ];
    targets.extend(TRAPS.iter().map(|trap| (*trap, 80)));
    targets.push((WEB_NAME, 80));
    let answers = reach(&host, &targets);
    for (name, port) in &targets {
        let answer = answers[format!("{name} {port}")].as_str().unwrap();
        let through = answer.starts_with("HTTP/1.1 200");
        assert_eq!(through, *name == WEB_NAME, "{name} {port}: {answer}");
    }
    assert_eq!(host.world.traps.hits(), []);
    // The positive control of the traps: they do answer the host.
    let trap = (TRAPS[0].parse::<std::net::IpAddr>().unwrap(), 80).into();
    assert_eq!(host.world.host(|| world::http::get(trap, "x", "/")).unwrap().status, 200);
    assert_eq!(host.world.traps.hits().len(), 1);
    assert!(host.world.web.hits().iter().any(|(to, _)| to.ip().to_string() == WEB[0] || to.is_ipv6()));
}

#[test]
fn the_explicit_proxy_leads_nowhere_that_a_captured_connection_does_not() {
    let host = Host::with(&["acme", "globex"]);
    host.world.web.page("/walls", Reply::text(200, "the web answered"));
    host.world.dns.answer("inside.example.com", &["10.9.9.9"]);
    host.policy("acme", OPEN);
    let _listener = host.world.host(|| TcpListener::bind("127.0.0.1:9999")).unwrap();
    let port = host::PORT;
    let globex = host.json(&["tenant", "show", "globex"])["address"].as_str().unwrap().to_owned();
    let globex = globex.trim_start_matches("http://").to_owned();
    let targets = [
        &*format!("127.0.0.1:{port}"),
        "127.0.0.1:9999",
        "127.0.0.1:18789",
        "127.0.0.1:3128",
        "0.0.0.0:9999",
        "[::1]:9999",
        "[::ffff:127.0.0.1]:9999",
        "localhost:9999",
        &globex,
        "globex.localhost:8471",
        "192.0.2.1:9999",
        "169.254.169.254:80",
        "2852039166:80",
        "10.9.9.9:80",
        "inside.example.com:80",
        "metadata.google.internal:80",
        "web.example.com:22",
        "web.example.com:0",
        "93.184.216.34:80",
        "web.example.com:80",
    ];
    let program = r#"
import json, socket
result = {}
for target in json.loads(TARGETS):
    for form in ("connect", "absolute"):
        stream = socket.create_connection(("127.0.0.1", 3128), timeout=60)
        stream.settimeout(60)
        get = f"GET {'/walls' if form == 'connect' else 'http://' + target + '/walls'} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n"
        answer = b""
        try:
            if form == "connect":
                stream.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
                head = stream.recv(4096)
                if head.startswith(b"HTTP/1.1 200"):
                    stream.sendall(get.encode())
                else:
                    answer = head
            else:
                stream.sendall(get.encode())
            while not answer or form == "absolute":
                piece = stream.recv(65536)
                if not piece: break
                answer += piece
        except OSError as error:
            answer = type(error).__name__.encode()
        result[f"{form} {target}"] = answer.decode("latin-1")
        stream.close()
print(json.dumps(result))
"#;
    let quoted = json!(json!(targets).to_string());
    let answers: Value =
        serde_json::from_str(&host.python("acme", &format!("TARGETS = {quoted}\n{program}"))).unwrap();
    for target in targets {
        for form in ["connect", "absolute"] {
            let answer = answers[format!("{form} {target}")].as_str().unwrap();
            let through = answer.contains("the web answered");
            assert_eq!(through, target == "web.example.com:80", "{form} {target}: {answer}");
        }
    }
    assert_eq!(host.world.traps.hits(), []);
    assert!(host.world.web.hits().iter().all(|(to, _)| to.port() == 80));
}

#[test]
fn a_look_up_of_a_cell_never_leaves_the_host() {
    let host = Host::with(&["acme"]);
    host.policy("acme", "version: 1\ndefault: deny\nrules: []\n");
    let program = r#"
import json, socket
names = sorted({row[4][0] for row in socket.getaddrinfo("secret.example.com", 80)})
question = b"\x12\x34\x01\0\0\1\0\0\0\0\0\0\5stray\7example\3com\0\0\1\0\1"
outside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
outside.settimeout(3)
try:
    outside.sendto(question, ("9.9.9.9", 53))
    answer = outside.recv(512).hex()
except OSError as error:
    answer = type(error).__name__
print(json.dumps([names, answer]))
"#;
    let found: Value = serde_json::from_str(&host.python("acme", program)).unwrap();
    // The positive control: names do resolve, to synthetic addresses.
    let names: Vec<&str> = found[0].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(names.iter().any(|name| name.starts_with("198.18.") || name.starts_with("198.19.")), "{names:?}");
    assert!(names.iter().all(|name| name.starts_with("198.1") || name.starts_with("fd")), "{names:?}");
    // Another name server answers nothing: what it was asked for arrives at the warden, which made up an address.
    let answer = found[1].as_str().unwrap();
    assert!(answer.contains("c612") || answer.contains("c613") || answer.ends_with("Error"), "{answer}");
    assert_eq!(host.world.dns.questions(), []);
    // What was allowed is asked outside, once it is dialled.
    host.policy("acme", OPEN);
    host.world.web.page("/walls", Reply::text(200, "the web answered"));
    let answers = reach(&host, &[(WEB_NAME, 80)]);
    assert!(answers["web.example.com 80"].as_str().unwrap().contains("the web answered"), "{answers}");
    assert!(host.world.dns.questions().iter().all(|question| question.name == WEB_NAME));
    assert!(!host.world.dns.questions().is_empty());
}

/// Every process, file and environment that a cell can read, searched for words.
const SCAN: &str = r#"
import json, os, re, sys
words = [word.encode() for word in json.loads(WORDS)]
found, read = {}, 0
def look(where, data):
    global read
    read += len(data)
    for word in words:
        if word in data:
            found.setdefault(word.decode(), []).append(where)
me = os.getpid()
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("cmdline", "environ", "mountinfo", "status", "maps", "cgroup", "comm"):
        try:
            with open(f"/proc/{pid}/{name}", "rb") as file: look(f"/proc/{pid}/{name}", file.read())
        except OSError: pass
    if int(pid) == me: continue
    try:
        with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
            for line in maps:
                first, last = (int(part, 16) for part in line.split()[0].split("-"))
                try:
                    memory.seek(first)
                    look(f"/proc/{pid}/mem", memory.read(last - first))
                except (OSError, OverflowError, ValueError): pass
    except OSError: pass
skip = ("/proc", "/usr", "/dev", "/sys", "/opt/cofferdam")
for top, dirs, files in os.walk("/"):
    if top.startswith(skip): dirs[:] = []; continue
    for name in files:
        path = os.path.join(top, name)
        try:
            if os.path.isfile(path):
                with open(path, "rb") as file: look(path, file.read(1 << 26))
        except OSError: pass
print(json.dumps({"found": found, "read": read, "processes": sum(map(str.isdigit, os.listdir("/proc")))}))
"#;

fn scan(host: &Host, words: &[&str], planted: &str) -> Value {
    // The words are put together in the cell, so that the scan does not find itself.
    let split: Vec<String> = words.iter().map(|word| word.chars().rev().collect()).collect();
    let quoted = json!(json!(split).to_string());
    let program =
        SCAN.replace("json.loads(WORDS)", &format!("[word[::-1] for word in json.loads({quoted})]"));
    // Beside it a process that holds `planted` in its environment, of the same command: what one command
    // runs may not be read by another.
    let both =
        "env HIDDEN=\"$1\" python3 -I -c 'import time; time.sleep(600)' & python3 -I -c \"$0\"; kill $!";
    let output = host.exec("acme", &["sh", "-c", both, &program, planted]);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

#[test]
fn the_providers_key_is_nowhere_in_the_cell_and_a_planted_canary_is_found_by_the_same_scan() {
    let host = Host::with(&["acme"]);
    let (key, canary) = ("sk-provider-5f2c9e71d0", "canary-81b3a6f4c2");
    assert!(host.feed(&["secret", "set", "acme", "KEY"], key).status.success());
    let url = format!("http://{MODEL_NAME}/v1");
    host.json(&["model", "set", "acme", "--url", &url, "--model", "scripted", "--secret", "KEY"]);
    host.policy("acme", &format!("version: 1\nrules:\n  - {{allow: {MODEL_NAME}, protocol: http}}\n"));
    let body = r#"{"model":"any","messages":[{"role":"user","content":"hello"}]}"#;
    let curl = ["curl", "-sS", "-H", "content-type: application/json", "-d", body];
    let turn = host.exec("acme", &[&curl[..], &["http://inference.local/v1/chat/completions"]].concat());
    assert!(String::from_utf8_lossy(&turn.stdout).contains("done"), "{turn:?}\n{}", host.log());
    assert_eq!(host.world.model.authorizations(), [Some(format!("Bearer {key}"))]);

    assert!(host.exec("acme", &["sh", "-c", &format!("echo {canary} > /sandbox/canary")]).status.success());
    let result = scan(&host, &[key, canary], canary);
    let places = result["found"][canary].as_array().unwrap_or_else(|| panic!("no canary: {result}"));
    for place in ["environ", "/sandbox/canary"] {
        assert!(places.iter().any(|found| found.as_str().unwrap().ends_with(place)), "{place}: {result}");
    }
    assert!(result["found"][key].is_null(), "{result}");

    // The same for every readable byte of every process, which a cell's own code could not read: by the host's
    // root. What it finds is only in memory: put together there, and in no file, argument or variable.
    let halves = format!(
        "import time; kept = '-'.join(['memory', '{canary}']); print('kept', flush=True); time.sleep(600)"
    );
    let mut holder = host.begin("acme", &["python3", "-I", "-c", &halves]);
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(holder.stdout.take().unwrap()), &mut line)
        .unwrap();
    let places = host.places("acme", &[&format!("memory-{canary}")]);
    assert!(!places.is_empty() && places.iter().all(|place| place.ends_with("/mem")), "{places:?}");
    assert_eq!(host.places("acme", &[key]), Vec::<String>::new());
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[test]
fn a_cell_shows_nothing_of_its_neighbour_or_the_host() {
    let host = Host::with(&["acme", "globex"]);
    let (mark, own) = ("mark-of-globex-77aa", "mark-of-acme-33bb");
    for (tenant, word) in [("globex", mark), ("acme", own)] {
        let line = format!("echo {word} > /sandbox/mark; echo {word} > /tmp/mark");
        assert!(host.exec(tenant, &["sh", "-c", &line]).status.success());
    }
    fs::write(host.dir.join("host-secret"), "mark-of-the-host-55cc").unwrap();
    // What is another's: its words, its processes' names, its addresses.
    let others = [
        mark,
        "mark-of-the-host-55cc",
        "__warden",
        "__control",
        "__edge",
        "127.18.0.3",
        "192.0.2.1",
        "2001:db8::1",
    ];
    let result = scan(&host, &[&others[..], &[own]].concat(), "");
    assert!(result["found"][own].is_array(), "{result}");
    for word in others {
        assert!(result["found"][word].is_null(), "{word}: {result}");
    }
    let numbers =
        host.python("acme", "import os; print(*sorted(map(int, filter(str.isdigit, os.listdir('/proc')))))");
    assert!(numbers.split_whitespace().count() < 10, "{numbers}");
    let listed = host.exec("acme", &["ls", host.dir.to_str().unwrap()]);
    assert!(!listed.status.success() && host.dir.join("tenants").exists());
}

#[test]
fn a_cell_writes_in_its_home_and_tmp_and_nowhere_else() {
    let host = Host::with(&["acme"]);
    let program = r#"
import json, os
writable = []
for top, dirs, files in os.walk("/"):
    if top.startswith(("/proc", "/sandbox/", "/tmp/")): dirs[:] = []; continue
    for path in [os.path.join(top, ".probe")]:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY)); os.unlink(path); writable.append(top)
        except OSError: pass
    for name in files:
        path = os.path.join(top, name)
        if os.path.islink(path) or not os.access(path, os.F_OK): continue
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK)); writable.append(path)
        except OSError: pass
for path in ["/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/proc/self/uid_map", "/proc/1/oom_score_adj"]:
    try:
        with open(path, "w") as file: file.write("0")
        writable.append(path)
    except OSError: pass
print(json.dumps(sorted(writable)))
"#;
    assert_eq!(
        serde_json::from_str::<Value>(&host.python("acme", program)).unwrap(),
        json!(["/dev/null", "/sandbox", "/tmp"])
    );
}

#[test]
fn a_tool_that_takes_the_edges_address_and_headers_does_not_pass_its_own_gateways_port() {
    let host = Host::with(&["acme"]);
    let program = r#"
import socket
for source in ("198.19.255.1", "127.0.0.1"):
    for port in (8080, 8081):
        if port == 8081:
            server = socket.create_server(("127.0.0.1", 8081))
        stream = socket.socket()
        stream.settimeout(20)
        try:
            stream.bind((source, 0))
            stream.connect(("127.0.0.1", port))
            stream.sendall(b"GET / HTTP/1.1\r\nHost: acme.localhost\r\nX-Cofferdam-User: m001\r\nConnection: close\r\n\r\n")
            print(source, port, "open" if port == 8081 else stream.recv(15))
        except OSError as error:
            print(source, port, type(error).__name__)
        stream.close()
        if port == 8081: server.close()
"#;
    let tried = host.python("acme", program);
    for line in tried.lines() {
        assert!(
            line.contains("8081 open") || (line.contains(" 8080 ") && line.ends_with("Error")),
            "{tried}"
        );
    }
    assert_eq!(tried.matches("open").count(), 2, "{tried}");
    let (token, _) = host.token("acme", "member");
    assert_eq!(host.get("acme", "/", &token).status, 200);
}

#[test]
fn a_thousand_binds_while_the_warden_is_dead_steal_nothing() {
    let host = Host::with(&["acme"]);
    host.world.web.page("/walls", Reply::text(200, "the web answered"));
    host.policy("acme", OPEN);
    let asked =
        |host: &Host| reach(host, &[(WEB_NAME, 80)])["web.example.com 80"].as_str().unwrap().to_owned();
    assert!(asked(&host).contains("the web answered"));

    let racer = r#"
import os, select, socket
print("up", flush=True)
taken, stolen, tried, refused = [], 0, 0, 0
ports = [80, 443, 53, 3128, 8080, 15001]
while tried < 1000 or not os.path.exists("/sandbox/enough"):
    for address in ("0.0.0.0", "127.0.0.1", "198.18.0.1", "198.18.0.2"):
        for port in ports:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                tried += 1
                sock = socket.socket(socket.AF_INET, kind)
                try:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    sock.bind((address, port))
                    if kind == socket.SOCK_STREAM: sock.listen(8)
                    sock.setblocking(False)
                    taken.append(sock)
                except OSError:
                    refused += 1
                    sock.close()
    ready, _, _ = select.select(taken, [], [], 0.01)
    for sock in ready:
        try:
            if sock.type == socket.SOCK_STREAM: sock.accept()
            else: sock.recv(512)
            stolen += 1
        except OSError: pass
    while len(taken) > 40: taken.pop(0).close()
print(tried, stolen, refused, flush=True)
"#;
    let warden = host.process("__warden acme").unwrap();
    let mut child = host.begin("acme", &["python3", "-I", "-c", racer]);
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut lines, &mut line).unwrap();
    let pid = rustix::process::Pid::from_raw(warden).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let next = until("another warden", || host.process("__warden acme").filter(|next| *next != warden));
    assert_ne!(next, warden);
    host.ready("acme");
    let during: Vec<String> = (0..5).map(|_| asked(&host)).collect();
    assert!(host.exec("acme", &["touch", "/sandbox/enough"]).status.success());
    line.clear();
    std::io::BufRead::read_line(&mut lines, &mut line).unwrap();
    child.wait().unwrap();
    let [tried, stolen, refused] =
        line.split(' ').map(|n| n.trim().parse::<u32>().unwrap()).collect::<Vec<_>>()[..]
    else {
        panic!("{line:?}")
    };
    assert!(tried >= 1000 && refused > 0, "{line}");
    assert_eq!(stolen, 0, "{line}");
    assert!(during.iter().all(|answer| answer.contains("the web answered")), "{during:?}");
    assert!(asked(&host).contains("the web answered"));
}
