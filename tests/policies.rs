//! Rules about requests on a whole host: a real curl in a real cell, judged by method and path over plain HTTP,
//! and the verbs of `cofferdam policy` about them.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod host;
mod world;

use host::Host;
use serde_json::Value;
use world::{WEB_NAME, http::Reply};

const RULES: &str = r#"version: 2
default: deny
rules:
  - allow: web.example.com
    protocol: http
    method: [GET, HEAD]
    path: /repos/{owner}/**
    content: untrusted
  - deny: web.example.com
    path: /repos/acme/secret/**
  - allow: web.example.com
    protocol: http
    path: /mcp
    mcp: {tool: search, arguments: {repo: "acme/*"}}
"#;

/// What a real curl in acme's cell gets: the status, and the body.
fn curl(host: &Host, arguments: &[&str]) -> (String, String) {
    let mut argv = vec!["curl", "-sS", "--path-as-is", "--max-time", "60", "-w", "\n%{http_code}"];
    argv.extend(arguments);
    let output = host.exec("acme", &argv);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap_or_else(|| panic!("{output:?}"));
    (status.to_owned(), body.to_owned())
}

fn tool(name: &str, repo: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{name}","arguments":{{"repo":"{repo}"}}}}}}"#
    )
}

fn lines(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().filter_map(Value::as_str).collect()
}

#[test]
fn a_real_curl_is_let_through_by_method_and_path_and_every_denial_names_its_rule() {
    let host = Host::with(&["acme"]);
    for page in ["/repos/acme/site", "/repos/acme/secret/key", "/admin", "/mcp"] {
        host.world.web.page(page, Reply::text(200, "the web answered"));
    }
    host.policy("acme", RULES);
    let url = |path: &str| format!("http://{WEB_NAME}{path}");
    let (status, body) = curl(&host, &[&url("/repos/acme/site")]);
    assert_eq!((status.as_str(), body.as_str()), ("200", "the web answered"));
    for (arguments, path, status, reason) in [
        (vec!["-X", "DELETE"], "/repos/acme/site", "403", "no_rule"),
        (vec![], "/admin", "403", "no_rule"),
        (vec![], "/repos/acme/secret/key", "403", "denied_by_rule"),
        (vec![], "/repos/acme/%73ecret/key", "403", "denied_by_rule"),
        (vec![], "/repos/acme/site/../secret/key", "403", "denied_by_rule"),
        (vec![], "/repos/acme%2Fsecret/key", "400", "ambiguous_request"),
        (vec!["-H", "X-HTTP-Method-Override: DELETE"], "/repos/acme/site", "400", "ambiguous_request"),
    ] {
        let target = url(path);
        let mut all = arguments.clone();
        all.push(&target);
        let (found, body) = curl(&host, &all);
        assert!(found == status && body.contains(reason), "{arguments:?} {path}: {found} {body}");
        // The same through the explicit proxy, where curl asks in absolute form.
        all.extend(["--proxy", "http://127.0.0.1:3128"]);
        let (found, body) = curl(&host, &all);
        assert!(found == status && body.contains(reason), "proxied {arguments:?} {path}: {found} {body}");
    }
    assert_eq!(host.world.web.requests().len(), 1, "nothing that was denied arrived");
    let json = ["-H", "Content-Type: application/json", "-d"];
    let mcp = |body: &str| curl(&host, &[&json[..], &[body, &url("/mcp")]].concat()).0;
    assert_eq!(mcp(&tool("search", "acme/site")), "200");
    assert_eq!(mcp(&tool("search", "globex/site")), "403");
    assert_eq!(mcp(&tool("delete", "acme/site")), "403");
    assert_eq!(mcp("{}"), "403");
    assert_eq!(host.world.web.requests().len(), 2);

    // The ledger names the rule and the request.
    let ledger = host.cli(&["ledger", "tail", "--tenant", "acme", "-n", "200"]);
    let ledger = String::from_utf8_lossy(&ledger.stdout).into_owned();
    assert!(ledger.contains("rule 2 (line 9): deny any protocol web.example.com"), "{ledger}");
    assert!(
        ledger.contains("GET /repos/acme/secret/key") && ledger.contains("content untrusted"),
        "{ledger}"
    );

    explained_compared_and_replayed(&host);
}

fn explained_compared_and_replayed(host: &Host) {
    let explain = |more: &[&str]| {
        let all = [&["policy", "explain", "acme"], more].concat();
        let told = host.json(&all);
        (told["verdict"].as_str().unwrap().to_owned(), told["by"].as_str().unwrap().to_owned())
    };
    let site = "http://web.example.com/repos/acme/site";
    assert_eq!(explain(&[site]).0, "allow");
    assert_eq!(explain(&[site, "--method", "PUT"]), ("deny".to_owned(), "default".to_owned()));
    assert_eq!(explain(&["http://web.example.com"]).0, "inspect");
    let mcp = "http://web.example.com/mcp";
    assert_eq!(explain(&[mcp, "--tool", "search", "--argument", "repo=acme/x"]).0, "allow");
    assert_eq!(explain(&[mcp, "--tool", "search", "--argument", "repo=globex/x"]).0, "deny");

    let draft = RULES.replace("[GET, HEAD]", "[HEAD, DELETE]");
    let fed = |verb: &str, more: &[&str], text: &str| {
        let output = host.feed(&[&["--json", "policy", verb, "acme", "-"], more].concat(), text);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let diff = fed("diff", &[], &draft);
    assert!(lines(&diff["opened"])[0].contains("DELETE|HEAD /repos/{owner}/**"), "{diff}");
    assert!(lines(&diff["closed"])[0].contains("GET|HEAD"), "{diff}");
    let simulated = fed("simulate", &["--days", "1"], &draft);
    let change = |was: &str, request: &str| {
        let changes = simulated["changes"].as_array().unwrap();
        let found = changes.iter().find(|it| it["was"] == was && it["request"] == request);
        found.unwrap_or_else(|| panic!("{was} {request}: {simulated}"))["becomes"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(change("allow", "GET /repos/acme/site"), "deny");
    assert_eq!(change("deny", "DELETE /repos/acme/site"), "allow");
    let effective = host.json(&["policy", "show", "acme", "--effective"]);
    let row = |part: &str| {
        let rows = effective["rows"].as_array().unwrap();
        rows.iter().find(|row| row["destination"].as_str().unwrap().contains(part)).unwrap().clone()
    };
    assert!(row("GET|HEAD /repos").get("used").is_some_and(Value::is_u64), "{effective}");
    assert_eq!(row("GET|HEAD /repos")["unused"], false);

    // Set only on what was read.
    let kept = host.json(&["policy", "show", "acme"])["revision"].as_u64().unwrap();
    let stale = host.feed(&["policy", "set", "acme", "-", "--revision", &(kept - 1).to_string()], &draft);
    assert_eq!(stale.status.code(), Some(4), "{stale:?}");
    let fresh = host.feed(&["policy", "set", "acme", "-", "--revision", &kept.to_string()], &draft);
    assert!(fresh.status.success(), "{fresh:?}");
    let (status, _) = curl(host, &[site]);
    assert_eq!(status, "403");
}

#[test]
fn what_the_ceiling_denies_no_policy_opens_and_check_says_which_rule_exceeds_it() {
    let ceiling = "[ceiling]\npolicy = '''\nversion: 2\nrules:\n  - deny: web.example.com\n    method: DELETE\n  - deny: \"*.pastes.example\"\n'''\n";
    let mut host = Host::prepare(ceiling);
    host.serve();
    host.create("acme");
    host.ready("acme");
    host.world.web.page("/x", Reply::text(200, "the web answered"));
    let open = "version: 1\ndefault: deny\nrules:\n  - {allow: web.example.com, protocol: http}\n";
    let checked = host.feed(&["policy", "check", "acme", "-"], open);
    let text = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(
        checked.status.success() && text.contains("limits it") && text.contains("ceiling rule 1"),
        "{text}"
    );
    host.policy("acme", open);
    let url = format!("http://{WEB_NAME}/x");
    assert_eq!(curl(&host, &[&url]).0, "200");
    let (status, body) = curl(&host, &["-X", "DELETE", &url]);
    assert!(status == "403" && body.contains("above_ceiling"), "{status} {body}");
    assert_eq!(host.world.web.requests().len(), 1);
    let over = format!("{open}  - allow: a.pastes.example\n");
    let refused = host.feed(&["policy", "set", "acme", "-"], &over);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(text.contains("line 5, rule 2") && text.contains("ceiling rule 2"), "{text}");
    assert_eq!(host.json(&["policy", "show", "acme"])["text"], open);

    // A foreign policy is imported, and holds in the cell.
    let foreign = "version: 1\nnetwork_policies:\n  web:\n    endpoints:\n      - {host: web.example.com, port: 80, protocol: rest, access: read-only}\n    binaries: [{path: /usr/bin/curl}]\n";
    let imported = host.feed(&["policy", "import", "-"], foreign);
    let document = String::from_utf8(imported.stdout.clone()).unwrap();
    assert!(imported.status.success() && document.contains("# widened"), "{imported:?}");
    host.policy("acme", &document);
    assert_eq!(curl(&host, &[&url]).0, "200");
    assert_eq!(curl(&host, &["-X", "POST", &url]).0, "403");
    let wrong = host.feed(&["policy", "import", "-"], "version: 7\nnetwork_policies: {}\n");
    assert_eq!(wrong.status.code(), Some(1), "{wrong:?}");
}
