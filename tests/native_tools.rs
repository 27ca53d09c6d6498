//! What commands and file tools of the native gateway reach in a real cell, and what they do not.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod host;
mod world;

use host::{Host, PORT};
use serde_json::{Value, json};
use std::net::TcpStream;
use tokio_tungstenite::tungstenite::{Message, WebSocket};
use world::{MODEL_NAME, http, model::Turn};

/// Tries everything on every process number that a cell so young could have; says what was possible, but for the one
/// process that is its own child, on which all must be possible.
const PROBE: &str = r#"
import ctypes, os, subprocess
libc = ctypes.CDLL(None, use_errno=True)
child = subprocess.Popen(["sleep", "600"])
mine = {os.getpid(), os.getppid(), child.pid}
def opened(path):
    try:
        os.close(os.open(path, os.O_RDONLY))
        return True
    except OSError:
        return False
def signalled(pid):
    try:
        os.kill(pid, 0)
        return True
    except OSError:
        return False
def tries(pid):
    proc = f"/proc/{pid}/"
    return {
        "kill": signalled(pid),
        "mem": opened(proc + "mem"), "environ": opened(proc + "environ"), "maps": opened(proc + "maps"),
        "fd": opened(proc + "fd"), "root": opened(proc + "root/etc/passwd"), "status": opened(proc + "status"),
        "attach": libc.ptrace(16, pid, 0, 0) == 0, "seize": libc.ptrace(0x4206, pid, 0, 0) == 0,
    }
for pid in range(1, 400):
    if pid not in mine:
        for what, possible in tries(pid).items():
            if possible:
                print("reached", pid, what)
own = tries(child.pid)
print("own", sorted(what for what, possible in own.items() if possible))
print("seen", len([name for name in os.listdir("/proc") if name.isdigit()]) <= 4)
for path in ["agent.db", "agent.db-wal", "config.json", "new"]:
    for flags in [os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_CREAT]:
        try:
            os.open("/sandbox/.cofferdam/" + path, flags)
            print("opened", path, flags)
        except OSError as error:
            if error.errno not in (13, 2):
                print("odd", path, error)
os.kill(child.pid, 9)
print("end")
"#;

#[test]
fn commands_of_an_agent_do_not_reach_its_gateway_and_can_do_their_work() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root, for the world of the test");
        return;
    }
    let mut host = Host::prepare("");
    host.serve();
    host.json(&["tenant", "create", "small", "--runtime", "native", "--start"]);
    assert!(host.feed(&["secret", "set", "small", "PROVIDER"], "sk-canary").status.success());
    let url = format!("http://{MODEL_NAME}/v1");
    host.json(&["model", "set", "small", "--url", &url, "--model", "mock-1", "--secret", "PROVIDER"]);
    let (admin, _) = host.token("small", "admin");

    // A command that left its group lives no longer than its call.
    let said = run(&host, &admin, "setsid sleep 7654 & echo left");
    assert_eq!(said, "left\n");
    // The control: one that goes on is seen.
    let goes_on = json!({ "command": "sleep 7655", "background": true });
    assert!(called(&host, &admin, &goes_on).contains("runs in the background"));
    let said = run(&host, &admin, &format!("python3 -I -c '{PROBE}'"));
    assert_eq!(said, "own ['environ', 'fd', 'kill', 'maps', 'mem', 'root', 'status']\nseen True\nend\n");
    let lines = || {
        let line = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        host.cell_processes("small").into_iter().map(line).collect::<String>()
    };
    assert!(lines().contains("7655") && !lines().contains("7654"), "{}", lines());

    // Its files, by a link too.
    let said = run(
        &host,
        &admin,
        "ln -s ../.cofferdam/agent.db AGENTS.md; cat AGENTS.md; ls -a /sandbox; touch /sandbox/x",
    );
    assert!(said.contains("cat: AGENTS.md: Permission denied") && said.contains("cannot touch"), "{said}");
    let seen = host.world.model.requests();
    assert!(!String::from_utf8_lossy(&seen.last().unwrap().body).contains("SQLite format"));

    // The control: what is its work.
    let work = "git config --global user.email a@b.c && git config --global user.name a && git init -q r && cd r && \
        echo a > f && git add f && git commit -qm one && git log --format=%s && cat ~/.gitconfig | head -1 && \
        echo $HOME && t=$(mktemp) && echo b > $t && mv $t ~/b && cat ~/b && printf 'x:\\n\\t@echo made\\n' > Makefile && \
        { make 2>/dev/null || echo made; } && sh -c 'kill -9 $$' || kill -0 $$ && echo fine";
    let said = run(&host, &admin, work);
    assert_eq!(said, "one\n[user]\n/sandbox/home\nb\nmade\nKilled\nfine\n");
    println!("ok: a command reaches no process, no file and no memory of its gateway, and git works");
    an_approver_answers_through_the_edge(&host, &admin);
}

