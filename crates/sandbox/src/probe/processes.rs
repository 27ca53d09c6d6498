//! Attempts on processes, this one's privileges, and what it may use up.

use super::Outcome;
use cofferdam_sys::{
    attempt::{self, Argument},
    process::{self, Forked},
};
use rustix::process::{Pid, WaitOptions};
use std::{fs, io, os::fd::AsRawFd};

pub(super) fn enter_namespace(kind: &str) -> io::Result<Outcome> {
    let file = fs::File::open(format!("/proc/self/ns/{kind}"))?;
    let descriptor = u64::from(file.as_raw_fd().unsigned_abs());
    super::called(attempt::SETNS, &[Argument::Number(descriptor), Argument::Number(0)])
}

pub(super) fn status(field: &str, holds: &str) -> io::Result<Outcome> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let found = line.unwrap_or("not told").trim();
    let seen = format!("{field} {found}");
    Ok(if found == holds { Outcome::failure(seen) } else { Outcome::success(seen) })
}

/// The first other process whose command line holds a text, if `/proc` lists one.
fn find(named: &str) -> io::Result<Option<Pid>> {
    for entry in fs::read_dir("/proc")?.flatten() {
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(pid) = number.and_then(Pid::from_raw) else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        // Not ourselves, whose command line holds the question.
        if pid != rustix::process::getpid() && line.starts_with(named.as_bytes()) {
            return Ok(Some(pid));
        }
    }
    Ok(None)
}

pub(super) fn see(named: &str) -> io::Result<Outcome> {
    Ok(match find(named)? {
        Some(pid) => Outcome::success(format!("process {}", pid.as_raw_nonzero())),
        None => Outcome::failure("no such process is listed"),
    })
}

pub(super) fn signal(named: &str) -> io::Result<Outcome> {
    let Some(pid) = find(named)? else { return Ok(Outcome::failure("no such process is listed")) };
    rustix::process::test_kill_process(pid)?;
    Ok(Outcome::success("signal 0 was taken"))
}

pub(super) fn host_name(is: &str) -> Outcome {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name == is { Outcome::success(name) } else { Outcome::failure(name) }
}

/// Children that wait until this process closes its end of a pipe.
pub(super) fn many(count: u32) -> io::Result<Outcome> {
    let (gate, opener) = io::pipe()?;
    let mut children = Vec::new();
    let mut refused = None;
    for _ in 0..count {
        match process::fork() {
            Ok(Forked::Child) => {
                drop(opener);
                let mut byte = [0];
                let _ = rustix::io::read(&gate, &mut byte);
                process::exit(0)
            }
            Ok(Forked::Parent(pid)) => children.push(pid),
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    drop(opener);
    for child in &children {
        rustix::process::waitpid(Some(*child), WaitOptions::empty())?;
    }
    match refused {
        Some(error) => Err(error),
        None => Ok(Outcome::success(format!("{} processes", children.len()))),
    }
}

/// Touched page by page in a child, which is what is killed.
pub(super) fn memory(bytes: u64) -> io::Result<Outcome> {
    match process::fork()? {
        Forked::Child => {
            let length = usize::try_from(bytes).unwrap_or(usize::MAX);
            let mut held = Vec::<u8>::new();
            if held.try_reserve_exact(length).is_err() {
                process::exit(1);
            }
            held.resize(length, 1);
            process::exit(u8::from(std::hint::black_box(&held).len() != length))
        }
        Forked::Parent(child) => {
            let status = rustix::process::waitpid(Some(child), WaitOptions::empty())?;
            let status = status.map(|(_, status)| status);
            Ok(match status.and_then(rustix::process::WaitStatus::exit_status) {
                Some(0) => Outcome::success(format!("{bytes} bytes")),
                _ => Outcome::failure("the process that took it was killed"),
            })
        }
    }
}

pub(super) fn open_files(count: u32) -> io::Result<Outcome> {
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(fs::File::open("/dev/null")?);
    }
    Ok(Outcome::success(format!("{} files", held.len())))
}

pub(super) fn limit(resource: u32, most: u64) -> io::Result<Outcome> {
    let highest = attempt::hard_limit(resource)?;
    let seen = if highest == u64::MAX { "unlimited".to_owned() } else { highest.to_string() };
    Ok(if highest > most { Outcome::success(seen) } else { Outcome::failure(seen) })
}
