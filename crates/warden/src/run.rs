//! The process: confined first, then the launcher's wire, and whatever comes over it.

use crate::{
    Error,
    desk::Office,
    keys::Keys,
    listeners::Serving,
    model::{Desk, Limits, Model},
    oauth::Tokens,
    outbox::Outbox,
    tls,
};
use cofferdam_base::{
    Clock, TenantId,
    ipc::{
        LAUNCHER_FD,
        warden::{Feed, Listener},
    },
};
use cofferdam_egress::{Egress, Gate, Inspector};
use cofferdam_sys::{
    channel::{AsyncChannel, exactly},
    clock::SystemClock,
    process,
};
use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
    process::ExitCode,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::task::JoinHandle;

/// How often what expired is withdrawn and what was folded is handed on, while there is anything of the kind. One of a
/// thousand wardens that nobody asks anything sleeps.
const TICK: Duration = Duration::from_millis(250);

/// The hidden entry `__warden TENANT [EXTRA-ROOTS]`, with the wire to the launcher at its descriptor.
pub fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the warden ends");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<(), Error> {
    let tenant = std::env::args().nth(2).ok_or(Error::Start("the tenant's id is missing"))?;
    let tenant = TenantId::try_from(tenant).map_err(|_| Error::Start("the tenant's id is malformed"))?;
    let wire = process::inherited(LAUNCHER_FD).ok_or(Error::Start("its wire is missing"))?;
    let roots = tls::roots(std::env::args_os().nth(3).as_deref().map(Path::new))?;
    cofferdam_sandbox::confine::warden().map_err(|error| Error::Confine(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let office = office(tenant, Arc::new(SystemClock), roots)?;
        let egress = Arc::clone(&office.egress);
        let ticking = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(TICK);
            loop {
                ticks.tick().await;
                if !(egress.gate.tick() | egress.inspector.tick()) {
                    egress.gate.stirred().await;
                    ticks.reset();
                }
            }
        });
        let result = feed(&office, wire).await;
        ticking.abort();
        result
    })
}

/// A warden that is not configured yet.
pub(crate) fn office(
    tenant: TenantId,
    clock: Arc<dyn Clock>,
    roots: rustls::RootCertStore,
) -> Result<Office, Error> {
    let roots = Arc::new(roots);
    let inspector = Inspector::new(Arc::clone(&roots))?;
    let tls = tls::config(roots)?;
    let boot = clock.now().0;
    let outbox = Outbox::new(tenant.clone(), boot, Arc::clone(&clock));
    let gate = Gate::new(Arc::clone(&outbox) as _, Arc::clone(&clock));
    let keys = Arc::new(Keys::new(tenant.clone()));
    let model = Arc::new(Model {
        gate: Arc::clone(&gate),
        outbox: Arc::clone(&outbox),
        keys: Arc::clone(&keys),
        clock,
        tls,
        egress: OnceLock::new(),
        state: std::sync::Mutex::default(),
        books: Arc::default(),
        limits: Limits::default(),
    });
    let egress = Egress::new(gate, Arc::new(Desk(Arc::clone(&model))), inspector);
    // It was made two lines above and nobody else sets it.
    let _ = model.egress.set(Arc::downgrade(&egress));
    let tokens =
        Tokens::new(Arc::clone(&keys), Arc::clone(&outbox), Arc::clone(&model.tls), Arc::downgrade(&egress));
    let tokens = Arc::new(tokens);
    egress.set_mint(Arc::clone(&tokens) as _);
    Ok(Office { tenant, egress, outbox, keys, model, tokens })
}

/// Takes what the launcher feeds until it is gone: then there is nobody to serve.
pub(crate) async fn feed(office: &Office, wire: OwnedFd) -> Result<(), Error> {
    let wire = AsyncChannel::new(wire)?;
    let mut control: Option<JoinHandle<()>> = None;
    let mut serving = Serving::default();
    let mut newest = 0;
    let mut spare = Spare::default();
    loop {
        while !spare.fill(&wire) {
            // There are none now: what the cell closes next is taken, unless a packet comes first.
            if let Ok(ready) = tokio::time::timeout(TICK, wire.readable()).await {
                ready?;
                break;
            }
        }
        wire.readable().await?;
        spare.0.clear();
        let Some((message, descriptors)) = wire.recv::<Feed>().await? else { return Ok(()) };
        match message {
            Feed::Control {} => {
                let [socket] = exactly(descriptors)?;
                if let Some(old) = control.take() {
                    old.abort();
                    // It ends at its next await; until it has, the wire counts as its.
                    let _ = old.await;
                }
                control = Some(tokio::spawn(office.clone().serve(AsyncChannel::new(socket)?)));
            }
            Feed::Listeners { generation, netns_cookie } => {
                let descriptors = exactly(descriptors)?;
                if generation < newest {
                    tracing::warn!(generation, newest, "listeners of an older cell are not served");
                    continue;
                }
                newest = generation;
                // The old ones are closed first: they may be the same sockets.
                drop(std::mem::take(&mut serving));
                // And what was granted to an earlier cell is gone before the first connection of this one.
                office.egress.gate.begin_cell(generation);
                serving = Serving::start(&office.egress, descriptors, netns_cookie)?;
            }
            Feed::BuiltinModel {} => {
                let [socket] = exactly(descriptors)?;
                office.model.set_builtin(AsyncChannel::new(socket)?);
            }
        }
    }
}

/// Descriptors held for those that the launcher sends. A cell that opens connections until there are none
/// left would else have a packet arrive without its own, and that ends the warden.
#[derive(Default)]
struct Spare(Vec<OwnedFd>);

impl Spare {
    /// False: it is not full yet.
    fn fill(&mut self, wire: &AsyncChannel) -> bool {
        while self.0.len() < Listener::ALL.len() {
            let Ok(descriptor) = wire.as_fd().try_clone_to_owned() else { return false };
            self.0.push(descriptor);
        }
        true
    }
}

#[cfg(test)]
mod tests;
