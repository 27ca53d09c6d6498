//! A command in a running cell: a child of the launcher that joins everything, seals itself, and executes.
//!
//! Two forks: the first joins the cell's namespaces, the second is born into its pid namespace as a child of the
//! launcher. Both are unreadable to the cell until the exec replaces them, and the sealing is the runtime's but
//! for the Landlock domain, which is a sibling. Only the second joins the cell's groups: the launcher waits for
//! the first, and must not wait for a cell that has used up its share of the processors. The second goes on once
//! the launcher holds it: if the first dies before it has handed it over, nothing was started.

use crate::{
    CellPlan, Error, Exec, Profile,
    cgroup::{self, Groups},
    seal, seccomp as table,
};
use cofferdam_sys::{
    channel::{self, Channel},
    clone::{self, INNER_ID},
    pidfd,
    process::{self, Forked},
    seccomp::Program,
};
use std::{
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// It was not sealed, so it was not started.
const UNSEALED: u8 = 125;

pub(crate) fn exec(
    plan: &CellPlan,
    init: BorrowedFd<'_>,
    groups: &Groups,
    argv: &[String],
    stdio: &[OwnedFd; 3],
    terminal: bool,
) -> Result<Exec, Error> {
    let command = seal::Command::new(plan, argv).map_err(Error::io("a command"))?;
    // Before the fork: the child only uses it.
    let programs = table::cell(&plan.without)?;
    let entrances = groups.entrances()?;
    let (ours, theirs) = channel::pair().map_err(Error::io("the wire of a command"))?;
    let (gate, mut opener) = io::pipe().map_err(Error::io("the gate of a command"))?;
    match process::fork().map_err(Error::io("fork"))? {
        Forked::Child => {
            drop((ours, opener));
            match join(plan, init) {
                Ok(Some((pid, pidfd))) => {
                    let sent = Channel::from(theirs).send(&pid.as_raw_nonzero().get(), &[pidfd.as_fd()]);
                    process::exit(u8::from(sent.is_err()))
                }
                Ok(None) => {
                    drop(theirs);
                    wait_at(gate);
                    become_command(plan, &command, &programs, &entrances, stdio, terminal)
                }
                Err(error) => {
                    // The launcher learns it, or is gone.
                    let _ = Channel::from(theirs).send(&error.to_string(), &[]);
                    process::exit(1)
                }
            }
        }
        Forked::Parent(joiner) => {
            drop((theirs, gate));
            let wire = Channel::from(ours);
            let answer = wire.recv::<serde_json::Value>();
            rustix::process::waitpid(Some(joiner), rustix::process::WaitOptions::empty())
                .map_err(|errno| Error::io("reaping the process that joins")(errno.into()))?;
            match answer? {
                Some((serde_json::Value::Number(pid), descriptors)) => {
                    let [pidfd] = channel::exactly(descriptors)?;
                    let pid = pid.as_i64().and_then(|pid| i32::try_from(pid).ok());
                    let pid = pid.ok_or_else(|| Error::Ended("no pid".into()))?;
                    // One that has ended already is reaped as one that ran.
                    let _ = opener.write_all(&[1]);
                    Ok(Exec { pid, pidfd })
                }
                Some((serde_json::Value::String(why), _)) => Err(Error::Ended(why)),
                _ => Err(Error::Ended("a command could not join it".into())),
            }
        }
    }
}

/// Until the launcher holds this process. If it never will, this is the end.
fn wait_at(mut gate: io::PipeReader) {
    if gate.read_exact(&mut [0]).is_err() {
        process::exit(UNSEALED);
    }
}

type Sibling = Option<(rustix::process::Pid, OwnedFd)>;

fn join(plan: &CellPlan, init: BorrowedFd<'_>) -> Result<Sibling, Error> {
    // Unreadable before the first process of the cell could name it.
    process::hide().map_err(Error::io("hiding"))?;
    pidfd::join_cell(init).map_err(Error::io("joining the cell"))?;
    let strict = plan.profile == Profile::Strict;
    let kept = rustix::thread::set_keep_capabilities(true);
    kept.map_err(|errno| Error::io("capabilities")(errno.into()))?;
    process::become_user(INNER_ID, INNER_ID, strict).map_err(Error::io("the cell's uid"))?;
    cofferdam_sys::caps::raise_own().map_err(Error::io("capabilities"))?;
    process::hide().map_err(Error::io("hiding"))?;
    clone::fork_sibling().map_err(Error::io("clone3"))
}

fn become_command(
    plan: &CellPlan,
    command: &seal::Command,
    programs: &[Program],
    entrances: &[OwnedFd],
    stdio: &[OwnedFd; 3],
    terminal: bool,
) -> ! {
    let sealed = (|| -> Result<(), Error> {
        cgroup::enter(entrances).map_err(Error::io("the cell's groups"))?;
        process::default_signals();
        rustix::process::setsid().map_err(|errno| Error::io("setsid")(errno.into()))?;
        // Copies first: one of the three may lie where another belongs.
        let copies = stdio
            .iter()
            .map(|descriptor| process::duplicate_above(descriptor.as_fd(), 10))
            .collect::<Result<Vec<_>, _>>()
            .map_err(Error::io("stdio"))?;
        for (number, copy) in (0..).zip(&copies) {
            process::place(copy.as_fd(), number).map_err(Error::io("stdio"))?;
        }
        if terminal {
            process::take_terminal().map_err(Error::io("the terminal"))?;
        }
        process::close_on_exec_from(3).map_err(Error::io("descriptors"))?;
        rustix::process::chdir(&plan.cwd).map_err(|errno| Error::io("cwd")(errno.into()))?;
        seal::shed(plan)?;
        process::hide().map_err(Error::io("hiding"))?;
        seal::files(plan)?;
        seal::filters(programs)?;
        Ok(())
    })();
    let code = if let Err(error) = sealed {
        say(&error.to_string());
        UNSEALED
    } else {
        let error = command.exec();
        say(&error.to_string());
        if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 }
    };
    process::exit(code)
}

/// To the command's own stderr, which may be closed.
fn say(text: &str) {
    let line = format!("cofferdam: {text}\n");
    let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
}
