//! Fifty deaths: whatever part of a host is killed, the host comes back to what was wanted, loses nothing
//! that was decided and leaves nothing behind.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod host;
mod world;

use host::{Host, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use world::{WEB, http::Reply};

const PARTS: [&str; 5] = ["launcher", "__control", "__edge", "__warden acme", "init acme"];
const POLICY: &str = "version: 1\ndefault: ask\nrules:\n  - {allow: web.example.com, protocol: http}\n";

/// Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).unwrap()
    }
}

/// Deals the deaths anew until no cell dies more than four times in a row: one that fails six times within a
/// minute is given up until somebody asks again (`lifecycle::MAX_FAILURES`), which is right, and a busy machine
/// may add a failure of its own. A new control starts counting anew.
fn deal(random: &mut Random) -> Vec<&'static str> {
    loop {
        let mut deaths: Vec<&str> = PARTS.iter().flat_map(|part| [*part; 10]).collect();
        for at in (1..deaths.len()).rev() {
            deaths.swap(at, random.below(at + 1));
        }
        let lives = deaths.split(|part| ["launcher", "__control"].contains(part));
        if lives.map(|life| life.iter().filter(|part| **part == "init acme").count()).all(|cells| cells <= 4)
        {
            return deaths;
        }
    }
}

fn converged(host: &Host) {
    host.ready("acme");
    let (token, _) = host.token("acme", "member");
    until("an answer of the cell", || (host.get("acme", "/", &token).status == 200).then_some(()));
    assert_eq!(host.json(&["policy", "show", "acme"])["text"], POLICY);
    assert_eq!(host.json(&["ledger", "verify"])["whole"], true);
}

fn grants(host: &Host) -> Vec<Value> {
    let all = host.json(&["approvals", "list", "--all"]);
    all["approvals"].as_array().unwrap().iter().filter(|row| row["state"] == "granted").cloned().collect()
}

#[test]
fn fifty_deaths_lose_nothing_double_nothing_and_leave_nothing() {
    let seed = std::env::var("COFFERDAM_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) * 2_654_435_761 + 1);
    eprintln!("COFFERDAM_SEED={seed}");
    let deaths = deal(&mut Random(seed));

    let mut host = Host::with(&["acme"]);
    host.world.web.page("/once", Reply::text(200, "once"));
    host.policy("acme", POLICY);
    // A grant for one connection that nobody has used yet: given after its client went away.
    host.world.dns.answer("once.example.com", &[WEB[0]]);
    let url = "http://once.example.com/once";
    let gone = host.exec("acme", &["curl", "-s", "--max-time", "1", url]);
    assert!(!gone.status.success());
    let id = until("the question", || {
        let all = host.json(&["approvals", "list", "--all"]);
        all["approvals"].as_array()?.first().map(|row| row["id"].to_string())
    });
    host.json(&["approvals", "approve", &id, "--once"]);
    let grant = grants(&host);
    assert_eq!(grant.len(), 1, "{grant:?}");

    let (kept, _) = host.token("acme", "member");
    let (gone, revoked) = host.token("acme", "member");
    host.json(&["token", "revoke", &revoked]);
    assert!(host.feed(&["secret", "set", "acme", "KEY"], "sk-kept").status.success());
    let secrets = host.json(&["secret", "list", "acme"]);

    for part in deaths {
        let pid = until(part, || host.part(part));
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        if part == "launcher" {
            host.ended();
            host.serve();
        } else {
            until("its end", || (host.part(part) != Some(pid)).then_some(()));
            until("the edge", || {
                let status: Value = serde_json::from_slice(&host.cli(&["--json", "status"]).stdout).ok()?;
                (status["edge"] == true).then_some(())
            });
        }
        converged(&host);
        assert_eq!(grants(&host), grant, "after {part}");
        assert_eq!(host.get("acme", "/", &kept).status, 200, "after {part}");
        assert_eq!(host.get("acme", "/", &gone).status, 401, "after {part}");
        assert_eq!(host.json(&["secret", "list", "acme"]), secrets, "after {part}");
    }
    let used = host.exec("acme", &["curl", "-sS", url]);
    assert_eq!(String::from_utf8_lossy(&used.stdout), "once", "{used:?}");
    assert!(grants(&host).is_empty());
    assert_eq!(host.world.web.requests().len(), 1);
}
