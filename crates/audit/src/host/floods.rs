//! What a tenant can do to everybody at once: floods, and what its neighbour notices of them.
//!
//! The measure is the time of the slowest of a hundred small requests of the neighbour, one way in through its edge and
//! one way out through its warden, quiet and flooded by turns. It is harm if it is twice of what it was and more than
//! [`FLOOR`], the same way, every time: what a busy machine does once it does not do always. The control is the same measure
//! while the neighbour does the same to itself, with nothing between.

use super::{Host, failed};
use crate::{
    Error,
    battery::{
        FLAG,
        wires::{Knock, NAMESERVER, NEIGHBOUR, PROXY, TENANT, Token, WEB, page},
    },
    verdict::{Control, Judged},
};
use cofferdam_sandbox::{
    CellPlan, Profile, Protection,
    probe::{Attempt, Outcome},
};
use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// Nobody is harmed by a page that comes within this time. Code that was built for debugging takes four times as long for
/// the same page, quiet or not.
const FLOOR: Duration = Duration::from_millis(if cfg!(debug_assertions) { 40 } else { 10 });
const TITLE: &str = if cfg!(debug_assertions) {
    "open as many connections as one can; the neighbour's slowest page of a hundred is under twice as slow, or within 40 ms"
} else {
    "open as many connections as one can; the neighbour's slowest page of a hundred is under twice as slow, or within 10 ms"
};
/// How long is measured at one time.
const WINDOW: Duration = Duration::from_millis(200);
/// The runtime writes to its log for so long when it is asked for this.
const LASTS: Duration = Duration::from_millis(600);
const LOG: &str = "/words?ms=600";
/// Quiet and flooded by turns so often, and so often again before it counts as harm.
const ROUNDS: usize = 2;
const TRIES: usize = 4;

/// A flood.
struct Flood {
    id: &'static str,
    title: &'static str,
    layers: &'static [&'static str],
    kind: Kind,
    /// What the neighbour does to itself for the control.
    own: Kind,
    /// Why it is not tried.
    skipped: &'static str,
}

/// How it is done.
#[derive(Clone)]
enum Kind {
    /// By a process in the cell.
    Cell(Attempt),
    /// By the runtime, which alone writes to the log.
    Log,
}

/// Times of the neighbour's requests, in microseconds.
#[derive(Clone, Debug, Default)]
struct Times {
    edge: Vec<u64>,
    out: Vec<u64>,
}

fn floods(plan: &CellPlan) -> Vec<Flood> {
    let address = |address: &str, port| -> Option<SocketAddr> {
        Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, port))
    };
    // The proxy, an address that is captured, and the name server within the cell.
    let to = [Some(PROXY), address(WEB, 80), address(NAMESERVER, 53)].into_iter().flatten().collect();
    let connections =
        Attempt::Connections { to, say: "GET http://allowed.example/ HTTP/1.1\r\nHost: allowed".into() };
    let bomb = Attempt::Bomb { bytes: plan.limits.memory_bytes + (1 << 20) };
    let left_out =
        [Protection::Pids, Protection::Memory, Protection::Cpu].iter().any(|it| plan.without.contains(it));
    vec![
        Flood {
            id: "flood.connections",
            title: TITLE,
            layers: &["a warden of its own", "limit of connections"],
            kind: Kind::Cell(connections.clone()),
            own: Kind::Cell(connections.clone()),
            skipped: "",
        },
        Flood {
            id: "flood.words",
            title: "write to the log without end; the same of the neighbour",
            layers: &["rate of the log"],
            kind: Kind::Log,
            own: Kind::Cell(connections),
            skipped: "",
        },
        Flood {
            id: "flood.processes",
            title: "make processes and take memory without end; the same of the neighbour",
            layers: &["cgroup pids", "cgroup memory", "cgroup cpu"],
            kind: Kind::Cell(bomb.clone()),
            own: Kind::Cell(bomb),
            skipped: if plan.profile == Profile::Rootless || left_out {
                "this cell has no such limits"
            } else {
                ""
            },
        },
    ]
}

impl Host {
    /// Every flood, judged.
    pub(super) fn floods(&self, plan: &CellPlan) -> Result<Vec<Judged>, Error> {
        let floods = floods(plan);
        let tried: Vec<&Flood> = floods.iter().filter(|flood| flood.skipped.is_empty()).collect();
        let mut quiet = Times::default();
        let mut flooded = vec![Times::default(); tried.len()];
        for _ in 0..ROUNDS {
            for (flood, times) in tried.iter().zip(&mut flooded) {
                quiet.add(self.measured()?);
                times.add(self.during(TENANT, &flood.kind)?);
            }
        }
        let mut judged = Vec::new();
        let mut results = tried.iter().zip(flooded);
        for flood in &floods {
            if !flood.skipped.is_empty() {
                judged.push(Judged::skipped(flood.id, flood.title, flood.layers, flood.skipped));
                continue;
            }
            let Some((_, times)) = results.next() else { continue };
            let begun = Instant::now();
            let sealed = self.harm(flood, quiet.clone(), times)?;
            let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            judged.push(Judged::tried(flood.id, flood.title, flood.layers, sealed, micros, None));
        }
        // Last: what the neighbour did to itself is noticed for a while.
        for (flood, row) in floods.iter().zip(&mut judged).filter(|(flood, _)| flood.skipped.is_empty()) {
            let mut outcome = failed("not tried");
            for _ in 0..TRIES {
                outcome = told(&quiet, &self.during(NEIGHBOUR, &flood.own)?);
                if outcome.succeeded {
                    break;
                }
            }
            row.settle(Control { without: vec!["the neighbour does it to itself".to_owned()], outcome });
        }
        Ok(judged)
    }

