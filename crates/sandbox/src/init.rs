//! Pid 1 of a cell: builds it, seals itself, starts the runtime, reaps, and ends when the runtime ends.
//!
//! It reads its orders before anything hostile runs, from a wire that no other process of the cell ever
//! holds, and afterwards understands one word. Its end, for whatever reason, is the end of every process in
//! the cell, because it is the first of their pid namespace.

use crate::{
    CellPlan, Protection,
    error::{Layer, LayerFailure},
    proof::{self, Finding},
    root, seal, seccomp as table,
    wire::{Answer, Order},
};
use cofferdam_base::ipc::LAUNCHER_FD;
use cofferdam_sys::{
    channel::Channel, mount, netlink, netns, nft, process, process::Forked, seccomp::Program, socket,
};
use rustix::{
    event::{PollFd, PollFlags},
    process::{Pid, Signal, WaitOptions},
};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{self, BufRead, BufReader, PipeReader, PipeWriter, Read, Seek, Write},
    os::fd::{AsFd, OwnedFd},
};

/// What a child of the nursery becomes; also the hidden entry `__init`. Never returns.
pub fn init_main() -> ! {
    let Some(wire) = process::inherited(LAUNCHER_FD) else { process::exit(2) };
    let wire = Channel::from(wire);
    // The launcher may have died before the signal was asked for: then the wire has ended, and so do we.
    if process::die_with_parent().is_err() || process::hide().is_err() {
        process::exit(2);
    }
    let code = match run(&wire) {
        Ok(code) => code,
        Err(failure) => {
            // A launcher that is gone needs no answer.
            let _ = wire.send(&Answer::Failed(failure), &[]);
            1
        }
    };
    process::exit(code)
}

fn run(wire: &Channel) -> Result<u8, LayerFailure> {
    let Some((Order::Build { plan, mounts, links }, mut descriptors)) = wire.recv().layer("wire")? else {
        return Ok(2);
    };
    if descriptors.is_empty() {
        return Err(io::Error::other("no seccomp programs came")).layer("seccomp");
    }
    let programs = programs(descriptors.remove(0))?;
    if plan.keeps(Protection::UtsNamespace) {
        rustix::system::sethostname(plan.hostname.as_bytes()).layer("uts namespace")?;
    }
    let (cookie, listeners) = network(&plan)?;
    let lent: Vec<_> = listeners.iter().map(AsFd::as_fd).collect();
    root::build(&plan, &mounts, &links, descriptors)?;
    // Handed over while this process is still trusted to be what it was.
    wire.send(&Answer::Built { netns_cookie: cookie }, &lent).layer("wire")?;
    drop(listeners);
    let Some((Order::Go {}, _)) = wire.recv::<Order>().layer("wire")? else { return Ok(2) };
    if plan.keeps(Protection::CgroupNamespace) {
        mount::unshare_cgroup().layer("cgroup namespace")?;
    }
    seal::shed(&plan)?;
    process::hide().layer("capabilities")?;
    seal::files(&plan)?;
    let children = process::child_signal().layer("init")?;
    let own = table::init()?;
    // What was in force before a cell's own was: of the launcher, and of whoever started it.
    let filters = proof::filters_of_self().layer("proof")? + programs.len();
    let (waiting, findings) = wait_sealed(&plan, &programs, filters)?;
    wire.send(&Answer::Proved { findings }, &[]).layer("wire")?;
    let Some((Order::Start {}, _)) = wire.recv::<Order>().layer("wire")? else { return Ok(2) };
    let runtime = waiting.go()?;
    proof::of_runtime(&plan, runtime.as_raw_nonzero().get(), filters)?;
    seal::filters(std::slice::from_ref(&own))?;
    wire.send(&Answer::Running {}, &[]).layer("wire")?;
    Ok(watch(wire, &children, runtime))
}

/// The programs, each after its length.
fn programs(descriptor: OwnedFd) -> Result<Vec<Program>, LayerFailure> {
    let mut file = File::from(descriptor);
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).layer("seccomp")?;
    let mut rest = bytes.as_slice();
    let mut programs = Vec::new();
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let length = u32::from_ne_bytes(*length) as usize;
        if length == 0 || tail.len() < length {
            break;
        }
        let (program, tail) = tail.split_at(length);
        programs.push(Program::from(program.to_vec()));
        rest = tail;
    }
    if rest.is_empty() {
        Ok(programs)
    } else {
        Err(io::Error::other("the seccomp programs came cut off")).layer("seccomp")
    }
}

fn network(plan: &CellPlan) -> Result<(Option<u64>, Vec<OwnedFd>), LayerFailure> {
    let Some((port, mark)) = plan.captured() else { return Ok((None, Vec::new())) };
    netlink::any_ip().layer("network")?;
    let listeners = socket::listeners().layer("network")?;
    let table = nft::CellTable { capture_port: socket::CAPTURE_PORT, gateway_port: port, mark };
    let mut listeners = Vec::from(listeners);
    if plan.keeps(Protection::Capture) {
        // Closing it here would cost more than all the rest of the start.
        listeners.push(nft::seal_cell(table).layer("capture")?);
    }
    let cookie = netns::current_cookie().layer("network")?;
    Ok((Some(cookie), listeners))
}