/// The gateway's questions go through the edge, beside the host's own.
fn an_approver_answers_through_the_edge(host: &Host, admin: &str) {
    let config = r#"{"tools":{"exec":{"mode":"ask"}}}"#;
    let write = format!("echo '{config}' > /sandbox/.cofferdam/config.json");
    assert!(host.exec("small", &["sh", "-c", &write]).status.success());
    host.json(&["tenant", "stop", "small"]);
    host.json(&["tenant", "start", "small"]);
    let mut approver = connected(host, &host.token("small", "approver").0);
    assert_eq!(call(&mut approver, "plugin.approval.list", &json!({}))["payload"], json!([]));
    let asked = call(&mut approver, "exec.approval.request", &json!({ "command": "ls" }));
    assert_eq!(asked["error"]["code"], "FORBIDDEN", "no client asks: {asked}");
    let said = std::thread::scope(|scope| {
        let turn = scope.spawn(|| run(host, admin, "touch asked && echo done"));
        let question = loop {
            let frame = receive(&mut approver);
            if frame["event"] == "exec.approval.requested" {
                break frame["payload"].clone();
            }
        };
        assert_eq!(question["request"]["command"], "touch asked && echo done");
        let answer = json!({ "id": question["id"], "decision": "allow-once" });
        let answered = call(&mut approver, "exec.approval.resolve", &answer);
        assert_eq!(answered["ok"], true, "{answered}");
        turn.join().unwrap()
    });
    assert_eq!(said, "done\n");
    println!("ok: an approver saw the command and answered it through the edge");
}

fn connected(host: &Host, token: &str) -> WebSocket<TcpStream> {
    let mut socket = host.ws("small", token).unwrap();
    assert_eq!(receive(&mut socket)["event"], "connect.challenge");
    let params = json!({
        "minProtocol": 4, "maxProtocol": 4, "role": "operator", "scopes": ["operator.approvals", "operator.read"],
        "client": { "id": "gateway-client", "version": "0.0.1", "platform": "linux", "mode": "backend" },
        "caps": [], "auth": { "token": token },
    });
    let hello = call(&mut socket, "connect", &params);
    assert_eq!(hello["ok"], true, "{hello}");
    socket
}

fn receive(socket: &mut WebSocket<TcpStream>) -> Value {
    loop {
        if let Message::Text(text) = socket.read().unwrap() {
            return serde_json::from_str(&text).unwrap();
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

/// What the model is told of a command that it had run.
fn run(host: &Host, token: &str, command: &str) -> String {
    called(host, token, &json!({ "command": command }))
}

fn called(host: &Host, token: &str, arguments: &Value) -> String {
    host.world.model.say(Turn::Exec(arguments.clone()));
    host.world.model.say(Turn::Text("done".into()));
    let body = json!({ "model": "openclaw", "messages": [{ "role": "user", "content": "go on" }] });
    let headers = format!("Authorization: Bearer {token}\r\nContent-Type: application/json\r\n");
    let name = format!("small.localhost:{PORT}");
    let reply =
        host.world.host(|| http::post(host::edge(), &name, "/v1/chat/completions", &headers, &body)).unwrap();
    assert_eq!(reply.status, 200, "{}", host.log());
    let seen: Value = serde_json::from_slice(&host.world.model.requests().last().unwrap().body).unwrap();
    let result = seen["messages"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(result["role"], "tool", "{result}");
    result["content"].as_str().unwrap().to_owned()
}
