//! What a tenant can do to everybody at once: floods, and what its neighbour notices of them.
//!
//! The measure is the time of the slowest of a hundred small requests of the neighbour, one way in through its edge and
//! one way out through its warden, quiet and flooded by turns. It is harm if it is twice of what it was and more than
//! [`FLOOR`], every time: what a busy machine does once it does not do always. The control is the same measure
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

/// Nobody is harmed by a page that comes within this time.
const FLOOR: Duration = Duration::from_millis(5);
/// How long is measured at one time.
const WINDOW: Duration = Duration::from_millis(200);
/// Quiet and flooded by turns so often, and so often again before it counts as harm.
const ROUNDS: usize = 2;
const TRIES: usize = 4;

/// A flood.
struct Flood {
    id: &'static str,
    title: &'static str,
    layers: &'static [&'static str],
    attempt: Attempt,
    /// The runtime itself writes, too.
    words: bool,
    /// What the neighbour does to itself for the control.
    own: Attempt,
    /// Why it is not tried.
    skipped: &'static str,
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
            title: "open as many connections as one can; the neighbour's slowest page of a hundred is under twice as slow, or under 5 ms",
            layers: &["a warden of its own", "limit of connections"],
            attempt: connections.clone(),
            words: false,
            own: connections.clone(),
            skipped: "",
        },
        Flood {
            id: "flood.words",
            title: "write without end to the log and to a command's output; the same of the neighbour",
            layers: &["rate of the log", "flow control"],
            attempt: Attempt::Words {},
            words: true,
            own: connections,
            skipped: "",
        },
        Flood {
            id: "flood.processes",
            title: "make processes and take memory without end; the same of the neighbour",
            layers: &["cgroup pids", "cgroup memory", "cgroup cpu"],
            attempt: bomb.clone(),
            words: false,
            own: bomb,
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
                times.add(self.during(TENANT, &flood.attempt, flood.words)?);
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
                outcome = told(&quiet, &self.during(NEIGHBOUR, &flood.own, false)?);
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
        for _ in 1..TRIES {
            if !outcome.succeeded {
                break;
            }
            (quiet, flooded) = (Times::default(), Times::default());
            for _ in 0..ROUNDS {
                quiet.add(self.measured()?);
                flooded.add(self.during(TENANT, &flood.attempt, flood.words)?);
            }
            outcome = told(&quiet, &flooded);
        }
        Ok(outcome)
    }

    /// What the neighbour notices while somebody does something.
    fn during(&self, tenant: &str, attempt: &Attempt, words: bool) -> Result<Times, Error> {
        // One that ended before its time was none.
        for _ in 0..TRIES {
            let mut flood = self.begin(tenant, std::slice::from_ref(attempt))?;
            if words {
                let asked = Knock { path: "/words?ms=300", ..Knock::good(TENANT, Token::Good) };
                self.knock(&asked);
            }
            let times = self.measured()?;
            let whole = flood.goes_on()?;
            flood.end()?;
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

fn told(quiet: &Times, flooded: &Times) -> Outcome {
    let ways = [("in", &quiet.edge, &flooded.edge), ("out", &quiet.out, &flooded.out)]
        .map(|(way, quiet, flooded)| (way, slowest(quiet), slowest(flooded)));
    let succeeded = ways.iter().any(|(_, quiet, flooded)| *flooded > FLOOR && *flooded >= *quiet * 2);
    let seen = ways.map(|(way, quiet, flooded)| {
        format!("{way} {:.1} ms, quiet {:.1}", flooded.as_secs_f64() * 1e3, quiet.as_secs_f64() * 1e3)
    });
    Outcome { succeeded, errno: 0, seen: format!("the neighbour's p99: {}", seen.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_as_slow_and_slow_is_harm() {
        let times =
            |slow: u64| Times { edge: vec![100; 200], out: [vec![100; 190], vec![slow; 10]].concat() };
        assert!(!told(&times(900), &times(4900)).succeeded, "under the floor");
        assert!(!told(&times(4000), &times(7900)).succeeded, "under twice");
        assert!(told(&times(4000), &times(8000)).succeeded);
        assert!(told(&times(100), &Times::default()).succeeded, "nothing measured is no good sign");
        assert_eq!(slowest(&(1..=100).collect::<Vec<_>>()), Duration::from_micros(99));
    }
}
