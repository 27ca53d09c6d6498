//! The edge against nginx: HTTP keep-alive, 16 clients, WebSocket echo. Tokens are verified by ours.
//!
//! The mock that answers is the same program three times: on the host's loopback for *direct* and nginx,
//! and inside a sealed cell for the edge. It gives the same kibibyte to all, so that what a proxy adds to a
//! request costs the proxy alone.
//!
//! For latencies the processors are kept from sleeping, by loops that run only when nobody else does: on a machine
//! that does nothing else, *direct* stays on one processor, and every proxy is charged for waking another, which in
//! a virtual machine costs more than all the work on the way. Sixteen clients keep them awake by themselves.

use super::{
    client::{Contender, Echo, Http},
    peers,
    stats::{Target, median, percentile},
};
use crate::run;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const ROUNDS: usize = 15;
const EXCHANGES: usize = 1000;
const CLIENTS: usize = 16;

/// Target and the figure that it is about: 0 HTTP p50, 1 HTTP p99, 2 throughput, 3 WebSocket p50.
const TARGETS: &[(Target, usize)] = &[
    (Target { what: "5  HTTP p50, edge / direct", gate: 2.25, moonshot: 2.10, more: false }, 0),
    (Target { what: "6  16 clients, edge / direct", gate: 0.40, moonshot: 0.55, more: true }, 2),
    (Target { what: "7  WebSocket echo p50, edge / direct", gate: 2.15, moonshot: 2.05, more: false }, 3),
];

pub(super) fn run() -> Result<()> {
    peers(&[("nginx", "nginx-light")])?;
    let binary = run::program(true)?;
    let upstream = free_port()?;
    let _mock = Process::start(Command::new(&binary).args(["__echo", &upstream.to_string()]), upstream)?;
    let scratch = tempfile::tempdir()?;
    let nginx_port = free_port()?;
    let _nginx = nginx(scratch.path(), nginx_port, upstream)?;
    let (_demo, edge) = demo(&binary)?;
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let contenders = [
        Contender { name: "direct", address: local(upstream), headers: String::new() },
        Contender { name: "nginx", address: local(nginx_port), headers: String::new() },
        edge,
    ];

    println!("{:<10} {:>12} {:>12} {:>14} {:>12}", "", "HTTP p50 µs", "p99 µs", "16 clients /s", "WS p50 µs");
    let mut figures = vec![[const { Vec::new() }; 4]; contenders.len()];
    for _ in 0..ROUNDS {
        let awake = keep_awake()?;
        for (contender, figures) in contenders.iter().zip(&mut figures) {
            let mut samples = latencies(&mut |n| http(contender, n))?;
            figures[0].push(percentile(&mut samples, 50));
            figures[1].push(percentile(&mut samples, 99));
            let mut samples = latencies(&mut |n| echo(contender, n))?;
            figures[3].push(percentile(&mut samples, 50));
        }
        drop(awake);
        for (contender, figures) in contenders.iter().zip(&mut figures) {
            figures[2].push(throughput(contender)?);
        }
    }
    // Of medians, not of each round: in some rounds the scheduler puts both ends of *direct* on one processor,
    // which halves its time and says nothing about a proxy.
    let middle = |contender: usize, figure: usize| median(figures[contender][figure].clone());
    for (contender, name) in contenders.iter().map(|contender| contender.name).enumerate() {
        let [p50, p99, rate, echo] = [0, 1, 2, 3].map(|figure| middle(contender, figure));
        println!("{name:<10} {p50:>12.1} {p99:>12.1} {rate:>14.0} {echo:>12.1}");
    }
    println!();
    let ratio = |contender, figure| middle(contender, figure) / middle(0, figure);
    let mut missed = 0;
    for (target, figure) in TARGETS {
        let (line, met) = target.report(ratio(2, *figure));
        println!("{line}   (nginx {:.2})", ratio(1, *figure));
        missed += usize::from(!met);
    }
    if missed > 0 {
        bail!("{missed} gates missed");
    }
    Ok(())
}

