//! The launcher's decisions: what each command, death and moment leads to. All that it does goes through
//! [`Effects`], and all that it says through its wires.
//!
//! The threat is a control or an edge that was taken over: a command can name tenants, slots and numbers,
//! and is refused wherever these do not fit what runs. A packet that no honest peer sends ends that peer;
//! a command that fails is answered and changes nothing.

use super::{
    children::Child,
    effects::{Cell as _, Effects, Ended, Part, Process, failure},
    kill::{Door, Wardens},
    wires::{Broken, Wire},
};
use cofferdam_base::{
    Slot, TenantId,
    ipc::{
        edge::{Feed as EdgeFeed, SocketRequest},
        launcher::{CellOrder, CellSeen, Command, Event, Failure, Limits, Op},
        receipt::Receipt,
        warden::Feed as WardenFeed,
    },
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

/// Everything that runs, and the wires to it.
#[derive(Debug)]
pub(crate) struct Core<E: Effects> {
    pub(super) effects: E,
    pub(super) control: Child<E::Part>,
    pub(super) edge: Child<E::Part>,
    pub(super) model: Option<Model<E::Part>>,
    pub(super) wardens: BTreeMap<TenantId, Warden<E::Part>>,
    pub(super) cells: BTreeMap<TenantId, Running<E::Cell>>,
    pub(super) execs: BTreeMap<Op, Exec<E::Exec>>,
    /// Homes that are being removed, and who asked.
    pub(super) removals: BTreeMap<TenantId, (Op, E::Work)>,
    /// The host's listeners: that for all tenants, and one for each tenant that ever started.
    pub(super) listeners: BTreeMap<Option<TenantId>, (SocketAddr, OwnedFd)>,
    /// The kill switch's own socket.
    pub(super) door: Option<Door>,
    /// Tenants of whom nothing starts, and why.
    pub(super) killed: BTreeMap<TenantId, String>,
    /// This control has asked what runs, so it is told what changes.
    pub(super) observed: bool,
    /// Where clients come in.
    pub(super) listen: SocketAddr,
    /// Control ended so that no other try helps: the host is to end.
    pub(super) given_up: Option<Ended>,
}

/// The built-in model: one process, to which every warden has a wire.
#[derive(Debug)]
pub(super) struct Model<P> {
    pub(super) child: Child<P>,
    /// What becomes the model's descriptor 3, kept so that the next model gets the same.
    pub(super) receiver: OwnedFd,
    /// What each warden gets a duplicate of.
    pub(super) sender: OwnedFd,
}

/// A warden that runs or is being killed.
#[derive(Debug)]
pub(super) struct Warden<P> {
    pub(super) part: Part,
    pub(super) process: P,
    pub(super) wire: Wire,
    /// Its wire has ended, and it was killed for that.
    pub(super) deaf: bool,
    /// Who asked for its end.
    pub(super) stopping: Option<Vec<Op>>,
}

/// A cell that runs or is being stopped.
#[derive(Debug)]
pub(super) struct Running<C> {
    pub(super) cell: C,
    pub(super) order: CellOrder,
    pub(super) seen: CellSeen,
    pub(super) receipt: Receipt,
    /// Its configuration had been changed before it started.
    pub(super) drift: bool,
    /// The reading end of its output, until it ends.
    pub(super) output: Option<OwnedFd>,
    /// Who asked for its end.
    pub(super) stopping: Vec<Op>,
    /// When the grace ends.
    pub(super) kill_at: Option<Instant>,
    /// It stands still, and what is to be stopped can only be killed.
    pub(super) frozen: bool,
}

/// A command that runs in a cell.
#[derive(Debug)]
pub(super) struct Exec<X> {
    pub(super) process: X,
    pub(super) tenant: TenantId,
}

impl<E: Effects> Core<E> {
    /// Starts control and edge. The edge gets its listener before anything else.
    pub(crate) fn start(
        effects: E,
        listen: SocketAddr,
        with_model: bool,
        now: Instant,
    ) -> Result<Self, Failure> {
        let mut core = Self {
            effects,
            control: Child::new(Part::Control),
            edge: Child::new(Part::Edge),
            model: None,
            wardens: BTreeMap::new(),
            cells: BTreeMap::new(),
            execs: BTreeMap::new(),
            removals: BTreeMap::new(),
            listeners: BTreeMap::new(),
            door: None,
            killed: BTreeMap::new(),
            observed: false,
            listen,
            given_up: None,
        };
        let listener = core.effects.listen(listen)?;
        core.listeners.insert(None, (listen, listener));
        if with_model {
            core.make_model(now)?;
        }
        core.control.start(&mut core.effects, now)?;
        core.start_edge(now)?;
        Ok(core)
    }

    /// The effects, for the loop's own use.
    pub(crate) fn effects(&mut self) -> &mut E {
        &mut self.effects
    }

    /// Reads what control sent, so much at a time that everybody else is heard too.
    pub(crate) fn control_speaks(&mut self, now: Instant) {
        for _ in 0..PACKETS {
            let Some(wire) = self.control.wire() else { return };
            match wire.receive::<Command>() {
                Ok(None) => return,
                Ok(Some((command, descriptors))) => {
                    let expected = if matches!(command, Command::Exec(_)) { 3 } else { 0 };
                    if descriptors.len() != expected || op_of(&command) == 0 {
                        return self.control.end("a packet of another shape than its message says");
                    }
                    self.command(command, descriptors, now);
                }
                Err(Broken(why)) => return self.control.end(&why),
            }
        }
    }

    /// Reads what the edge sent, likewise. While it does not take what it asked for it is not heard: what waits
    /// for it are descriptors.
    pub(crate) fn edge_speaks(&mut self) {
        for _ in 0..PACKETS {
            let Some(wire) = self.edge.wire() else { return };
            if wire.waiting() >= ANSWERS {
                return;
            }
            match wire.receive::<SocketRequest>() {
                Ok(None) => return,
                Ok(Some((request, descriptors))) => {
                    if !descriptors.is_empty() || !(1..=64).contains(&request.count) {
                        return self.edge.end("a packet of another shape than its message says");
                    }
                    self.sockets(request);
                }
                Err(Broken(why)) => return self.edge.end(&why),
            }
        }
    }

    /// A warden has nothing to say on this wire; if it does, or closed it, it is ended.
    pub(crate) fn warden_speaks(&mut self, tenant: &TenantId) {
        if let Some(warden) = self.wardens.get_mut(tenant)
            && !matches!(warden.wire.receive::<()>(), Ok(None))
        {
            warden.deaf = true;
            warden.process.kill();
        }
    }

    /// Sends what waits and now fits. A wire that fails shows it at its next reading.
    pub(crate) fn flush(&mut self) {
        let ours = [self.control.wire(), self.edge.wire()];
        let wardens = self.wardens.values_mut().map(|warden| &mut warden.wire);
        for wire in ours.into_iter().flatten().chain(wardens).filter(|wire| wire.is_waiting()) {
            wire.flush();
        }
    }

    fn command(&mut self, command: Command, descriptors: Vec<OwnedFd>, now: Instant) {
        match command {
            Command::Observe { op } => self.observe(op),
            Command::MakeHome { op, tenant, slot, limits } => {
                let done = self.stays(&tenant).and_then(|()| self.effects.make_home(&tenant, slot, &limits));
                self.answer(op, done);
            }
            Command::RemoveHome { op, tenant, slot } => {
                if let Err(failure) = self.remove_home(op, &tenant, slot) {
                    self.answer(op, Err(failure));
                }
            }
            Command::StartWarden { op, tenant, slot } => {
                let done = self.start_warden(&tenant, slot);
                self.answer(op, done);
            }
            Command::StopWarden { op, tenant } => match self.wardens.get_mut(&tenant) {
                Some(warden) => {
                    warden.process.kill();
                    if let Err(failure) = wait(warden.stopping.get_or_insert_default(), op) {
                        self.answer(op, Err(failure));
                    }
                }
                None => self.answer(op, Ok(())),
            },
            Command::StartCell(order) => {
                let op = order.op;
                if let Err(failure) = self.start_cell(order) {
                    self.answer(op, Err(failure));
                }
            }
            Command::StopCell { op, tenant, grace_ms } => match self.cells.get_mut(&tenant) {
                Some(running) => {
                    let grace_ms = if running.frozen { 0 } else { grace_ms };
                    running.cell.terminate();
                    let end = now + Duration::from_millis(grace_ms.into());
                    running.kill_at = Some(running.kill_at.map_or(end, |earlier| earlier.min(end)));
                    if let Err(failure) = wait(&mut running.stopping, op) {
                        self.answer(op, Err(failure));
                    }
                    self.pass(now);
                }
                None => self.answer(op, Ok(())),
            },
            Command::KillCell { op, tenant } => match self.cells.get_mut(&tenant) {
                Some(running) => {
                    running.cell.kill();
                    if let Err(failure) = wait(&mut running.stopping, op) {
                        self.answer(op, Err(failure));
                    }
                }
                None => self.answer(op, Ok(())),
            },
            Command::Kill { op, tenant, reason } => {
                self.killed.insert(tenant.clone(), reason);
                let severed = self.sever(vec![tenant.clone()], Wardens::End).pop();
                let severed = severed.unwrap_or_else(|| self.nothing_ran(tenant));
                self.control.tell(&Event::Severed { op, severed }, vec![]);
            }
            Command::Freeze { op, tenant, reason } => {
                self.killed.insert(tenant.clone(), reason);
                let severed = self.sever(vec![tenant.clone()], Wardens::Stay).pop();
                let severed = severed.unwrap_or_else(|| self.nothing_ran(tenant));
                self.control.tell(&Event::Severed { op, severed }, vec![]);
            }
            Command::Resume { op, tenant } => {
                self.resume(&tenant);
                self.answer(op, Ok(()));
            }
            Command::SetLimits { op, tenant, limits } => match self.set_limits(&tenant, limits) {
                Ok(Some((receipt, later))) => {
                    let later = later.into_iter().map(str::to_owned).collect();
                    self.control.tell(&Event::LimitsSet { op, receipt: Some(receipt), later }, vec![]);
                }
                Ok(None) => {
                    self.control.tell(&Event::LimitsSet { op, receipt: None, later: vec![] }, vec![]);
                }
                Err(failure) => self.answer(op, Err(failure)),
            },
            Command::Measure { op, tenant } => match self.cells.get(&tenant) {
                Some(running) => {
                    let usage = running.cell.usage();
                    self.control.tell(&Event::Measured { op, usage }, vec![]);
                }
                None => self.answer(op, Err(no_cell(&tenant))),
            },
            Command::Exec(order) => {
                let op = order.op;
                if let Err(failure) = self.exec(&order, descriptors) {
                    self.answer(op, Err(failure));
                }
            }
            Command::CancelExec { op: _, exec } => {
                // If it has ended, its answer is on its way already.
                if let Some(exec) = self.execs.get_mut(&exec) {
                    exec.process.kill();
                }
            }
            Command::SealRuntime { op, lock } => {
                let done = Err(Failure {
                    message: format!("the runtime with lock {lock} is not sealed by a host that runs"),
                    mend: "cofferdam runtime install".to_owned(),
                });
                self.answer(op, done);
            }
        }
    }

    fn remove_home(&mut self, op: Op, tenant: &TenantId, slot: Slot) -> Result<(), Failure> {
        self.stays(tenant)?;
        if self.cells.contains_key(tenant) {
            return Err(failure(format!(
                "the cell of {tenant} runs, and its home cannot be removed under it"
            )));
        }
        if self.removals.len() >= REMOVALS {
            return Err(failure(format!("{REMOVALS} homes are being removed already")));
        }
        let work = self.effects.remove_home(tenant, slot)?;
        self.removals.insert(tenant.clone(), (op, work));
        Ok(())
    }

    /// The order that started the cell changes with it: asked for again, it is the same cell.
    fn set_limits(
        &mut self,
        tenant: &TenantId,
        limits: Limits,
    ) -> Result<Option<(Receipt, Vec<&'static str>)>, Failure> {
        self.stays(tenant)?;
        self.effects.check_limits(tenant, &limits)?;
        let Some(running) = self.cells.get_mut(tenant) else { return Ok(None) };
        let (receipt, later) = running.cell.set_limits(&limits, &running.receipt)?;
        running.receipt.clone_from(&receipt);
        running.order.limits = limits;
        Ok(Some((receipt, later)))
    }

    /// A home that is being removed is nobody's to use.
    pub(super) fn stays(&self, tenant: &TenantId) -> Result<(), Failure> {
        if self.removals.contains_key(tenant) {
            return Err(failure(format!("the home of {tenant} is being removed")));
        }
        Ok(())
    }

    /// A home is gone, or not.
    pub(super) fn removed(&mut self, tenant: TenantId, ended: Ended) {
        let Some((op, _)) = self.removals.remove(&tenant) else { return };
        let done = match ended {
            Ended::Exit(0) => Ok(()),
            Ended::Exit(errno) => {
                let error = std::io::Error::from_raw_os_error(errno.into());
                Err(failure(format!("the home of {tenant} could not be removed: {error}")))
            }
            Ended::Signal(_) => {
                Err(failure(format!("the removal of the home of {tenant} was ended: {ended}")))
            }
        };
        if done.is_ok() {
            self.killed.remove(&tenant);
        }
        if done.is_ok() && self.listeners.remove(&Some(tenant.clone())).is_some() {
            self.edge.tell(&EdgeFeed::ListenerGone { tenant }, vec![]);
        }
        self.answer(op, done);
    }

    fn observe(&mut self, op: Op) {
        self.observed = true;
        let wardens: Vec<TenantId> = self.wardens.keys().cloned().collect();
        for tenant in &wardens {
            // One that cannot be introduced is ended, and control hears of that.
            if self.introduce_warden(tenant).is_err()
                && let Some(warden) = self.wardens.get_mut(tenant)
            {
                warden.process.kill();
            }
        }
        self.introduce_edge();
        for (tenant, reason) in &self.killed {
            let killed = Event::Killed { tenant: Some(tenant.clone()), reason: reason.clone() };
            self.control.tell(&killed, vec![]);
        }
        let cells = self.cells.values().map(|running| running.seen.clone()).collect();
        self.control.tell(&Event::Observed { op, cells, wardens }, vec![]);
    }

    fn exec(
        &mut self,
        order: &cofferdam_base::ipc::launcher::ExecOrder,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        let wrong = |_| failure("an exec takes three descriptors");
        let stdio: [OwnedFd; 3] = descriptors.try_into().map_err(wrong)?;
        if self.execs.contains_key(&order.op) {
            return Err(failure(format!("the number {} is in use", order.op)));
        }
        self.may_run(&order.tenant)?;
        if order.argv.is_empty() || order.argv.iter().any(|argument| argument.contains('\0')) {
            return Err(failure("the argument vector is empty or has a NUL byte"));
        }
        let tenant = &order.tenant;
        if self.execs.values().filter(|exec| exec.tenant == *tenant).count() >= CELL_EXECS {
            return Err(failure(format!("{CELL_EXECS} commands run in the cell of {tenant} already")));
        }
        let running = self.cells.get_mut(tenant).ok_or_else(|| no_cell(tenant))?;
        let process = self.effects.exec(&mut running.cell, order, stdio)?;
        self.execs.insert(order.op, Exec { process, tenant: order.tenant.clone() });
        Ok(())
    }

    fn sockets(&mut self, request: SocketRequest) {
        let SocketRequest { tenant, count } = request;
        let cell = self.cells.get_mut(&tenant).filter(|_| !self.killed.contains_key(&tenant));
        let made = cell.and_then(|running| {
            let seen = &running.seen;
            let sockets = running.cell.sockets(count).inspect_err(|failure| {
                tracing::warn!(%tenant, "no sockets in its cell: {}", failure.message);
            });
            Some((seen.generation, seen.netns_cookie, seen.port, sockets.ok()?))
        });
        match made {
            Some((generation, netns_cookie, port, sockets)) => {
                // Our copies are closed once they are sent.
                self.edge.tell(&EdgeFeed::Sockets { tenant, generation, netns_cookie, port }, sockets);
            }
            None => self.edge.tell(&EdgeFeed::NoCell { tenant }, vec![]),
        }
    }

    /// Opens the tenant's own address at its first start, and keeps it until it is deleted.
    pub(super) fn tenant_listener(&mut self, tenant: &TenantId, slot: Slot) -> Result<(), Failure> {
        let key = Some(tenant.clone());
        if self.listeners.contains_key(&key) {
            return Ok(());
        }
        let address = SocketAddr::new(IpAddr::V4(slot.loopback_address()), self.listen.port());
        let listener = self.effects.listen(address)?;
        let passed = duplicate(&listener)?;
        self.listeners.insert(key, (address, listener));
        self.edge.tell(&EdgeFeed::Listener { tenant: Some(tenant.clone()), address }, vec![passed]);
        Ok(())
    }

    /// Gives a warden the listeners of its tenant's cell. If they cannot be proved ours the cell dies.
    pub(super) fn pass_listeners(&mut self, tenant: &TenantId) -> Result<(), Failure> {
        let (Some(warden), Some(running)) = (self.wardens.get_mut(tenant), self.cells.get_mut(tenant)) else {
            return Ok(());
        };
        match running.cell.listeners() {
            Ok(listeners) => {
                let CellSeen { generation, netns_cookie, .. } = running.seen;
                warden.wire.send(&WardenFeed::Listeners { generation, netns_cookie }, listeners);
                Ok(())
            }
            Err(failure) => {
                tracing::error!(%tenant, "its listeners are not proved, so its cell is killed: {}", failure.message);
                running.cell.kill();
                Err(failure)
            }
        }
    }

    pub(super) fn answer(&mut self, op: Op, outcome: Result<(), Failure>) {
        let event = match outcome {
            Ok(()) => Event::Done { op },
            Err(failure) => Event::Failed { op, failure },
        };
        self.control.tell(&event, vec![]);
    }

    /// A cell is gone: tells edge and control, and answers who asked for it.
    pub(super) fn cell_ended(&mut self, tenant: &TenantId, ended: Ended) {
        let Some(running) = self.cells.remove(tenant) else { return };
        let generation = running.seen.generation;
        self.edge.tell(&EdgeFeed::CellGone { tenant: tenant.clone(), generation }, vec![]);
        self.control.tell(
            &Event::CellEnded { tenant: tenant.clone(), generation, status: ended.to_string() },
            vec![],
        );
        for op in running.stopping {
            self.answer(op, Ok(()));
        }
        for exec in self.execs.values_mut().filter(|exec| exec.tenant == *tenant) {
            exec.process.kill();
        }
    }
}

/// Packets that one peer is heard at a time.
const PACKETS: usize = 32;
/// Answers that may wait for the edge before it is heard again.
pub(super) const ANSWERS: usize = 8;

/// So many wait for the end of one cell or warden, and no more.
pub(super) const WAITERS: usize = 64;
/// Commands that run in one cell at a time: each is a process of the host's.
pub(super) const CELL_EXECS: usize = 128;
/// Homes that are removed at a time, each by a process.
pub(super) const REMOVALS: usize = 64;

/// One more waits for an end.
fn wait(waiting: &mut Vec<Op>, op: Op) -> Result<(), Failure> {
    if waiting.len() >= WAITERS {
        return Err(failure(format!("{WAITERS} wait for this end already")));
    }
    waiting.push(op);
    Ok(())
}

pub(super) fn no_cell(tenant: &TenantId) -> Failure {
    Failure {
        message: format!("{tenant} has no running cell"),
        mend: format!("cofferdam tenant start {tenant}"),
    }
}

pub(super) fn duplicate(descriptor: &OwnedFd) -> Result<OwnedFd, Failure> {
    descriptor.try_clone().map_err(|error| failure(format!("a descriptor could not be duplicated: {error}")))
}

fn op_of(command: &Command) -> Op {
    match command {
        Command::Observe { op }
        | Command::MakeHome { op, .. }
        | Command::RemoveHome { op, .. }
        | Command::StartWarden { op, .. }
        | Command::StopWarden { op, .. }
        | Command::StopCell { op, .. }
        | Command::KillCell { op, .. }
        | Command::Kill { op, .. }
        | Command::Freeze { op, .. }
        | Command::Resume { op, .. }
        | Command::SetLimits { op, .. }
        | Command::Measure { op, .. }
        | Command::CancelExec { op, .. }
        | Command::SealRuntime { op, .. } => *op,
        Command::StartCell(order) => order.op,
        Command::Exec(order) => order.op,
    }
}
