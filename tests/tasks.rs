//! Tasks that take several tools, to their ends at both gateways: the same scripted model, the same files and the same
//! reminder afterwards.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, missing_docs)]

mod host;
mod world;

use host::{
    Host,
    gateway::{Socket, address, call, chat, connect, install},
    until,
};
use serde_json::{Value, json};
use world::{MODEL_NAME, mcp, model::Turn};

const INPUT: &str = "--input-type=module";
/// The SDK's modules, as a cell sees them.
const MODULES: &str = "/offered/mcp/node_modules";

/// The operator's part of the configuration for real gateways, which cannot change theirs.
fn servers() -> String {
    format!(
        "[runtime.openclaw.mcp.notes]\ncommand = \"node\"\nargs = [{INPUT:?}, \"-e\", {:?}, {MODULES:?}]\n",
        mcp::SERVER
    )
}

/// A tenant and its runtime.
const TENANTS: [(&str, &str); 2] = [("acme", "openclaw"), ("small", "native")];

/// The call of a tool that is offered only to who searched for it: upstream has a tool for that.
fn searched(runtime: &str, tool: &'static str, arguments: Value) -> (&'static str, Value) {
    if runtime == "openclaw" {
        ("tool_call", json!({ "id": tool, "args": arguments }))
    } else {
        (tool, arguments)
    }
}

/// Runs a task of these calls to its end; what the model was told of each.
fn task(host: &Host, socket: &mut Socket, words: &str, calls: &[(&'static str, Value)]) -> Vec<String> {
    for (tool, arguments) in calls {
        host.world.model.say(Turn::Tool(tool, arguments.clone()));
    }
    host.world.model.say(Turn::Text(format!("{words} is done")));
    let last = chat(socket, words);
    assert!(last.to_string().contains(&format!("{words} is done")), "{last}");
    let asked = host.world.model.requests();
    let asked: Value = serde_json::from_slice(&asked.last().unwrap().body).unwrap();
    let results = asked["messages"].as_array().unwrap().iter().filter(|it| it["role"] == "tool");
    let all: Vec<String> = results.map(|it| it["content"].to_string()).collect();
    all[all.len() - calls.len()..].to_vec()
}

#[test]
fn a_program_is_mended_a_reminder_scheduled_a_note_read_and_memory_searched_at_both_gateways() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root, for the world of the test");
        return;
    }
    let sdk = mcp::sdk();
    let mut host = Host::prepare(&format!("[filesystem]\nmcp = {sdk:?}\n{}", servers()));
    // Before the host starts: it learns at its start what is installed.
    install(&host);
    host.serve();
    for (tenant, runtime) in TENANTS {
        host.json(&["tenant", "create", tenant, "--runtime", runtime]);
        assert!(host.feed(&["secret", "set", tenant, "PROVIDER"], "sk-canary").status.success());
        let url = format!("http://{MODEL_NAME}/v1");
        host.json(&["model", "set", tenant, "--url", &url, "--model", "mock-1", "--secret", "PROVIDER"]);
        let offered = "version: 2\ndefault: deny\nfilesystem: {read_only: [mcp]}\n";
        assert!(host.feed(&["--json", "policy", "set", tenant, "-"], offered).status.success());
        host.json(&["tenant", "start", tenant]);
    }
    for (number, (tenant, runtime)) in TENANTS.into_iter().enumerate() {
        let (admin, _) = host.token(tenant, "admin");
        let mut socket = connect(&host, address(u8::try_from(number).unwrap()), &admin).unwrap();
        if runtime == "native" {
            // Jobs are asked for there, and servers are the tenant's own.
            let notes = json!({ "command": "node", "args": [INPUT, "-e", mcp::SERVER, MODULES] });
            let raw = json!({ "cron": { "enabled": true }, "mcp": { "servers": { "notes": notes } } });
            let raw = raw.to_string();
            let base = call(&mut socket, "config.get", &json!({}))["payload"]["hash"].clone();
            let patched = call(&mut socket, "config.patch", &json!({ "raw": raw, "baseHash": base }));
            assert_eq!(patched["ok"], true, "{patched}");
        }
        let write =
            |sign: &str| json!({ "path": "add.sh", "content": format!("echo $(( $1 {sign} $2 ))\n") });
        let run = json!({ "command": "sh add.sh 2 3" });
        let told = task(
            &host,
            &mut socket,
            "mend add.sh",
            &[
                ("write", write("-")),
                ("exec", run.clone()),
                ("write", write("+")),
                ("exec", run),
                ("read", json!({ "path": "add.sh" })),
            ],
        );
        assert!(told[1].contains("-1"), "{tenant}: {told:?}");
        assert!(told[3].contains('5') && !told[3].contains("-1"), "{tenant}: {told:?}");
        assert!(told[4].contains("$1 + $2"), "{tenant}: {told:?}");
        println!("  ok: {tenant} mends a program");
        let reminder = json!({ "action": "add", "job": {
            "name": "tea", "schedule": { "kind": "at", "at": "2031-01-01T00:00:00Z" }, "sessionTarget": "main",
            "payload": { "kind": "systemEvent", "text": "tea is ready" },
        }});
        let told = task(
            &host,
            &mut socket,
            "remind me of tea",
            &[searched(runtime, if runtime == "openclaw" { "automations" } else { "cron" }, reminder)],
        );
        let jobs = call(&mut socket, "cron.list", &json!({}))["payload"].to_string();
        assert!(jobs.contains("tea is ready"), "{tenant}: {told:?} {jobs}");
        println!("  ok: {tenant} schedules a reminder");
        let note = json!({ "path": "MEMORY.md", "content": "The marmalade is in the cellar.\n" });
        task(&host, &mut socket, "note where the marmalade is", &[("write", note)]);
        let search = searched(runtime, "memory_search", json!({ "query": "marmalade cellar" }));
        let mut asked = 0;
        // Upstream's index learns of a file in the background.
        until("the note in memory", || {
            asked += 1;
            let words = format!("where is the marmalade, {asked}");
            let told = task(&host, &mut socket, &words, std::slice::from_ref(&search));
            told[0].contains("in the cellar").then_some(())
        });
        println!("  ok: {tenant} searches its memory, {asked} times");
        let told = task(
            &host,
            &mut socket,
            "read my note",
            &[
                ("tool_search", json!({ "query": "notes__read_note" })),
                searched(runtime, "notes__read_note", json!({ "path": "tea.md" })),
            ],
        );
        assert!(told[1].contains("read_note did tea.md as 1000"), "{tenant}: {told:?}");
        println!("  ok: {tenant} uses an MCP server");
    }
}
