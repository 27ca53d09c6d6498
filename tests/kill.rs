//! The kill switch on a whole host: a tenant that works with all its might, with connections in and out, and the
//! moment at which nothing of it moves any more; and what is left of that after restarts.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, missing_docs)]

mod host;
mod world;

use host::{Host, until};
use std::{
    fs,
    io::Read,
    net::{TcpListener, TcpStream},
    process::Child,
    time::{Duration, Instant},
};
use tokio_tungstenite::tungstenite::{Message, WebSocket};
use world::{WEB, WEB_NAME};

/// Writes the time into a file again and again, beside a child that does likewise, with a connection out.
const BUSY: &str = r#"
import mmap, os, socket, struct, threading, time
out = socket.create_connection(("web.example.com", 9000))
out.sendall(b"hello\n")
os.fork()
name = f"/sandbox/beat-{os.getpid()}"
with open(name, "wb") as file: file.write(bytes(8))
with open(name, "r+b") as file: page = mmap.mmap(file.fileno(), 8)
while True:
    # At once: pack_into would write zeros first, and a freeze may come in between.
    page[:] = struct.pack("<q", time.clock_gettime_ns(time.CLOCK_MONOTONIC))
"#;

const POLICY: &str =
    "version: 1\ndefault: deny\nrules:\n  - {allow: web.example.com, protocol: tcp, ports: [9000]}\n";

/// The time of the clock that a cell sees too, in nanoseconds.
fn clock() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// A tenant at work.
struct Busy {
    socket: WebSocket<TcpStream>,
    relay: TcpStream,
    _exec: Child,
}

impl Busy {
    fn begin(host: &Host, tenant: &str, token: &str, outside: &TcpListener) -> Self {
        let mut socket = host.ws(tenant, token).unwrap();
        socket.send(Message::text("hello")).unwrap();
        assert_eq!(socket.read().unwrap(), Message::text("hello"));
        let exec = host.begin(tenant, &["python3", "-I", "-c", BUSY]);
        let (mut relay, _) = outside.accept().unwrap();
        relay.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        let mut hello = [0; 6];
        relay.read_exact(&mut hello).unwrap();
        Self { socket, relay, _exec: exec }
    }
}

/// The last beat of each process that beats, by the host's view of the cell's home.
fn beats(host: &Host, tenant: &str) -> Vec<i64> {
    let Some(init) = host.cell_processes(tenant).into_iter().min() else { return vec![] };
    let Ok(home) = fs::read_dir(format!("/proc/{init}/root/sandbox")) else { return vec![] };
    let files = home.flatten().filter(|file| file.file_name().to_string_lossy().starts_with("beat-"));
    let beats =
        files.filter_map(|file| Some(i64::from_le_bytes(fs::read(file.path()).ok()?.try_into().ok()?)));
    beats.filter(|beat| *beat > 0).collect()
}

fn outside(host: &Host) -> TcpListener {
    host.world.outside(|| TcpListener::bind((WEB[0], 9000))).unwrap()
}

/// The end of a stream, however it ends.
fn ended(stream: &mut TcpStream) {
    let mut rest = [0; 4096];
    while matches!(stream.read(&mut rest), Ok(1..)) {}
}

fn in_ledger(host: &Host, kind: &str, word: &str) -> usize {
    let output = host.cli(&["--json", "ledger", "tail", "--count", "1000"]);
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter(|line| line.contains(&format!("\"{kind}\"")) && line.contains(word)).count()
}

