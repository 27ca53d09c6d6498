//! `cofferdam prove` on a host that serves: what it shows, what it signs, and that it changes nothing.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod host;
mod world;

use host::Host;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::Path,
};

/// Exit code and answer.
fn prove(host: &Host, arguments: &[&str]) -> (Option<i32>, Value) {
    let output = host.own(&[&["--json", "prove"], arguments].concat());
    let told = serde_json::from_slice(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), told.unwrap_or(Value::String(said)))
}

fn verdicts(told: &Value) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    let rows = told["proof"]["rows"].as_array().unwrap_or_else(|| panic!("no proof: {told}"));
    for row in rows {
        *counts.entry(row["verdict"].as_str().unwrap().to_owned()).or_insert(0) += 1;
    }
    counts
}

fn state(host: &Host) -> Value {
    let mut tenant = host.json(&["tenant", "show", "acme"]);
    // What it uses changes by itself, and that it was proved is kept.
    for key in ["usage", "proof"] {
        tenant.as_object_mut().unwrap().remove(key);
    }
    tenant
}

/// Another copy with one byte changed, in the middle of the document.
fn flipped(file: &Path) -> String {
    let mut bytes = fs::read(file).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    let other = file.with_extension("flipped");
    fs::write(&other, bytes).unwrap();
    other.display().to_string()
}

/// Rules that some rows are about: one allows what they try, one what nobody may reach.
const RULES: &str = "version: 2\ndefault: ask\nfilesystem: {read_only: [models]}\nrules:\n\
    \x20 - {allow: unlisted.example, protocol: http}\n\
    \x20 - {allow: 10.1.2.3, protocol: tcp, ports: [8000]}\n\
    \x20 - {allow: metadata.google.internal, protocol: http}\n";

fn row<'a>(told: &'a Value, id: &str) -> &'a Value {
    let rows = told["proof"]["rows"].as_array().unwrap();
    rows.iter().find(|row| row["id"] == id).unwrap_or_else(|| panic!("no row {id}"))
}