/// A loop on each processor, in the class `SCHED_IDLE`; they end when dropped.
fn keep_awake() -> Result<Vec<Process>> {
    let spin = |processor: usize| {
        let mut command = Command::new("chrt");
        command.args(["--idle", "0", "taskset", "--cpu-list", &processor.to_string()]);
        command.args(["sh", "-c", "while :; do :; done"]).stdin(Stdio::null()).stdout(Stdio::null());
        Ok(Process(command.spawn().context("chrt, of util-linux, could not be started")?))
    };
    (0..std::thread::available_parallelism()?.get()).map(spin).collect()
}

fn http(contender: &Contender, count: usize) -> Result<Vec<f64>> {
    let mut client = Http::open(contender, "/page")?;
    (0..count).map(|_| client.exchange()).collect()
}

fn echo(contender: &Contender, count: usize) -> Result<Vec<f64>> {
    let mut client = Echo::open(contender)?;
    (0..count).map(|_| client.exchange()).collect()
}

/// Samples after a warm-up of a tenth.
fn latencies(sample: &mut dyn FnMut(usize) -> Result<Vec<f64>>) -> Result<Vec<f64>> {
    Ok(sample(EXCHANGES + EXCHANGES / 10)?.split_off(EXCHANGES / 10))
}

/// Requests a second of 16 connections in 0.7 seconds.
fn throughput(contender: &Contender) -> Result<f64> {
    let end = Instant::now() + Duration::from_millis(700);
    let start = Instant::now();
    let counts = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = Http::open(contender, "/page")?;
                    let mut count = 0_u32;
                    while Instant::now() < end {
                        client.exchange()?;
                        count += 1;
                    }
                    Ok(count)
                })
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap_or_else(|_| bail!("a client died")))
            .collect::<Result<Vec<u32>>>()
    })?;
    Ok(f64::from(counts.iter().sum::<u32>()) / start.elapsed().as_secs_f64())
}

/// A process that is ended when its owner goes.
struct Process(Child);

impl Process {
    /// Starts it and waits until it listens.
    fn start(command: &mut Command, port: u16) -> Result<Self> {
        let child = Self(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?);
        for _ in 0..200 {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Ok(child);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("{command:?} does not listen on port {port}")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGTERM lets the demo take everything away; it is sent with the shell's kill, xtask has no libc.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

fn nginx(dir: &Path, port: u16, upstream: u16) -> Result<Process> {
    let config = dir.join("nginx.conf");
    let text = format!(
        "daemon off; worker_processes auto; pid {dir}/pid; error_log /dev/null;\n\
         events {{ worker_connections 512; }}\n\
         http {{ access_log off; keepalive_requests 1000000;\n\
           client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;\n\
           uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;\n\
           map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}\n\
           upstream mock {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 1000000; }}\n\
           server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://mock;\n\
             proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade;\n\
             proxy_set_header Connection $connection_upgrade; }} }} }}\n",
        dir = dir.display()
    );
    std::fs::write(&config, text)?;
    Process::start(Command::new("nginx").arg("-c").arg(&config).stdout(Stdio::null()), port)
}

/// Our host with a sealed cell, and how to reach it.
fn demo(binary: &Path) -> Result<(Process, Contender)> {
    let mut child = Command::new(binary)
        .args(["demo", "--runtime", "command", "--json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("the demo has no output")?).read_line(&mut line)?;
    let process = Process(child);
    let ready: Value = serde_json::from_str(&line).context("the demo did not start")?;
    let tenant = &ready["tenants"][0];
    let text = |key: &str| tenant[key].as_str().with_context(|| format!("the demo gives no {key}"));
    let address = text("address")?.trim_start_matches("http://").parse()?;
    let headers = format!("Authorization: Bearer {}\r\n", text("token")?);
    Ok((process, Contender { name: "cofferdam", address, headers }))
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