#[test]
fn a_killed_tenant_stands_still_is_severed_and_stays_so_over_every_restart_until_it_is_resumed() {
    let mut host = Host::with(&["acme", "globex"]);
    host.world.dns.answer(WEB_NAME, &[WEB[0]]);
    let outside = outside(&host);
    let (token, _) = host.token("acme", "member");
    let (other, _) = host.token("globex", "member");
    host.policy("acme", POLICY);
    host.policy("globex", POLICY);
    let mut busy = Busy::begin(&host, "acme", &token, &outside);
    let mut neighbour = Busy::begin(&host, "globex", &other, &outside);
    until("two that beat", || (beats(&host, "acme").len() == 2).then_some(()));

    let killed = host.json(&["kill", "acme", "--reason", "it leaks"]);
    assert_eq!(killed["killed"][0]["cell"], "frozen", "{killed}");
    assert_eq!(killed["killed"][0]["not_done"], serde_json::json!([]), "{killed}");
    ended(busy.socket.get_mut());
    ended(&mut busy.relay);
    // Whatever beats, beats while another does.
    let (still, moves) = (beats(&host, "acme"), beats(&host, "globex"));
    until("a neighbour that goes on", || (beats(&host, "globex") != moves).then_some(()));
    until("and on", || (beats(&host, "globex")[0] > moves[0] + 500_000_000).then_some(()));
    assert_eq!((still.len(), &beats(&host, "acme")), (2, &still));
    neighbour.socket.send(Message::text("still here")).unwrap();
    assert_eq!(neighbour.socket.read().unwrap(), Message::text("still here"));

    let refused = |host: &Host| {
        assert_eq!(host.json(&["tenant", "show", "acme"])["state"], "killed");
        assert_eq!(host.get("acme", "/", &token).status, 401, "its token is revoked");
        for verb in ["start", "stop", "restart"] {
            let output = host.cli(&["tenant", verb, "acme"]);
            assert!(String::from_utf8_lossy(&output.stderr).contains("tenant resume acme"), "{output:?}");
        }
        assert_eq!(host.exec("acme", &["true"]).status.code(), Some(4));
        let issued = host.cli(&["token", "issue", "acme", "--subject", "eve"]);
        assert_eq!(issued.status.code(), Some(4), "{issued:?}");
        assert!(host.process("__warden acme").is_none());
    };
    refused(&host);
    let frozen = host.cell_processes("acme");
    for part in ["__control", "__edge"] {
        let pid = until(part, || host.part(part));
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(pid).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap();
        until("its end", || (host.part(part) != Some(pid)).then_some(()));
        until("the edge", || {
            let status = host.cli(&["--json", "status"]).stdout;
            let status: serde_json::Value = serde_json::from_slice(&status).ok()?;
            (status["edge"] == true).then_some(())
        });
        refused(&host);
        assert_eq!((host.cell_processes("acme"), beats(&host, "acme")), (frozen.clone(), still.clone()));
    }
    host.restart();
    host.ready("globex");
    refused(&host);
    assert!(host.cell_processes("acme").is_empty(), "a host that was started anew has nothing to freeze");
    assert_eq!(
        (in_ledger(&host, "tenant_killed", "it leaks"), in_ledger(&host, "tenant_resumed", "")),
        (1, 0)
    );

    host.json(&["tenant", "resume", "acme"]);
    host.ready("acme");
    assert_eq!(host.get("acme", "/", &token).status, 401, "old tokens stay revoked");
    let (new, _) = host.token("acme", "member");
    assert_eq!(host.get("acme", "/", &new).status, 200);
    assert_eq!(in_ledger(&host, "tenant_resumed", ""), 1);

    // What stood still is killed, and another cell runs, without a restart in between.
    let before = host.cell_processes("acme");
    host.json(&["kill", "--all"]);
    assert_eq!(host.json(&["tenant", "show", "globex"])["state"], "killed");
    host.json(&["tenant", "resume", "acme"]);
    host.ready("acme");
    assert!(host.cell_processes("acme").iter().all(|pid| !before.contains(pid)));
    assert!(
        host.cli(&["tenant", "delete", "globex", "--yes"]).status.success(),
        "a killed tenant can be deleted"
    );
}

/// Milliseconds from the start of the command to what it is for.
#[test]
#[ignore = "a bench: cargo xtask bench kill"]
fn bench() {
    const ROUNDS: usize = 20;
    let host = Host::with(&["acme"]);
    host.world.dns.answer(WEB_NAME, &[WEB[0]]);
    let outside = outside(&host);
    host.policy("acme", POLICY);
    let names =
        ["processes stand still", "an open socket of the edge ends", "an open relay out ends", "all done"];
    let mut times = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        host.ready("acme");
        let (token, _) = host.token("acme", "member");
        host.exec("acme", &["sh", "-c", "rm -f /sandbox/beat-*"]);
        let mut busy = Busy::begin(&host, "acme", &token, &outside);
        until("two that beat", || (beats(&host, "acme").len() == 2).then_some(()));
        let begun = clock();
        let (socket, relay, done) = std::thread::scope(|scope| {
            let socket = scope.spawn(|| {
                ended(busy.socket.get_mut());
                clock()
            });
            let relay = scope.spawn(|| {
                ended(&mut busy.relay);
                clock()
            });
            host.json(&["kill", "acme"]);
            let done = clock();
            (socket.join().unwrap(), relay.join().unwrap(), done)
        });
        let still = beats(&host, "acme").into_iter().max().unwrap();
        for (times, moment) in times.iter_mut().zip([still, socket, relay, done]) {
            times.push(Duration::from_nanos(u64::try_from(moment - begun).unwrap_or(0)));
        }
        let asked = Instant::now();
        host.json(&["tenant", "resume", "acme"]);
        assert!(asked.elapsed() < Duration::from_mins(1));
    }
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    for (name, mut times) in names.into_iter().zip(times) {
        times.sort();
        let (median, worst) = (times[ROUNDS / 2], times[ROUNDS - 1]);
        println!(
            "{name:<34} {:>7.2} ms median {:>7.2} ms worst of {ROUNDS}",
            milliseconds(median),
            milliseconds(worst)
        );
        if name != "all done" {
            assert!(worst < Duration::from_millis(100), "GATE MISSED: 100 ms");
        }
    }
}
