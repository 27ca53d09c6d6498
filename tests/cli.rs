//! The command line on a whole host: what each command does, what it answers, and with which exit code.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod host;
mod world;

use host::{Host, PROGRAM, until};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Output, Stdio},
};
use world::{WEB, http::Reply};

const UNKNOWN: &str = "unknown.example.com";
const URL: &str = "http://unknown.example.com/walls";

/// A runtime that prints a line before it serves, and limits of the operator.
fn talker() -> Host {
    let mut host = Host::prepare(&format!(
        "[runtime.command.talker]\n\
         argv = [\"/bin/sh\", \"-c\", \"echo hello from the cell; exec /opt/cofferdam/cofferdam __echo\"]\n\
         binds = [{{ source = \"{PROGRAM}\", target = \"/opt/cofferdam/cofferdam\" }}]\n\
         [limits]\npids = 300\n"
    ));
    host.serve();
    host
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{output:?}"))
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A command that goes on, and its lines.
fn follow(host: &Host, arguments: &[&str]) -> (Child, impl Iterator<Item = String>) {
    let mut command = Command::new(PROGRAM);
    command.arg("--data-dir").arg(&host.dir).args(arguments);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines.map(Result::unwrap))
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Everything below whose name has this word in it.
fn named(dir: &Path, word: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        if entry.file_name().to_string_lossy().contains(word) {
            found.push(entry.path().display().to_string());
        }
        if entry.file_type().unwrap().is_dir() {
            named(&entry.path(), word, found);
        }
    }
}

