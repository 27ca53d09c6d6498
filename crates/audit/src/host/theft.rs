//! Ports that a tenant would take while its warden is dead.

use super::Host;
use crate::{
    Error,
    battery::{
        FLAG,
        wires::{NAMESERVER, PROXY, TENANT, WEB, page},
    },
    verdict::{Control, Judged},
};
use cofferdam_sandbox::probe::{Attempt, Outcome};
use rustix::process::{Pid, Signal};
use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Every address and port at which a warden may listen in a cell, and where captured connections would go.
const HOSTS: [&str; 6] = ["0.0.0.0", "127.0.0.1", "198.18.0.1", "198.18.0.2", WEB, NAMESERVER];
const PORTS: [u16; 6] = [80, 443, 53, 3128, 15001, 22];
/// A port of the cell's own, for the control.
const FREE: &str = "127.0.0.1:9797";
/// Another warden is there by then.
const PATIENCE: Duration = Duration::from_secs(20);

impl Host {
    /// Kills the warden under a cell that wants its place.
    pub(super) fn theft(&self) -> Result<Vec<Judged>, Error> {
        let begun = Instant::now();
        let targets = |host: &str| {
            let host: Option<std::net::IpAddr> = host.parse().ok();
            PORTS.into_iter().filter_map(move |port| Some(SocketAddr::new(host?, port))).collect::<Vec<_>>()
        };
        let at = HOSTS.into_iter().flat_map(targets).collect();
        let thief = self.begin(TENANT, &[Attempt::Steal { at }])?;
        let warden = warden().ok_or_else(|| Error::BrokenOff(String::from("there is no warden")))?;
        rustix::process::kill_process(warden, Signal::KILL)
            .map_err(|errno| Error::world("ending a warden")(errno.into()))?;
        let clients = [WEB, NAMESERVER].into_iter().filter_map(|host| {
            let to = SocketAddr::new(host.parse().ok()?, 80);
            Some(Attempt::Tcp { to, say: "GET / HTTP/1.0\r\n\r\n".into(), expect: "stolen".into() })
        });
        let mut clients: Vec<Attempt> = clients.collect();
        clients.push(Attempt::TcpName {
            name: "allowed.example".into(),
            port: 80,
            say: "GET / HTTP/1.1\r\nHost: allowed.example\r\n\r\n".into(),
            expect: "stolen".into(),
        });
        clients.push(Attempt::Tcp { to: PROXY, say: page("http://allowed.example/"), expect: FLAG.into() });
        // Connections all the time, until the proxy answers again: then the next warden has what is its own.
        let mut answered = 0;
        loop {
            let told = self.one_by_one(TENANT, &clients)?;
            let (last, others) = told.split_last().map_or((false, &[][..]), |(last, rest)| (*last, rest));
            answered += others.iter().filter(|stolen| **stolen).count();
            if last {
                break;
            }
            if begun.elapsed() > PATIENCE {
                return Err(Error::BrokenOff(String::from("no other warden comes")));
            }
        }
        let lines = thief.end()?;
        let sealed = lines.into_iter().next().map(|line| line.outcome);
        let sealed = sealed.ok_or_else(|| Error::BrokenOff(String::from("the thief said nothing")))?;
        let sealed = Outcome { succeeded: sealed.succeeded || answered > 0, ..sealed };
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let control =
            Control { without: vec!["a port that is no warden's".to_owned()], outcome: self.taken()? };
        let (title, layers) = (
            "take the warden's ports and addresses while it is dead",
            &["listeners that outlive it", "capture"][..],
        );
        Ok(vec![Judged::tried("theft.ports", title, layers, sealed, micros, Some(control))])
    }

    /// The same thief at a port that nobody else has: it gets a connection.
    fn taken(&self) -> Result<Outcome, Error> {
        let Ok(to) = FREE.parse() else { return Ok(super::failed("no such address")) };
        let thief = self.begin(TENANT, &[Attempt::Steal { at: vec![to] }])?;
        let client = Attempt::Tcp { to, say: "GET".into(), expect: "stolen".into() };
        self.one_by_one(TENANT, &[client])?;
        let line = thief.end()?.into_iter().next();
        Ok(line.map_or_else(|| super::failed("the thief said nothing"), |line| line.outcome))
    }

    /// Which attempts succeeded.
    fn one_by_one(&self, tenant: &str, attempts: &[Attempt]) -> Result<Vec<bool>, Error> {
        let lines = self.begin(tenant, attempts)?.end()?;
        Ok(lines.iter().map(|line| line.outcome.succeeded).collect())
    }
}

/// The tenant's warden, found as root of this world finds it.
fn warden() -> Option<Pid> {
    let wanted = ["__warden", TENANT];
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        wanted.iter().all(|word| words.contains(&word.as_bytes())).then(|| Pid::from_raw(pid))?
    })
}
