//! From plan to running cell, seen from outside: groups, birth, maps, orders, and the answer.
//!
//! Whatever fails on the way, what was made is killed and removed before the error is returned.

use crate::{
    Cell, CellPlan, Error, Profile, Protection, Quota, cell,
    cgroup::Groups,
    error::{Layer, LayerFailure},
    home_image,
    network::{Network, Shape},
    nursery::{self, Newborn},
    proof, root, seccomp,
    wire::{Answer, Link, Mount, Order},
};
use cofferdam_base::ipc::receipt::Receipt;
use cofferdam_sys::{
    channel::{self, Channel, ChannelError},
    clone::{self, INNER_ID},
    pidfd, userns,
};
use rustix::{
    fs::{MemfdFlags, Mode, OFlags, SealFlags},
    process::Signal,
};
use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// Builds, seals and starts a cell. `output` becomes stdout and stderr of its init and its runtime.
pub fn launch(plan: &CellPlan, output: [OwnedFd; 2]) -> Result<Cell, Error> {
    plan.check()?;
    let home = Some(plan.home.as_path());
    let mut groups = Groups::create(&plan.cgroup, &plan.limits, home, plan.profile)?;
    let launched = born(plan, &output, &mut groups);
    let Born { child, wire, sources } = match launched {
        Ok(born) => born,
        Err(error) => {
            // What stays is swept at the next start; the cause is what must be told.
            let _ = groups.remove();
            return Err(error);
        }
    };
    let Newborn { pid, pidfd, network } = child;
    match build(plan, pid, &wire, network, &groups, sources) {
        Ok(Built { cookie, listeners, capture, receipt }) => Ok(Cell::new(cell::Parts {
            plan: plan.clone(),
            pid,
            pidfd,
            cookie,
            listeners,
            capture,
            receipt,
            wire,
            groups,
        })),
        Err(error) => {
            groups.kill();
            pidfd::signal(pidfd.as_fd(), Signal::KILL).map_err(Error::io("killing a half-built cell"))?;
            let ended = pidfd::wait(pidfd.as_fd()).map_err(Error::io("reaping a half-built cell"))?;
            let _ = groups.remove();
            Err(match error {
                // Which of the two depends on who was faster.
                Error::Ended(_) | Error::Wire(ChannelError::Closed) => Error::Ended(ended.to_string()),
                error => error,
            })
        }
    }
}

/// A first process that has its groups, ids and descriptors, and waits for orders.
struct Born {
    child: Newborn,
    wire: Channel,
    sources: Sources,
}

/// What a cell is built of.
struct Sources {
    programs: OwnedFd,
    /// `tasks` of its version 1 groups.
    tasks: Vec<OwnedFd>,
    mounts: Vec<Mount>,
    links: Vec<Link>,
}

impl Sources {
    fn new(plan: &CellPlan, groups: &mut Groups) -> Result<Self, Error> {
        groups.limit(plan.profile, &plan.without)?;
        let (mounts, links) = root::sources(plan);
        Ok(Self { programs: programs(plan)?, tasks: groups.tasks()?, mounts, links })
    }
}

fn born(plan: &CellPlan, output: &[OwnedFd; 2], groups: &mut Groups) -> Result<Born, Error> {
    let unified = match &groups.unified {
        Some(path) => {
            let path = path.to_str().ok_or_else(|| Error::Plan("a cgroup path is not UTF-8".into()))?;
            Some(open_at(path, OFlags::PATH | OFlags::DIRECTORY)?)
        }
        None => None,
    };
    let mut sources = None;
    let first = conceived(plan, output, unified.as_ref(), || sources = Some(Sources::new(plan, groups)));
    let (child, wire, opener) = match first {
        // The nursery was killed meanwhile; the next one answers. Whoever waits at the first gate ends with it.
        Err(Error::Ended(_)) => conceived(plan, output, unified.as_ref(), || {})?,
        first => first?,
    };
    let pidfd = child.pidfd.as_fd();
    let sources = sources.unwrap_or_else(|| Err(Error::Ended("nobody gathered what it is built of".into())));
    let opened = sources.and_then(|sources| {
        let strict = plan.profile == Profile::Strict;
        userns::map_one(child.pid, INNER_ID, plan.uid, plan.gid, !strict).layer("user namespace")?;
        (&opener).write_all(&[1]).map_err(Error::io("the gate of a cell"))?;
        Ok(sources)
    });
    match opened {
        Ok(sources) => Ok(Born { child, wire, sources }),
        Err(error) => {
            // It waits at its gate, and ends when that closes.
            drop(opener);
            pidfd::signal(pidfd, Signal::KILL).map_err(Error::io("killing an unborn cell"))?;
            pidfd::wait(pidfd).map_err(Error::io("reaping an unborn cell"))?;
            Err(error)
        }
    }
}

/// A first process at a gate and a wire of its own, with our ends of both.
fn conceived(
    plan: &CellPlan,
    output: &[OwnedFd; 2],
    unified: Option<&OwnedFd>,
    meanwhile: impl FnOnce(),
) -> Result<(Newborn, Channel, io::PipeWriter), Error> {
    let null = open_at("/dev/null", OFlags::RDONLY)?;
    let (ours, theirs) = channel::pair().map_err(Error::io("the wire to init"))?;
    let (gate, opener) = io::pipe().map_err(Error::io("the gate of a cell"))?;
    let order = nursery::Order {
        gate: gate.as_fd(),
        wire: theirs.as_fd(),
        stdio: [null.as_fd(), output[0].as_fd(), output[1].as_fd()],
        unified,
        groups: plan.profile == Profile::Strict,
        shared: shared(plan),
        network: ready_made(plan),
        proc: usual_proc(plan),
    };
    nursery::birth(&order, meanwhile).map(|child| (child, Channel::from(ours), opener))
}

