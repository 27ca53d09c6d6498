//! A cell's whole life to `/bin/true` against bubblewrap's `--unshare-all`.
//!
//! bubblewrap is started by a process that runs already; so are our cells, by the launcher. Both are timed from
//! that start to the moment at which whoever started them knows that the command has ended. bubblewrap's own
//! process ends then, while the kernel still takes its namespaces apart; so it is with our cell.

use super::{
    peers,
    stats::{Target, median},
};
use crate::run;
use anyhow::{Context, Result, bail};
use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const ROUNDS: usize = 80;
const WARM_UP: usize = 5;
/// After each, so that the kernel has taken apart what one left, and the launcher has prepared its next, before another
/// is timed.
const STILL: Duration = Duration::from_millis(25);

const TARGET: Target =
    Target { what: "1  cell start to /bin/true / bubblewrap", gate: 1.0, moonshot: 0.5, more: false };

pub(super) fn run() -> Result<()> {
    peers(&[("bwrap", "bubblewrap")])?;
    let binary = run::program(true)?;
    let mut ours = Launcher::start(&binary)?;
    let mut bwrap = Command::new("bwrap");
    bwrap.args(["--unshare-all", "--die-with-parent", "--ro-bind", "/usr", "/usr"]);
    for (link, target) in [("usr/bin", "/bin"), ("usr/lib", "/lib"), ("usr/lib64", "/lib64")] {
        bwrap.args(["--symlink", link, target]);
    }
    bwrap.args(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--", "/bin/true"]);
    let mut plain = Command::new("/bin/true");

    let mut times = [const { Vec::new() }; 3];
    for round in 0..ROUNDS + WARM_UP {
        let still = |once: Result<f64>| {
            thread::sleep(STILL);
            once
        };
        let once = [still(spawn(&mut plain))?, still(spawn(&mut bwrap))?, still(ours.cell())?];
        if round >= WARM_UP {
            times.iter_mut().zip(once).for_each(|(times, once)| times.push(once));
        }
    }
    for (name, times) in ["plain exec", "bubblewrap", "cofferdam"].into_iter().zip(&times) {
        let least = times.iter().copied().fold(f64::INFINITY, f64::min);
        println!("{name:<12} {:>7.2} ms median {least:>7.2} ms least", median(times.clone()));
    }
    ours.end()?;
    let ratio = median(times[2].iter().zip(&times[1]).map(|(ours, theirs)| ours / theirs).collect());
    let (line, met) = TARGET.report(ratio);
    println!("{line}");
    if met { Ok(()) } else { bail!("a gate is missed") }
}

/// From a program's start to its end, in milliseconds.
fn spawn(command: &mut Command) -> Result<f64> {
    let start = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    let elapsed = start.elapsed().as_secs_f64() * 1e3;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(elapsed)
}

/// Our program as a running launcher, which starts a cell at each line.
struct Launcher {
    process: Child,
    orders: ChildStdin,
    times: BufReader<ChildStdout>,
}

impl Launcher {
    fn start(binary: &Path) -> Result<Self> {
        let mut command = Command::new(binary);
        command.args(["__cell", "/bin/true"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn()?;
        let orders = process.stdin.take().context("no standard input")?;
        let times = BufReader::new(process.stdout.take().context("no standard output")?);
        Ok(Self { process, orders, times })
    }

    /// How many milliseconds a cell took.
    fn cell(&mut self) -> Result<f64> {
        self.orders.write_all(b"\n")?;
        let mut line = String::new();
        self.times.read_line(&mut line)?;
        line.trim().parse().context("no cell was started")
    }

    /// Lets it take everything away.
    fn end(self) -> Result<()> {
        let Self { mut process, orders, times: _ } = self;
        drop(orders);
        let status = process.wait()?;
        if status.success() { Ok(()) } else { bail!("the launcher ended with {status}") }
    }
}
