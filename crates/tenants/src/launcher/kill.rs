//! The kill switch: a tenant's processes stand still, its wires are cut, and nothing of it starts again before
//! the operator says so.
//!
//! The operator has a socket of the launcher's own, so that a control that is busy, broken or gone keeps nobody
//! waiting; control hears of it and makes it durable. What cannot be frozen is killed. The threats: a tenant
//! that is to be ended and goes on; a switch that anybody else can pull.

use super::{
    core::Core,
    effects::{Cell as _, Effects, Process as _, failure},
};
use cofferdam_base::{
    TenantId,
    ipc::{
        edge::Feed as EdgeFeed,
        kill::{Answer, Fate, LONGEST_REASON, Order, Severed},
        launcher::{Event, Failure},
    },
};
use cofferdam_sys::{
    channel::{Channel, ChannelError, Listener},
    peer,
};
use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

/// So many operators may be connected; a further one takes the place of the first.
const OPERATORS: usize = 8;

/// Where the operator comes in, and who has.
#[derive(Debug)]
pub(crate) struct Door {
    listener: Listener,
    operators: VecDeque<Channel>,
}

impl Door {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { listener: Listener::bind(path)?, operators: VecDeque::new() })
    }

    /// What to wait for.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(self.listener.as_fd()).chain(self.operators.iter().map(AsFd::as_fd))
    }

    /// Lets in who has connected and may.
    fn accept(&mut self) {
        loop {
            match self.listener.accept() {
                Ok(Some(wire)) if admits(&wire) => {
                    if self.operators.len() >= OPERATORS {
                        self.operators.pop_front();
                    }
                    self.operators.push_back(wire);
                }
                Ok(Some(_)) => {
                    tracing::warn!("a connection to the kill switch was refused: not our operator");
                }
                Ok(None) => return,
                Err(error) => return tracing::warn!(%error, "the kill switch"),
            }
        }
    }

    /// The orders that have come, each with the wire that waits for its answer.
    fn orders(&mut self) -> Vec<(Channel, Order)> {
        let mut orders = Vec::new();
        for wire in std::mem::take(&mut self.operators) {
            match wire.try_recv::<Order>() {
                Ok(Some((order, none))) if none.is_empty() => orders.push((wire, order)),
                Err(ChannelError::WouldBlock) => self.operators.push_back(wire),
                // Closed, or what no operator sends.
                _ => {}
            }
        }
        orders
    }
}

/// What becomes of a tenant's warden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wardens {
    /// It is killed: nothing leaves through it.
    End,
    /// It stays: it has closed itself, and tells why.
    Stay,
}

/// Root, or without root the user that started us, and of our own user namespace.
fn admits(wire: &Channel) -> bool {
    let own = rustix::process::geteuid().as_raw();
    peer::credentials(wire).is_ok_and(|peer| peer.uid == 0 || peer.uid == own)
        && peer::in_our_user_namespace(wire).unwrap_or(false)
}

impl<E: Effects> Core<E> {
    /// Somebody is at the kill switch.
    pub(crate) fn operator_speaks(&mut self) {
        let Some(door) = &mut self.door else { return };
        door.accept();
        for (wire, Order { tenant, mut reason }) in door.orders() {
            if let Some((end, _)) = reason.char_indices().nth(LONGEST_REASON) {
                reason.truncate(end);
            }
            let runs = self.cells.keys().chain(self.wardens.keys());
            let named = runs.filter(|id| tenant.as_ref().is_none_or(|tenant| tenant == *id));
            let mut tenants: Vec<TenantId> = named.cloned().collect();
            tenants.sort();
            tenants.dedup();
            for id in &tenants {
                self.killed.insert(id.clone(), reason.clone());
            }
            let severed = self.sever(tenants, Wardens::End);
            self.control.tell(&Event::Killed { tenant, reason }, vec![]);
            // One that has gone is told nothing; control makes it durable all the same.
            let _ = wire.try_send(&Answer { severed }, &[]);
        }
    }

    /// Stops these tenants: first every cell, then every wire, and only then is anything waited for.
    pub(super) fn sever(&mut self, tenants: Vec<TenantId>, wardens: Wardens) -> Vec<Severed> {
        let mut severed = Vec::with_capacity(tenants.len());
        for tenant in tenants {
            let cell = match self.cells.get_mut(&tenant).map(|running| running.cell.freeze()) {
                None => Fate::Absent,
                Some(Ok(())) => Fate::Frozen,
                Some(Err(failure)) => Fate::Killed(failure.message),
            };
            severed.push(Severed { cell, ..self.nothing_ran(tenant) });
        }
        for row in &mut severed {
            if let Some(running) = self.cells.get_mut(&row.tenant) {
                let (tenant, generation) = (row.tenant.clone(), running.seen.generation);
                running.frozen = row.cell == Fate::Frozen;
                if !running.frozen {
                    running.cell.kill();
                }
                self.edge.tell(&EdgeFeed::CellGone { tenant, generation }, vec![]);
            }
            if let Some(warden) = self.wardens.get_mut(&row.tenant).filter(|_| wardens == Wardens::End) {
                warden.process.kill();
                // Its end was asked for.
                warden.stopping.get_or_insert_default();
                row.warden = true;
            }
            for exec in self.execs.values_mut().filter(|exec| exec.tenant == row.tenant) {
                exec.process.kill();
            }
        }
        for row in severed.iter_mut().filter(|row| row.cell == Fate::Frozen) {
            if let Some(running) = self.cells.get_mut(&row.tenant)
                && let Err(failure) = running.cell.frozen()
            {
                running.frozen = false;
                running.cell.kill();
                row.cell = Fate::Killed(failure.message);
            }
        }
        severed
    }

    /// What is told of a tenant of whom nothing ran.
    pub(super) fn nothing_ran(&self, tenant: TenantId) -> Severed {
        Severed { tenant, cell: Fate::Absent, warden: false, edge: self.edge.process().is_some() }
    }

    /// Takes it back. What stood still is killed: it is not what starts again.
    pub(super) fn resume(&mut self, tenant: &TenantId) {
        self.killed.remove(tenant);
        if let Some(running) = self.cells.get_mut(tenant).filter(|running| running.frozen) {
            running.cell.kill();
        }
    }

    /// Nothing of a killed tenant starts.
    pub(super) fn may_run(&self, tenant: &TenantId) -> Result<(), Failure> {
        if self.killed.contains_key(tenant) {
            let mend = format!("cofferdam tenant resume {tenant}");
            return Err(Failure { mend, ..failure(format!("{tenant} is killed")) });
        }
        Ok(())
    }
}
