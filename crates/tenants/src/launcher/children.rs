//! Starting, ending and restarting our own processes, and the wires between them.
//!
//! Control and edge are started anew whenever they end, after a wait that doubles while they keep ending;
//! cells and wardens go on meanwhile. A warden that ends is control's to decide about. A control that says
//! that no other try will help ends the host: one that is never served must not look as if it were.

use super::{
    core::{Core, Model, Running, Warden, duplicate},
    effects::{Effects, Ended, Launched, Part, Process, failure},
    wires::Wire,
};
use cofferdam_base::{
    Slot, TenantId,
    ipc::{
        edge::Feed as EdgeFeed,
        launcher::{CellOrder, CellSeen, Event, Failure},
        warden::Feed as WardenFeed,
    },
};
use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

/// The first wait before a restart.
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// The longest.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// The statuses by which control says that another try does not help: its state, its keys, the configuration
/// or its own confinement cannot be used. It has said on standard error which, and what mends it.
pub const CONTROL_GIVES_UP: std::ops::RangeInclusive<u8> = 21..=24;
/// Who lived so long starts counting anew.
const GOOD_FOR: Duration = Duration::from_secs(30);

/// A process that is to run always.
#[derive(Debug)]
pub(super) struct Child<P> {
    part: Part,
    running: Option<(P, Wire)>,
    /// It was killed for what it did; its wire is not heard any more.
    deaf: bool,
    started: Option<Instant>,
    failures: u32,
    /// When it is started anew.
    pub(super) restart_at: Option<Instant>,
}

impl<P: Process> Child<P> {
    pub(super) fn new(part: Part) -> Self {
        Self { part, running: None, deaf: false, started: None, failures: 0, restart_at: None }
    }

    /// Starts it with a new wire; a failure leaves it to be tried again.
    pub(super) fn start<E: Effects<Part = P>>(
        &mut self,
        effects: &mut E,
        now: Instant,
    ) -> Result<(), Failure> {
        let outcome = new_wire().and_then(|(wire, theirs)| Ok((effects.spawn(&self.part, theirs)?, wire)));
        self.settle(outcome, now)
    }

    /// Starts it with this descriptor as its wire; nothing is ever said on ours.
    fn start_on<E: Effects<Part = P>>(
        &mut self,
        effects: &mut E,
        theirs: OwnedFd,
        now: Instant,
    ) -> Result<(), Failure> {
        let outcome = new_wire().and_then(|(wire, _)| Ok((effects.spawn(&self.part, theirs)?, wire)));
        self.deaf = true;
        self.settle(outcome, now)
    }

    fn settle(&mut self, outcome: Result<(P, Wire), Failure>, now: Instant) -> Result<(), Failure> {
        self.restart_at = None;
        match outcome {
            Ok(running) => {
                (self.running, self.started) = (Some(running), Some(now));
                Ok(())
            }
            Err(failure) => {
                self.ended(now);
                Err(failure)
            }
        }
    }

    /// Its wire, while it is listened to.
    pub(super) fn wire(&mut self) -> Option<&mut Wire> {
        self.running.as_mut().filter(|_| !self.deaf).map(|(_, wire)| wire)
    }

    /// The process, and its wire while it is listened to.
    pub(super) fn process(&self) -> Option<(&P, Option<&Wire>)> {
        self.running.as_ref().map(|(process, wire)| (process, Some(wire).filter(|_| !self.deaf)))
    }

    /// Says something to it, if it is there. What it did not hear it is told at its next start.
    pub(super) fn tell(&mut self, message: &impl serde::Serialize, descriptors: Vec<OwnedFd>) {
        if let Some(wire) = self.wire() {
            wire.send(message, descriptors);
        }
    }

    /// Kills it for what it did.
    pub(super) fn end(&mut self, why: &str) {
        if let Some((process, _)) = &mut self.running {
            tracing::error!("{} is ended and started anew: {why}", self.part.name());
            process.kill();
            self.deaf = true;
        }
    }

