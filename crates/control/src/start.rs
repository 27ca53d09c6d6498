//! The start of control, after its parts are open, and its life until the launcher goes.
//!
//! Crash-only: what is wanted is read from the disk, what runs is asked of the launcher, and every tenant's
//! task closes the difference. The threat: a start over a state that cannot be read, or with a key that does
//! not open it. Both end here, before anything was changed.

use crate::{
    Error,
    api::{self, Door},
    db::Db,
    disk::Disk,
    facts::Facts,
    host::Host,
    keys::Issuer,
    launcher::Launcher,
    proofs::bar,
    tenant::Tenant,
    warden::Heard,
};
use cofferdam_base::Clock;
use cofferdam_sys::clock::SystemClock;
use cofferdam_tenants::{launcher::Boot, lifecycle::TenantState};
use cofferdam_vault::MasterKey;
use std::{
    io::Write,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

/// How often a host that lives for days looks whether a backup is due.
const BACKUP_LOOK: Duration = Duration::from_hours(1);

/// Everything that was opened while control still could.
pub struct Parts {
    /// What the configuration says.
    pub facts: Facts,
    /// The state database and the ledger.
    pub disk: Box<dyn Disk>,
    /// The master key.
    pub master: MasterKey,
    /// The issuer's key.
    pub issuer: Issuer,
    /// The wire to the launcher.
    pub launcher: OwnedFd,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("facts", &self.facts).finish_non_exhaustive()
    }
}

/// The process, to its end: `program __control DATA-DIR` with the launcher's wire at descriptor 3. `open`
/// opens the disk in `control/`, without leaving a thread behind. A start that fails says why on standard
/// error, and by its exit status of which kind the failure is.
pub fn main(open: impl FnOnce(&Path) -> Result<Box<dyn Disk>, Error>) -> ExitCode {
    let error = match prepare(open) {
        Err(error) => error,
        Ok((parts, socket)) => live(parts, &socket),
    };
    let body = error.body().error;
    let mend = if body.mend.is_empty() { String::new() } else { format!("; mend it with: {}", body.mend) };
    // A closed standard error leaves the exit status to tell.
    let _ = writeln!(std::io::stderr(), "control: {}{mend}", body.message);
    ExitCode::from(error.exit())
}

fn prepare(open: impl FnOnce(&Path) -> Result<Box<dyn Disk>, Error>) -> Result<(Parts, PathBuf), Error> {
    let boot = std::env::args().nth(2).unwrap_or_default();
    let boot: Boot = serde_json::from_str(&boot)
        .map_err(|e| Error::Usage(format!("__control is started by the launcher only: {e}")))?;
    let data = boot.data_dir.clone();
    let launcher = cofferdam_sys::process::inherited(cofferdam_base::ipc::LAUNCHER_FD)
        .ok_or_else(|| Error::LauncherGone("this is started by the launcher only".to_owned()))?;
    // Our end closes with the process and no sooner: the launcher kills whoever closes it, and would not
    // learn by which status a start has failed.
    let kept = launcher.try_clone().map_err(|e| Error::io("the launcher's wire", e))?;
    std::mem::forget(kept);
    let keys = data.join("control/keys");
    match std::fs::DirBuilder::new().mode(0o700).create(&keys) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Error::io(keys.display().to_string(), error));
        }
        _ => {}
    }
    let mut disk = open(&data.join("control"))?;
    let fresh = disk.tenants()?.is_empty();
    let master = crate::keys::configured(&boot.config.vault, &keys, fresh)?;
    let issuer = Issuer::open(&keys.join("issuer.key"))?;
    let facts = Facts::load(&boot, &issuer.public().kid)?;

    // From here on: our own directory, the socket's, and to read the logs and the cache; nothing else.
    let (own, run, logs) = (data.join("control"), data.join("run"), data.join("logs"));
    // The cache is read only to see what is installed; without one nothing is.
    let cache = Some(boot.cache_dir.as_path()).filter(|cache| cache.is_dir());
    let readable: Vec<&Path> = [logs.as_path()].into_iter().chain(cache).collect();
    cofferdam_sandbox::confine::control(&own, &[&run], &readable)
        .map_err(|e| Error::Confine(e.to_string()))?;
    Ok((Parts { facts, disk, master, issuer, launcher }, data.join("run/control.sock")))
}

fn live(parts: Parts, socket: &Path) -> Error {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime {
        Err(error) => Error::io("the runtime", error),
        Ok(runtime) => runtime.block_on(async {
            match Door::open(socket) {
                Ok(door) => run(parts, door).await,
                Err(error) => error,
            }
        }),
    }
}

/// Runs control with these parts; returns the reason of its end.
pub async fn run(parts: Parts, door: Door) -> Error {
    match begin(parts).await {
        Err(error) => error,
        Ok((host, wire)) => tokio::select! {
            served = api::serve(door, host) => match served {
                Ok(()) => Error::io("the control socket", std::io::Error::other("it ended")),
                Err(error) => error,
            },
            ended = wire => ended.unwrap_or_else(|e| Error::LauncherGone(e.to_string())),
        },
    }
}

/// Looks again and again whether the day's backup is there.
async fn keep_backups(host: Arc<Host>) {
    loop {
        tokio::time::sleep(BACKUP_LOOK).await;
        if let Err(error) = host.db.run(|disk| disk.keep_backup()).await {
            tracing::error!(%error, "no backup of the state could be made");
        }
    }
}

/// Puts the parts together, adopts what runs and starts every tenant's task. The second value ends when the
/// launcher's wire does.
pub async fn begin(parts: Parts) -> Result<(Arc<Host>, tokio::task::JoinHandle<Error>), Error> {
    let Parts { facts, mut disk, master, issuer, launcher } = parts;
    let stored = disk.tenants()?;
    // One wrong key for all: nothing is touched before every data key was seen to open.
    for tenant in &stored {
        master.unwrap(&tenant.id, &disk.wrapped_key(&tenant.id)?)?;
    }
    let told = disk.told();
    let tenants = stored.into_iter().map(|stored| {
        let heard = Heard::before(told.get(&stored.id));
        let proof = stored.proof.as_ref();
        let barred = proof.is_some_and(|proof| bar(&stored.id, proof, &facts.accepted).is_some());
        let state = TenantState { barred, ..TenantState::new(stored.desired, stored.generation) };
        let (tenant, inbox) = Tenant::new(
            (stored.id, stored.slot),
            (stored.runtime, stored.limits),
            stored.created,
            &state,
            heard,
        );
        tenant.note_proof(stored.proof);
        (tenant, state, inbox)
    });
    let tenants: Vec<_> = tenants.collect();
    // No control before us, nor our next thousand years, counted as far as this.
    let first = SystemClock.now().0.saturating_mul(1 << 12);
    let launcher = Arc::new(Launcher::new(launcher, first)?);
    let host = Host::new(facts, Db::start(disk)?, (master, issuer), Arc::clone(&launcher));
    host.open_book().await?;
    // Wires of wardens come before the answer to Observe, and find their tenants.
    for (tenant, ..) in &tenants {
        host.insert(Arc::clone(tenant));
    }
    let wire = {
        let host = Arc::clone(&host);
        tokio::spawn(async move {
            launcher.read(|event, descriptors| host.launcher_says(event, descriptors)).await
        })
    };
    host.adopt(tenants).await?;
    tokio::spawn(keep_backups(Arc::clone(&host)));
    Ok((host, wire))
}
