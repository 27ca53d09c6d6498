//! OAuth refresh tokens on a whole host with a real curl: the cell has a placeholder, the warden gets access tokens,
//! and a refresh token that its endpoint rotates is in the vault before anything depends on it.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod host;
mod world;

use host::Host;
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
};
use world::{
    WEB,
    tls::{Authority, Server},
};

const POLICY: &str = "version: 2
default: deny
rules:
  - {allow: api.example.com, protocol: https}
";
const CLIENT_SECRET: &str = "client-secret-0123456789";

/// A token endpoint that rotates, and an API that takes the last access token alone.
#[derive(Default)]
struct Endpoint {
    refresh: Mutex<String>,
    given: AtomicU32,
    down: AtomicBool,
    /// Every token that it ever gave.
    all: Mutex<Vec<String>>,
}

impl Endpoint {
    fn access(&self) -> String {
        format!("access-token-{}-0123456789", self.given.load(SeqCst))
    }

    fn token(&self, body: &[u8]) -> (u16, String) {
        if self.down.load(SeqCst) {
            return (503, String::new());
        }
        let mut refresh = self.refresh.lock().unwrap();
        let expected = format!(
            "grant_type=refresh_token&refresh_token={refresh}&client_id=cofferdam&client_secret={CLIENT_SECRET}&scope=read"
        );
        if body != expected.as_bytes() {
            return (400, json!({ "error": "invalid_grant", "error_description": *refresh }).to_string());
        }
        let given = self.given.fetch_add(1, SeqCst) + 1;
        *refresh = format!("refresh-token-{given}-0123456789");
        self.all.lock().unwrap().extend([refresh.clone(), self.access()]);
        let answer = json!({
            "access_token": self.access(), "token_type": "Bearer", "expires_in": 3600, "refresh_token": *refresh,
        });
        (200, answer.to_string())
    }
}

fn hosted() -> (Host, Server, Arc<Endpoint>) {
    let mut host = Host::prepare("");
    let authority = Authority::new();
    let roots = host.dir.join("roots.pem");
    fs::write(&roots, authority.pem()).unwrap();
    fs::set_permissions(&roots, fs::Permissions::from_mode(0o644)).unwrap();
    let file = host.dir.join("cofferdam.toml");
    let config = fs::read_to_string(&file).unwrap();
    let with = format!("[egress]\nextra_roots = {:?}\n", roots.to_str().unwrap());
    fs::write(&file, config.replace("[egress]\n", &with)).unwrap();
    let names = ["api.example.com", "auth.example.com"];
    let address = format!("{}:443", WEB[0]).parse().unwrap();
    let server = host.world.outside(|| Server::start(address, &authority, &names));
    for name in names {
        // Not remembered: what its address is changes below.
        host.world.dns.rebind(name, &[&WEB[..1]]);
    }
    let endpoint = Arc::new(Endpoint::default());
    "refresh-token-0-0123456789".clone_into(&mut endpoint.refresh.lock().unwrap());
    let tokens = Arc::clone(&endpoint);
    server.page("/oauth/token", move |asked| tokens.token(&asked.body));
    let api = Arc::clone(&endpoint);
    server.page("/v1/", move |asked| {
        let good = format!("Bearer {}", api.access());
        match asked.header("authorization") {
            Some(said) if said == good => (200, format!("it arrived, and {said} comes back")),
            _ => (401, "who?".to_owned()),
        }
    });
    host.serve();
    host.create("acme");
    host.policy("acme", POLICY);
    (host, server, endpoint)
}

fn set(host: &Host, refresh: &str) {
    let arguments = "--json secret set acme API --bind api.example.com/v1/** --in header:Authorization \
                     --oauth https://auth.example.com/oauth/token --client-id cofferdam --scope read --env API_TOKEN";
    let arguments: Vec<&str> =
        [arguments.split_whitespace().collect(), vec!["--format", "Bearer {}"]].concat();
    let value = json!({ "refresh_token": refresh, "client_secret": CLIENT_SECRET }).to_string();
    let output = host.feed(&arguments, &value);
    assert!(output.status.success(), "{output:?}");
}

