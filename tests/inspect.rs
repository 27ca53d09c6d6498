//! TLS that a warden looks into, on a whole host with the clients that people have: curl, git, Node, Python's
//! requests and a WebSocket. Each denial stands beside what passes.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod host;
mod world;

use host::{Host, until};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command},
    sync::mpsc,
    time::{Duration, Instant},
};
use world::{
    WEB, WEB_NAME,
    tls::{Authority, Server},
};

const API: &str = "api.example.com";
const OPAQUE: &str = "opaque.example.com";

const POLICY: &str = "version: 2
default: deny
rules:
  - allow: api.example.com
    protocol: https
    method: [GET, POST]
    path: /open/**
  - allow: api.example.com
    protocol: https
    method: GET
    path: /repo.git/**
  - allow: api.example.com
    protocol: ws
    path: /ws
  - deny: api.example.com
    path: /open/secret
    reason: not this one
  - allow: opaque.example.com
    protocol: https
";

/// A host whose operator trusts the world's authority, with acme under [`POLICY`].
fn inspecting() -> (Host, Server) {
    let mut host = Host::prepare("");
    let authority = Authority::new();
    let roots = host.dir.join("roots.pem");
    fs::write(&roots, authority.pem()).unwrap();
    fs::set_permissions(&roots, fs::Permissions::from_mode(0o644)).unwrap();
    let file = host.dir.join("cofferdam.toml");
    let config = fs::read_to_string(&file).unwrap();
    let with = format!("[egress]\nextra_roots = {:?}\n", roots.to_str().unwrap());
    fs::write(&file, config.replace("[egress]\n", &with)).unwrap();
    let address = format!("{}:443", WEB[0]).parse().unwrap();
    let server = host.world.outside(|| Server::start(address, &authority, &[API, OPAQUE]));
    for name in [API, OPAQUE] {
        host.world.dns.answer(name, &WEB[..1]);
    }
    host.serve();
    host.create("acme");
    host.policy("acme", POLICY);
    (host, server)
}

fn sh(host: &Host, line: &str) -> (bool, String) {
    let output = host.exec("acme", &["/bin/sh", "-c", line]);
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said.into_owned())
}

#[test]
fn curl_passes_by_method_and_path_over_both_http_and_both_ways_out() {
    let (host, server) = inspecting();
    for way in ["", "--noproxy '*'"] {
        for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
            let curl = |rest: &str| {
                let line = format!(
                    "curl -sS {flag} {way} -w '\\n%{{http_code}} %{{http_version}} %{{ssl_verify_result}}' {rest}"
                );
                sh(&host, &line)
            };
            let (ok, said) = curl("https://api.example.com/open/a");
            assert!(ok && said.starts_with("the world answered GET /open/a"), "{said}");
            assert!(said.ends_with(&format!("200 {version} 0")), "{said}");
            let (ok, said) = curl("-d 12345 https://api.example.com/open/b");
            assert!(ok && said.contains("answered POST /open/b of 5 bytes"), "{said}");
            for (rest, reason) in [
                ("https://api.example.com/open/secret", "denied_by_rule"),
                ("https://api.example.com/closed", "no_rule"),
                ("-X DELETE https://api.example.com/open/a", "no_rule"),
            ] {
                let (ok, said) = curl(rest);
                let (body, end) = said.rsplit_once('\n').unwrap();
                assert!(ok && end == format!("403 {version} 0"), "{rest}: {said}");
                let body: Value = serde_json::from_str(body.trim()).unwrap();
                assert_eq!(body["reason"], reason, "{rest}");
            }
            // Another host inside the same TLS.
            let (_, said) = curl("-H 'Host: opaque.example.com' https://api.example.com/open/a");
            assert!(said.contains("host_mismatch") && said.contains("421"), "{said}");
        }
    }
    let (_, said) = sh(&host, "curl -sS -o /dev/null -w '%{certs}' https://api.example.com/open/a");
    assert!(said.contains("Cofferdam inspection of acme"), "{said}");
    // Where nothing is said of requests, the client sees the server's own certificate.
    let (ok, said) = sh(&host, "curl -sS -w '%{certs}' https://opaque.example.com/closed");
    assert!(ok && said.contains("the world's test authority") && !said.contains("Cofferdam"), "{said}");
    // The ledger knows which of the two nobody saw.
    let rows = host.cli(&["--json", "ledger", "tail", "-n", "1000", "--tenant", "acme"]);
    let rows: Vec<Value> = String::from_utf8(rows.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|row| row["kind"] == "allow")
        .collect();
    let unseen = |row: &&Value| row["body"]["reason"] == "opaque";
    let named = |row: &Value, name: &str| row["body"]["destination"].as_str().unwrap().contains(name);
    assert!(rows.iter().filter(unseen).all(|row| named(row, OPAQUE)), "{rows:?}");
    assert!(rows.iter().any(|row| unseen(&row)) && rows.iter().any(|row| named(row, API)), "{rows:?}");
    let seen = server.seen();
    assert!(seen.iter().all(|(_, method, _, path)| path != "/open/secret" && method != "DELETE"), "{seen:?}");
    assert!(seen.iter().all(|(.., host, path)| path != "/closed" || host == OPAQUE), "{seen:?}");
    assert!(seen.iter().any(|(version, ..)| version == "HTTP/2.0"), "{seen:?}");
}

#[test]
fn git_clones_over_https_what_its_rule_names_and_nothing_else() {
    let (host, server) = inspecting();
    let dir = tempfile::tempdir().unwrap();
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .args(["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main"])
            .args(arguments)
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    git(&["init", "-q", "work"]);
    fs::write(dir.path().join("work/file"), "what was committed").unwrap();
    git(&["-C", "work", "add", "file"]);
    git(&["-C", "work", "commit", "-q", "-m", "one"]);
    git(&["clone", "-q", "--bare", "work", "repo.git"]);
    git(&["-C", "repo.git", "update-server-info"]);
    server.files("/repo.git/", dir.path().join("repo.git"));
    server.files("/other.git/", dir.path().join("repo.git"));
    let (ok, said) =
        sh(&host, "git clone -q https://api.example.com/repo.git /sandbox/clone && cat /sandbox/clone/file");
    assert!(ok && said.contains("what was committed"), "{said}");
    let (ok, said) = sh(&host, "git clone -q https://api.example.com/other.git /sandbox/other");
    assert!(!ok && said.contains("403"), "{said}");
    assert!(server.seen().iter().all(|(.., path)| !path.starts_with("/other.git")));
}

#[test]
fn a_key_that_is_bound_to_a_host_arrives_inside_tls_and_is_covered_where_it_comes_back() {
    const KEY: &str = "sk-bound/Zx81-0123456789";
    let (host, server) = inspecting();
    let bind = "secret set acme KEY --bind opaque.example.com/v1/** --in header:X-Api-Key --env API_KEY";
    let output = host.feed(&bind.split(' ').collect::<Vec<_>>(), KEY);
    assert!(output.status.success(), "{output:?}");
    host.json(&["tenant", "restart", "acme"]);
    host.ready("acme");
    for flag in ["--http1.1", "--http2"] {
        let curl = |path: &str| {
            let url = format!("https://opaque.example.com{path}");
            sh(&host, &format!("curl -sS {flag} -H \"X-Api-Key: $API_KEY\" {url}"))
        };
        let (ok, said) = curl("/v1/me");
        assert!(ok && said.contains("the world answered GET /v1/me"), "{said}");
        let (ok, said) = curl("/v1/echo");
        assert!(ok && said == "*".repeat(KEY.len()), "{said}");
        let (_, said) = curl("/v2/me");
        assert!(said.contains("placeholder_elsewhere"), "{said}");
    }
    assert_eq!(server.keys(), [KEY; 4]);
    assert_eq!(host.places("acme", &[KEY]), Vec::<String>::new());
}

#[test]
fn node_and_python_trust_what_their_environment_names() {
    let (host, _server) = inspecting();
    let node = "
const ask = async (path, init) => {
  const answer = await fetch('https://api.example.com' + path, init);
  return [answer.status, await answer.text(), answer.headers.get('cofferdam-reason')];
};
(async () => console.log(JSON.stringify([
  await ask('/open/a'), await ask('/open/b', { method: 'POST', body: 'x'.repeat(100000) }), await ask('/closed')])))();
";
    let output = host.exec("acme", &["node", "-e", node]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    assert_eq!(found[0][0], 200);
    assert!(found[1][1].as_str().unwrap().contains("POST /open/b of 100000 bytes"), "{found}");
    assert_eq!((&found[2][0], &found[2][2]), (&403.into(), &"no_rule".into()));
    // The requests that Debian's pip brings along is the library itself.
    let python = "
import json
from pip._vendor import requests
session = requests.Session()
found = []
for method, path in (('GET', '/open/a'), ('POST', '/open/b'), ('GET', '/closed')):
    answer = session.request(method, 'https://api.example.com' + path, data='12' if method == 'POST' else None)
    found.append([answer.status_code, answer.text, answer.headers.get('cofferdam-reason')])
print(json.dumps(found))
";
    let output = host.exec("acme", &["/usr/bin/python3", "-c", python]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    assert_eq!((&found[0][0], &found[2][0], &found[2][2]), (&200.into(), &403.into(), &"no_rule".into()));
    assert!(found[1][1].as_str().unwrap().contains("POST /open/b of 2 bytes"), "{found}");
    // Python's own, which looks where OpenSSL says.
    let urllib = "import urllib.request as r; print(r.urlopen('https://api.example.com/open/u').status)";
    assert_eq!(host.python("acme", urllib).trim(), "200");
}

/// A JDK is no part of what a test may install, so it is tried where the machine has one that keeps its settings with
/// itself; Debian's keep theirs in `/etc`, which no cell sees.
#[test]
#[allow(clippy::print_stderr)]
fn java_trusts_what_its_environment_names_where_there_is_one() {
    let installed = fs::read_dir("/usr/lib/jvm").into_iter().flatten().flatten();
    let whole = |home: &PathBuf| {
        let inside =
            |path: &str| fs::canonicalize(home.join(path)).is_ok_and(|real| real.starts_with("/usr"));
        inside("bin/java") && inside("conf/security/java.security")
    };
    let Some(home) = installed.map(|entry| entry.path()).find(whole) else {
        eprintln!("no JDK is below /usr/lib/jvm: Java is not tried");
        return;
    };
    let (host, _server) = inspecting();
    let fetch = "import java.net.URI; import java.net.http.*;
        class Fetch { public static void main(String[] a) throws Exception {
            for (String path : new String[] {\"/open/a\", \"/closed\"}) {
                var request = HttpRequest.newBuilder(URI.create(\"https://api.example.com\" + path)).build();
                var answer = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
                System.out.println(answer.statusCode() + \" \" + answer.version() + \" \" + answer.body());
            }
        } }";
    let java = home.join("bin/java");
    let line = format!("echo '{fetch}' > /tmp/Fetch.java && {} /tmp/Fetch.java", java.display());
    let (ok, said) = sh(&host, &line);
    assert!(ok && said.contains("200 HTTP_2 the world answered GET /open/a"), "{said}");
    assert!(said.contains("403 HTTP_2") && said.contains("no_rule"), "{said}");
}

#[test]
fn a_websocket_and_a_stream_of_events_pass_as_they_come_and_end_with_their_permission() {
    let (host, _server) = inspecting();
    let socket = "
const socket = new WebSocket('wss://api.example.com/ws');
socket.onopen = () => socket.send('hello');
socket.onmessage = (event) => { console.log(event.data); socket.close(); };
socket.onerror = (event) => { console.log('error', event.message); process.exit(1); };
";
    let output = host.exec("acme", &["node", "--experimental-websocket", "-e", socket]);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "hello", "{output:?}");
    let refused = socket.replace("/ws'", "/open/ws'");
    let output = host.exec("acme", &["node", "--experimental-websocket", "-e", &refused]);
    assert!(!output.status.success(), "{output:?}");

    // The second event is sent once the first was read.
    let events = "
import http.client, ssl, sys
trust = ssl.create_default_context()
stream = http.client.HTTPSConnection('api.example.com', context=trust)
stream.request('GET', '/open/events')
answer = stream.getresponse()
print(answer.readline().decode().strip(), flush=True)
answer.readline()
other = http.client.HTTPSConnection('api.example.com', context=trust)
other.request('GET', '/open/go')
other.getresponse().read()
print(answer.readline().decode().strip(), flush=True)
open('/sandbox/waits', 'w').close()
try:
    answer.readline()
    answer.readline()
    print('ended', flush=True)
except Exception as error:
    print('broken off', flush=True)
";
    let child = host.begin("acme", &["/usr/bin/python3", "-c", events]);
    until("a client that waits for the third event", || sh(&host, "test -e /sandbox/waits").0.then_some(()));
    host.policy("acme", "version: 1\ndefault: deny\n");
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.starts_with("data: 0\ndata: 1\n") && said.lines().count() == 3, "{output:?}");
}

/// A WebSocket over HTTP/2 (RFC 8441), as Node's own HTTP/2 asks for it: what it gets of `/open/ws`, where there is none
/// by the rules, then an echo of `/ws`. It goes on until that is over, or sends `$KEY` once it may.
const OVER_TWO: &str = "
const frame = (text) => {
  const [mask, payload] = [Buffer.from([7, 250, 0, 99]), Buffer.from(text)];
  return Buffer.concat([Buffer.from([0x81, 0x80 | payload.length]), mask, payload.map((byte, at) => byte ^ mask[at % 4])]);
};
const session = require('node:http2').connect('https://api.example.com');
session.on('error', (error) => console.log(String(error)));
const asked = (path, got) => {
  const stream = session.request({ ':method': 'CONNECT', ':protocol': 'websocket', ':path': path,
    'sec-websocket-version': '13' });
  stream.on('response', (headers) => got(stream, headers)).on('error', () => {});
};
session.on('remoteSettings', () => asked('/open/ws', (_, refused) => asked('/ws', (stream, headers) => {
  const said = [refused[':status'], refused['cofferdam-reason'], headers[':status']];
  stream.on('data', (data) => {
    console.log(JSON.stringify([...said, data.subarray(2).toString()]));
    if (process.env.KEY) stream.write(frame(process.env.KEY));
  });
  stream.on('close', () => process.exit(0));
  stream.write(frame('hello'));
})));
";

#[test]
fn a_websocket_over_http_2_is_judged_as_one_and_a_secret_does_not_leave_in_it() {
    const KEY: &str = "sk-live/Zx81-0123456789abcdef";
    let (host, server) = inspecting();
    assert!(host.feed(&["secret", "set", "acme", "KEY", "--purpose", "other"], KEY).status.success());
    let output = |key: &str| {
        let output = host.exec("acme", &["env", &format!("KEY={key}"), "node", "-e", OVER_TWO]);
        String::from_utf8(output.stdout).unwrap()
    };
    let good = r#"[403,"no_rule",200,"hello"]"#;
    // The key does not come back, and the connection is over.
    assert_eq!(output(KEY).trim(), good);
    until("a server that sees the end", || (server.open() == 0).then_some(()));
    let seen = server.seen();
    let sockets: Vec<_> = seen.iter().filter(|(.., path)| path.ends_with("ws")).collect();
    assert!(
        matches!(&sockets[..], [(version, method, host, path)]
        if version == "HTTP/1.1" && method == "GET" && host == API && path == "/ws"),
        "{seen:?}"
    );
    let rows = host.cli(&["--json", "ledger", "tail", "-n", "1000", "--tenant", "acme"]);
    let rows = String::from_utf8(rows.stdout).unwrap();
    assert!(rows.contains("loss_blocked") && rows.contains("secret KEY") && !rows.contains(KEY), "{rows}");
}

/// What holds something open in a cell: it prints a line once that is so, and ends when that is over.
const HOLDING: [(&str, &[&str]); 7] = [
    ("a tunnel through the proxy", &["curl", "-sN", "https://opaque.example.com/open/events"]),
    ("a captured tunnel", &["curl", "-sN", "--noproxy", "*", "https://opaque.example.com/open/events"]),
    ("an inspected download", &["curl", "-sN", "--http1.1", "https://api.example.com/open/events"]),
    ("one over HTTP/2", &["curl", "-sN", "--http2", "https://api.example.com/open/events"]),
    (
        "an inspected WebSocket",
        &[
            "node",
            "--experimental-websocket",
            "-e",
            "const socket = new WebSocket('wss://api.example.com/ws');
             socket.onopen = () => socket.send('open');
             socket.onmessage = (event) => console.log(event.data);
             socket.onclose = () => process.exit(0);",
        ],
    ),
    ("a WebSocket over HTTP/2", &["node", "-e", OVER_TWO]),
    (
        "a raw connection",
        &[
            "/usr/bin/python3",
            "-c",
            "import socket
stream = socket.create_connection(('web.example.com', 8080))
stream.sendall(b'GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n')
print(stream.recv(4096), flush=True)
try:
    stream.recv(1)
except OSError:
    pass",
        ],
    ),
];

/// Waits for the first line of what was begun, then for its end on a thread of its own, which tells when that was.
fn watch(mut child: Child, what: &'static str, ends: &mpsc::Sender<(&'static str, Instant)>) {
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    lines.read_line(&mut first).unwrap();
    assert!(!first.trim().is_empty(), "{what}: {:?}", child.wait_with_output());
    let ends = ends.clone();
    std::thread::spawn(move || {
        lines.read_to_end(&mut Vec::new()).unwrap();
        ends.send((what, Instant::now())).unwrap();
        child.wait().unwrap();
    });
}

/// The servers of the world end nothing of it, so what ends was ended by the withdrawal: a minute tells that from what
/// stays open, and the times are printed.
#[test]
#[allow(clippy::print_stdout)]
fn whatever_is_open_is_closed_on_both_sides_when_its_permission_goes() {
    const PATIENCE: Duration = Duration::from_mins(1);
    let (host, server) = inspecting();
    let raw = format!("{POLICY}  - {{allow: {WEB_NAME}, protocol: tcp, ports: [8080]}}\n");
    host.policy("acme", &raw);
    let (ends, ended) = mpsc::channel();
    for (what, argv) in HOLDING {
        watch(host.begin("acme", argv), what, &ends);
    }
    // All but the raw one, which goes to another server.
    assert_eq!(server.open(), HOLDING.len() - 1);
    // Rules that let the same through end nothing.
    host.policy("acme", &format!("{raw}  - allow: elsewhere.example.com\n"));
    assert!(ended.try_recv().is_err());
    assert_eq!(server.open(), HOLDING.len() - 1);
    let begun = Instant::now();
    host.policy("acme", "version: 1\ndefault: deny\n");
    println!("the policy is in force {:?} after it was sent", begun.elapsed());
    for _ in HOLDING {
        let (what, end) = ended.recv_timeout(PATIENCE).expect("it stays open");
        println!("{what} ended {:?} after the policy was sent", end - begun);
    }
    until("a server that sees every end", || (server.open() == 0).then_some(()));

    // The same of what people allowed, and take back.
    host.policy("acme", "version: 1\ndefault: ask\n");
    for (what, argv) in [HOLDING[0], HOLDING[1]] {
        let child = host.begin("acme", argv);
        let id = until("a question", || {
            let all = host.json(&["approvals", "list", "--tenant", "acme"]);
            let all = all["approvals"].as_array()?;
            Some(all.iter().find(|row| row["state"] == "waiting")?["id"].to_string())
        });
        host.json(&["approvals", "approve", &id, "--for", "1h"]);
        watch(child, what, &ends);
        assert_eq!(server.open(), 1);
        let begun = Instant::now();
        host.json(&["approvals", "revoke", &id]);
        let (what, end) = ended.recv_timeout(PATIENCE).expect("it stays open");
        println!("{what} ended {:?} after its grant was revoked", end - begun);
        until("a server that sees the end", || (server.open() == 0).then_some(()));
    }
}

#[test]
fn a_cell_that_outlives_its_warden_trusts_the_next_one() {
    let (host, _server) = inspecting();
    let get = || sh(&host, "curl -sS https://api.example.com/open/a");
    assert!(get().1.contains("the world answered"));
    let cell = host.json(&["tenant", "show", "acme"])["generation"].clone();
    let warden =
        host.own_processes().into_iter().find(|(.., line)| line.contains("__warden acme")).unwrap().0;
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(warden).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    until("the next warden", || get().1.contains("the world answered").then_some(()));
    assert_eq!(host.json(&["tenant", "show", "acme"])["generation"], cell);
    let now = host.own_processes().into_iter().find(|(.., line)| line.contains("__warden acme")).unwrap().0;
    assert_ne!(now, warden);
}
