//! Requests to a model through a warden's desk: the tenant's key is added, usage is read and counted.

use super::{
    Awake, Inside, at_host,
    client::Way,
    cpu, in_front, like_the_rest, own, peers,
    stats::{Contender, Table, Target, percentile},
    upstream::Upstream,
    wardens,
};
use crate::{host::Host, world::WEB};
use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

const ROUNDS: usize = 9;
/// What control counts while it is counted, with room: past it a warden refuses, since nothing is used uncounted.
const REQUESTS: usize = 100;
/// What one tenant may have under way; sixteen clients are two tenants'.
const TENANTS: [&str; 2] = ["acme", "globex"];
const CLIENTS: usize = 16;
/// How long they ask.
const LASTS: Duration = Duration::from_millis(700);

/// The bench, whole or one part of it.
pub fn run(part: Option<&str>) {
    let wanted = |name: &str| part.is_none_or(|part| part == name);
    let host = Host::start();
    let web = SocketAddr::new(WEB[0].parse().unwrap(), 9100);
    host.world.outside(|| Upstream::plain(web));
    let url = format!("http://{web}/v1");
    for tenant in TENANTS {
        host.json(&["tenant", "create", tenant, "--runtime", "command:echo"]);
        assert!(host.feed(&["secret", "set", tenant, "PROVIDER"], "sk-provider").status.success());
        host.json(&["model", "set", tenant, "--url", &url, "--model", "mock-1", "--secret", "PROVIDER"]);
        host.json(&["tenant", "start", tenant]);
        host.ready(tenant);
    }
    let cells = TENANTS.map(|tenant| Inside::cell(&host, tenant));
    let scratch = tempfile::tempdir().unwrap();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let world = &host.world;
    let litellm = peers::litellm(world, scratch.path(), &url);
    let measured: Vec<_> = litellm.iter().map(peers::Peer::pid).chain(wardens(&host)).collect();
    in_front(&measured);
    let body = "{\"model\":\"mock-1\",\"messages\":[{\"role\":\"user\",\"content\":\"".to_owned()
        + &"z".repeat(900)
        + "\"}]}";
    let way = |to: SocketAddr, place: &str, host: &str, key: &str| Way {
        to,
        connect: None,
        tls: None,
        request: format!(
            "POST {place}/v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
        .into(),
    };
    let direct = way(web, "", &web.to_string(), "sk-provider");
    let ours = way("127.0.0.1:3128".parse().unwrap(), "http://inference.local", "inference.local", "cell");
    let theirs = litellm.as_ref().map(|peer| way(peer.address, "", "litellm", "sk-bench"));
    let sample = |way: &Way, count: usize| -> Vec<f64> {
        let mut open = way.open();
        (0..count).map(|_| open.exchange()).collect()
    };
    let mut contenders: Vec<Contender<'_>> =
        vec![("direct".into(), Box::new(|| at_host(&host, || sample(&direct, REQUESTS))))];
    if let Some(way) = &theirs {
        contenders.push(("litellm".into(), Box::new(|| at_host(&host, || sample(way, 40)))));
    }
    contenders.push(("cofferdam".into(), Box::new(|| cells[0].run(|| sample(&ours, REQUESTS)))));
    let mut met = Vec::new();
    if wanted("one") {
        let awake = Awake::keep();
        let table = Table::measure(ROUNDS, &contenders);
        drop(awake);
        table.print("one chat completion, kept connection", "µs");
        let at = table.at("cofferdam");
        let added =
            Target { what: "12 added latency, p50", gate: 150.0, moonshot: 70.0, more: false, unit: " µs" };
        println!("  12 added latency, p99 {:.0} µs   moonshot ≤ 300, no gate", table.p99(at) - table.p99(0));
        met.push(added.report(table.p50(at) - table.p50(0)));
    }
    if wanted("sixteen") {
        // Whoever takes all there is of both processors at a real-time priority leaves control none to count with.
        like_the_rest(&measured);
        met.push(sixteen(&host, &cells, &direct, &ours, theirs.as_ref()));
    }
    let missed = met.iter().filter(|met| !**met).count();
    assert_eq!(missed, 0, "{missed} gates missed");
}

/// Row 12 with sixteen clients, for which there is a moonshot and no gate.
fn sixteen(host: &Host, cells: &[Inside], direct: &Way, ours: &Way, theirs: Option<&Way>) -> bool {
    let (mut rates, mut refused, mut answered) = ([Vec::new(), Vec::new(), Vec::new()], 0, 0.0);
    let own = [own(host, "__warden"), own(host, "__control")];
    let spent = || own.each_ref().map(|pids| pids.iter().map(|pid| cpu(*pid)).sum::<f64>());
    let before = spent();
    // Until what came before is counted.
    let rest = || std::thread::sleep(Duration::from_secs(1));
    for _ in 0..ROUNDS {
        rates[0].push(host.world.host(|| throughput(&[(None, direct.clone())]).0));
        rest();
        let both: Vec<_> = cells.iter().map(|cell| (Some(cell), ours.clone())).collect();
        let (rate, no) = throughput(&both);
        rates[1].push(rate);
        refused += no;
        answered += rate * LASTS.as_secs_f64();
        if let Some(way) = theirs {
            rates[2].push(host.world.host(|| throughput(&[(None, way.clone())]).0));
        }
    }
    rest();
    println!("\nsixteen clients, requests a second (cofferdam: eight in each of two cells)");
    let (names, direct_rate) = (["direct", "cofferdam", "litellm"], percentile(&rates[0], 50));
    for (name, rates) in names.iter().zip(&rates).filter(|(_, rates)| !rates.is_empty()) {
        let rate = percentile(rates, 50);
        println!("  {name:<26} {rate:>12.0} {:>25.3}", rate / direct_rate);
    }
    println!("  cofferdam refused {refused} requests");
    let after = spent();
    for (name, at) in [("wardens", 0), ("control", 1)] {
        println!("  {name}: {:.0} µs of processor a request", (after[at] - before[at]) * 1e3 / answered);
    }
    let share = percentile(&rates[1], 50) / direct_rate;
    let throughput =
        Target { what: "12 16 clients, of direct", gate: 0.0, moonshot: 0.45, more: true, unit: "" };
    throughput.report(share)
}

/// What sixteen connections, spread over these ways, got answered a second, and how often they were refused.
fn throughput(ways: &[(Option<&Inside>, Way)]) -> (f64, usize) {
    let begun = Instant::now();
    let end = begun + LASTS;
    let each = CLIENTS / ways.len();
    let (count, refused) = std::thread::scope(|scope| {
        let clients: Vec<_> = ways
            .iter()
            .flat_map(|(cell, way)| std::iter::repeat_n((cell, way), each))
            .map(|(cell, way)| {
                let client = move || {
                    let (mut open, mut count, mut refused) = (way.open(), 0, 0);
                    while Instant::now() < end {
                        let good = open.tries();
                        count += usize::from(good);
                        refused += usize::from(!good);
                    }
                    (count, refused)
                };
                scope.spawn(move || match cell {
                    Some(cell) => cell.unpinned(client),
                    None => client(),
                })
            })
            .collect();
        let all = clients.into_iter().map(|client| client.join().unwrap());
        all.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    });
    (count as f64 / begun.elapsed().as_secs_f64(), refused)
}
