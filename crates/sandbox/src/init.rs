//! Pid 1 of a cell: builds it, seals itself, starts the runtime, reaps, and ends when the runtime ends.
//!
//! It reads its orders before anything hostile runs, from a wire that no other process of the cell ever
//! holds, and afterwards understands one word. Its end, for whatever reason, is the end of every process in
//! the cell, because it is the first of their pid namespace.

use crate::{
    CellPlan, Protection, cgroup,
    error::{Layer, LayerFailure},
    network::{self, Shape},
    proof::{self, Findings},
    root, seal, seccomp as table,
    wire::{Answer, Order},
};
use cofferdam_base::ipc::LAUNCHER_FD;
use cofferdam_sys::{channel::Channel, keyring::Planted, mount, process, process::Forked, seccomp::Program};
use rustix::{
    event::{PollFd, PollFlags},
    process::{Pid, Signal, WaitOptions},
};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{self, PipeReader, PipeWriter, Read, Seek, Write},
    os::fd::{AsFd, OwnedFd},
};

/// The hidden entry `__init`. Never returns.
pub fn init_main() -> ! {
    be_init(None)
}

/// What a child of the nursery becomes, with its `/proc` if it has made that already. Never returns.
pub(crate) fn be_init(proc: Option<OwnedFd>) -> ! {
    let Some(wire) = process::inherited(LAUNCHER_FD) else { process::exit(2) };
    let wire = Channel::from(wire);
    // The launcher may have died before the signal was asked for: then the wire has ended, and so do we.
    if process::die_with_parent().is_err() || process::hide().is_err() {
        process::exit(2);
    }
    let code = match run(&wire, proc) {
        Ok(code) => code,
        Err(failure) => {
            // A launcher that is gone needs no answer.
            let _ = wire.send(&Answer::Failed(failure), &[]);
            1
        }
    };
    process::exit(code)
}

