//! npm as a subprocess: its ordinary client, install scripts always off.

use super::Error;
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::MemfdFlags,
    process::{Pid, PidfdFlags, Signal},
};
use std::{
    fs::File,
    io::{Read, Seek},
    os::{fd::BorrowedFd, unix::process::CommandExt},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

/// Runs npm in `dir` and gives what it printed; on an error its last words are in that. Once `stop` becomes
/// readable it is killed with all that it started.
pub(super) fn run(
    dir: &Path,
    what: &'static str,
    arguments: &[&str],
    input: Stdio,
    stop: BorrowedFd<'_>,
) -> Result<Vec<u8>, Error> {
    // Files of memory need nobody to drain them while it runs.
    let (mut out, mut err) = (memory()?, memory()?);
    #[expect(clippy::disallowed_methods, reason = "runtimes are installed by their own package client")]
    let child = Command::new("npm")
        .args(arguments)
        .args(["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"])
        .current_dir(dir)
        // A terminal's Ctrl-C comes to us alone, and we end the whole group.
        .process_group(0)
        .stdin(input)
        .stdout(out.try_clone().map_err(Error::io("npm"))?)
        .stderr(err.try_clone().map_err(Error::io("npm"))?)
        .spawn();
    let child = match child {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(Error::NoNpm),
        other => other.map_err(Error::io("npm"))?,
    };
    if ended(child, stop)?.success() {
        read(&mut out)
    } else {
        Err(Error::Npm { what, stderr: end_of(&read(&mut err)?) })
    }
}

/// Waits for its end, or makes it.
fn ended(mut child: Child, stop: BorrowedFd<'_>) -> Result<ExitStatus, Error> {
    let pid = Pid::from_child(&child);
    let waited = (|| {
        let process = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        let mut both = [PollFd::new(&process, PollFlags::IN), PollFd::from_borrowed_fd(stop, PollFlags::IN)];
        while both[0].revents().is_empty() && both[1].revents().is_empty() {
            match poll(&mut both, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(!both[0].revents().is_empty())
    })();
    if waited != Ok(true) {
        // It is not reaped yet, so the number is still its group's.
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    }
    let status = child.wait().map_err(Error::io("npm"))?;
    match waited {
        Ok(true) => Ok(status),
        Ok(false) => Err(Error::Interrupted),
        Err(errno) => Err(Error::io("npm")(errno.into())),
    }
}

fn memory() -> Result<File, Error> {
    let file = rustix::fs::memfd_create("npm", MemfdFlags::CLOEXEC);
    file.map(File::from).map_err(|errno| Error::io("npm")(errno.into()))
}

fn read(file: &mut File) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).map_err(Error::io("npm"))?;
    Ok(bytes)
}

/// The last 2,000 characters: npm puts the cause at the end.
pub(super) fn end_of(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let skip = text.trim().chars().count().saturating_sub(2000);
    text.trim().chars().skip(skip).collect()
}
