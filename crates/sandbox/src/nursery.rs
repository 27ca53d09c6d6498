//! The nursery: where the first processes of cells come from.
//!
//! A process of ours that was executed once, holds nothing and hears nobody but the launcher. For each cell it
//! clones itself into new namespaces and groups, as a child of the launcher; that copy becomes the cell's init. So
//! an init has neither the launcher's memory nor its descriptors, and no cell's start pays for executing it. The
//! threat: what a launcher learns in a long life (names, paths, other cells' descriptors) in the memory of every
//! cell's pid 1.

use crate::{
    Error,
    init::be_init,
    network::{Network, Shape, Spare},
    proc,
};
use cofferdam_sys::{
    channel::{self, Channel},
    clone::{self, Birth},
    process,
};
use rustix::event::{PollFd, PollFlags, Timespec};
use serde::{Deserialize, Serialize};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
};

/// Launcher → nursery.
#[derive(Debug, Serialize, Deserialize)]
enum Request {
    /// A first process. Descriptors: the gate, the wire, the three of stdio, and the version 2 group if there is one.
    Bear(Wanted),
    /// There is time to make the next network. No answer.
    Network(Shape),
}

#[derive(Debug, Serialize, Deserialize)]
struct Wanted {
    /// May the child drop its supplementary groups?
    groups: bool,
    /// Which namespaces are the launcher's; see [`Birth::shared`].
    shared: i32,
    /// The network that it would have if one is ready.
    network: Option<Shape>,
    /// Is its `/proc` that of every tenant's cell? Then it makes it while its ids are not there yet.
    proc: bool,
}

/// Nursery → launcher: the child as the host numbers it, with its pidfd, or why there is none.
#[derive(Debug, Serialize, Deserialize)]
enum Born {
    /// `network` is the cookie of the one that it was born into; then its descriptors follow.
    Child {
        pid: i32,
        network: Option<u64>,
    },
    None {
        why: String,
    },
}

#[derive(Debug)]
struct Nursery {
    process: Child,
    wire: Channel,
    /// Whose it is: a fork of that process has a nursery of its own.
    owner: u32,
}

/// This process's own, from its first cell on.
static NURSERY: Mutex<Option<Nursery>> = Mutex::new(None);

/// Ends this process's nursery, if it has one; the next cell gets another. It would end with this process too, but
/// a moment later.
pub fn close_nursery() -> Result<(), Error> {
    let mut kept = NURSERY.lock().unwrap_or_else(PoisonError::into_inner);
    match kept.take_if(|nursery| nursery.owner == std::process::id()) {
        Some(nursery) => nursery.end(),
        None => Ok(()),
    }
}

/// This process's nursery, if it has one that lives. One that has ended is reaped, and replaced by the next cell.
pub fn living_nursery() -> Option<u32> {
    let mut kept = NURSERY.lock().unwrap_or_else(PoisonError::into_inner);
    let own = kept.as_mut().filter(|nursery| nursery.owner == std::process::id())?;
    if matches!(own.process.try_wait(), Ok(None)) {
        return Some(own.process.id());
    }
    *kept = None;
    None
}

/// What a first process is born with; see [`Birth`].
pub(crate) struct Order<'a> {
    pub(crate) gate: BorrowedFd<'a>,
    pub(crate) wire: BorrowedFd<'a>,
    pub(crate) stdio: [BorrowedFd<'a>; 3],
    pub(crate) unified: Option<&'a OwnedFd>,
    pub(crate) groups: bool,
    pub(crate) shared: i32,
    pub(crate) network: Option<Shape>,
    pub(crate) proc: bool,
}

/// A first process.
#[derive(Debug)]
pub(crate) struct Newborn {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    /// The network into which it was born, if one was ready.
    pub(crate) network: Option<Network>,
}

/// Has the first process of a cell made, which waits at its gate, and does something else meanwhile: the kernel
/// takes a millisecond for the namespaces. [`Error::Ended`] if the nursery ended before it answered: it may have made
/// one that waits at this gate, so nobody else may wait there.
pub(crate) fn birth(order: &Order<'_>, meanwhile: impl FnOnce()) -> Result<Newborn, Error> {
    let mut kept = NURSERY.lock().unwrap_or_else(PoisonError::into_inner);
    let asked = ask(&mut kept, order);
    meanwhile();
    asked.and_then(Nursery::answer)
}

/// Has the next cell's network made, while nobody waits.
pub(crate) fn prepare(shape: Shape) {
    let kept = NURSERY.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(nursery) = kept.as_ref().filter(|nursery| nursery.owner == std::process::id()) {
        // One that is gone is found out when a cell is wanted.
        let _ = nursery.wire.send(&Request::Network(shape), &[]);
    }
}

/// Asks this process's nursery: the first, the one that lives, or another for one that was killed.
fn ask<'a>(kept: &'a mut Option<Nursery>, order: &Order<'_>) -> Result<&'a Nursery, Error> {
    let own = std::process::id();
    if let Some(nursery) = kept.take_if(|nursery| nursery.owner == own) {
        match nursery.ask(order) {
            Err(Error::Ended(_)) => nursery.end()?,
            asked => {
                let nursery = kept.insert(nursery);
                return asked.map(|()| &*nursery);
            }
        }
    }
    let nursery = kept.insert(Nursery::start(own)?);
    nursery.ask(order).map(|()| &*nursery)
}