    /// Is it noticed every time?
    fn harm(&self, flood: &Flood, mut quiet: Times, mut flooded: Times) -> Result<Outcome, Error> {
        let mut outcome = told(&quiet, &flooded);
        let mut ways = harmed(&quiet, &flooded);
        for _ in 1..TRIES {
            if ways == [false; 2] {
                break;
            }
            (quiet, flooded) = (Times::default(), Times::default());
            for _ in 0..ROUNDS {
                quiet.add(self.measured()?);
                flooded.add(self.during(TENANT, &flood.kind)?);
            }
            outcome = told(&quiet, &flooded);
            let again = harmed(&quiet, &flooded);
            ways = [ways[0] && again[0], ways[1] && again[1]];
        }
        Ok(Outcome { succeeded: ways != [false; 2], ..outcome })
    }

    /// What the neighbour notices while somebody does something.
    fn during(&self, tenant: &'static str, kind: &Kind) -> Result<Times, Error> {
        // One that ended before its time was none.
        for _ in 0..TRIES {
            let (times, whole) = match kind {
                Kind::Cell(attempt) => {
                    let mut flood = self.begin(tenant, std::slice::from_ref(attempt))?;
                    let times = self.measured()?;
                    let whole = flood.goes_on()?;
                    flood.end()?;
                    (times, whole)
                }
                Kind::Log => {
                    let begun = Instant::now();
                    let asked = self.knock(&Knock { path: LOG, ..Knock::good(tenant, Token::Good) });
                    let times = self.measured()?;
                    let rest = LASTS.checked_sub(begun.elapsed());
                    std::thread::sleep(rest.unwrap_or_default());
                    (times, asked.succeeded && rest.is_some())
                }
            };
            if whole {
                return Ok(times);
            }
        }
        Err(Error::BrokenOff(String::from("a flood ends by itself")))
    }

    /// The neighbour's requests, both ways at once.
    fn measured(&self) -> Result<Times, Error> {
        let millis = u64::try_from(WINDOW.as_millis()).unwrap_or(u64::MAX);
        let pace =
            Attempt::Pace { to: PROXY, say: page("http://allowed.example/"), expect: FLAG.into(), millis };
        let out = self.begin(NEIGHBOUR, &[pace])?;
        let knock = Knock::good(NEIGHBOUR, Token::Neighbours);
        let begun = Instant::now();
        let mut edge = Vec::new();
        while begun.elapsed() < WINDOW {
            let asked = Instant::now();
            let came = self.knock(&knock).succeeded;
            let took = if came { asked.elapsed() } else { asked.elapsed().max(super::SILENCE) };
            edge.push(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        }
        let line = out.next()?;
        out.end()?;
        let out = serde_json::from_str(&line.outcome.seen);
        Ok(Times { edge, out: out.map_err(|error| Error::BrokenOff(error.to_string()))? })
    }
}

impl Times {
    fn add(&mut self, more: Self) {
        self.edge.extend(more.edge);
        self.out.extend(more.out);
    }
}

/// The time under which 99 of a hundred are.
fn slowest(times: &[u64]) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    let at = (times.len() * 99).div_ceil(100).saturating_sub(1);
    Duration::from_micros(times.get(at).copied().unwrap_or(u64::MAX))
}

/// In, and out.
fn harmed(quiet: &Times, flooded: &Times) -> [bool; 2] {
    [(&quiet.edge, &flooded.edge), (&quiet.out, &flooded.out)].map(|(quiet, flooded)| {
        let flooded = slowest(flooded);
        flooded > FLOOR && flooded >= slowest(quiet) * 2
    })
}

fn told(quiet: &Times, flooded: &Times) -> Outcome {
    let [came, went] = [(&quiet.edge, &flooded.edge), (&quiet.out, &flooded.out)].map(|(quiet, flooded)| {
        let [quiet, flooded] = [quiet, flooded].map(|times| slowest(times).as_secs_f64() * 1e3);
        let ratio = flooded / quiet;
        let hidden = ratio >= 2.0 && flooded <= FLOOR.as_secs_f64() * 1e3;
        let floor =
            if hidden { format!(", under the floor of {} ms", FLOOR.as_millis()) } else { String::new() };
        format!("{quiet:.1} → {flooded:.1} ms, {ratio:.1}×{floor}")
    });
    let seen = format!("the neighbour's p99 in: {came}; out: {went}");
    Outcome { succeeded: harmed(quiet, flooded) != [false; 2], errno: 0, seen }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn twice_as_slow_and_slow_is_harm() {
        let times =
            |slow: u64| Times { edge: vec![100; 200], out: [vec![100; 190], vec![slow; 10]].concat() };
        let floor = u64::try_from(FLOOR.as_micros()).unwrap();
        let hidden = told(&times(floor / 10), &times(floor - 1));
        assert!(!hidden.succeeded && hidden.seen.contains("10.0×, under the floor of"), "{hidden:?}");
        assert!(!told(&times(floor), &times(2 * floor - 1)).succeeded, "under twice");
        let harm = told(&times(floor), &times(2 * floor));
        assert!(harm.succeeded && harm.seen.ends_with("ms, 2.0×"), "{harm:?}");
        assert!(told(&times(100), &Times::default()).succeeded, "nothing measured is no good sign");
        assert_eq!(slowest(&(1..=100).collect::<Vec<_>>()), Duration::from_micros(99));
    }
}
