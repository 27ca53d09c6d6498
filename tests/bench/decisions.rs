//! How long a verdict takes, how soon an approval moves what it was for, and how soon a policy is in force.

use super::{
    Inside,
    client::{self, Way},
    stats::{Target, percentile},
    upstream::Upstream,
};
use crate::{
    host::{Host, until},
    world::WEB,
};
use cofferdam_base::{Destination, Host as Place, Protocol};
use cofferdam_policy::{Body, Judgement, Policy, RequestFacts, Verdict};
use serde_json::{Value, json};
use std::{
    fmt::Write as _,
    hint::black_box,
    io::{Read, Write},
    net::SocketAddr,
    os::unix::net::UnixStream,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

const PORT: u16 = 9200;
const TENANTS: [&str; 4] = ["acme", "globex", "initech", "umbrella"];

/// Row 13: one verdict, with the rule that decided.
pub fn verdicts(met: &mut Vec<bool>) {
    const JUDGED: usize = 200_000;
    println!("\none verdict on a request, and the rule that it names");
    let mut figure = 0.0;
    for count in [10, 100, 1000, 10_000] {
        let mut text = "version: 2\ndefault: deny\nrules:\n".to_owned();
        for n in 0..count {
            let _ = writeln!(text, "- {{allow: h{n}.io, protocol: https, method: GET, path: /v1/**}}");
        }
        let policy = match Policy::parse(&text) {
            Ok(policy) => policy,
            Err(error) => {
                println!("  {count:>6} rules: not accepted: {error}");
                continue;
            }
        };
        let requests: Vec<RequestFacts> = (0..count)
            .map(|n| RequestFacts {
                destination: Destination {
                    host: Place::Name(format!("h{n}.io").parse().unwrap()),
                    port: 443.try_into().unwrap(),
                    protocol: Protocol::Https,
                },
                method: "GET".into(),
                target: "/v1/items?page=2".into(),
                headers: vec!["host".into(), "accept".into()],
                websocket: false,
                grpc: false,
                body: Body::None,
            })
            .collect();
        for request in &requests {
            let judged = policy.judge(request);
            assert!(matches!(judged, Judgement::Clear(Verdict::Allow { .. })), "{judged:?}");
        }
        let rounds: Vec<f64> = (0..9)
            .map(|_| {
                let begun = Instant::now();
                for request in requests.iter().cycle().take(JUDGED) {
                    black_box(policy.judge(black_box(request)));
                }
                begun.elapsed().as_secs_f64() * 1e9 / JUDGED as f64
            })
            .collect();
        let each = percentile(&rounds, 50);
        println!("  {count:>6} rules {each:>8.0} ns");
        if count == 1000 {
            figure = each;
        }
    }
    let target =
        Target { what: "13 verdict on 1,000 rules", gate: 5000.0, moonshot: 300.0, more: false, unit: " ns" };
    met.push(target.report(figure));
}

/// Rows 14 and 15, on a host with four tenants.
pub fn run(met: &mut Vec<bool>) {
    let host = Host::with(&TENANTS);
    host.world.outside(|| Upstream::plain(web()));
    held(&host, met);
    changed(&host, met);
}

fn web() -> SocketAddr {
    SocketAddr::new(WEB[0].parse().unwrap(), PORT)
}

/// What a client in a cell asks its proxy for.
fn proxied(name: &str) -> Way {
    Way {
        to: "127.0.0.1:3128".parse().unwrap(),
        connect: None,
        tls: None,
        request: format!("GET http://{name}:{PORT}/page HTTP/1.1\r\nHost: {name}:{PORT}\r\n\r\n")
            .into_bytes()
            .into(),
    }
}

/// From the moment at which somebody says yes to the answer of the world in the hands of who waited.
fn held(host: &Host, met: &mut Vec<bool>) {
    const ROUNDS: usize = 20;
    host.policy("acme", "version: 1\ndefault: ask\n");
    let cell = Inside::cell(host, "acme");
    let mut api = Api::open(host);
    let times: Vec<f64> = (0..=ROUNDS)
        .map(|n| {
            let name = format!("held-{n}.example.com");
            host.world.dns.answer(&name, &WEB[..1]);
            let way = proxied(&name);
            std::thread::scope(|scope| {
                let client = scope.spawn(|| {
                    cell.run(|| {
                        let mut open = way.open();
                        open.exchange();
                        Instant::now()
                    })
                });
                let id = until("a question", || {
                    let all = api.call("GET", "/approvals", None);
                    let all = all["approvals"].as_array()?;
                    all.iter().find(|row| row["state"] == "waiting").map(|row| row["id"].to_string())
                });
                // Whatever asking woke is at rest again.
                std::thread::sleep(Duration::from_millis(30));
                let begun = Instant::now();
                api.call("POST", &format!("/approvals/{id}/approve"), Some(&json!({"span": "once"})));
                let there = client.join().unwrap();
                there.duration_since(begun).as_secs_f64() * 1e3
            })
        })
        .skip(1)
        .collect();
    let (p50, p99) = (percentile(&times, 50), percentile(&times, 99));
    println!("\na held request, from the yes to its answer: {p50:.2} ms p50, {p99:.2} ms p99");
    let target = Target {
        what: "14 held request: approval to answer",
        gate: 5.0,
        moonshot: 1.0,
        more: false,
        unit: " ms",
    };
    met.push(target.report(p50));
}

/// From the moment at which four policies are sent to that at which all four are in force, under load of which no
/// request may fail.
fn changed(host: &Host, met: &mut Vec<bool>) {
    const ROUNDS: usize = 20;
    let policy = |probe: &str| {
        format!(
            "version: 1\ndefault: deny\nrules:\n  - {{allow: 93.184.216.34, protocol: http, ports: [{PORT}]}}\n  \
             - {{{probe}: probe.example.com, protocol: http, ports: [{PORT}]}}\n"
        )
    };
    host.world.dns.answer("probe.example.com", &WEB[..1]);
    for tenant in TENANTS {
        host.policy(tenant, &policy("allow"));
    }
    let cells = TENANTS.map(|tenant| Inside::cell(host, tenant));
    let (end, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let load = proxied("93.184.216.34");
    let times = std::thread::scope(|scope| {
        let clients: Vec<_> = cells
            .iter()
            .map(|cell| {
                scope.spawn(|| {
                    cell.run(|| {
                        let mut open = load.open();
                        while !end.load(Ordering::Relaxed) {
                            // Any answer but 200, and any break, is a panic here.
                            open.exchange();
                            served.fetch_add(1, Ordering::Relaxed);
                            std::thread::sleep(Duration::from_micros(500));
                        }
                    });
                })
            })
            .collect();
        let mut apis = TENANTS.map(|tenant| (tenant, Api::open(host)));
        let mut times = Vec::new();
        for round in 0..=ROUNDS {
            let (verb, answer) = if round % 2 == 0 { ("deny", "403") } else { ("allow", "200") };
            let text = policy(verb);
            let begun = Instant::now();
            std::thread::scope(|scope| {
                for (tenant, api) in &mut apis {
                    let text = &text;
                    scope.spawn(move || {
                        let set = api.call(
                            "PUT",
                            &format!("/tenants/{tenant}/policy"),
                            Some(&json!({"text": text})),
                        );
                        assert_eq!(set["in_force"], true, "{set}");
                    });
                }
            });
            let taken = begun.elapsed().as_secs_f64() * 1e3;
            for cell in &cells {
                let said = cell.run(|| status(&proxied("probe.example.com")));
                assert_eq!(said, answer, "what is said to be in force is");
            }
            if round > 0 {
                times.push(taken);
            }
        }
        end.store(true, Ordering::Relaxed);
        clients.into_iter().for_each(|client| client.join().unwrap());
        times
    });
    let (p50, p99) = (percentile(&times, 50), percentile(&times, 99));
    println!(
        "\na policy for each of {} tenants, sent to in force everywhere: {p50:.2} ms p50, {p99:.2} ms p99; \
         0 of {} requests failed meanwhile",
        TENANTS.len(),
        served.load(Ordering::Relaxed)
    );
    let target = Target {
        what: "15 policy change to in force on all tenants",
        gate: 50.0,
        moonshot: 1.0,
        more: false,
        unit: " ms",
    };
    met.push(target.report(p50));
}

/// The status of one answer.
fn status(way: &Way) -> String {
    let mut stream = std::net::TcpStream::connect(way.to).unwrap();
    stream.write_all(&way.request).unwrap();
    let mut answer = [0; 512];
    let read = stream.read(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..read]).split(' ').nth(1).unwrap_or_default().to_owned()
}

/// A kept connection to control.
struct Api(UnixStream);

impl Api {
    fn open(host: &Host) -> Self {
        Self(UnixStream::connect(host.dir.join("run/control.sock")).unwrap())
    }

    fn call(&mut self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let body = body.map(ToString::to_string).unwrap_or_default();
        let request = format!(
            "{method} /api/v1{path} HTTP/1.1\r\nHost: cofferdam\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.0.write_all(request.as_bytes()).unwrap();
        let (mut buffer, mut filled) = (vec![0; 1 << 20], 0);
        let whole = loop {
            let read = self.0.read(&mut buffer[filled..]).unwrap();
            assert!(read > 0, "control closed");
            filled += read;
            match client::length(&buffer[..filled]) {
                Some(whole) if whole <= filled => break whole,
                _ => {}
            }
        };
        let said = String::from_utf8_lossy(&buffer[..whole]);
        assert!(said.starts_with("HTTP/1.1 2"), "{method} {path}: {said}");
        serde_json::from_str(said.split_once("\r\n\r\n").unwrap().1).unwrap()
    }
}
