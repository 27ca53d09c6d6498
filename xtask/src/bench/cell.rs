//! A cell's whole life to `/bin/true` against bubblewrap's `--unshare-all`.

use super::{
    peers, release_binary,
    stats::{Target, median},
};
use anyhow::{Result, bail};
use std::{
    process::{Command, Stdio},
    time::Instant,
};

const ROUNDS: usize = 80;
const WARM_UP: usize = 5;

const TARGET: Target =
    Target { what: "1  cell start to /bin/true / bubblewrap", gate: 1.0, moonshot: 0.5, more: false };

pub(super) fn run() -> Result<()> {
    peers(&[("bwrap", "bubblewrap")])?;
    let binary = release_binary()?;
    let mut ours = Command::new(&binary);
    ours.args(["__cell", "/bin/true"]);
    let mut bwrap = Command::new("bwrap");
    bwrap.args(["--unshare-all", "--die-with-parent", "--ro-bind", "/usr", "/usr"]);
    for (link, target) in [("usr/bin", "/bin"), ("usr/lib", "/lib"), ("usr/lib64", "/lib64")] {
        bwrap.args(["--symlink", link, target]);
    }
    bwrap.args(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--", "/bin/true"]);
    let mut plain = Command::new("/bin/true");

    let mut times = [const { Vec::new() }; 3];
    for round in 0..ROUNDS + WARM_UP {
        for (command, times) in [&mut plain, &mut bwrap, &mut ours].into_iter().zip(&mut times) {
            let start = Instant::now();
            let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
            let elapsed = start.elapsed().as_secs_f64() * 1e3;
            if !status.success() {
                bail!("{command:?}: {status}");
            }
            if round >= WARM_UP {
                times.push(elapsed);
            }
        }
    }
    for (name, times) in ["plain exec", "bubblewrap", "cofferdam"].into_iter().zip(&times) {
        let least = times.iter().copied().fold(f64::INFINITY, f64::min);
        println!("{name:<12} {:>7.2} ms median {least:>7.2} ms least", median(times.clone()));
    }
    let ratio = median(times[2].iter().zip(&times[1]).map(|(ours, theirs)| ours / theirs).collect());
    let (line, met) = TARGET.report(ratio);
    println!("{line}");
    if met { Ok(()) } else { bail!("a gate is missed") }
}
