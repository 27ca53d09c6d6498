//! Attempts in a cell that go on until they are told to end.

use super::Host;
use crate::{Error, battery::PROBE};
use cofferdam_sandbox::probe::{Attempt, Line};
use std::{
    io::{BufRead, BufReader},
    process::{Child, ChildStdin, Stdio},
    sync::mpsc::{self, Receiver},
    time::Duration,
};

/// What has begun says so within this time, or never.
const PATIENCE: Duration = Duration::from_secs(20);

/// A probe in a cell.
pub(super) struct Begun {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Line>,
}

impl Host {
    /// Begins these attempts in a tenant's cell, one after the other; returns when the first is under way.
    pub(super) fn begin(&self, tenant: &str, attempts: &[Attempt]) -> Result<Begun, Error> {
        let at = Error::world("a command in a cell");
        // Something that is done at once says that the probe is there.
        let up = Attempt::HostName { is: String::new() };
        let attempts: Vec<(&str, &Attempt)> =
            [("up", &up)].into_iter().chain(attempts.iter().map(|attempt| ("it", attempt))).collect();
        let attempts = serde_json::to_string(&attempts).map_err(|error| Error::Cell(error.to_string()))?;
        let mut command = self.command(&["tenant", "exec", tenant, "--", PROBE, "__probe", &attempts]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(&at)?;
        let (says, lines) = mpsc::channel();
        if let Some(output) = child.stdout.take() {
            std::thread::spawn(move || {
                let mut output = BufReader::new(output);
                let mut line = Vec::new();
                while output.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                    if let Ok(line) = serde_json::from_slice(&line) {
                        let _ = says.send(line);
                    }
                    line.clear();
                }
            });
        }
        let begun = Begun { stdin: child.stdin.take(), child, lines };
        begun.next()?;
        Ok(begun)
    }
}

impl Begun {
    /// What became of the next attempt.
    pub(super) fn next(&self) -> Result<Line, Error> {
        let line = self.lines.recv_timeout(PATIENCE);
        line.map_err(|_| Error::BrokenOff(String::from("a probe in a cell said nothing")))
    }

    /// Has it not ended by itself?
    pub(super) fn goes_on(&mut self) -> Result<bool, Error> {
        let ended = self.child.try_wait().map_err(Error::world("a command in a cell"))?;
        Ok(ended.is_none())
    }

    /// Tells it to end: what became of the rest.
    pub(super) fn end(mut self) -> Result<Vec<Line>, Error> {
        drop(self.stdin.take());
        let lines = self.lines.iter().collect();
        self.child.wait().map_err(Error::world("a command in a cell"))?;
        Ok(lines)
    }
}