    /// Has it ended, and how? Then it is to be restarted.
    pub(super) fn reap(&mut self, now: Instant) -> Option<Ended> {
        let ended = self.running.as_mut().and_then(|(process, _)| process.reap())?;
        tracing::warn!("{} ended: {ended}", self.part.name());
        if self.started.is_some_and(|started| now.saturating_duration_since(started) >= GOOD_FOR) {
            self.failures = 0;
        }
        self.ended(now);
        Some(ended)
    }

    fn ended(&mut self, now: Instant) {
        (self.running, self.deaf) = (None, false);
        let wait = FIRST_WAIT.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        self.failures = self.failures.saturating_add(1);
        self.restart_at = Some(now + wait.min(LONGEST_WAIT));
    }

    pub(super) fn kill(&mut self) {
        if let Some((process, _)) = &mut self.running {
            process.kill();
        }
    }
}

impl<E: Effects> Core<E> {
    /// The next moment at which something is due.
    pub(crate) fn wake(&self) -> Option<Instant> {
        let children = [self.control.restart_at, self.edge.restart_at];
        let model = self.model.as_ref().and_then(|model| model.child.restart_at);
        let cells = self.cells.values().filter_map(|running| running.kill_at);
        children.into_iter().flatten().chain(model).chain(cells).min()
    }

    /// Starts what is due, kills whose grace has ended.
    pub(crate) fn pass(&mut self, now: Instant) {
        let due = |moment: Option<Instant>| moment.is_some_and(|moment| moment <= now);
        if due(self.control.restart_at)
            && let Err(failure) = self.control.start(&mut self.effects, now)
        {
            tracing::error!("control: {}", failure.message);
        }
        if due(self.edge.restart_at)
            && let Err(failure) = self.start_edge(now)
        {
            tracing::error!("edge: {}", failure.message);
        }
        if self.model.as_ref().is_some_and(|model| due(model.child.restart_at))
            && let Err(failure) = self.start_model(now)
        {
            tracing::error!("the built-in model: {}", failure.message);
        }
        for running in self.cells.values_mut().filter(|running| due(running.kill_at)) {
            running.kill_at = None;
            running.cell.kill();
        }
    }

    /// Takes note of everything that has ended.
    pub(crate) fn reap(&mut self, now: Instant) {
        if let Some(ended) = self.control.reap(now) {
            self.control_gone();
            if matches!(ended, Ended::Exit(status) if CONTROL_GIVES_UP.contains(&status)) {
                self.control.restart_at = None;
                self.given_up = Some(ended);
            }
        }
        self.edge.reap(now);
        if let Some(model) = &mut self.model {
            model.child.reap(now);
        }
        // Commands before their cells, whose groups can only then be removed.
        let ended: Vec<_> =
            self.execs.iter_mut().filter_map(|(op, exec)| Some((*op, exec.process.reap()?))).collect();
        for (op, ended) in ended {
            self.execs.remove(&op);
            self.control.tell(&Event::ExecEnded { op, code: ended.code() }, vec![]);
        }
        let removed: Vec<_> =
            self.removals.iter_mut().filter_map(|(id, (_, work))| Some((id.clone(), work.reap()?))).collect();
        for (tenant, ended) in removed {
            self.removed(tenant, ended);
        }
        let tenants: Vec<TenantId> = self.wardens.keys().cloned().collect();
        for tenant in tenants {
            if self.wardens.get_mut(&tenant).is_some_and(|warden| warden.process.reap().is_some()) {
                self.warden_ended(tenant);
            }
        }
        let tenants: Vec<TenantId> = self.cells.keys().cloned().collect();
        for tenant in tenants {
            if let Some(ended) = self.cells.get_mut(&tenant).and_then(|running| running.cell.reap()) {
                self.cell_ended(&tenant, ended);
            }
        }
        // After those that are known, which would hide others.
        self.effects.sweep();
    }

    /// Kills everything. To be followed by [`Core::reap`] until [`Core::is_empty`].
    pub(crate) fn kill_all(&mut self) {
        self.execs.values_mut().for_each(|exec| exec.process.kill());
        self.removals.values_mut().for_each(|(_, work)| work.kill());
        self.cells.values_mut().for_each(|running| running.cell.kill());
        self.wardens.values_mut().for_each(|warden| warden.process.kill());
        self.control.kill();
        self.edge.kill();
        if let Some(model) = &mut self.model {
            model.child.kill();
        }
    }

