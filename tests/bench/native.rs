//! The native gateway at a number of tenants, beside one of real OpenClaw, on one host in one run: how soon it answers,
//! what it takes while nobody asks, what it adds to a turn, what it sends a model, and whether it grows.
//!
//! Everything is as a client and an operator see it: a start is asked of the admin API, `connect` and turns go through
//! the edge with a token, the model is outside and reached by the warden. Nothing of the security is off.

use super::{
    Awake, Inside,
    admin::Admin,
    client::Way,
    footprint::{Memory, PARTS, Spent, growth, parts, pss},
    gateway::Chat,
    in_front, like_the_rest,
    stats::{Target, percentile},
    upstream::Upstream,
};
use crate::{host::Host, world::WEB};
use serde_json::json;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How often a thing is measured that is measured at one tenant.
const AGAIN: usize = 20;
/// Turns of which the share is taken, at each number of tenants.
const TURNS: usize = 300;
/// Turns that come before the first look at the memory of a gateway that takes many.
const WARM_UP: usize = 2000;
/// A conversation has so many turns, then comes another.
const TALK: usize = 50;
/// A gateway's clients who ask at the same time, in the long run.
const CLIENTS: usize = 4;
/// How long a client waits before it tries again.
const PAUSE: Duration = Duration::from_millis(1);
/// Until what a start left behind is done.
const REST: Duration = Duration::from_secs(5);
/// The same of a single one.
const BREATH: Duration = Duration::from_secs(1);
/// Up to so many tenants the memory is that of each start, the middle one: of a whole machine it is lost in what else
/// happens.
const FEW: usize = 10;
/// How long nobody asks anything while processor time is counted.
const IDLE: Duration = Duration::from_secs(30);

const START: Target =
    Target { what: "start to connect, p50", gate: 100.0, moonshot: 20.0, more: false, unit: " ms" };
const MEMORY: Target = Target { what: "memory a tenant", gate: 9.0, moonshot: 6.0, more: false, unit: " MB" };
const REST_CPU: Target =
    Target { what: "idle, of a core, a tenant", gate: 0.02, moonshot: 0.02, more: false, unit: " %" };
const TURN: Target =
    Target { what: "gateway's share of a turn, p50", gate: 5.0, moonshot: 2.0, more: false, unit: " ms" };
const BODY: Target =
    Target { what: "request body of a first turn", gate: 12.0, moonshot: 6.0, more: false, unit: " kB" };
const GROWTH: Target =
    Target { what: "growth of cell and warden", gate: 5.0, moonshot: 5.0, more: false, unit: " %" };

/// What is asked for.
struct Plan {
    tenants: Vec<usize>,
    turns: usize,
}

impl Plan {
    /// From the environment, where `cargo xtask bench native` puts it.
    fn read() -> Self {
        let text = |name: &str, otherwise: &str| std::env::var(name).unwrap_or_else(|_| otherwise.to_owned());
        let tenants = text("COFFERDAM_BENCH_TENANTS", "1,100,1000");
        Self {
            tenants: tenants.split(',').map(|number| number.trim().parse().unwrap()).collect(),
            turns: text("COFFERDAM_BENCH_TURNS", "100000").parse().unwrap(),
        }
    }
}

/// A tenant that may be started, and an admin's token for it.
struct Tenant {
    id: String,
    token: String,
}

/// A host with a model outside.
struct Bench {
    host: Host,
    admin: Admin,
    url: String,
    body: Arc<AtomicUsize>,
}

/// What was measured at one number of tenants.
struct Figures {
    tenants: usize,
    /// Milliseconds from the start to `connect`: of tenants that never ran, and of those that did.
    first: Vec<f64>,
    again: Vec<f64>,
    memory: f64,
    /// The same after a turn of each.
    used: f64,
    /// Hundredths of a core.
    idle: f64,
    turn: f64,
    share: f64,
}

/// The bench, whole or one part of it: `openclaw`, `tenants` or `turns`.
pub fn run(part: Option<&str>) {
    let wanted = |name: &str| part.is_none_or(|part| part == name);
    let plan = Plan::read();
    let mut host = Host::prepare("");
    let installed = wanted("openclaw").then(|| host.cli(&["runtime", "install", "openclaw"]));
    host.serve();
    let web = SocketAddr::new(WEB[0].parse().unwrap(), 9100);
    let body = host.world.outside(|| Upstream::events(web));
    let bench = Bench { admin: Admin::of(&host.dir), url: format!("http://{web}/v1"), body, host };
    let theirs = match installed {
        Some(installed) if !installed.status.success() => {
            println!("OpenClaw cannot be had: {}", String::from_utf8_lossy(&installed.stderr));
            None
        }
        other => other.map(|_| bench.upstream()),
    };
    let mut met = Vec::new();
    if wanted("tenants") {
        met = bench.native(&plan, theirs.as_ref());
    }
    if wanted("turns") {
        met.push(bench.many(plan.turns));
    }
    let missed = met.iter().filter(|met| !**met).count();
    assert_eq!(missed, 0, "{missed} gates missed");
}