#[test]
fn a_tenant_is_made_stopped_restarted_and_deleted_with_all_its_files() {
    let host = talker();
    let made = host.json(&["tenant", "create", "acme", "--runtime", "command:talker", "--cpu", "150"]);
    assert_eq!((&made["state"], &made["limits"]["pids"]), (&"stopped".into(), &300.into()));
    assert_eq!(
        (&made["limits"]["cpu_percent"], &made["limits"]["memory_bytes"]),
        (&150.into(), &(1 << 30).into())
    );
    let (logs, mut lines) = follow(&host, &["tenant", "logs", "-f", "acme"]);
    host.json(&["tenant", "start", "acme"]);
    assert_eq!(lines.next().unwrap(), "hello from the cell", "a reader who came first");
    let shown = host.ready("acme");
    assert_eq!(shown["generation"], 1);
    let layers = shown["receipt"]["layers"].as_array().unwrap();
    let guard = layers.iter().find(|row| row["layer"] == "uid firewall").unwrap();
    assert_eq!(guard["state"], "enforced");
    assert_eq!(host.json(&["tenant", "restart", "acme"])["generation"], 2);
    assert_eq!(lines.next().unwrap(), "hello from the cell");
    end(logs);
    let printed = host.cli(&["tenant", "logs", "acme"]);
    assert_eq!(String::from_utf8_lossy(&printed.stdout), "hello from the cell\n".repeat(2));

    assert_eq!(host.json(&["tenant", "stop", "acme"])["state"], "stopped");
    assert_ne!(code(&host.exec("acme", &["true"])), 0);
    host.json(&["tenant", "start", "acme"]);
    assert_eq!(code(&host.exec("acme", &["true"])), 0);

    // Deep, and closed to its own owner.
    host.python(
        "acme",
        "import os\nfor _ in range(3000):\n os.mkdir('d'); os.chdir('d')\nos.chmod('/sandbox/d', 0)\nos.chmod('/sandbox', 0)",
    );
    let refused = host.cli(&["tenant", "delete", "acme"]);
    assert!(code(&refused) == 2 && error(&refused).contains("--yes"), "{refused:?}");
    host.json(&["tenant", "delete", "acme", "--yes"]);
    assert_eq!(host.json(&["tenant", "list"])["tenants"], Value::Array(vec![]));
    let mut left = Vec::new();
    named(&host.dir, "acme", &mut left);
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn exit_codes_tell_a_script_what_kind_of_no_it_was() {
    let host = Host::with(&["acme"]);
    for (arguments, expected, word) in [
        (vec!["tenant", "show", "nobody"], 3, "nobody"),
        (vec!["tenant", "start", "nobody"], 3, "nobody"),
        (vec!["tenant", "logs", "nobody"], 3, "nobody"),
        (vec!["tenant", "delete", "nobody", "--yes"], 3, "nobody"),
        (vec!["secret", "rm", "acme", "NONE"], 3, "NONE"),
        (vec!["approvals", "approve", "99"], 3, "99"),
        (vec!["token", "revoke", "none"], 3, "none"),
        (vec!["tenant", "create", "acme", "--runtime", "command:echo"], 4, "acme"),
        (vec!["tenant", "create", "Acme"], 2, "Acme"),
        (vec!["tenant", "create", "small", "--runtime", "command:echo", "--memory", "1"], 2, "16 MiB"),
        (vec!["tenant", "hibernate", "acme"], 2, "not built yet"),
    ] {
        let output = host.cli(&arguments);
        assert!(code(&output) == expected && error(&output).contains(word), "{arguments:?}: {output:?}");
    }
    // A /tmp that nobody asked for follows the memory.
    let small = host.json(&["tenant", "create", "small", "--runtime", "command:echo", "--memory", "128"]);
    assert_eq!(small["limits"]["tmp_bytes"], 64 << 20);
    let tmp = ["tenant", "create", "tiny", "--runtime", "command:echo", "--memory", "128", "--tmp", "100"];
    assert_eq!(host.json(&tmp)["limits"]["tmp_bytes"], 100 << 20);
    assert_eq!(
        code(&Command::new(PROGRAM).args(["--data-dir", "/nonexistent", "status"]).output().unwrap()),
        2
    );
}

fn asking() -> Host {
    let host = Host::with(&["acme"]);
    host.world.dns.answer(UNKNOWN, &[WEB[0]]);
    host.world.web.page("/walls", Reply::text(200, "the web answered"));
    host
}

fn curl(host: &Host) -> Child {
    host.begin("acme", &["curl", "-sS", "--max-time", "90", URL])
}

fn waiting(host: &Host) -> String {
    until("a question", || {
        let all = host.json(&["approvals", "list", "--tenant", "acme"]);
        all["approvals"]
            .as_array()?
            .iter()
            .find(|row| row["state"] == "waiting")
            .map(|row| row["id"].to_string())
    })
}

fn said(child: Child) -> String {
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

#[test]
fn an_approval_for_an_hour_holds_until_it_is_revoked_and_who_watches_sees_it() {
    let host = asking();
    let (watch, mut lines) = follow(&host, &["--json", "approvals", "watch", "--tenant", "acme"]);
    // A row may come twice when it changes while the watch begins.
    let mut seen =
        |state: &str| lines.any(|line| serde_json::from_str::<Value>(&line).unwrap()["state"] == state);
    let held = curl(&host);
    let id = waiting(&host);
    assert!(seen("waiting"));
    assert_eq!(host.json(&["approvals", "approve", &id, "--for", "1h"])["span"], "until");
    assert_eq!(said(held), "the web answered");
    assert_eq!(said(curl(&host)), "the web answered", "the second is not asked for");
    assert!(seen("granted"));

    assert_eq!(host.json(&["approvals", "revoke", &id])["state"], "revoked");
    assert!(seen("revoked"));
    let again = curl(&host);
    let second = waiting(&host);
    assert_ne!(second, id);
    assert_eq!(host.world.web.requests().len(), 2);
    host.json(&["approvals", "deny", &second, "--reason", "enough"]);
    assert!(said(again).contains("enough"));
    end(watch);
    let all = host.json(&["approvals", "list", "--all"]);
    let states: Vec<_> =
        all["approvals"].as_array().unwrap().iter().map(|row| row["state"].clone()).collect();
    assert_eq!(states, ["revoked", "denied"]);
}

#[test]
fn an_approval_for_ever_becomes_a_rule_that_is_taken_back_in_the_policy() {
    let host = asking();
    let held = curl(&host);
    let id = waiting(&host);
    assert_eq!(host.json(&["approvals", "approve", &id, "--always"])["span"], "always");
    assert_eq!(said(held), "the web answered");
    let policy = host.json(&["policy", "show", "acme"]);
    assert!(policy["text"].as_str().unwrap().contains(UNKNOWN), "{policy}");
    assert_eq!(said(curl(&host)), "the web answered");
    let refused = host.cli(&["approvals", "revoke", &id]);
    assert!(code(&refused) == 4 && error(&refused).contains("policy set acme"), "{refused:?}");
}

#[test]
fn secrets_are_listed_without_values_and_go_for_good() {
    let host = Host::with(&["acme"]);
    let set = host.feed(&["secret", "set", "acme", "KEY"], "the-value\n");
    assert!(set.status.success(), "{set:?}");
    let listed = host.json(&["secret", "list", "acme"]);
    assert_eq!(listed["secrets"][0]["name"], "KEY");
    assert!(!listed.to_string().contains("the-value"));
    host.json(&["secret", "rm", "acme", "KEY"]);
    assert_eq!(host.json(&["secret", "list", "acme"])["secrets"], Value::Array(vec![]));
}

#[test]
fn the_ledger_is_shown_followed_and_verified() {
    let host = Host::with(&["acme"]);
    let (tail, lines) = follow(&host, &["--json", "ledger", "tail", "-f", "-n", "100", "--tenant", "acme"]);
    let mut kinds = lines.map(|line| serde_json::from_str::<Value>(&line).unwrap()["kind"].clone());
    assert!(kinds.any(|kind| kind == "tenant_created"));
    host.token("acme", "viewer");
    assert!(kinds.any(|kind| kind == "token_issued"), "what comes later is followed");
    end(tail);
    let shown = host.cli(&["ledger", "tail", "-n", "1"]);
    assert_eq!(String::from_utf8_lossy(&shown.stdout).lines().count(), 1);
    assert_eq!(host.json(&["ledger", "verify"])["whole"], true);
}

#[test]
fn a_data_directory_is_made_once_and_looked_at_by_doctor() {
    let dir = host::fresh_dir();
    let data = dir.join("data");
    let run = |arguments: &[&str]| {
        let output = Command::new(PROGRAM)
            .arg("--json")
            .arg("--data-dir")
            .arg(&data)
            .args(arguments)
            .output()
            .unwrap();
        (code(&output), serde_json::from_slice::<Value>(&output.stdout).unwrap())
    };
    let state = |report: &Value, name: &str| {
        let rows = report["features"].as_array().unwrap();
        rows.iter().find(|row| row["name"] == name).map(|row| row["state"].clone())
    };
    let (found, report) = run(&["doctor"]);
    assert_eq!((found, state(&report, "data directory")), (3, Some("absent".into())), "{report}");
    assert_eq!(run(&["init"]).1["config_is_new"], true);
    fs::write(data.join("cofferdam.toml"), "# mine\n").unwrap();
    assert_eq!(run(&["init"]).1["config_is_new"], false);
    assert_eq!(fs::read_to_string(data.join("cofferdam.toml")).unwrap(), "# mine\n");
    let (found, report) = run(&["doctor"]);
    assert!(found != 3 && report["starts"] == true, "{report}");
    for name in ["data directory", "cofferdam.toml", "state database", "nf_tables", "nft tproxy", "anyip"] {
        assert_eq!(state(&report, name), Some("enforced".into()), "{name}: {report}");
    }
    assert_eq!(report["profile"], "strict");
    fs::remove_dir_all(dir).unwrap();
}

/// What `doctor` says to a user: its exit code and what it prints.
fn doctor(program: &Path, uid: u32, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(program);
    command.args(arguments).arg("doctor").env("COLUMNS", "80").uid(uid).gid(uid).current_dir("/");
    let output = command.output().unwrap();
    (code(&output), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn doctor_as_root_says_what_each_feature_buys_and_that_a_host_runs() {
    let (exit, text) = doctor(Path::new(PROGRAM), 0, &["--json"]);
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["exit"], exit);
    assert!(exit == 0 || exit == 2, "a machine on which the other tests pass runs a host: {report}");
    assert_eq!((&report["profile"], &report["unkept"]), (&"strict".into(), &Value::Array(vec![])));
    for row in report["features"].as_array().unwrap() {
        for key in ["group", "name", "state", "need", "buys", "used_by"] {
            assert!(row[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {row}");
        }
        assert_eq!(row["mend"] == "", row["state"] == "enforced", "{row}");
        assert!(row["need"] != "required" || row["state"] != "absent", "{row}");
    }
    let (again, shown) = doctor(Path::new(PROGRAM), 0, &[]);
    assert_eq!(again, exit);
    assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    assert!(
        shown.lines().any(|line| line.starts_with(if exit == 0 { "Fine: " } else { "Degraded: " })),
        "{shown}"
    );
    assert!(!shown.contains("does not keep"), "{shown}");
}

#[test]
fn doctor_as_nobody_lists_the_promises_that_rootless_does_not_keep() {
    const NOBODY: u32 = 65_534;
    let dir = host::fresh_dir();
    let program = dir.join("cofferdam");
    fs::copy(PROGRAM, &program).unwrap();
    let (exit, text) = doctor(&program, NOBODY, &["--json"]);
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((exit, &report["verdict"], &report["profile"]), (2, &"degraded".into(), &"rootless".into()));
    let promises: Vec<&str> =
        report["unkept"].as_array().unwrap().iter().map(|row| row["promise"].as_str().unwrap()).collect();
    assert!(promises.contains(&"4") && promises.contains(&"14"), "{report}");
    let (_, shown) = doctor(&program, NOBODY, &[]);
    assert!(shown.contains("Promises of SPECIFICATION.md that rootless does not keep"), "{shown}");
    for (promise, row) in promises.iter().zip(report["unkept"].as_array().unwrap()) {
        let title: String = row["title"].as_str().unwrap().chars().take(40).collect();
        assert!(shown.contains(&format!("  {promise:6}{title}")), "{promise}: {shown}");
    }
    assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    fs::remove_dir_all(dir).unwrap();
}
