//! A host whose only way out is the operator's proxy, with a real curl: what reaches the world goes through it, the
//! guard judges true addresses, and what the proxy says is explained.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod host;
mod world;

use host::Host;
use std::fs;
use world::{
    MODEL, MODEL_NAME, TRAPS, WEB, WEB_NAME,
    http::Reply,
    proxy::{Does, Proxy},
    tls::{Authority, Server},
};

/// Private, as a company's is, and listening at another port besides.
const PROXY: &str = "10.3.0.9";
const API: &str = "api.example.com";
const POLICY: &str = "version: 2
default: deny
rules:
  - {allow: web.example.com, protocol: http}
  - {allow: home.example.com, protocol: http}
  - {allow: near.corp.example, protocol: http}
  - {allow: models.example.com, protocol: https}
  - {allow: raw.example.com, protocol: tcp, ports: [8080]}
  - {allow: 10.3.0.9, protocol: http, ports: [3128]}
  - {allow: api.example.com, protocol: https, method: GET, path: /open/**}
";

/// A host behind a proxy; `more` is further said in `[egress]`.
fn behind(more: &str) -> (Host, Proxy) {
    let host = Host::prepare("");
    host.world.add_address(PROXY);
    let proxy = host.world.outside(|| Proxy::start(format!("{PROXY}:3128").parse().unwrap()));
    configure(&host, &format!("upstream_proxy = \"http://{PROXY}:3128\"\n{more}"));
    host.world.web.page("/page", Reply::text(200, "the page"));
    for (name, address) in [("home.example.com", "10.9.9.9"), ("raw.example.com", WEB[0])] {
        host.world.dns.answer(name, &[address]);
    }
    host.world.dns.answer("near.corp.example", &WEB[..1]);
    (host, proxy)
}

fn configure(host: &Host, more: &str) {
    let file = host.dir.join("cofferdam.toml");
    let config = fs::read_to_string(&file).unwrap();
    fs::write(&file, config.replace("[egress]\n", &format!("[egress]\n{more}"))).unwrap();
}

fn serve(host: &mut Host) {
    host.serve();
    host.create("acme");
    host.policy("acme", POLICY);
}

fn curl(host: &Host, rest: &str) -> String {
    let output = host.exec("acme", &["sh", "-c", &format!("curl -sS -m 60 {rest} 2>&1")]);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn whatever_is_dialled_goes_through_the_proxy_which_is_told_a_checked_address() {
    let (mut host, proxy) = behind("no_proxy = [\".corp.example\"]\n");
    let authority = Authority::new();
    let roots = host.dir.join("roots.pem");
    fs::write(&roots, authority.pem()).unwrap();
    configure(&host, &format!("extra_roots = {:?}\n", roots.to_str().unwrap()));
    let tls = |address: &str, names: &[&str]| {
        let address = format!("{address}:443").parse().unwrap();
        host.world.outside(|| Server::start(address, &authority, names))
    };
    let servers = (tls(WEB[0], &[API]), tls(MODEL, &[MODEL_NAME]));
    host.world.dns.answer(API, &WEB[..1]);
    serve(&mut host);

    let told = |expected: &[&str]| {
        let asked: Vec<String> = proxy.asked().into_iter().map(|(target, _)| target).collect();
        assert_eq!(asked, expected);
    };
    for way in ["", "--noproxy '*'"] {
        // Plain HTTP, TLS that is inspected, TLS that is not, and bytes that are neither.
        assert_eq!(curl(&host, &format!("{way} http://{WEB_NAME}/page")), "the page");
        told(&["93.184.216.34:80"]);
        let said = curl(&host, &format!("{way} https://{API}/open/a"));
        assert!(said.contains("the world answered GET /open/a"), "{said}");
        let said = curl(&host, &format!("{way} https://{API}/closed"));
        assert!(said.contains("no_rule"), "{said}");
        // The connection of the first try may have been kept.
        assert!(proxy.asked().iter().all(|(target, _)| target == "93.184.216.34:443"));
        let said = curl(&host, &format!("{way} https://{MODEL_NAME}/x"));
        assert!(said.contains("the world answered GET /x"), "{said}");
        told(&["93.184.216.80:443"]);
    }
    let raw = "import socket; s = socket.create_connection(('raw.example.com', 8080)); s.sendall(b'GET /page HTTP/1.0\\r\\nHost: raw.example.com\\r\\n\\r\\n'); print(s.recv(4096).decode())";
    assert!(host.python("acme", raw).contains("200"));
    told(&["93.184.216.34:8080"]);
    drop(servers);

    // What needs no proxy goes without it; the way in the model's route goes with it.
    assert_eq!(curl(&host, "http://near.corp.example/page"), "the page");
    told(&[]);
    host.json(&["model", "set", "acme", "--url", "http://models.example.com/v1", "--model", "m"]);
    let ask = "-d '{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]}' http://inference.local/v1/chat/completions";
    let said = curl(&host, ask);
    assert!(said.contains("done"), "{said}");
    told(&["93.184.216.80:80"]);

    // The guard's rules hold for the true destination, and the proxy hears nothing of what they refuse.
    let said = curl(&host, "http://home.example.com/");
    assert!(said.contains("private_address"), "{said}");
    // Nor does a cell speak to the proxy itself.
    let said = curl(&host, &format!("--noproxy '*' http://{PROXY}:3128/"));
    assert!(said.contains("host_address"), "{said}");
    told(&[]);
    assert_eq!(host.world.traps.hits(), []);
    assert!(TRAPS.contains(&"10.9.9.9"));
}

#[test]
fn credentials_come_from_the_vault_and_what_the_proxy_says_is_explained() {
    let (mut host, proxy) = behind("");
    serve(&mut host);
    let page = |host: &Host| curl(host, &format!("http://{WEB_NAME}/page"));
    // cofferdam:corp/secret
    let basic = "Basic Y29mZmVyZGFtOmNvcnAvc2VjcmV0";
    proxy.wants(Some(basic));
    let said = page(&host);
    let why = ["upstream_proxy_failed", "407", "cofferdam upstream-proxy set"];
    assert!(why.iter().all(|word| said.contains(word)), "{said}");
    assert_eq!(host.feed(&["upstream-proxy", "set"], "no colon").status.code(), Some(2));
    assert_eq!(host.json(&["upstream-proxy", "show"])["credentials"], false);
    let set = host.feed(&["--json", "upstream-proxy", "set"], "cofferdam:corp/secret\n");
    assert!(set.status.success(), "{set:?}");
    let shown = host.json(&["upstream-proxy", "show"]);
    assert_eq!(
        (&shown["credentials"], &shown["url"]),
        (&true.into(), &format!("http://{PROXY}:3128").into())
    );
    assert_eq!(page(&host), "the page");
    assert_eq!(proxy.asked().last().unwrap().1.as_deref(), Some(basic));
    // Durable, sealed on disk, nowhere in the cell, and none of it at the destination.
    host.restart();
    host.ready("acme");
    assert_eq!(page(&host), "the page");
    assert_eq!(host.places("acme", &["corp/secret", "Y29mZmVyZGFtOmNvcn"]), Vec::<String>::new());
    let sealed = fs::read(host.dir.join("control/keys/upstream-proxy")).unwrap();
    assert!(!sealed.windows(11).any(|part| part == b"corp/secret"));
    let arrived = format!("{:?}", host.world.web.requests());
    assert!(arrived.contains("/page") && !arrived.contains("Y29mZmVyZGFt"), "{arrived}");
    // Wrong ones are told from none; and gone is gone.
    assert!(host.feed(&["upstream-proxy", "set"], "cofferdam:another").status.success());
    assert!(page(&host).contains("does not take our credentials"));
    host.json(&["upstream-proxy", "rm"]);
    assert!(page(&host).contains("it wants credentials"));
    assert_eq!(host.cli(&["upstream-proxy", "rm"]).status.code(), Some(3));

    // Whatever else it does.
    proxy.wants(None);
    let answers = |text: &str| Does::Answers(text.to_owned());
    for (does, says) in [
        (answers("HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n"), "upstream_proxy_resolves_names"),
        (answers("HTTP/1.1 502 No\r\ncontent-length: 0\r\n\r\n"), "it answered 502"),
        (answers("SSH-2.0-none\r\n"), "answered no HTTP"),
        (answers(""), "broke the connection"),
        (answers(&format!("HTTP/1.1 200 Yes\r\nx: {}\r\n\r\n", "x".repeat(64 * 1024))), "answered no HTTP"),
        (Does::Waits, "it did not answer in time"),
    ] {
        proxy.does(does);
        let said = page(&host);
        assert!(said.contains("upstream_proxy_failed") && said.contains(says), "{says}: {said}");
    }
    drop(proxy);
    let said = page(&host);
    assert!(said.contains("it is not reached"), "{said}");
}

#[test]
fn where_the_proxy_resolves_names_it_is_told_them_and_addresses_are_still_judged() {
    let (mut host, proxy) = behind("upstream_proxy_resolves_names = true\n");
    serve(&mut host);
    proxy.does(Does::Leads(format!("{}:80", WEB[0]).parse().unwrap()));
    host.world.dns.forget(WEB_NAME);
    for way in ["", "--noproxy '*'"] {
        assert_eq!(curl(&host, &format!("{way} http://{WEB_NAME}/page")), "the page");
        assert_eq!(proxy.asked().pop().unwrap().0, "web.example.com:80");
    }
    assert!(host.world.dns.questions().is_empty(), "nothing is resolved here");
    // The cost, as the documentation says it: what the name leads to is the proxy's to judge.
    assert_eq!(curl(&host, "http://home.example.com/page"), "the page");
    assert_eq!(proxy.asked().pop().unwrap().0, "home.example.com:80");
    // What is no name is judged as ever.
    let said = curl(&host, "--noproxy '*' http://10.3.0.9:3128/");
    assert!(said.contains("host_address"), "{said}");
    let said = curl(&host, "http://metadata.google.internal/");
    assert!(said.contains("metadata"), "{said}");
    assert_eq!(proxy.asked(), []);
}