fn run(wire: &Channel, proc: Option<OwnedFd>) -> Result<u8, LayerFailure> {
    let Some((Order::Build { plan, network, mounts, links }, mut descriptors)) = wire.recv().layer("wire")?
    else {
        return Ok(2);
    };
    if descriptors.is_empty() {
        return Err(io::Error::other("no seccomp programs came")).layer("seccomp");
    }
    let programs = programs(descriptors.remove(0))?;
    cgroup::enter(&descriptors).layer("cgroup")?;
    drop(descriptors);
    if plan.keeps(Protection::UtsNamespace) {
        rustix::system::sethostname(plan.hostname.as_bytes()).layer("uts namespace")?;
    }
    let made = match network {
        Some(cookie) => network::is_in(cookie).map(|()| None)?,
        None => Shape::of(&plan).map(Shape::make).transpose()?,
    };
    let root = root::begin(&plan, &links)?;
    let Some((Order::Root {}, trees)) = wire.recv().layer("wire")? else { return Ok(2) };
    root::build(&plan, root, &mounts, trees, proc)?;
    if plan.keeps(Protection::CgroupNamespace) {
        mount::unshare_cgroup().layer("cgroup namespace")?;
    }
    let lent: Vec<_> = made.iter().flat_map(|network| &network.descriptors).map(AsFd::as_fd).collect();
    // Handed over while this process is still trusted to be what it was.
    let netns_cookie = made.as_ref().map(|network| network.cookie);
    wire.send(&Answer::Built { netns_cookie }, &lent).layer("wire")?;
    drop(made);
    let left = Planted::plant().layer("keyring")?;
    seal::shed(&plan)?;
    process::hide().layer("capabilities")?;
    seal::files(&plan)?;
    let children = process::child_signal().layer("init")?;
    let own = table::init()?;
    // What was in force before a cell's own was: of the launcher, and of whoever started it.
    let filters = proof::filters_at_first().layer("proof")? + programs.len();
    let waiting = Waiting::born(&plan, &programs, filters, left.as_ref())?;
    let mut findings = proof::shared(&plan);
    proof::holds(&plan, &findings)?;
    let Some((Order::Start {}, _)) = wire.recv::<Order>().layer("wire")? else { return Ok(2) };
    let (runtime, own_findings) = waiting.go()?;
    findings.add(own_findings);
    proof::of_runtime(&plan, runtime.as_raw_nonzero().get(), filters)?;
    seal::filters(std::slice::from_ref(&own))?;
    wire.send(&Answer::Running { findings }, &[]).layer("wire")?;
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

/// What will be the runtime: it seals itself, proves that it is sealed, and waits for a byte.
struct Waiting {
    pid: Pid,
    says: PipeReader,
    gate: PipeWriter,
}

/// What the process that will be the runtime tells init, a line each.
#[derive(Serialize, Deserialize)]
enum Told {
    Found(Findings),
    Failed(LayerFailure),
}

impl Waiting {
    /// Makes it. So what is proved is the very process that runs.
    fn born(
        plan: &CellPlan,
        programs: &[Program],
        filters: usize,
        left: Option<&Planted>,
    ) -> Result<Self, LayerFailure> {
        let command = seal::Command::new(plan, &plan.argv).layer("runtime")?;
        let (says, mut tells) = io::pipe().layer("runtime")?;
        let (waits, gate) = io::pipe().layer("runtime")?;
        match process::fork().layer("runtime")? {
            Forked::Child => {
                drop((says, gate));
                let failure = match sealed(plan, programs, left) {
                    Ok(found) => prove_and_execute(plan, &command, (filters, found), &mut tells, waits),
                    Err(failure) => failure,
                };
                // The parent reads it, or is gone.
                let _ = tells.write_all(&serde_json::to_vec(&Told::Failed(failure)).unwrap_or_default());
                process::exit(127)
            }
            Forked::Parent(pid) => Ok(Self { pid, says, gate }),
        }
    }

    /// Lets it go on; returns once it has been executed, with what it found before, or with the reason why not.
    fn go(mut self) -> Result<(Pid, Findings), LayerFailure> {
        // One that is gone has said why.
        let opened = self.gate.write_all(&[1]);
        let mut told = Vec::new();
        self.says.read_to_end(&mut told).layer("runtime")?;
        let mut told = serde_json::Deserializer::from_slice(&told).into_iter();
        match (told.next().transpose().layer("proof")?, told.next().transpose().layer("runtime")?) {
            (Some(Told::Found(findings)), None) => opened.layer("runtime").map(|()| (self.pid, findings)),
            (_, Some(Told::Failed(failure))) | (Some(Told::Failed(failure)), _) => Err(failure),
            _ => Err(io::Error::other("it ended before it proved anything")).layer("proof"),
        }
    }
}

/// The seal of everything that runs in a cell but init; what only shows before its last part.
fn sealed(plan: &CellPlan, programs: &[Program], left: Option<&Planted>) -> Result<Findings, LayerFailure> {
    process::default_signals();
    rustix::process::setsid().layer("runtime")?;
    rustix::process::chdir(&plan.cwd).layer("runtime")?;
    seal::apart(plan)?;
    process::close_on_exec_from(3).layer("runtime")?;
    let found = proof::trials::keyring(plan, left);
    seal::filters(programs).map(|()| found)
}

/// Proves, waits, and becomes the runtime. Returns only why not.
fn prove_and_execute(
    plan: &CellPlan,
    command: &seal::Command,
    (filters, mut found): (usize, Findings),
    tells: &mut PipeWriter,
    mut waits: PipeReader,
) -> LayerFailure {
    found.add(proof::inside(plan, filters));
    if let Err(failure) = proof::holds(plan, &found) {
        return failure;
    }
    let told = serde_json::to_vec(&Told::Found(found)).map_err(io::Error::other);
    let told = told.and_then(|told| tells.write_all(&told)).and_then(|()| waits.read_exact(&mut [0]));
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