    /// Is nothing left?
    pub(crate) fn is_empty(&self) -> bool {
        let ours =
            [&self.control, &self.edge].into_iter().chain(self.model.as_ref().map(|model| &model.child));
        self.execs.is_empty()
            && self.removals.is_empty()
            && self.cells.is_empty()
            && self.wardens.is_empty()
            && ours.into_iter().all(|child| child.process().is_none())
    }

    pub(super) fn start_edge(&mut self, now: Instant) -> Result<(), Failure> {
        self.edge.start(&mut self.effects, now)?;
        for (tenant, (address, listener)) in &self.listeners {
            let passed = duplicate(listener)?;
            self.edge.tell(&EdgeFeed::Listener { tenant: tenant.clone(), address: *address }, vec![passed]);
        }
        if self.observed {
            self.introduce_edge();
        }
        Ok(())
    }

    pub(super) fn make_model(&mut self, now: Instant) -> Result<(), Failure> {
        let (receiver, sender) =
            cofferdam_sys::channel::pair().map_err(|error| failure(error.to_string()))?;
        self.model = Some(Model { child: Child::new(Part::Model), receiver, sender });
        self.start_model(now)
    }

    fn start_model(&mut self, now: Instant) -> Result<(), Failure> {
        let Some(model) = &mut self.model else { return Ok(()) };
        let receiver = duplicate(&model.receiver)?;
        model.child.start_on(&mut self.effects, receiver, now)
    }

    pub(super) fn start_warden(&mut self, tenant: &TenantId, slot: Slot) -> Result<(), Failure> {
        self.check_slot(tenant, slot)?;
        self.may_run(tenant)?;
        if let Some(warden) = self.wardens.get(tenant) {
            return match warden.stopping {
                None => Ok(()),
                Some(_) => Err(failure(format!("the warden of {tenant} is being stopped"))),
            };
        }
        self.tenant_listener(tenant, slot)?;
        let part = Part::Warden(tenant.clone(), slot);
        let (wire, theirs) = new_wire()?;
        let process = self.effects.spawn(&part, theirs)?;
        self.wardens.insert(tenant.clone(), Warden { part, process, wire, deaf: false, stopping: None });
        let introduced = self.introduce_warden(tenant).and_then(|()| self.pass_model(tenant));
        if let Err(failure) = introduced {
            if let Some(mut warden) = self.wardens.remove(tenant) {
                warden.process.kill();
                // Kept until it is reaped, as one that was asked to end.
                warden.stopping = Some(Vec::new());
                self.wardens.insert(tenant.clone(), warden);
            }
            return Err(failure);
        }
        // If the cell's listeners are not ours any more the cell dies, and the warden stays.
        let _ = self.pass_listeners(tenant);
        Ok(())
    }

    /// A new wire between control and a warden.
    pub(super) fn introduce_warden(&mut self, tenant: &TenantId) -> Result<(), Failure> {
        let Some(warden) = self.wardens.get_mut(tenant) else { return Ok(()) };
        let (to_warden, to_control) = wire_pair()?;
        warden.wire.send(&WardenFeed::Control {}, vec![to_warden]);
        self.control.tell(&Event::WardenWire { tenant: tenant.clone() }, vec![to_control]);
        Ok(())
    }

    /// A new wire between control and the edge, if both are there; else the start of the one that is not
    /// leads here again.
    pub(super) fn introduce_edge(&mut self) {
        if self.edge.process().is_none() {
            return;
        }
        match wire_pair() {
            Ok((to_edge, to_control)) => {
                self.edge.tell(&EdgeFeed::Control {}, vec![to_edge]);
                self.control.tell(&Event::EdgeWire {}, vec![to_control]);
            }
            Err(failure) => self.edge.end(&failure.message),
        }
    }