impl Nursery {
    #[expect(
        clippy::disallowed_methods,
        reason = "this program itself, with no environment and one descriptor"
    )]
    fn start(owner: u32) -> Result<Self, Error> {
        let (ours, theirs) = channel::pair().map_err(Error::io("the wire of the nursery"))?;
        let process = Command::new("/proc/self/exe")
            .arg(ENTRY)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .map_err(Error::io("the nursery"))?;
        Ok(Self { process, wire: Channel::from(ours), owner })
    }

    fn ask(&self, order: &Order<'_>) -> Result<(), Error> {
        let fixed = [order.gate, order.wire, order.stdio[0], order.stdio[1], order.stdio[2]];
        let lent: Vec<BorrowedFd<'_>> = fixed.into_iter().chain(order.unified.map(AsFd::as_fd)).collect();
        let Order { groups, shared, network, proc, .. } = *order;
        let wanted = Wanted { groups, shared, network, proc };
        self.wire.send(&Request::Bear(wanted), &lent).map_err(|_| Error::Ended("the nursery is gone".into()))
    }

    fn answer(&self) -> Result<Newborn, Error> {
        let gone = |_| Error::Ended("the nursery is gone".into());
        match self.wire.recv::<Born>().map_err(gone)? {
            Some((Born::Child { pid, network }, mut descriptors)) => {
                let network = network.map(|cookie| {
                    let descriptors = descriptors.split_off(descriptors.len().min(1));
                    Network { cookie, descriptors }
                });
                let [pidfd] = channel::exactly(descriptors)?;
                Ok(Newborn { pid, pidfd, network })
            }
            Some((Born::None { why }, _)) => Err(crate::LayerFailure::of("user namespace", why).into()),
            None => Err(Error::Ended("the nursery is gone".into())),
        }
    }

    fn end(mut self) -> Result<(), Error> {
        // One that has ended already cannot be killed, and is reaped all the same.
        let _ = self.process.kill();
        self.process.wait().map(drop).map_err(Error::io("reaping the nursery"))
    }
}

/// The hidden entry `__nursery`, with the wire at descriptor 0: never returns.
pub fn nursery_main() -> ! {
    let Some(wire) = process::inherited(0) else { process::exit(2) };
    let wire = Channel::from(wire);
    // A launcher that died before has closed its end.
    if process::die_with_parent().is_err() {
        process::exit(2);
    }
    // Its clones know it from here; where it cannot be told they say so.
    let _ = crate::proof::filters_at_first();
    let mut spare = Spare::default();
    let mut next = None;
    loop {
        let went_on = match next {
            Some(shape) if is_still(&wire) => {
                next = None;
                spare.make(shape)
            }
            _ => match wire.recv::<Request>() {
                Ok(Some((Request::Bear(wanted), descriptors))) => {
                    bear(&wire, wanted, &descriptors, &mut spare)
                }
                Ok(Some((Request::Network(shape), _))) => {
                    next = Some(shape);
                    Ok(())
                }
                _ => break,
            },
        };
        if went_on.is_err() {
            break;
        }
    }
    process::exit(0)
}

/// Has the launcher nothing to say, for as long as the runtime of the cell just started needs to come up?
fn is_still(wire: &Channel) -> bool {
    let pause = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
    let mut polled = [PollFd::new(wire, PollFlags::IN)];
    matches!(rustix::event::poll(&mut polled, Some(&pause)), Ok(0))
}

/// Clones itself; the child never returns. An error if this process must not go on.
fn bear(wire: &Channel, mut wanted: Wanted, descriptors: &[OwnedFd], spare: &mut Spare) -> io::Result<()> {
    let network = spare.enter(wanted.network);
    if network.is_some() {
        wanted.shared |= clone::NEW_NETWORK;
    }
    let (born, pidfd) = match clone(&wanted, descriptors) {
        Ok(clone::Born::InChild(proc)) if wanted.groups => be_init(proc),
        Ok(clone::Born::InChild(_)) => execute_init(),
        Ok(clone::Born::Here(pid, pidfd)) => {
            let pid = pid.as_raw_nonzero().get();
            (Born::Child { pid, network: network.as_ref().map(|network| network.cookie) }, Some(pidfd))
        }
        Err(error) => (Born::None { why: error.to_string() }, None),
    };
    if network.is_some() {
        spare.leave()?;
    }
    let network = network.iter().filter(|_| pidfd.is_some()).flat_map(|network| &network.descriptors);
    let lent: Vec<BorrowedFd<'_>> = pidfd.iter().chain(network).map(AsFd::as_fd).collect();
    wire.send(&born, &lent).map_err(io::Error::other)
}

/// Without root the launcher may join a cell only if its init was executed in the cell's user namespace: the kernel
/// asks there, where the launcher's user owns all, instead of where the nursery was executed.
fn execute_init() -> ! {
    let argv = [c"init".to_owned(), c"__init".to_owned()];
    // The launcher learns of it by the end of the wire, and by the status.
    process::exec(c"/proc/self/exe", &argv, &[]);
    process::exit(109)
}

fn clone(wanted: &Wanted, descriptors: &[OwnedFd]) -> io::Result<clone::Born<Option<OwnedFd>>> {
    let [gate, wire, stdin, stdout, stderr, unified @ ..] = descriptors else {
        return Err(io::Error::other("descriptors are missing"));
    };
    let birth = Birth {
        gate: gate.as_fd(),
        wire: wire.as_fd(),
        stdio: [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
        cgroup: unified.first().map(AsFd::as_fd),
        groups: wanted.groups,
        shared: wanted.shared,
    };
    clone::birth(&birth, || if wanted.proc { proc::early() } else { None })
}

const ENTRY: &str = "__nursery";