fn open_at(path: &str, flags: OFlags) -> Result<OwnedFd, Error> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::io(path.to_owned())(errno.into()))
}

struct Built {
    cookie: Option<u64>,
    listeners: Option<[OwnedFd; 6]>,
    capture: Option<OwnedFd>,
    receipt: Receipt,
}

fn build(
    plan: &CellPlan,
    pid: i32,
    wire: &Channel,
    network: Option<Network>,
    groups: &Groups,
    Sources { programs, tasks, mounts, links }: Sources,
) -> Result<Built, Error> {
    let lent: Vec<BorrowedFd<'_>> = [&programs].into_iter().chain(&tasks).map(AsFd::as_fd).collect();
    let ready = network.as_ref().map(|network| network.cookie);
    let order = Order::Build { plan: Box::new(plan.clone()), network: ready, mounts: mounts.clone(), links };
    wire.send(&order, &lent)?;
    // While init goes into its groups. Without root it opens them itself.
    let trees = match plan.profile {
        Profile::Strict => {
            mounts.iter().map(|mount| open(plan, mount)).collect::<Result<Vec<_>, LayerFailure>>()?
        }
        Profile::Rootless => Vec::new(),
    };
    let lent: Vec<BorrowedFd<'_>> = trees.iter().map(AsFd::as_fd).collect();
    wire.send(&Order::Root {}, &lent)?;
    let made = match wire.recv()? {
        Some((Answer::Built { netns_cookie }, descriptors)) => {
            netns_cookie.map(|cookie| Network { cookie, descriptors })
        }
        other => return Err(unexpected(other.map(|(answer, _)| answer))),
    };
    let (cookie, listeners, capture) = match network.or(made) {
        Some(Network { cookie, mut descriptors }) => {
            let capture = if plan.keeps(Protection::Capture) { descriptors.pop() } else { None };
            (Some(cookie), Some(channel::exactly::<6>(descriptors)?), capture)
        }
        None => (None, None, None),
    };
    // While the cell seals itself. Nothing of its own runs if this is an error.
    let mut found = proof::outside(plan, pid);
    found.add(proof::trials::arrived(plan, listeners.as_ref()));
    if let Err(failure) = proof::holds(plan, &found).and_then(|()| proof::allow(plan, &groups.rows)) {
        // An init that ended has said why, and looks from outside as if it had no layers.
        return Err(match wire.try_recv() {
            Err(ChannelError::WouldBlock) => failure.into(),
            said => unexpected(said?.map(|(answer, _)| answer)),
        });
    }
    wire.send(&Order::Start {}, &[])?;
    match wire.recv()? {
        Some((Answer::Running { findings }, _)) => found.add(findings),
        other => return Err(unexpected(other.map(|(answer, _)| answer))),
    }
    // The next cell's, for which nobody waits now.
    if let Some(shape) = ready_made(plan) {
        nursery::prepare(shape);
    }
    let layers = proof::receipt(plan, found, &groups.rows)?;
    Ok(Built { cookie, listeners, capture, receipt: Receipt { layers } })
}

/// The network that a nursery can make for such a cell. Without root init must: nobody else has power over it. So
/// must that of a throw-away cell with capabilities, which count for nothing in a network of the host's.
fn ready_made(plan: &CellPlan) -> Option<Shape> {
    let needed = [Protection::NetworkNamespace, Protection::Capabilities];
    let whole = needed.into_iter().all(|protection| plan.keeps(protection));
    Shape::of(plan).filter(|_| plan.profile == Profile::Strict && whole)
}

/// Is its `/proc` that of every tenant's cell? Without root it is made by the executed init.
fn usual_proc(plan: &CellPlan) -> bool {
    let all = [
        Protection::PidNamespace,
        Protection::HiddenProcesses,
        Protection::ReadOnlySys,
        Protection::MaskedProc,
    ];
    plan.profile == Profile::Strict && all.into_iter().all(|protection| plan.keeps(protection))
}

/// The namespaces that a cell shares with us, as a control of a proof may want.
fn shared(plan: &CellPlan) -> i32 {
    let all = [
        (Protection::PidNamespace, clone::NEW_PID),
        (Protection::NetworkNamespace, clone::NEW_NETWORK),
        (Protection::IpcNamespace, clone::NEW_IPC),
        (Protection::UtsNamespace, clone::NEW_UTS),
    ];
    all.into_iter()
        .filter(|(protection, _)| !plan.keeps(*protection))
        .fold(0, |shared, (_, flag)| shared | flag)
}

/// The home may be the content of an image.
fn open(plan: &CellPlan, mount: &Mount) -> Result<OwnedFd, LayerFailure> {
    match &plan.quota {
        Quota::Image(image) if mount.source == plan.home && plan.keeps(Protection::HomeQuota) => {
            home_image::mount(image, &plan.limits)
        }
        _ => root::open(plan, mount),
    }
}

fn unexpected(answer: Option<Answer>) -> Error {
    match answer {
        Some(Answer::Failed(failure)) => Error::Layer(failure),
        _ => Error::Ended(String::new()),
    }
}

/// The seccomp programs in a sealed file of memory, each after its length: built once a launcher.
fn programs(plan: &CellPlan) -> Result<OwnedFd, Error> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create("seccomp", flags).layer("seccomp")?;
    let mut writer = File::from(file);
    for program in &*seccomp::cell(&plan.without)? {
        let bytes = program.as_bytes();
        let length = u32::try_from(bytes.len()).layer("seccomp")?;
        writer.write_all(&length.to_ne_bytes()).and_then(|()| writer.write_all(bytes)).layer("seccomp")?;
    }
    let all = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&writer, all).layer("seccomp")?;
    Ok(writer.into())
}
