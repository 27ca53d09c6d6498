//! Where the probe runs: in a cell of ours, or in what another program makes.
//!
//! Both are given the same attempts in the same world and say what became of them in the same words, so that rows,
//! controls and verdicts need not know which it was. The threat: a sandbox that did not start, and so stopped
//! everything.

use crate::{Error, battery::PROBE};
use cofferdam_base::ipc::receipt::LayerRow;
use cofferdam_sandbox::CellPlan;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{self, PipeReader, Read, Seek, Write},
    os::fd::OwnedFd,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// What has not ended by then is killed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Something in which the probe is run.
pub(crate) trait Place {
    /// Runs the probe with these attempts: the receipt, if there is such a thing, and what the probe printed.
    fn run(&self, attempts: String) -> Result<(Vec<LayerRow>, String), Error>;
}

/// A cell that is made from this plan, and ended.
impl Place for CellPlan {
    fn run(&self, attempts: String) -> Result<(Vec<LayerRow>, String), Error> {
        let plan = Self { argv: vec![PROBE.to_owned(), "__probe".to_owned(), attempts], ..self.clone() };
        let (reader, writer) = io::pipe().map_err(Error::world("a pipe"))?;
        let null = File::create("/dev/null").map_err(Error::world("/dev/null"))?;
        let cell = cofferdam_sandbox::launch(&plan, [OwnedFd::from(writer), null.into()])
            .map_err(|error| Error::Cell(format!("{error} (left out: {})", named(&plan))))?;
        let receipt = cell.receipt.layers.clone();
        let text = heard(reader, || cell.kill().map_err(io::Error::other));
        let ended = cell.kill().and_then(|()| cell.wait()).and_then(|_| cell.remove());
        ended.map_err(|error| Error::Cell(error.to_string()))?;
        Ok((receipt, text.map_err(Error::world("the probe"))?))
    }
}

fn named(plan: &CellPlan) -> String {
    plan.without.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

/// A sandbox of somebody else's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// What it is called.
    pub name: String,
    /// The command that makes it and runs the probe in it: this program, with `__probe` and no more, so that it reads
    /// what to try from its standard input.
    pub argv: Vec<String>,
}

impl Place for Peer {
    #[expect(clippy::disallowed_methods, reason = "what it is compared with, named by whoever compares")]
    fn run(&self, attempts: String) -> Result<(Vec<LayerRow>, String), Error> {
        let at = Error::world(&self.name);
        let (program, arguments) =
            self.argv.split_first().ok_or_else(|| at(io::Error::other("it has no command")))?;
        let mut told = tempfile::tempfile().map_err(&at)?;
        told.write_all(attempts.as_bytes()).and_then(|()| told.rewind()).map_err(&at)?;
        let (reader, writer) = io::pipe().map_err(&at)?;
        let mut command = Command::new(program);
        command.args(arguments).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").current_dir("/");
        let child = command.stdin(told).stdout(writer).stderr(Stdio::inherit()).spawn();
        // It holds our end of the pipe, which must close for the reader to see an end.
        drop(command);
        let mut child = child.map_err(&at)?;
        let text = heard(reader, || child.kill());
        child.wait().map_err(&at)?;
        let text = text.map_err(&at)?;
        if text.is_empty() {
            return Err(at(io::Error::other("the probe said nothing in it")));
        }
        Ok((Vec::new(), text))
    }
}

/// What is printed until its end, or until nothing is for too long.
fn heard(mut output: PipeReader, kill: impl FnOnce() -> io::Result<()>) -> io::Result<String> {
    let end = Instant::now() + PATIENCE;
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let rest = end.saturating_duration_since(Instant::now());
        let mut polled = [PollFd::new(&output, PollFlags::IN)];
        let rest = Timespec::try_from(rest).map_err(io::Error::other)?;
        if poll(&mut polled, Some(&rest))? == 0 {
            kill()?;
            break;
        }
        match output.read(&mut piece)? {
            0 => break,
            length => bytes.extend_from_slice(&piece[..length]),
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