    fn pass_model(&mut self, tenant: &TenantId) -> Result<(), Failure> {
        if let (Some(model), Some(warden)) = (&self.model, self.wardens.get_mut(tenant)) {
            warden.wire.send(&WardenFeed::BuiltinModel {}, vec![duplicate(&model.sender)?]);
        }
        Ok(())
    }

    pub(super) fn start_cell(&mut self, order: CellOrder) -> Result<(), Failure> {
        let tenant = order.tenant.clone();
        self.check_slot(&tenant, order.slot)?;
        self.stays(&tenant)?;
        self.may_run(&tenant)?;
        if self.wardens.get(&tenant).is_none_or(|warden| warden.deaf || warden.stopping.is_some()) {
            return Err(failure(format!(
                "the warden of {tenant} does not run, and no cell starts without it"
            )));
        }
        if let Some(running) = self.cells.get(&tenant) {
            // Another certificate of the same authority is no other cell.
            let (op, authority) = (running.order.op, running.order.authority.clone());
            if running.order == (CellOrder { op, authority, ..order.clone() }) && running.stopping.is_empty()
            {
                let (cell, receipt) = (running.seen.clone(), running.receipt.clone());
                let started = Event::CellStarted { op: order.op, cell, receipt, drift: running.drift };
                self.control.tell(&started, vec![]);
                return Ok(());
            }
            let generation = running.seen.generation;
            return Err(failure(format!("a cell of {tenant} runs already, generation {generation}")));
        }
        let Launched { cell, pid, netns_cookie, port, receipt, output, drift } =
            self.effects.launch(&order)?;
        let seen = CellSeen { tenant: tenant.clone(), generation: order.generation, pid, netns_cookie, port };
        let op = order.op;
        let (cell, output) = (cell, Some(output));
        let running = Running {
            cell,
            order,
            seen: seen.clone(),
            receipt: receipt.clone(),
            drift,
            output,
            stopping: Vec::new(),
            kill_at: None,
            frozen: false,
        };
        self.cells.insert(tenant.clone(), running);
        // On failure the cell was killed; its end follows, and the start has failed.
        self.pass_listeners(&tenant)?;
        self.control.tell(&Event::CellStarted { op, cell: seen, receipt, drift }, vec![]);
        Ok(())
    }

    /// One slot, one tenant: whatever runs under another id with this slot, or under this id with another,
    /// forbids it.
    fn check_slot(&self, tenant: &TenantId, slot: Slot) -> Result<(), Failure> {
        let wardens = self.wardens.iter().filter_map(|(id, warden)| match warden.part {
            Part::Warden(_, slot) => Some((id, slot)),
            Part::Control | Part::Edge | Part::Model => None,
        });
        let cells = self.cells.iter().map(|(id, running)| (id, running.order.slot));
        for (id, taken) in wardens.chain(cells) {
            if (id == tenant) != (taken == slot) {
                return Err(failure(format!(
                    "slot {slot} does not fit {tenant}: {id} runs with slot {taken}"
                )));
            }
        }
        Ok(())
    }

    fn warden_ended(&mut self, tenant: TenantId) {
        let Some(warden) = self.wardens.remove(&tenant) else { return };
        match warden.stopping {
            Some(ops) => ops.into_iter().for_each(|op| self.answer(op, Ok(()))),
            None => self.control.tell(&Event::WardenEnded { tenant }, vec![]),
        }
    }

    /// Control's numbers mean nothing to the next one, and the descriptors of its execs lead nowhere.
    fn control_gone(&mut self) {
        self.observed = false;
        self.execs.values_mut().for_each(|exec| exec.process.kill());
        for running in self.cells.values_mut() {
            running.stopping.clear();
        }
        for warden in self.wardens.values_mut() {
            if let Some(ops) = &mut warden.stopping {
                ops.clear();
            }
        }
    }
}

fn new_wire() -> Result<(Wire, OwnedFd), Failure> {
    Wire::new().map_err(|error| failure(format!("a wire could not be made: {error}")))
}

fn wire_pair() -> Result<(OwnedFd, OwnedFd), Failure> {
    cofferdam_sys::channel::pair().map_err(|error| failure(format!("a wire could not be made: {error}")))
}