/// What will be the runtime: sealed, and waiting for a byte.
struct Waiting {
    pid: Pid,
    says: BufReader<PipeReader>,
    gate: PipeWriter,
}

/// Makes the process that will be the runtime, and has it say, sealed, what it finds. So what is proved is the very
/// process that runs.
fn wait_sealed(
    plan: &CellPlan,
    programs: &[Program],
    filters: usize,
) -> Result<(Waiting, Vec<Finding>), LayerFailure> {
    let command = seal::Command::new(plan, &plan.argv).layer("runtime")?;
    let (says, mut tells) = io::pipe().layer("runtime")?;
    let (waits, gate) = io::pipe().layer("runtime")?;
    match process::fork().layer("runtime")? {
        Forked::Child => {
            drop((says, gate));
            let failure = match sealed(plan, programs) {
                Ok(()) => go_when_told(plan, &command, filters, &mut tells, waits),
                Err(failure) => failure,
            };
            // The parent reads it, or is gone.
            let _ = tells.write_all(&serde_json::to_vec(&Told::Failed(failure)).unwrap_or_default());
            process::exit(127)
        }
        Forked::Parent(pid) => {
            drop((tells, waits));
            let mut waiting = Waiting { pid, says: BufReader::new(says), gate };
            let mut line = String::new();
            waiting.says.read_line(&mut line).layer("proof")?;
            match serde_json::from_str(&line).layer("proof")? {
                Told::Found(findings) => Ok((waiting, findings)),
                Told::Failed(failure) => Err(failure),
            }
        }
    }
}

/// What the process that will be the runtime tells init.
#[derive(Serialize, Deserialize)]
enum Told {
    Found(Vec<Finding>),
    Failed(LayerFailure),
}

impl Waiting {
    /// Lets it go on; returns once it has been executed, or with the reason why not.
    fn go(mut self) -> Result<Pid, LayerFailure> {
        self.gate.write_all(&[1]).layer("runtime")?;
        let mut told = Vec::new();
        self.says.read_to_end(&mut told).layer("runtime")?;
        match told.as_slice() {
            [] => Ok(self.pid),
            told => match serde_json::from_slice(told).layer("runtime")? {
                Told::Failed(failure) => Err(failure),
                Told::Found(_) => Err(io::Error::other("it was proved twice")).layer("runtime"),
            },
        }
    }
}

/// The seal of everything that runs in a cell but init.
fn sealed(plan: &CellPlan, programs: &[Program]) -> Result<(), LayerFailure> {
    process::default_signals();
    rustix::process::setsid().layer("runtime")?;
    rustix::process::chdir(&plan.cwd).layer("runtime")?;
    seal::apart(plan)?;
    process::close_on_exec_from(3).layer("runtime")?;
    seal::filters(programs)
}

/// Proves, waits, and becomes the runtime. Returns only why not.
fn go_when_told(
    plan: &CellPlan,
    command: &seal::Command,
    filters: usize,
    tells: &mut PipeWriter,
    mut waits: PipeReader,
) -> LayerFailure {
    let found = Told::Found(proof::inside(plan, filters));
    let mut line = serde_json::to_vec(&found).unwrap_or_default();
    line.push(b'\n');
    let told = tells.write_all(&line).and_then(|()| waits.read_exact(&mut [0]));
    let message = match told {
        Ok(()) => format!("{}: {}", plan.argv[0], command.exec()),
        // Init is gone, or will not have it.
        Err(error) => error.to_string(),
    };
    LayerFailure {
        layer: "runtime".into(),
        message,
        mend: "the program must exist in the cell and be executable there".into(),
    }
}

/// Reaps everything; ends with the runtime.
fn watch(wire: &Channel, children: &OwnedFd, runtime: Pid) -> u8 {
    loop {
        let mut polled = [PollFd::new(wire, PollFlags::IN), PollFd::new(children, PollFlags::IN)];
        match rustix::event::poll(&mut polled, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return 1,
        }
        let (ordered, changed) = (!polled[0].revents().is_empty(), !polled[1].revents().is_empty());
        if changed {
            let mut signal = [0_u8; 128];
            // Several children may share one signal; each is reaped below.
            let _ = rustix::io::read(children, &mut signal);
            while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
                if pid == runtime {
                    let (text, code) = match (status.exit_status(), status.terminating_signal()) {
                        (Some(code), _) => (format!("exit {code}"), code),
                        (None, signal) => {
                            (format!("signal {}", signal.unwrap_or(0)), 128 + signal.unwrap_or(0))
                        }
                    };
                    let code = u8::try_from(code).unwrap_or(u8::MAX);
                    // If the launcher is gone, so are we in a moment.
                    let _ = wire.send(&Answer::Ended { status: text, code }, &[]);
                    return code;
                }
            }
        }
        if ordered {
            match wire.try_recv() {
                Ok(Some((Order::Terminate {}, _))) => {
                    // One that has ended is reaped in the next round.
                    let _ = rustix::process::kill_process(runtime, Signal::TERM);
                }
                Err(cofferdam_sys::channel::ChannelError::WouldBlock) => {}
                _ => return 1,
            }
        }
    }
}
