//! A machine that only remembers what was done to it.

use super::super::{
    core::Core,
    effects::{Cell, Effects, Ended, Launched, Part, Process, failure},
    run,
};
use cofferdam_base::{
    Slot, TenantId,
    ipc::{
        launcher::{CellOrder, Command, Event, ExecOrder, Failure, Limits, RuntimeRef, Usage},
        receipt::Receipt,
    },
};
use cofferdam_sys::channel::Channel;
use std::{
    cell::{Cell as StdCell, RefCell},
    collections::BTreeMap,
    io::{PipeReader, PipeWriter},
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::Rc,
    time::Instant,
};

/// What the test knows of a process that the core started.
#[derive(Debug, Default)]
pub(super) struct Handle {
    ended: StdCell<Option<Ended>>,
    alive: RefCell<Option<PipeWriter>>,
}

impl Handle {
    pub(super) fn end(&self, ended: Ended) {
        if self.ended.get().is_none() {
            self.ended.set(Some(ended));
        }
        self.alive.borrow_mut().take();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.get().is_some()
    }
}

#[derive(Debug)]
pub(in crate::launcher) struct FakeProcess {
    handle: Rc<Handle>,
    watch: PipeReader,
}

impl FakeProcess {
    pub(in crate::launcher) fn new() -> Self {
        let (watch, alive) = std::io::pipe().unwrap();
        let handle = Handle { ended: StdCell::new(None), alive: RefCell::new(Some(alive)) };
        Self { handle: Rc::new(handle), watch }
    }
}

impl Process for FakeProcess {
    fn watch(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }

    fn reap(&mut self) -> Option<Ended> {
        self.handle.ended.get()
    }

    fn kill(&mut self) {
        self.handle.end(Ended::Signal(9));
    }
}

#[derive(Debug)]
pub(in crate::launcher) struct FakeCell {
    process: FakeProcess,
    world: Rc<World>,
}

impl Process for FakeCell {
    fn watch(&self) -> BorrowedFd<'_> {
        self.process.watch()
    }

    fn reap(&mut self) -> Option<Ended> {
        self.process.reap()
    }

    fn kill(&mut self) {
        self.process.kill();
    }
}

impl Cell for FakeCell {
    fn terminate(&mut self) {
        self.world.note("terminate");
    }

    fn freeze(&mut self) -> Result<(), Failure> {
        self.world.attempt("freeze")
    }

    fn frozen(&mut self) -> Result<(), Failure> {
        if self.world.restless.get() { Err(failure("it does not come to a stop")) } else { Ok(()) }
    }

    fn sockets(&mut self, count: u8) -> Result<Vec<OwnedFd>, Failure> {
        Ok((0..count).map(|_| null()).collect())
    }

    fn set_limits(
        &mut self,
        limits: &Limits,
        receipt: &Receipt,
    ) -> Result<(Receipt, Vec<&'static str>), Failure> {
        self.world.attempt(format!("limit to {} processes", limits.pids))?;
        Ok((receipt.clone(), vec!["open_files"]))
    }

    fn usage(&self) -> Usage {
        Usage { pids: Some(3), ..Usage::default() }
    }

    fn listeners(&mut self) -> Result<Vec<OwnedFd>, Failure> {
        if self.world.forged.get() {
            Err(failure("another cookie"))
        } else {
            Ok((0..6).map(|_| null()).collect())
        }
    }
}

/// What was done, and what runs.
#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) done: RefCell<Vec<String>>,
    /// Newest first spawned last: every part by name, with its end of the wire.
    pub(super) parts: RefCell<BTreeMap<String, (Rc<Handle>, Channel)>>,
    pub(super) cells: RefCell<BTreeMap<String, (Rc<Handle>, PipeWriter)>>,
    pub(super) execs: RefCell<Vec<Rc<Handle>>>,
    pub(super) removals: RefCell<Vec<Rc<Handle>>>,
    /// A cell's listeners cannot be proved.
    pub(super) forged: StdCell<bool>,
    /// A configuration was changed.
    pub(super) drift: StdCell<bool>,
    /// A cell that is frozen does not stand still.
    pub(super) restless: StdCell<bool>,
    /// Whatever is tried fails.
    pub(super) broken: StdCell<bool>,
}

impl World {
    fn note(&self, what: impl Into<String>) {
        self.done.borrow_mut().push(what.into());
    }

    fn attempt(&self, what: impl Into<String>) -> Result<(), Failure> {
        if self.broken.get() {
            return Err(failure("disk full"));
        }
        self.note(what);
        Ok(())
    }

    pub(super) fn part(&self, name: &str) -> Rc<Handle> {
        Rc::clone(&self.parts.borrow()[name].0)
    }

    pub(super) fn cell(&self, tenant: &str) -> Rc<Handle> {
        Rc::clone(&self.cells.borrow()[tenant].0)
    }
}

#[derive(Debug)]
pub(super) struct Double(Rc<World>);

impl Effects for Double {
    type Part = FakeProcess;
    type Cell = FakeCell;
    type Exec = FakeProcess;
    type Work = FakeProcess;

    fn spawn(&mut self, part: &Part, wire: OwnedFd) -> Result<FakeProcess, Failure> {
        self.0.attempt(format!("spawn {}", part.name()))?;
        let process = FakeProcess::new();
        let known = (Rc::clone(&process.handle), Channel::from(wire));
        self.0.parts.borrow_mut().insert(part.name(), known);
        Ok(process)
    }