impl Bench {
    /// A tenant with a model, stopped.
    fn tenant(&self, id: &str, runtime: &str) -> Tenant {
        let at = |what: &str| format!("tenants/{id}/{what}");
        self.admin.call("POST", "tenants", &json!({ "id": id, "runtime": runtime }));
        self.admin.call("PUT", &at("secrets/PROVIDER"), &json!({ "value": "sk-provider" }));
        let route = json!({ "route": "default", "upstream": { "url": self.url }, "model": "mock-1",
            "secret": "PROVIDER" });
        self.admin.call("PUT", &at("models/default"), &route);
        let wanted = json!({ "tenant": id, "subject": "ann", "role": "admin", "ttl_seconds": 86_400 });
        let issued = self.admin.call("POST", "tokens", &wanted);
        Tenant { id: id.to_owned(), token: issued["token"].as_str().unwrap().to_owned() }
    }

    /// From the start that is asked for to the answer to `connect`, in milliseconds.
    fn start(&self, tenant: &Tenant) -> f64 {
        let begun = Instant::now();
        let asked = self.admin.ask("POST", &format!("tenants/{}/start", tenant.id), &json!({}));
        let (chat, took) = self.host.world.host(|| Chat::first(&tenant.id, &tenant.token, begun, PAUSE));
        drop(chat);
        asked.answer();
        took
    }

    fn stop(&self, tenant: &Tenant) {
        self.admin.call("POST", &format!("tenants/{}/stop", tenant.id), &json!({ "wait": true }));
    }

    /// So many starts of tenants that ran before, in milliseconds, and the MB that each took when it rested.
    fn again(&self, tenants: &[Tenant], most: usize) -> (Vec<f64>, Vec<f64>) {
        let one = |tenant: &Tenant| {
            self.stop(tenant);
            thread::sleep(BREATH);
            let before = Memory::now();
            let took = self.start(tenant);
            thread::sleep(BREATH);
            (took, Memory::now().each(&before, 1))
        };
        tenants.iter().cycle().take(most).map(one).unzip()
    }

    /// So many turns of one tenant, in milliseconds each.
    fn turns(&self, tenant: &Tenant, name: &str, most: usize) -> Vec<f64> {
        self.host.world.host(|| {
            let mut chat = Chat::open(&tenant.id, &tenant.token).unwrap();
            let session = |at: usize| format!("agent:main:{name}-{}", at / TALK);
            (0..most).map(|at| chat.turn(&session(at), &format!("{name}-{at}"))).collect()
        })
    }

