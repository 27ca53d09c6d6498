//! The probe: this program inside a cell, trying what it is told and saying what became of it.
//!
//! It is the hidden entry `__probe ATTEMPTS`, a JSON list of attempts by id, from standard input if it is not given;
//! it prints one line of JSON for each.
//! Nothing of the host relies on what it says alone: whoever asks has witnesses outside, and controls.

mod attempt;
mod files;
mod floods;
mod processes;
mod sockets;
mod tls;
mod traps;

pub use attempt::{Attempt, Outcome, Tls};

use cofferdam_sys::attempt::{self as sys, Argument, Made};
use serde::{Deserialize, Serialize};
use std::{io, process::ExitCode};

/// One line of the probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Which attempt.
    pub id: String,
    /// What became of it.
    pub outcome: Outcome,
    /// How long it took, in microseconds.
    pub micros: u64,
}

/// The hidden entry `__probe`.
#[expect(clippy::print_stdout, reason = "what it is asked for")]
pub fn probe_main() -> ExitCode {
    let told = std::env::args().nth(2).map_or_else(|| io::read_to_string(io::stdin()), Ok);
    let Ok(attempts) = serde_json::from_str::<Vec<(String, Attempt)>>(&told.unwrap_or_default()) else {
        return ExitCode::from(2);
    };
    for (id, attempt) in attempts {
        let begun = std::time::Instant::now();
        let outcome = attempt.make();
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        match serde_json::to_string(&Line { id, outcome, micros }) {
            Ok(line) => println!("{line}"),
            Err(_) => return ExitCode::from(2),
        }
    }
    ExitCode::SUCCESS
}

/// Number of the last system call that is tried; x86-64 has none above it, and refuses them alike.
const LAST_CALL: i64 = 480;

impl Attempt {
    /// Tries it, here and now.
    pub fn make(&self) -> Outcome {
        self.tried().unwrap_or_else(|error| Outcome {
            succeeded: false,
            errno: error.raw_os_error().unwrap_or(0),
            seen: error.to_string(),
        })
    }

    fn tried(&self) -> io::Result<Outcome> {
        match self {
            Self::Call { number, arguments } => called(*number, arguments),
            Self::Reach { number, arguments, filtered } => reached(*number, arguments, filtered),
            Self::Sweep {} => sweep(),
            Self::Write { path } => files::write(path),
            Self::Read { path, holds } => files::read(path, holds),
            Self::Find { words, below } => files::find(words.as_bytes(), below),
            Self::Create { path } => files::create(path),
            Self::MakeDirectory { path } => files::make_directory(path),
            Self::MakeLink { path } => files::make_link(path),
            Self::MakeSocket { path } => files::make_socket(path),
            Self::Link { from, to } => files::link(from, to),
            Self::Rename { from, to } => files::rename(from, to),
            Self::Ioctl { path, request } => files::ioctl(path, *request),
            Self::Watch { path, mask } => files::watch(path, *mask),
            Self::Fill { path, bytes } => files::fill(path, *bytes),
            Self::Inodes { path, count } => files::inodes(path, *count),
            Self::EnterNamespace { kind } => processes::enter_namespace(kind),
            Self::Status { field, holds } => processes::status(field, holds),
            Self::SeeProcess { named } => processes::see(named),
            Self::SignalProcess { named } => processes::signal(named),
            Self::HostName { is } => Ok(processes::host_name(is)),
            Self::Processes { count } => processes::many(*count),
            Self::Memory { bytes } => processes::memory(*bytes),
            Self::Files { count } => processes::open_files(*count),
            Self::Pace { to, say, expect, millis } => Ok(floods::pace(*to, say, expect, *millis)),
            Self::Connections { to, say } => floods::connections(to, say),
            Self::Bomb { bytes } => floods::bomb(*bytes),
            Self::Steal { at } => floods::steal(at),
            Self::Traps { below, victim } => traps::make(below, victim),
            Self::Swap { below } => traps::swap(below),
            Self::Limit { resource, most } => processes::limit(*resource, *most),
            Self::Tcp { to, say, expect } => sockets::tcp(*to, say, expect),
            Self::TcpName { name, port, say, expect } => sockets::tcp_name(name, *port, say, expect),
            Self::Tls(attempt) => tls::tls(attempt),
            Self::Lookup { name } => sockets::lookup(name),
            Self::Udp { to, expect } => sockets::udp(*to, expect),
            Self::Abstract { name } => sockets::abstract_unix(name),
            Self::Connect { below } => Ok(sockets::unix(below)),
            Self::Pipe { path, holds } => files::pipe(path, holds),
            Self::Locked { path } => files::locked(path),
            Self::Bind { at } => sockets::bind(*at),
            Self::SocketOption { v4, level, option, value } => {
                sockets::socket_option(*v4, *level, *option, value)
            }
            Self::OwnPort { port } => sockets::own_port(*port),
        }
    }
}

fn failed(errno: i32) -> Outcome {
    Outcome { succeeded: false, errno, seen: io::Error::from_raw_os_error(errno).to_string() }
}

fn called(number: i64, arguments: &[Argument]) -> io::Result<Outcome> {
    Ok(match sys::call(number, arguments)? {
        Made::Returned(value) => Outcome::success(format!("it returned {value}")),
        Made::Waits => Outcome::success("it waits"),
        Made::Ended(signal) => Outcome::failure(format!("the process was ended, signal {signal}")),
        Made::Failed(errno) => failed(errno),
    })
}

fn reached(number: i64, arguments: &[Argument], filtered: &[i32]) -> io::Result<Outcome> {
    let outcome = called(number, arguments)?;
    if outcome.succeeded || outcome.errno == 0 || filtered.contains(&outcome.errno) {
        return Ok(outcome);
    }
    Ok(Outcome { succeeded: true, seen: format!("the kernel looked at it: {}", outcome.seen), ..outcome })
}

/// Arguments that no call takes for good, so that one that is let through does nothing.
fn nonsense() -> Vec<Argument> {
    vec![Argument::Number(u64::MAX); 6]
}

/// `uretprobe` and `uprobe`, which the kernel puts into programs itself and asks no filter about. Wherever it did not
/// put them, the one ends the caller with SIGILL and the other fails with ENXIO.
const NEVER_FILTERED: [(i64, Made); 2] = [(335, Made::Ended(4)), (336, Made::Failed(6))];

fn sweep() -> io::Result<Outcome> {
    let (mut refused, mut let_through) = (0, Vec::new());
    for number in 0..=LAST_CALL {
        let Some(errno) = crate::locked(number) else { continue };
        let made = sys::call(number, &nonsense())?;
        if made == Made::Failed(errno) || NEVER_FILTERED.contains(&(number, made)) {
            refused += 1;
        } else {
            let_through.push(number.to_string());
        }
    }
    Ok(if let_through.is_empty() {
        Outcome::failure(format!("{refused} calls refused as the profile says"))
    } else {
        Outcome::success(format!("not as the profile says: {}", let_through.join(" ")))
    })
}