#[test]
fn a_seal_is_proved_signed_and_compared_and_the_host_does_not_notice() {
    let offered = tempfile::tempdir().unwrap();
    fs::set_permissions(offered.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let _daemon = UnixListener::bind(offered.path().join("socket")).unwrap();
    let mut host = Host::prepare(&format!("[filesystem]\nmodels = {:?}\n", offered.path()));
    host.serve();
    for id in ["acme", "globex"] {
        host.create(id);
    }
    host.policy("acme", RULES);
    let before = state(&host);
    let out = host.dir.join("proof.json");
    let out_text = out.display().to_string();
    let (code, told) = prove(&host, &["acme", "--out", &out_text]);
    let counts = verdicts(&told);
    assert_eq!(code, Some(0), "{counts:?} {told}");
    assert!(told["holds"] == true && counts["BLOCKED"] >= 285, "{counts:?}");
    // What somebody is asked about, by a rule of the battery's and by the default of the tenant's own policy.
    assert_eq!(counts["CONTAINED"], 4, "{counts:?}");
    for id in ["carry.held", "default.captured", "default.proxied", "default.hello"] {
        assert_eq!(row(&told, id)["verdict"], "CONTAINED", "{id}");
    }
    assert!(!counts.contains_key("ESCAPED") && !counts.contains_key("INCONCLUSIVE"), "{counts:?}");
    for row in told["proof"]["rows"].as_array().unwrap() {
        let skipped = row["verdict"] == "SKIPPED";
        assert_eq!(skipped, row["reason"] != "", "{row}");
        assert!(skipped || row["control"]["outcome"]["succeeded"] == true, "{row}");
    }

    // What the tenant's policy allows is no escape, and what nobody may reach is refused though it allows it.
    assert_eq!(told["proof"]["policy"]["revision"], before["policy_revision"]);
    for id in ["proxy.unlisted", "carry.post"] {
        assert_eq!(row(&told, id)["reason"], "the tenant's policy allows it", "{id}");
    }
    let skipped = told["proof"]["rows"].as_array().unwrap().iter();
    let skipped = skipped.filter(|row| row["reason"] == "the tenant's policy allows it").count();
    assert_eq!(skipped, 5, "no other row");
    for id in ["guard.tenants-rule-2", "guard.tenants-rule-3", "guard.documentation", "tls.other-name"] {
        assert_eq!(row(&told, id)["verdict"], "BLOCKED", "{id}");
    }
    // Inside TLS, and every row of network and proxy once more where it is looked into.
    for id in
        ["forged", "neighbours-authority", "placeholder", "h2-authority", "second-host", "proxy.unlisted"]
    {
        assert_eq!(row(&told, &format!("inspected.{id}"))["verdict"], "BLOCKED", "{id}");
    }
    // The operator's own directory is there, too, and no socket in it answers.
    assert_eq!(row(&told, "files.offered-parent")["verdict"], "BLOCKED");
    let seen = row(&told, "files.offered-socket")["sealed"]["seen"].to_string();
    assert!(seen.contains("none of 3 sockets"), "the proof's own twice, and one of the operator's: {seen}");
    for id in ["flood.connections", "flood.words", "theft.ports", "host-files.swap", "host-files.fifo"] {
        assert_eq!(row(&told, id)["verdict"], "BLOCKED", "{id}");
    }

    assert_eq!(state(&host), before);
    assert_eq!(host.json(&["tenant", "show", "acme"])["proof"]["escaped"], Value::Array(vec![]));
    let tenants = host.json(&["tenant", "list"]);
    assert_eq!(tenants["tenants"].as_array().unwrap().len(), 2);
    assert!(host.json(&["approvals", "list", "--all"])["approvals"].as_array().unwrap().is_empty());
    assert_eq!(host.json(&["ledger", "verify"])["whole"], true);
    let tail = host.cli(&["ledger", "tail"]);
    let tail = String::from_utf8_lossy(&tail.stdout).into_owned();
    assert!(tail.contains("proved") && tail.contains("cell_sealed"), "{tail}");

    let (code, told) = prove(&host, &["--verify", &out_text, "--diff", &out_text]);
    assert_eq!((code, &told["holds"]), (Some(0), &Value::Bool(true)));
    assert!(told["regressions"].as_array().unwrap().is_empty());
    let (code, told) = prove(&host, &["--verify", &flipped(&out)]);
    assert!(matches!(code, Some(1 | 2)) && told.as_str().unwrap().contains("no_proof"), "{told}");
    let (code, _) = prove(&host, &["nobody"]);
    assert_eq!(code, Some(3));
    let (code, told) = prove(&host, &["acme", "--diff", "/no/such/file"]);
    assert!(code == Some(2) && told.as_str().unwrap().contains("/no/such/file"), "{told}");
}

#[test]
fn a_layer_that_the_operator_leaves_out_changes_rows_the_receipt_and_all_that_is_shown() {
    let whole = Host::with(&["acme"]);
    let old = whole.dir.join("proof.json").display().to_string();
    assert_eq!(prove(&whole, &["acme", "--out", &old]).0, Some(0));

    let reason = "the kernel of this machine has none";
    let without = format!("[[without]]\nlayer = \"landlock\"\nreason = \"{reason}\"\n");
    let mut host = Host::prepare(&without);
    host.serve();
    host.create("acme");
    // Of another user, if hosts are users' own.
    let readable = host.dir.join("old.json");
    fs::write(&readable, fs::read(&old).unwrap()).unwrap();
    let (code, told) = prove(&host, &["acme", "--diff", &readable.display().to_string()]);
    assert_eq!(code, Some(1));
    let worse: Vec<&str> =
        told["regressions"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    let escaped = worse.iter().filter(|line| line.ends_with("was Blocked and is Escaped")).count();
    assert!(escaped >= 5, "{worse:?}");
    assert!(worse.iter().any(|line| line.starts_with("layer landlock was")), "{worse:?}");

    let landlock = |layers: &Value| {
        let rows = layers.as_array().unwrap();
        rows.iter().find(|row| row["layer"] == "landlock").cloned().unwrap()
    };
    let row = landlock(&told["proof"]["receipt"]);
    assert_eq!(row["state"], "absent", "{row}");
    let row = landlock(&host.json(&["tenant", "show", "acme"])["receipt"]["layers"]);
    assert!(row["state"] == "absent" && row["detail"].as_str().unwrap().contains(reason), "{row}");
    let doctor = host.own(&["--json", "doctor"]);
    assert_eq!(doctor.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&doctor.stdout).contains(reason));
    let status = host.json(&["status"]);
    assert!(status["degradations"].to_string().contains(reason), "{status}");
}

fn rows(told: &Value, verdict: &str) -> Vec<String> {
    let rows = told["proof"]["rows"].as_array().unwrap().iter();
    rows.filter(|row| row["verdict"] == verdict).map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}

/// Configured anew, and started.
fn configured(host: &mut Host, text: &str) {
    assert_eq!(host.stop(), Some(0), "{}", host.log());
    fs::write(host.dir.join("cofferdam.toml"), text).unwrap();
    host.serve();
}

#[test]
fn a_tenant_whose_last_proof_escaped_does_not_start_until_it_is_mended_or_accepted() {
    let mut host = Host::with(&["acme", "globex"]);
    let file = host.dir.join("cofferdam.toml");
    let sealed = fs::read_to_string(&file).unwrap();
    let weak = format!("{sealed}[[without]]\nlayer = \"landlock\"\nreason = \"a test\"\n");
    configured(&mut host, &weak);
    host.ready("acme");

    // It is found out, and said; the cell goes on and is not started anew.
    let (code, told) = prove(&host, &["acme"]);
    let escaped = rows(&told, "ESCAPED");
    assert!(code == Some(1) && escaped.len() >= 5, "{escaped:?}");
    let standing = &told["standing"];
    assert!(standing["runs"] == true && standing["barred"].to_string().contains(&escaped[0]), "{standing}");
    let tenant = host.json(&["tenant", "show", "acme"]);
    assert_eq!((&tenant["state"], &tenant["proof"]["escaped"]), (&"running".into(), &escaped.clone().into()));
    let refused = |host: &Host, verb: &str| {
        let output = host.cli(&["--json", "tenant", verb, "acme"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("[[accepted]]"), "{verb}: {said}");
    };
    refused(&host, "restart");
    assert_eq!(host.ready("acme")["generation"], tenant["generation"]);

    // Neither a new start of the host nor its own wish brings it up; its neighbour comes.
    configured(&mut host, &weak);
    host.ready("globex");
    let tenant = host.json(&["tenant", "show", "acme"]);
    assert_eq!((&tenant["desired"], &tenant["state"]), (&"running".into(), &"failed".into()), "{tenant}");
    assert!(tenant["failure"]["message"].as_str().unwrap().contains(&escaped[0]), "{tenant}");
    assert!(!host.exec("acme", &["true"]).status.success(), "there is no cell");
    assert!(host.exec("globex", &["true"]).status.success());
    refused(&host, "start");

    // All of its rows are accepted, and shown; or all but one.
    let accepted: Vec<String> = escaped
        .iter()
        .map(|row| format!("[[accepted]]\nrow = \"{row}\"\nreason = \"another test\"\n"))
        .collect();
    configured(&mut host, &format!("{weak}{}", accepted[1..].concat()));
    refused(&host, "start");
    configured(&mut host, &format!("{weak}{}", accepted.concat()));
    host.ready("acme");
    assert!(host.json(&["status"])["degradations"].to_string().contains("another test"));
    let doctor = host.own(&["--json", "doctor"]);
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("another test"));

    // Mended, it is barred until it is proved, and then comes up by itself.
    configured(&mut host, &sealed);
    refused(&host, "start");
    let (code, told) = prove(&host, &["acme"]);
    assert_eq!((code, &told["standing"]["barred"]), (Some(0), &Value::Null), "{told}");
    host.ready("acme");
    let kinds = host.cli(&["--json", "ledger", "tail", "-n", "1000"]);
    let kinds = String::from_utf8_lossy(&kinds.stdout).into_owned();
    assert!(kinds.contains("\"escaped\"") && kinds.contains("\"proved\""), "{kinds}");
}