fn curl(host: &Host, rest: &str) -> String {
    let script = format!("curl -sS -m 60 -H \"Authorization: Bearer $API_TOKEN\" {rest} 2>&1");
    let output = host.exec("acme", &["sh", "-c", &script]);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn version(host: &Host) -> Value {
    host.json(&["secret", "list", "acme"])["secrets"][0]["version"].clone()
}

#[test]
fn access_tokens_are_got_once_rotated_durably_and_got_anew_when_they_are_refused() {
    let (mut host, server, endpoint) = hosted();
    set(&host, "refresh-token-0-0123456789");
    host.json(&["tenant", "restart", "acme"]);
    host.ready("acme");
    let me = "https://api.example.com/v1/me";
    let arrived = |said: &str| {
        let stars = "*".repeat(endpoint.access().len());
        assert_eq!(said, format!("it arrived, and Bearer {stars} comes back"));
    };
    // Many at once: one token, and it is covered where it comes back.
    let many = "for n in 1 2 3 4 5 6; do curl -sS -m 60 -H \"Authorization: Bearer $API_TOKEN\" https://api.example.com/v1/me & done; wait";
    let output = host.exec("acme", &["sh", "-c", many]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.matches("it arrived").count(), 6, "{said}");
    assert_eq!(endpoint.given.load(SeqCst), 1);
    for flag in ["--http1.1", "--http2"] {
        arrived(&curl(&host, &format!("{flag} {me}")));
    }
    assert_eq!(endpoint.given.load(SeqCst), 1, "it is kept");

    // The new refresh token was in the vault before: a host that starts anew goes on with it.
    assert_eq!(version(&host), 2);
    host.restart();
    host.ready("acme");
    arrived(&curl(&host, me));
    assert_eq!((endpoint.given.load(SeqCst), version(&host)), (2, 3.into()));

    // A token that is refused before its end is got anew, once; a request with a body is not sent twice.
    endpoint.given.fetch_add(10, SeqCst);
    assert_eq!(curl(&host, &format!("-d body {me}")), "who?");
    let before = server.asked().len();
    arrived(&curl(&host, me));
    assert_eq!(server.asked().len() - before, 3, "refused, asked for, and sent again");
    arrived(&curl(&host, &format!("-d body {me}")));
    // An API that refuses every token is asked twice, and says so itself.
    let (before, given) = (server.asked().len(), endpoint.given.load(SeqCst));
    server.page("/v1/never", |_| (401, "never".to_owned()));
    assert_eq!(curl(&host, "https://api.example.com/v1/never"), "never");
    assert_eq!(server.asked().len() - before, 3);
    assert_eq!(endpoint.given.load(SeqCst), given + 1);

    // Elsewhere it is a placeholder like any other, and nothing is asked for.
    let said = curl(&host, "https://api.example.com/v2/me");
    assert!(said.contains("placeholder_elsewhere"), "{said}");
    assert_eq!(endpoint.given.load(SeqCst), given + 1);

    // None of it is in the cell.
    let all = endpoint.all.lock().unwrap().clone();
    let words: Vec<&str> = all.iter().map(String::as_str).chain([CLIENT_SECRET]).collect();
    assert_eq!(host.places("acme", &words), Vec::<String>::new());
    let ledger = host.cli(&["--json", "ledger", "tail", "-n", "1000", "--tenant", "acme"]);
    let ledger = String::from_utf8(ledger.stdout).unwrap();
    assert!(
        ledger.contains("https://auth.example.com:443") && ledger.contains("\"by\":\"warden\""),
        "{ledger}"
    );
    assert!(words.iter().all(|word| !ledger.contains(word) && !host.log().contains(word)));
}

#[test]
fn what_an_endpoint_refuses_is_explained_and_nothing_goes_out() {
    let (host, server, endpoint) = hosted();
    set(&host, "refresh-token-of-yesterday");
    host.json(&["tenant", "restart", "acme"]);
    host.ready("acme");
    let me = "https://api.example.com/v1/me";
    for _ in 0..3 {
        let said = curl(&host, me);
        let why = ["secret_unusable", "invalid_grant", "grant anew, then cofferdam secret set"];
        assert!(why.iter().all(|word| said.contains(word)) && !said.contains("refresh-token"), "{said}");
    }
    // Set anew, it works at once, whatever the endpoint said before.
    set(&host, "refresh-token-0-0123456789");
    assert!(curl(&host, me).contains("it arrived"));
    set(&host, &endpoint.refresh.lock().unwrap().clone());
    endpoint.down.store(true, SeqCst);
    let said = curl(&host, me);
    assert!(said.contains("the token endpoint answered 503"), "{said}");
    // The guard judges where the endpoint is.
    host.world.dns.rebind("auth.example.com", &[&["10.9.9.9"]]);
    set(&host, &endpoint.refresh.lock().unwrap().clone());
    let said = curl(&host, me);
    assert!(said.contains("private_address"), "{said}");
    assert_eq!(host.world.traps.hits(), []);
    let paths: Vec<String> = server.asked().into_iter().map(|asked| asked.target).collect();
    assert_eq!(paths.iter().filter(|path| *path == "/v1/me").count(), 1, "{paths:?}");
}
