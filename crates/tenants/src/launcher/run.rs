//! The launcher's loop: one thread that waits on every descriptor at once and hands what happened to the
//! core. It parses nothing but our own packets, and copies the output of cells without looking at it.

use super::{
    core::{ANSWERS, Core},
    effects::{Effects, Process},
    kill::Door,
};
use crate::Error;
use cofferdam_base::TenantId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

/// What a descriptor of the loop belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Stop,
    Control,
    Edge,
    Warden(TenantId),
    Output(TenantId),
    /// The kill switch.
    Door,
    /// A process, known or not: whichever it is, all are looked at.
    Process,
}

/// How long everything may take to be gone once it was killed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Taken from one cell's output at a time, so that no cell keeps the others waiting.
const CHUNK: usize = 64 << 10;

/// Runs until `stop` becomes readable, or control says that it can never serve; then ends everything.
pub(crate) fn run<E: Effects>(core: &mut Core<E>, stop: BorrowedFd<'_>) -> Result<(), Error> {
    loop {
        if turn(core, stop)? {
            return end(core);
        }
        if let Some(ended) = core.given_up {
            end(core)?;
            let why = format!("another try does not help ({ended}); its own message says what does");
            return Err(Error::Start { what: "control".to_owned(), why });
        }
    }
}

/// One turn: waits, then handles everything that is ready. Returns whether to stop.
pub(crate) fn turn<E: Effects>(core: &mut Core<E>, stop: BorrowedFd<'_>) -> Result<bool, Error> {
    let patience = core.wake().map(|moment| moment.saturating_duration_since(Instant::now()));
    let ready = wait(core, stop, patience)?;
    let now = Instant::now();
    // Before all else, whatever else there is.
    if ready.contains(&Token::Door) {
        core.operator_speaks();
    }
    // What was said before an end is heard before the end is.
    for token in &ready {
        match token {
            Token::Stop => return Ok(true),
            Token::Control => core.control_speaks(now),
            Token::Edge => core.edge_speaks(),
            Token::Warden(tenant) => core.warden_speaks(tenant),
            Token::Output(tenant) => output(core, tenant),
            Token::Process | Token::Door => {}
        }
    }
    core.flush();
    if ready.contains(&Token::Process) {
        core.reap(now);
    }
    core.pass(now);
    Ok(false)
}

fn wait<E: Effects>(
    core: &Core<E>,
    stop: BorrowedFd<'_>,
    patience: Option<Duration>,
) -> Result<Vec<Token>, Error> {
    let mut tokens = vec![Token::Stop];
    let mut polled = vec![PollFd::from_borrowed_fd(stop, PollFlags::IN)];
    let mut watch = |token, descriptor, flags| {
        tokens.push(token);
        polled.push(PollFd::from_borrowed_fd(descriptor, flags));
    };
    for descriptor in core.door.iter().flat_map(Door::descriptors) {
        watch(Token::Door, descriptor, PollFlags::IN);
    }
    if let Some(children) = core.effects.children() {
        watch(Token::Process, children, PollFlags::IN);
    }
    let flags = |waiting: bool| if waiting { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
    for (token, child) in [(Token::Control, &core.control), (Token::Edge, &core.edge)] {
        if let Some((process, wire)) = child.process() {
            watch(Token::Process, process.watch(), PollFlags::IN);
            if let Some(wire) = wire {
                // One that is not heard now is not waited for either.
                let full = token == Token::Edge && wire.waiting() >= ANSWERS;
                watch(token, wire.as_fd(), if full { PollFlags::OUT } else { flags(wire.is_waiting()) });
            }
        }
    }
    if let Some((process, _)) = core.model.as_ref().and_then(|model| model.child.process()) {
        watch(Token::Process, process.watch(), PollFlags::IN);
    }
    for (tenant, warden) in &core.wardens {
        watch(Token::Process, warden.process.watch(), PollFlags::IN);
        // A wire that was closed while its warden dies would keep the loop awake.
        if !warden.deaf {
            watch(Token::Warden(tenant.clone()), warden.wire.as_fd(), flags(warden.wire.is_waiting()));
        }
    }
    for (tenant, running) in &core.cells {
        watch(Token::Process, running.cell.watch(), PollFlags::IN);
        if let Some(output) = &running.output {
            watch(Token::Output(tenant.clone()), output.as_fd(), PollFlags::IN);
        }
    }
    for exec in core.execs.values() {
        watch(Token::Process, exec.process.watch(), PollFlags::IN);
    }
    for (_, work) in core.removals.values() {
        watch(Token::Process, work.watch(), PollFlags::IN);
    }
    let timeout = patience.map(|patience| Timespec {
        tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(patience.subsec_nanos()),
    });
    match poll(&mut polled, timeout.as_ref()) {
        Ok(_) => {}
        Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
        Err(error) => return Err(Error::Loop(error.into())),
    }
    let ready = polled.iter().map(|polled| !polled.revents().is_empty());
    Ok(tokens.into_iter().zip(ready).filter_map(|(token, ready)| ready.then_some(token)).collect())
}

fn output<E: Effects>(core: &mut Core<E>, tenant: &TenantId) {
    let mut bytes = vec![0; CHUNK];
    let Some(running) = core.cells.get_mut(tenant) else { return };
    let Some(output) = &running.output else { return };
    match rustix::io::read(output, &mut bytes[..]) {
        Ok(0) => running.output = None,
        Ok(count) => core.effects().log(tenant, &bytes[..count]),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
        Err(_) => running.output = None,
    }
}

/// Kills everything and waits until nothing is left.
pub(crate) fn end<E: Effects>(core: &mut Core<E>) -> Result<(), Error> {
    let given_up = Instant::now() + PATIENCE;
    core.kill_all();
    loop {
        let now = Instant::now();
        core.reap(now);
        if core.is_empty() {
            return Ok(());
        }
        if now >= given_up {
            let why =
                std::io::Error::other("a killed process did not end; its cgroup is swept at the next start");
            return Err(Error::Loop(why));
        }
        // Nothing tells of a cgroup that has become empty: a short wait is simplest, and it is the end.
        std::thread::sleep(Duration::from_millis(2));
    }
}