    fn check_limits(&mut self, _: &TenantId, limits: &Limits) -> Result<(), Failure> {
        if limits.disk_bytes == 1 { Err(failure("smaller than it is")) } else { Ok(()) }
    }

    fn make_home(&mut self, tenant: &TenantId, slot: Slot, _: &Limits) -> Result<(), Failure> {
        self.0.attempt(format!("make {tenant} {slot}"))
    }

    fn remove_home(&mut self, tenant: &TenantId, slot: Slot) -> Result<FakeProcess, Failure> {
        self.0.attempt(format!("remove {tenant} {slot}"))?;
        let process = FakeProcess::new();
        self.0.removals.borrow_mut().push(Rc::clone(&process.handle));
        Ok(process)
    }

    fn launch(&mut self, order: &CellOrder) -> Result<Launched<FakeCell>, Failure> {
        self.0.attempt(format!("launch {} {}", order.tenant, order.generation))?;
        let process = FakeProcess::new();
        let (output, writer) = std::io::pipe().unwrap();
        self.0.cells.borrow_mut().insert(order.tenant.to_string(), (Rc::clone(&process.handle), writer));
        let cell = FakeCell { process, world: Rc::clone(&self.0) };
        let (receipt, output) = (Receipt::default(), output.into());
        Ok(Launched {
            cell,
            pid: 77,
            netns_cookie: 5,
            port: 8080,
            receipt,
            output,
            drift: self.0.drift.get(),
        })
    }

    fn exec(
        &mut self,
        _cell: &mut FakeCell,
        order: &ExecOrder,
        _stdio: [OwnedFd; 3],
    ) -> Result<FakeProcess, Failure> {
        self.0.attempt(format!("exec {}", order.argv.join(" ")))?;
        let process = FakeProcess::new();
        self.0.execs.borrow_mut().push(Rc::clone(&process.handle));
        Ok(process)
    }

    fn listen(&mut self, address: SocketAddr) -> Result<OwnedFd, Failure> {
        self.0.attempt(format!("listen {address}"))?;
        Ok(null())
    }

    fn log(&mut self, tenant: &TenantId, bytes: &[u8]) {
        self.0.note(format!("log {tenant} {}", String::from_utf8_lossy(bytes)));
    }
}

/// A whole launcher on such a machine.
pub(super) struct Host {
    pub(super) core: Core<Double>,
    pub(super) world: Rc<World>,
    never: (PipeReader, PipeWriter),
}

impl Host {
    pub(super) fn new(with_model: bool) -> Self {
        let world = Rc::new(World::default());
        let listen = "127.0.0.1:8471".parse().unwrap();
        let core = Core::start(Double(Rc::clone(&world)), listen, with_model, Instant::now()).unwrap();
        Self { core, world, never: std::io::pipe().unwrap() }
    }

    /// Lets the loop turn once, which is for when something is ready or due.
    pub(super) fn turn(&mut self) {
        assert!(!run::turn(&mut self.core, self.never.0.as_fd()).unwrap());
    }

    /// Control says this; returns all that it hears in answer.
    pub(super) fn command(&mut self, command: &Command) -> Vec<Event> {
        self.send(command, &[]);
        self.turn();
        self.events()
    }

    pub(super) fn send(&self, message: &impl serde::Serialize, descriptors: &[BorrowedFd<'_>]) {
        self.world.parts.borrow()["control"].1.send(message, descriptors).unwrap();
    }

    pub(super) fn events(&self) -> Vec<Event> {
        self.heard("control").into_iter().map(|(event, _)| event).collect()
    }

    /// All that this part has been told since it was last asked.
    pub(super) fn heard<T: serde::de::DeserializeOwned>(&self, part: &str) -> Vec<(T, Vec<OwnedFd>)> {
        let parts = self.world.parts.borrow();
        std::iter::from_fn(|| parts[part].1.try_recv::<T>().ok().flatten()).collect()
    }

    pub(super) fn start(&mut self, id: &str, number: u16) {
        let (tenant, slot) = (tenant(id), slot(number));
        let events = self.command(&Command::StartWarden { op: 1, tenant: tenant.clone(), slot });
        assert_eq!(events.last(), Some(&Event::Done { op: 1 }), "{events:?}");
        let events = self.command(&Command::StartCell(order(id, number, 1)));
        assert!(matches!(events[..], [Event::CellStarted { op: 9, .. }]), "{events:?}");
    }

    pub(super) fn did(&self, what: &str) -> usize {
        self.world.done.borrow().iter().filter(|done| *done == what).count()
    }
}

pub(in crate::launcher) fn order(id: &str, number: u16, generation: u64) -> CellOrder {
    let runtime = RuntimeRef::Command("echo".to_owned());
    CellOrder {
        op: 9,
        tenant: tenant(id),
        slot: slot(number),
        generation,
        runtime,
        limits: Limits::default(),
        authority: None,
        placeholders: vec![],
        offered: vec![],
    }
}

pub(in crate::launcher) fn tenant(id: &str) -> TenantId {
    TenantId::try_from(id).unwrap()
}

pub(in crate::launcher) fn slot(number: u16) -> Slot {
    Slot::try_from(number).unwrap()
}

pub(super) fn null() -> OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}