    /// A request to the model as a gateway makes it, on a connection of its own, by the same warden; milliseconds.
    fn asked(&self, tenant: &Tenant, most: usize) -> Vec<f64> {
        let text = "x".repeat(self.body.load(Ordering::Relaxed).saturating_sub(100));
        let body = json!({ "model": "default", "stream": true, "stream_options": { "include_usage": true },
            "messages": [{ "role": "user", "content": text }] })
        .to_string();
        let request = format!(
            "POST http://inference.local/v1/chat/completions HTTP/1.1\r\nHost: inference.local\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let to = SocketAddr::from(([127, 0, 0, 1], 3128));
        let way = Way { to, connect: None, tls: None, request: request.into_bytes().into() };
        Inside::cell(&self.host, &tenant.id).unpinned(|| (0..most).map(|_| way.fresh() / 1e3).collect())
    }

    /// Hundredths of a core that so many tenants' own processes take each while nobody asks; prints the others'.
    fn idle(&self, tenants: usize) -> f64 {
        thread::sleep(REST);
        let before = Spent::now(&self.host);
        thread::sleep(IDLE);
        let took = Spent::now(&self.host).since(&before, IDLE);
        let [own, others] = [&took[..3], &took[3..]];
        let shown = |parts: &[(&str, f64)], by: f64| -> Vec<String> {
            parts.iter().map(|(part, share)| format!("{part} {:.4} %", share / by)).collect()
        };
        let tenants = tenants as f64;
        println!(
            "  idle, a tenant: {}; the host: {}",
            shown(own, tenants).join(", "),
            shown(others, 1.0).join(", ")
        );
        own.iter().map(|(_, share)| share).sum::<f64>() / tenants
    }

    /// Prints whose the memory is.
    fn whose(&self, now: &Memory, before: &Memory, tenants: usize) {
        let parts = parts(&self.host);
        let shown = PARTS.map(|part| {
            let pids = parts.get(part).map(Vec::as_slice).unwrap_or_default();
            let all = pids
                .iter()
                .map(|pid| pss(*pid))
                .fold([0.0, 0.0], |sum, one| [sum[0] + one[0], sum[1] + one[1]]);
            let count = pids.len().max(1) as f64;
            format!("{part} {:.0} ({:.0})", all[0] / count, all[1] / count)
        });
        println!("  kB of Pss (private) a process: {}", shown.join(", "));
        let kernel = now.kernel(before, tenants);
        let kernel: Vec<String> = kernel.iter().map(|(name, kb)| format!("{name} {kb:.0}")).collect();
        println!("  kB of the kernel a tenant: {}", kernel.join(", "));
    }

    /// One tenant of real OpenClaw, alone; and what it sends in its first turn, in kB.
    fn upstream(&self) -> (Figures, f64) {
        let before = settled();
        println!("\nOpenClaw, one tenant");
        let tenant = self.tenant("upstream", "openclaw");
        let first = vec![self.start(&tenant)];
        let now = settled();
        let memory = now.each(&before, 1);
        self.whose(&now, &before, 1);
        let turns = self.turns(&tenant, "first", 1);
        let body = self.body.load(Ordering::Relaxed) as f64 / 1e3;
        println!("  first turn {:.0} ms", turns[0]);
        let (turn, share) = self.share(&tenant, "share", 30);
        let used = settled().each(&before, 1);
        let idle = self.idle(1);
        let (again, _) = self.again(std::slice::from_ref(&tenant), 2);
        self.admin.call("DELETE", "tenants/upstream", &json!({}));
        (Figures { tenants: 1, first, again, memory, used, idle, turn, share }, body)
    }

    /// The whole turn and the part of it that is not the model's and its warden's, p50, in milliseconds.
    fn share(&self, tenant: &Tenant, name: &str, most: usize) -> (f64, f64) {
        let awake = Awake::keep();
        let cell = self.host.cell_processes(&tenant.id).into_iter();
        let brokers = [format!("__warden {}", tenant.id), "__edge".to_owned()];
        let all: Vec<i32> = cell.chain(brokers.iter().filter_map(|it| self.host.process(it))).collect();
        in_front(&all);
        let turns = self.turns(tenant, name, most);
        let asked = self.asked(tenant, most);
        like_the_rest(&all);
        drop(awake);
        let (turn, asked) = (percentile(&turns, 50), percentile(&asked, 50));
        println!(
            "  a turn {turn:.2} ms (p99 {:.2}), of them the model by its warden {asked:.2}",
            percentile(&turns, 99)
        );
        (turn, turn - asked)
    }

    /// Ours, at each number of tenants; which gates are met.
    fn native(&self, plan: &Plan, theirs: Option<&(Figures, f64)>) -> Vec<bool> {
        let before = settled();
        let (mut tenants, mut fixed, mut all) = (Vec::new(), 0.0, Vec::new());
        for &most in &plan.tenants {
            println!("\nnative, tenants: {most}");
            let mut first = Vec::new();
            while tenants.len() < most {
                let tenant = self.tenant(&format!("t{:04}", tenants.len()), "native");
                first.push(self.start(&tenant));
                tenants.push(tenant);
            }
            let now = settled();
            let memory = now.each(&before, most);
            self.whose(&now, &before, most);
            let idle = self.idle(most);
            if fixed == 0.0 {
                self.turns(&tenants[0], "first", 1);
                fixed = self.body.load(Ordering::Relaxed) as f64 / 1e3;
            }
            for tenant in &tenants {
                self.turns(tenant, &format!("used-{most}"), 1);
            }
            let now = settled();
            let used = now.each(&before, most);
            println!("  after a turn of each:");
            self.whose(&now, &before, most);
            let (turn, share) = self.share(&tenants[0], &format!("share-{most}"), TURNS);
            let (again, memories) = self.again(&tenants, AGAIN);
            let memory = if most > FEW { memory } else { percentile(&memories, 50) };
            all.push(Figures { tenants: most, first, again, memory, used, idle, turn, share });
        }
        table(&all, theirs.map(|theirs| &theirs.0));
        let mut met = Vec::new();
        for figures in &all {
            println!("\n  tenants: {}", figures.tenants);
            met.push(START.report(percentile(&figures.again, 50)));
            if figures.memory > 0.0 {
                met.push(MEMORY.report(figures.memory));
            } else {
                // Of many it is never lost.
                met.push(figures.tenants <= FEW);
                println!(
                    "  {:<50} lost in what the machine gave back meanwhile: ask for more tenants",
                    MEMORY.what
                );
            }
            met.push(REST_CPU.report(figures.idle));
            met.push(TURN.report(figures.share));
        }
        println!();
        met.push(BODY.report(fixed));
        if let Some((_, body)) = theirs {
            println!("  {:<50} {body:>8.2} kB", "OpenClaw's");
        }
        met
    }

    /// Many turns of one gateway, by some clients at a time: do cell and warden grow?
    fn many(&self, turns: usize) -> bool {
        let tenant = self.tenant("many", "native");
        self.start(&tenant);
        let round = |name: &str, turns: usize| {
            thread::scope(|scope| {
                for client in 0..CLIENTS {
                    let (tenant, bench) = (&tenant, self);
                    let name = format!("{name}-{client}");
                    scope.spawn(move || bench.turns(tenant, &name, turns / CLIENTS));
                }
            });
        };
        let look = || {
            thread::sleep(REST);
            let cell = self.host.cell_processes("many").into_iter();
            let own = cell.chain(self.host.process("__warden many")).map(|pid| pss(pid)[0]).sum::<f64>();
            let other = |part: &str| self.host.process(part).map_or(0.0, |pid| pss(pid)[0]);
            [own, other("__control"), other("__edge")]
        };
        round("warm", WARM_UP.min(turns / 10));
        let first = look();
        let begun = Instant::now();
        for tenth in 0..10 {
            round(&format!("long-{tenth}"), turns / 10);
        }
        let took = begun.elapsed();
        let last = look();
        println!(
            "\n{turns} turns of one tenant, {CLIENTS} clients: {:.0} a second",
            turns as f64 / took.as_secs_f64()
        );
        for (at, what) in ["cell and warden", "control", "edge"].iter().enumerate() {
            println!(
                "  {what:<26} {:>8.0} kB of Pss, then {:>8.0}: {:>6.1} %",
                first[at],
                last[at],
                growth(first[at], last[at])
            );
        }
        GROWTH.report(growth(first[0], last[0]))
    }
}

/// The memory once it rests.
fn settled() -> Memory {
    thread::sleep(REST);
    Memory::now()
}

fn table(ours: &[Figures], theirs: Option<&Figures>) {
    println!(
        "\n  {:<18} {:>10} {:>8} {:>10} {:>8} {:>9} {:>9} {:>8} {:>9} {:>9}",
        "", "first ms", "p99", "again ms", "p99", "MB", "used MB", "idle %", "turn ms", "share ms"
    );
    let rows = ours.iter().map(|it| (format!("cofferdam {}", it.tenants), it));
    for (name, it) in rows.chain(theirs.map(|it| ("openclaw 1".to_owned(), it))) {
        let [first, last, again, worst] =
            [(&it.first, 50), (&it.first, 99), (&it.again, 50), (&it.again, 99)]
                .map(|(all, at)| percentile(all, at));
        println!(
            "  {name:<18} {first:>10.1} {last:>8.1} {again:>10.1} {worst:>8.1} {:>9.2} {:>9.2} {:>8.4} {:>9.2} {:>9.2}",
            it.memory, it.used, it.idle, it.turn, it.share
        );
    }
    if let (Some(ours), Some(theirs)) = (ours.first(), theirs) {
        // What is too little to be measured is in no ratio.
        let ratio = |theirs: f64, ours: f64| {
            if theirs > 0.0 && ours > 0.0 {
                format!("{:.0}", theirs / ours)
            } else {
                "not to be told".to_owned()
            }
        };
        println!(
            "  OpenClaw / cofferdam, one tenant each: start {}, memory {}, idle {}, share of a turn {}",
            ratio(percentile(&theirs.again, 50), percentile(&ours.again, 50)),
            ratio(theirs.memory, ours.memory),
            ratio(theirs.idle, ours.idle),
            ratio(theirs.share, ours.share)
        );
    }
}
