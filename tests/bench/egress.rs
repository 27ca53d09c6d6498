//! Connections and requests through a warden.

use super::{
    Awake, BULK, Inside, at_host, bare,
    client::{Way, trusting},
    decisions, in_front, like_the_rest, peers,
    stats::{Contender, Table, Target},
    upstream::Upstream,
    wardens,
};
use crate::{
    host::Host,
    world::{WEB, tls::Authority},
};
use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc};

/// Each contender has a port of its own: what the kernel remembers of connections that one of them closed would make the
/// next one's search for a local port longer.
const PLAIN: [u16; 6] = [9000, 9001, 9002, 9003, 9004, 9005];
const API: &str = "api.example.com";
const TUNNEL: &str = "tunnel.example.com";
const KEY: &str = "sk-bound/Zx81-0123456789";
const ROUNDS: usize = 9;

const POLICY: &str = "version: 2
default: deny
rules:
  - {allow: 93.184.216.34, protocol: tcp, ports: [9000, 9001, 9002, 9003, 9004, 9005]}
  - {allow: tunnel.example.com, protocol: https}
  - allow: api.example.com
    protocol: https
    method: [GET, POST]
    path: /v1/**
  - deny: api.example.com
    path: /v1/secret
";

/// A host with acme, whose world has fast servers; what they are trusted by, and the world's authority.
struct Setting {
    host: Host,
    cell: Inside,
    roots: Vec<u8>,
    roots_file: PathBuf,
}

impl Setting {
    fn new() -> Self {
        let mut host = Host::prepare("");
        let authority = Authority::new();
        let roots_file = host.dir.join("roots.pem");
        fs::write(&roots_file, authority.pem()).unwrap();
        fs::set_permissions(&roots_file, fs::Permissions::from_mode(0o644)).unwrap();
        let file = host.dir.join("cofferdam.toml");
        let config = fs::read_to_string(&file).unwrap();
        let with = format!("[egress]\nextra_roots = {:?}\n", roots_file.to_str().unwrap());
        fs::write(&file, config.replace("[egress]\n", &with)).unwrap();
        let (leaf, key) = authority.leaf(&[API, TUNNEL]);
        host.world.outside(|| {
            for port in PLAIN {
                Upstream::plain(web(port));
            }
            Upstream::tls(web(443), &leaf, &key);
        });
        bare::prepared(&host.dir.join("bare"), API, &leaf, &key, authority.pem().as_bytes());
        for name in [API, TUNNEL] {
            host.world.dns.answer(name, &WEB[..1]);
        }
        host.serve();
        host.create("acme");
        host.policy("acme", POLICY);
        let bind = "secret set acme KEY --bind api.example.com/v1/** --in header:X-Api-Key --env API_KEY";
        assert!(host.feed(&bind.split(' ').collect::<Vec<_>>(), KEY).status.success());
        host.json(&["tenant", "restart", "acme"]);
        host.ready("acme");
        let cell = Inside::cell(&host, "acme");
        let roots = authority.pem().as_bytes().to_vec();
        Self { host, cell, roots, roots_file }
    }

    /// What a shell in the cell prints.
    fn shell(&self, line: &str) -> String {
        let output = self.host.exec("acme", &["sh", "-c", line]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

fn web(port: u16) -> SocketAddr {
    SocketAddr::new(WEB[0].parse().unwrap(), port)
}

const PROXY: &str = "127.0.0.1:3128";

fn get(host: &str, path: &str) -> Arc<[u8]> {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes().into()
}

/// The bench, whole or one part of it.
pub fn run(part: Option<&str>) {
    let mut met = Vec::new();
    let wanted = |name: &str| part.is_none_or(|part| part == name);
    if wanted("tunnels") || wanted("inspected") {
        let setting = Setting::new();
        let scratch = tempfile::tempdir().unwrap();
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
        if wanted("tunnels") {
            tunnels(&setting, scratch.path(), &mut met);
        }
        if wanted("inspected") {
            inspected(&setting, scratch.path(), &mut met);
        }
        // What the next host starts would be in front of all, for which its groups have no time.
        like_the_rest(&[]);
    }
    if wanted("decisions") {
        decisions::verdicts(&mut met);
        decisions::run(&mut met);
    }
    let missed = met.iter().filter(|met| !**met).count();
    assert_eq!(missed, 0, "{missed} gates missed");
}

/// Rows 8 and 9: connections whose inside nobody sees.
fn tunnels(setting: &Setting, scratch: &std::path::Path, met: &mut Vec<bool>) {
    const FRESH: usize = 200;
    let world = &setting.host.world;
    let squid = peers::squid(world, scratch);
    let tinyproxy = peers::tinyproxy(world, scratch);
    let bare = peers::bare(world, "a bare relay", "bare_relay", bare::RELAY, scratch);
    let peers = bare.iter().chain(&squid).chain(&tinyproxy).map(peers::Peer::pid);
    in_front(&peers.chain(wardens(&setting.host)).collect::<Vec<_>>());
    let way = |through: Option<SocketAddr>, at: usize, path: &str| {
        let server = web(PLAIN[at]);
        let authority = server.to_string();
        Way {
            to: through.unwrap_or(server),
            connect: through.map(|_| authority.clone()),
            tls: None,
            request: get(&authority, path),
        }
    };
    let proxy: SocketAddr = PROXY.parse().unwrap();
    for (title, path, count) in [("fresh connection and one page", "/page", FRESH), ("64 MiB", "/bulk", 1)] {
        let sample = |way: &Way| -> Vec<f64> {
            if count > 1 {
                (0..count).map(|_| way.fresh()).collect()
            } else {
                let mut open = way.open();
                vec![open.exchange()]
            }
        };
        let outside = |way: Way| move || at_host(&setting.host, || sample(&way));
        let inside = |way: Way| move || setting.cell.run(|| sample(&way));
        let mut contenders: Vec<Contender<'_>> =
            vec![("direct".into(), Box::new(outside(way(None, 0, path))))];
        for peer in bare.iter().chain(&squid).chain(&tinyproxy) {
            let through = outside(way(Some(peer.address), contenders.len(), path));
            contenders.push((peer.name.into(), Box::new(through)));
        }
        contenders.push(("cofferdam CONNECT".into(), Box::new(inside(way(Some(proxy), 4, path)))));
        contenders.push(("cofferdam captured".into(), Box::new(inside(way(None, 5, path)))));
        let awake = (count > 1).then(Awake::keep);
        let table = Table::measure(ROUNDS, &contenders);
        drop(awake);
        table.print(title, "µs");
        let (connect, captured) = (table.at("cofferdam CONNECT"), table.at("cofferdam captured"));
        if count > 1 {
            met.push(target("8  fresh CONNECT / direct", 2.2, 1.7).report(table.ratio(connect)));
            met.push(target("8  fresh captured / direct", 2.2, 1.7).report(table.ratio(captured)));
        } else {
            let share = |at: usize| 1.0 / table.ratio(at);
            let bulk = |what| Target { more: true, ..target(what, 0.5, 0.68) };
            let rate = BULK as f64 / table.p50(connect) / 1e3;
            println!("  through CONNECT {rate:.2} GB/s");
            met.push(bulk("9  bulk through CONNECT, of direct").report(share(connect)));
            met.push(bulk("9  bulk captured, of direct").report(share(captured)));
        }
    }
    // TLS to a name: the client hello is read and compared, and the name server is asked each time.
    let tls = Some((TUNNEL.to_owned(), trusting(&setting.roots)));
    let way = |to: SocketAddr, connect: bool| Way {
        to,
        connect: connect.then(|| format!("{TUNNEL}:443")),
        tls: tls.clone(),
        request: get(TUNNEL, "/page"),
    };
    let sample = |way: &Way| -> Vec<f64> { (0..FRESH).map(|_| way.fresh()).collect() };
    let mut contenders: Vec<Contender<'_>> = Vec::new();
    let direct = way(web(443), false);
    contenders.push(("direct".into(), Box::new(move || at_host(&setting.host, || sample(&direct)))));
    if let Some(peer) = &squid {
        let way = way(peer.address, true);
        contenders.push(("squid".into(), Box::new(move || at_host(&setting.host, || sample(&way)))));
    }
    let ours = way(proxy, true);
    contenders.push(("cofferdam CONNECT".into(), Box::new(move || setting.cell.run(|| sample(&ours)))));
    let awake = Awake::keep();
    let table = Table::measure(ROUNDS, &contenders);
    drop(awake);
    table.print("fresh TLS to a name, not inspected (for comparison; squid caches the name)", "µs");
}

/// Rows 10 and 11: TLS that is looked into, a credential that is swapped, bodies that are searched.
fn inspected(setting: &Setting, scratch: &std::path::Path, met: &mut Vec<bool>) {
    const KEPT: usize = 500;
    const FRESH: usize = 60;
    let world = &setting.host.world;
    let bundle = setting.shell("cat \"$SSL_CERT_FILE\"");
    let placeholder = setting.shell("printf %s \"$API_KEY\"");
    let body = "{\"say\":\"".to_owned() + &"y".repeat(1000) + "\"}";
    let request: Arc<[u8]> = format!(
        "POST /v1/items HTTP/1.1\r\nHost: {API}\r\nX-Api-Key: {placeholder}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
    .into();
    let way = |to: SocketAddr, connect: bool, roots: &[u8]| Way {
        to,
        connect: connect.then(|| format!("{API}:443")),
        tls: Some((API.to_owned(), trusting(roots))),
        request: Arc::clone(&request),
    };
    // mitmproxy looks names up like the machine that it runs on: it is told the address, and the name in the hello.
    let mitmproxy = peers::mitmproxy(world, scratch, &setting.roots_file);
    let dir = setting.host.dir.join("bare");
    let bare = peers::bare(world, "a bare interceptor", "bare_interceptor", bare::INTERCEPTOR, &dir);
    let peers = bare.iter().chain(mitmproxy.iter().map(|(peer, _)| peer)).map(peers::Peer::pid);
    in_front(&peers.chain(wardens(&setting.host)).collect::<Vec<_>>());
    for (title, fresh) in [("inspected, kept connection", false), ("inspected, fresh connection", true)] {
        let sample = move |way: &Way| -> Vec<f64> {
            if fresh {
                return (0..FRESH).map(|_| way.fresh()).collect();
            }
            let mut open = way.open();
            (0..KEPT).map(|_| open.exchange()).collect()
        };
        let direct = way(web(443), false, &setting.roots);
        let mut contenders: Vec<Contender<'_>> =
            vec![("direct".into(), Box::new(move || at_host(&setting.host, || sample(&direct))))];
        let mitmproxy = mitmproxy.as_ref().map(|(peer, roots)| (peer, roots));
        for (peer, roots) in bare.iter().map(|peer| (peer, &setting.roots)).chain(mitmproxy) {
            let way = Way { connect: Some(web(443).to_string()), ..way(peer.address, true, roots) };
            contenders.push((peer.name.into(), Box::new(move || at_host(&setting.host, || sample(&way)))));
        }
        let ours = way(PROXY.parse().unwrap(), true, bundle.as_bytes());
        contenders.push(("cofferdam".into(), Box::new(move || setting.cell.run(|| sample(&ours)))));
        let awake = Awake::keep();
        let table = Table::measure(ROUNDS, &contenders);
        drop(awake);
        table.print(title, "µs");
        let target = if fresh {
            target("11 inspected fresh connection / direct", 3.0, 2.0)
        } else {
            target("10 inspected kept-alive request / direct", 3.0, 2.3)
        };
        met.push(target.report(table.ratio(table.at("cofferdam"))));
    }
}

const fn target(what: &'static str, gate: f64, moonshot: f64) -> Target {
    Target { what, gate, moonshot, more: false, unit: "" }
}
