//! The native gateway's MCP client and its skills in a real cell: servers of the official SDK, one in the cell and one
//! outside behind the warden, and a skill from a directory that the operator offers.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod host;
mod world;

use host::{Host, PORT};
use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};
use world::{MODEL_NAME, http, mcp, model::Turn};

const TENANT: &str = "small";
const SERVER_NAME: &str = "notes.example.com";
const SERVER_ADDRESS: &str = "93.184.216.60";

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn skill(dir: &Path) {
    let path = dir.join("notes/SKILL.md");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "---\nname: notes\ndescription: How notes are kept here\n---\nKeep them short.\n")
        .unwrap();
    for path in [dir.to_owned(), dir.join("notes")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

fn say(host: &Host, token: &str, text: &str) {
    let body = json!({ "model": "openclaw", "messages": [{ "role": "user", "content": text }] });
    let headers = format!("Authorization: Bearer {token}\r\nContent-Type: application/json\r\n");
    let name = format!("{TENANT}.localhost:{PORT}");
    let reply = host.world.host(|| http::post(host::edge(), &name, "/v1/chat/completions", &headers, &body));
    let reply = reply.unwrap();
    assert_eq!(reply.status, 200, "{}\n{}", reply.body(), host.log());
}

/// The last request that the model got.
fn asked(host: &Host) -> Value {
    serde_json::from_slice(&host.world.model.requests().last().unwrap().body).unwrap()
}

#[test]
fn tools_of_real_servers_are_called_in_a_turn_and_the_warden_judges_those_outside() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root, for the world of the test");
        return;
    }
    let sdk = mcp::sdk();
    let skills = tempfile::tempdir().unwrap();
    skill(skills.path());
    let offered = format!("[filesystem]\nmcp = {sdk:?}\nskills = {:?}\n", skills.path());
    let mut host = Host::prepare(&offered);
    host.world.add_address(SERVER_ADDRESS);
    host.world.dns.answer(SERVER_NAME, &[SERVER_ADDRESS]);
    let mut command = Command::new("node");
    command
        .args(["--input-type=module", "-e", mcp::SERVER])
        .arg(sdk.join("node_modules"))
        .arg(SERVER_ADDRESS);
    let mut server = Ended(host.world.outside(|| command.stdout(Stdio::piped()).spawn()).unwrap());
    let mut lines = BufReader::new(server.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert_eq!(lines.next().as_deref(), Some("ready"));
    host.serve();
    host.json(&["tenant", "create", TENANT, "--runtime", "native"]);
    let url = format!("http://{MODEL_NAME}/v1");
    host.json(&["model", "set", TENANT, "--url", &url, "--model", "mock-1"]);
    let policy = format!(
        "version: 2\ndefault: deny\nfilesystem: {{read_only: [mcp, skills]}}\nrules:\n  \
         - {{allow: {SERVER_NAME}, protocol: http, path: /mcp, mcp: {{method: [initialize, notifications/*, tools/list]}}}}\n  \
         - {{allow: {SERVER_NAME}, protocol: http, mcp: {{tool: read_note}}}}\n  \
         - {{deny: {SERVER_NAME}, protocol: http, mcp: {{tool: delete_*}}, reason: notes stay}}\n"
    );
    assert!(host.feed(&["--json", "policy", "set", TENANT, "-"], &policy).status.success());
    host.json(&["tenant", "start", TENANT]);
    host.ready(TENANT);
    let config = json!({ "mcp": { "servers": {
        "inside": { "command": "node", "args": ["--input-type=module", "-e", mcp::SERVER, "/offered/mcp/node_modules"] },
        "outside": { "url": format!("http://{SERVER_NAME}/mcp") },
    }}});
    let write = format!("cat > /sandbox/.cofferdam/config.json <<'END'\n{config}\nEND\n");
    let wrote = host.exec(TENANT, &["/bin/sh", "-c", &write]);
    assert!(wrote.status.success(), "{wrote:?}");
    host.json(&["tenant", "stop", TENANT]);
    host.json(&["tenant", "start", TENANT]);
    host.ready(TENANT);
    let (token, _) = host.token(TENANT, "admin");

    for (tool, arguments) in [
        ("tool_search", json!({ "query": "inside__read_note" })),
        ("inside__read_note", json!({ "path": "a" })),
        ("outside__read_note", json!({ "path": "b" })),
        ("outside__delete_note", json!({ "path": "c" })),
        ("read", json!({ "path": "/offered/skills/notes/SKILL.md" })),
        ("write", json!({ "path": "/offered/skills/notes/SKILL.md", "content": "x" })),
    ] {
        host.world.model.say(Turn::Tool(tool, arguments));
    }
    host.world.model.say(Turn::Text("done".into()));
    say(&host, &token, "use your tools");
    let asked = asked(&host);
    let messages = asked["messages"].as_array().unwrap();
    let results: Vec<&str> =
        messages.iter().filter(|it| it["role"] == "tool").map(|it| it["content"].as_str().unwrap()).collect();
    assert_eq!(results.len(), 6, "{asked:#}");
    assert!(
        results[1].contains("read_note did a as 1000") && results[1].contains("untrusted source"),
        "{results:#?}"
    );
    assert!(results[2].contains("read_note did b as 0"), "{results:#?}");
    assert!(results[3].contains("403") && results[3].contains("notes stay"), "{results:#?}");
    assert!(results[4].contains("Keep them short."), "{results:#?}");
    let denied = ["Read-only file system", "Permission denied"];
    assert!(denied.iter().any(|why| results[5].contains(why)), "{results:#?}");
    let system = messages[0]["content"].as_str().unwrap();
    let told = "<skill><name>notes</name><description>How notes are kept here</description>\
                <location>/offered/skills/notes/SKILL.md</location></skill>";
    assert!(system.contains(told), "{system}");
}
