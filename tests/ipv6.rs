//! Destinations that have IPv6 addresses alone, asked for by clients that know IPv4 alone; and a host that has no way
//! to them.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod host;
mod world;

use host::Host;
use std::process::Command;
use world::{TRAPS, WEB, http::Reply};

const SIX: &str = "six.example.com";
const POLICY: &str = "version: 1
default: deny
rules:
  - {allow: six.example.com, protocol: http}
  - {allow: six.example.com, protocol: tcp, ports: [8080]}
  - {allow: home.example.com, protocol: http}
  - {allow: mapped.example.com, protocol: http}
  - {allow: translated.example.com, protocol: http}
  - {allow: '2606:2800:220:1::1', protocol: http}
";

fn hosted() -> Host {
    let host = Host::start();
    host.create("acme");
    host.policy("acme", POLICY);
    host.world.web.page("/page", Reply::text(200, "the page"));
    host.world.dns.rebind(SIX, &[&WEB[1..]]);
    host.world.dns.answer("home.example.com", &["fd12:3456::9"]);
    host.world.dns.answer("mapped.example.com", &["::ffff:10.9.9.9"]);
    host.world.dns.answer("translated.example.com", &["64:ff9b::a09:909"]);
    host
}

fn curl(host: &Host, rest: &str) -> String {
    let output = host.exec("acme", &["sh", "-c", &format!("curl -sS -m 60 {rest} 2>&1")]);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_name_with_ipv6_alone_is_reached_by_clients_that_ask_for_ipv4() {
    let host = hosted();
    for way in ["-4 --noproxy '*'", "-6 --noproxy '*'", "--noproxy '*'", ""] {
        assert_eq!(curl(&host, &format!("{way} http://{SIX}/page")), "the page", "{way}");
    }
    assert_eq!(curl(&host, "--noproxy '*' 'http://[2606:2800:220:1::1]/page'"), "the page");
    let raw = "import socket; s = socket.socket(socket.AF_INET); s.connect((socket.gethostbyname('six.example.com'), 8080)); s.sendall(b'GET /page HTTP/1.0\\r\\nHost: x\\r\\n\\r\\n'); print(s.recv(4096).decode())";
    assert!(host.python("acme", raw).contains("200"));
    assert!(
        host.world.web.hits().iter().all(|(to, _)| to.ip() == WEB[1].parse::<std::net::IpAddr>().unwrap())
    );
    // The guard knows private IPv6, and IPv4 in whatever clothes.
    for (name, reason) in
        [("home", "private_address"), ("mapped", "private_address"), ("translated", "private_address")]
    {
        let said = curl(&host, &format!("http://{name}.example.com/"));
        assert!(said.contains(reason), "{name}: {said}");
    }
    assert_eq!(host.world.traps.hits(), []);
    assert!(TRAPS.contains(&"fd12:3456::9"));
}

#[test]
fn a_host_without_a_way_to_ipv6_says_so() {
    let host = hosted();
    assert_eq!(curl(&host, &format!("http://{SIX}/page")), "the page");
    let gone = host.world.output(Command::new("ip").args(["-6", "route", "del", "default"]));
    assert!(gone.status.success(), "{gone:?}");
    let said = curl(&host, &format!("http://{SIX}/page"));
    assert!(
        said.contains("connect_failed") && said.contains("this host has no way to IPv6 addresses"),
        "{said}"
    );
    // A name that has both goes by the other.
    host.world.dns.rebind(SIX, &[&WEB]);
    assert_eq!(curl(&host, &format!("http://{SIX}/page")), "the page");
}
