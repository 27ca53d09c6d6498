//! What the launcher tells unasked: new wires, and what ended by itself.
//!
//! Called by the task that reads the launcher's wire, in the wire's order; so it only posts and spawns.

use crate::{host::Host, tenant::Tenant, warden::Link};
use cofferdam_base::ipc::launcher::Event;
use cofferdam_sys::channel::exactly;
use cofferdam_tenants::lifecycle::Event as Happened;
use std::{os::fd::OwnedFd, sync::Arc};

impl Host {
    /// Takes one event. What does not fit is logged and its descriptors closed.
    pub fn launcher_says(self: &Arc<Self>, event: Event, descriptors: Vec<OwnedFd>) {
        match event {
            Event::WardenWire { tenant } => {
                let (Ok(tenant), Ok([wire])) = (self.tenant(&tenant), exactly::<1>(descriptors)) else {
                    return tracing::warn!(%tenant, "a wire of a warden that no tenant owns");
                };
                match Link::new(wire) {
                    Ok(link) => self.listen_to(tenant, Arc::new(link)),
                    Err(error) => tracing::error!(%error, "a warden's wire cannot be used"),
                }
            }
            Event::EdgeWire {} => match exactly::<1>(descriptors) {
                Ok([wire]) => {
                    let host = Arc::clone(self);
                    tokio::spawn(async move { host.edge().attach(&host, wire).await });
                }
                Err(error) => tracing::error!(%error, "the edge's wire did not come with its event"),
            },
            Event::CellEnded { tenant, generation, status } => {
                if let Ok(tenant) = self.tenant(&tenant) {
                    tenant.post(Happened::CellEnded { generation, status });
                }
            }
            Event::WardenEnded { tenant } => {
                if let Ok(tenant) = self.tenant(&tenant) {
                    tenant.post(Happened::WardenEnded);
                }
            }
            Event::Killed { tenant, reason } => self.killed_already(tenant, reason),
            // An answer to somebody who does not wait any more: a request that was dropped half-way.
            Event::Done { .. }
            | Event::Failed { .. }
            | Event::Observed { .. }
            | Event::CellStarted { .. }
            | Event::LimitsSet { .. }
            | Event::Measured { .. }
            | Event::Severed { .. }
            | Event::ExecEnded { .. } => tracing::debug!(?event, "an answer that nobody awaits"),
        }
    }

    fn listen_to(self: &Arc<Self>, tenant: Arc<Tenant>, link: Arc<Link>) {
        tenant.seat.put(Arc::clone(&link));
        let host = Arc::clone(self);
        tokio::spawn(async move {
            let in_turn = tenant.reading.lock().await;
            link.read(&host, &tenant).await;
            drop(in_turn);
            if tenant.seat.clear(&link) {
                host.holds_ended(&tenant.id).await;
                tenant.post(Happened::WardenLost);
            }
        });
    }
}
