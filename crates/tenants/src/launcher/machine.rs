//! This machine, as the launcher acts on it: files and listeners here, processes and cells by an engine.
//!
//! An engine gets finished specifications and starts them; it never sees a command. What is inside a home
//! is the tenant's, so only the engine touches it, as that tenant's uid.

use super::{
    effects::{Cell, Effects, Launched, Part, Process, failure},
    logs::Log,
    plan::{Boot, CellSpec, PartSpec, refused},
};
use crate::{
    data::{DataDir, Owners},
    openclaw,
};
use cofferdam_base::{
    Digest, Slot, TenantId,
    ipc::{
        launcher::{CellOrder, ExecOrder, Failure, Limits, RuntimeRef},
        receipt::{LayerRow, LayerState},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{SocketAddr, TcpListener},
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

/// Connections that wait to be accepted by the edge.
const BACKLOG: i32 = 1024;
/// So long after our start what an earlier launcher left may still be dying.
const DYING: Duration = Duration::from_secs(3);

/// What makes processes and cells.
pub trait Engine {
    /// Control, edge, model or warden.
    type Part: Process;
    /// A cell.
    type Cell: Cell;
    /// A command in a cell.
    type Exec: Process;
    /// Work on files that takes its time; exit 0, or the errno.
    type Work: Process;

    /// Starts this program with these arguments, as that uid, with `wire` as descriptor 3 and no other
    /// descriptor but a log; it dies with us.
    fn spawn(&mut self, part: &PartSpec, wire: OwnedFd) -> Result<Self::Part, Failure>;
    /// Makes a cell, seals it and starts its runtime.
    fn launch(&mut self, order: &CellOrder, spec: &CellSpec) -> Result<Launched<Self::Cell>, Failure>;
    /// Runs a command in a cell under its seal.
    fn exec(
        &mut self,
        cell: &mut Self::Cell,
        order: &ExecOrder,
        stdio: [OwnedFd; 3],
    ) -> Result<Self::Exec, Failure>;
    /// Makes the image of a home with a quota, unless this machine can have none.
    fn make_image(&mut self, image: &Path, uid: u32, limits: &Limits) -> Result<(), Failure>;
    /// Could a home that is this image be held to these limits?
    fn check_image(&mut self, image: &Path, limits: &Limits) -> Result<(), Failure>;
    /// Begins to remove `<tenants>/<tenant>`, which holds nothing but the home, as its owner; none without root.
    /// One that is not there is no failure.
    fn remove_home(
        &mut self,
        tenants: &Path,
        tenant: &TenantId,
        uid: Option<u32>,
    ) -> Result<Self::Work, Failure>;
    /// See [`Effects::children`].
    fn children(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    /// See [`Effects::sweep`].
    fn sweep(&mut self) {}
}

/// One host's files and listeners, and its engine.
#[derive(Debug)]
pub struct Machine<G> {
    boot: Boot,
    data: DataDir,
    engine: G,
    logs: BTreeMap<TenantId, Log>,
    /// The installed runtimes that were proved since this launcher's start.
    proved: BTreeSet<Digest>,
    started: Instant,
}

impl<G: Engine> Machine<G> {
    /// A machine that has been swept of what an earlier launcher left.
    pub fn new(boot: Boot, data: DataDir, engine: G) -> Self {
        Self { boot, data, engine, logs: BTreeMap::new(), proved: BTreeSet::new(), started: Instant::now() }
    }

    /// Before the first cell of a runtime starts, every byte of it is compared with its seal. Afterwards only
    /// who owns it could have changed it.
    fn prove(&mut self, runtime: &RuntimeRef) -> Result<(), Failure> {
        if let RuntimeRef::Openclaw(lock) = runtime
            && !self.proved.contains(lock)
        {
            let installed = openclaw::install::verify(&self.boot.cache_dir, *lock).map_err(refused)?;
            tracing::info!("openclaw@{} is what was sealed: {}", installed.version, installed.tree);
            self.proved.insert(*lock);
        }
        Ok(())
    }

    fn tenant_uid(&self, slot: Slot) -> Option<u32> {
        self.boot.strict.then(|| self.boot.config.uids.base.tenant(slot))
    }
}

impl<G: Engine> Effects for Machine<G> {
    type Part = G::Part;
    type Cell = G::Cell;
    type Exec = G::Exec;
    type Work = G::Work;

    fn spawn(&mut self, part: &Part, wire: OwnedFd) -> Result<G::Part, Failure> {
        self.engine.spawn(&self.boot.part(part)?, wire)
    }

    fn make_home(&mut self, tenant: &TenantId, slot: Slot, limits: &Limits) -> Result<(), Failure> {
        let uid = self.boot.config.uids.base.tenant(slot);
        self.data.prepare_tenant(tenant).map_err(|error| failure(error.to_string()))?;
        // One that is there is as it is: older than quotas, or made where none could be.
        if self.boot.strict && !self.data.home(tenant).exists() {
            self.engine.make_image(&self.data.home_image(tenant), uid, limits)?;
        }
        self.data.make_tenant(tenant, uid).map_err(|error| failure(error.to_string()))
    }

    fn check_limits(&mut self, tenant: &TenantId, limits: &Limits) -> Result<(), Failure> {
        let image = self.data.home_image(tenant);
        if image.exists() { self.engine.check_image(&image, limits) } else { Ok(()) }
    }

    fn remove_home(&mut self, tenant: &TenantId, slot: Slot) -> Result<G::Work, Failure> {
        self.logs.remove(tenant);
        // An engine that is told the wrong uid can remove nothing: the home is another's.
        self.data.forget_tenant(tenant).map_err(|error| failure(error.to_string()))?;
        self.engine.remove_home(&self.data.tenants(), tenant, self.tenant_uid(slot))
    }

    fn launch(&mut self, order: &CellOrder) -> Result<Launched<G::Cell>, Failure> {
        self.prove(&order.runtime)?;
        let spec = self.boot.cell(&self.data, order)?;
        let mut launched = self.engine.launch(order, &spec)?;
        for left in &self.boot.config.without {
            for row in launched.receipt.layers.iter_mut().filter(|row| row.layer == left.layer) {
                row.detail = format!("cofferdam.toml: {}; {}", left.reason, row.detail);
            }
        }
        // Strict does not come so far without it: see `guard`.
        launched.receipt.layers.push(LayerRow {
            layer: "uid firewall".to_owned(),
            state: if self.boot.strict { LayerState::Enforced } else { LayerState::Absent },
            detail: if self.boot.strict { "by the warden's uid, nftables" } else { "needs root" }.to_owned(),
        });
        Ok(Launched { drift: spec.drift, ..launched })
    }

    fn exec(
        &mut self,
        cell: &mut G::Cell,
        order: &ExecOrder,
        stdio: [OwnedFd; 3],
    ) -> Result<G::Exec, Failure> {
        self.engine.exec(cell, order, stdio)
    }

    fn listen(&mut self, address: SocketAddr) -> Result<OwnedFd, Failure> {
        let open = || {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            rustix::net::listen(&listener, BACKLOG)?;
            std::io::Result::Ok(listener)
        };
        let mut opened = open();
        // The edge of a launcher that was killed dies with it, but not in the same moment. Nothing tells of
        // its end: it is no child of ours.
        while opened.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
            && self.started.elapsed() < DYING
        {
            std::thread::sleep(Duration::from_millis(10));
            opened = open();
        }
        opened.map(OwnedFd::from).map_err(|error| Failure {
            message: format!("the edge cannot listen on {address}: {error}"),
            mend: "end what listens there, or set another [edge] listen in cofferdam.toml".to_owned(),
        })
    }

    fn children(&self) -> Option<BorrowedFd<'_>> {
        self.engine.children()
    }

    fn sweep(&mut self) {
        self.engine.sweep();
    }

    fn log(&mut self, tenant: &TenantId, bytes: &[u8]) {
        let now = Instant::now();
        let group = match self.boot.owners() {
            Owners::Apart(uids) => uids.control(),
            Owners::OneUser => rustix::process::getegid().as_raw(),
        };
        let data = &self.data;
        let log = self.logs.entry(tenant.clone()).or_insert_with(|| Log::new(&data.log(tenant), group, now));
        log.take(bytes, now);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tests::double::{FakeCell, FakeProcess, order, slot, tenant};
    use super::*;
    use crate::config::HostConfig;

    /// An engine that only knows how to remove a directory.
    #[derive(Debug, Default)]
    struct Broom(Vec<Option<u32>>);

    impl Engine for Broom {
        type Part = FakeProcess;
        type Cell = FakeCell;
        type Exec = FakeProcess;
        type Work = FakeProcess;

        fn spawn(&mut self, part: &PartSpec, _: OwnedFd) -> Result<FakeProcess, Failure> {
            Err(failure(part.arguments.join(" ")))
        }

        fn launch(&mut self, _: &CellOrder, _: &CellSpec) -> Result<Launched<FakeCell>, Failure> {
            Err(failure("no cells"))
        }

        fn exec(&mut self, _: &mut FakeCell, _: &ExecOrder, _: [OwnedFd; 3]) -> Result<FakeProcess, Failure> {
            Err(failure("no cells"))
        }

        fn make_image(&mut self, image: &Path, uid: u32, _: &Limits) -> Result<(), Failure> {
            assert_eq!((uid, image.with_file_name("home").exists()), (1_500_131_074, false));
            std::fs::write(image, "").map_err(|error| failure(error.to_string()))
        }

        fn check_image(&mut self, _: &Path, _: &Limits) -> Result<(), Failure> {
            Err(failure("too small"))
        }

        fn remove_home(
            &mut self,
            tenants: &Path,
            tenant: &TenantId,
            uid: Option<u32>,
        ) -> Result<FakeProcess, Failure> {
            self.0.push(uid);
            assert!(!tenants.join(tenant.as_str()).join("config").exists());
            // The second time it is gone already.
            let _ = std::fs::remove_dir_all(tenants.join(tenant.as_str()));
            Ok(FakeProcess::new())
        }
    }

    fn machine(dir: &Path) -> Machine<Broom> {
        let boot = Boot {
            data_dir: dir.to_owned(),
            cache_dir: dir.to_owned(),
            config: HostConfig::default(),
            strict: rustix::process::geteuid().is_root(),
            builtin_model: false,
        };
        let data = DataDir::create(dir, boot.owners()).unwrap();
        Machine::new(boot, data, Broom::default())
    }

    #[test]
    fn a_home_is_made_and_removed_by_the_engine_as_its_owner_with_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let mut machine = machine(&dir.path().join("data"));
        let (acme, slot) = (tenant("acme"), slot(2));
        machine.make_home(&acme, slot, &Limits::default()).unwrap();
        machine.make_home(&acme, slot, &Limits::default()).unwrap();
        let limited = machine.check_limits(&acme, &Limits::default());
        assert_eq!(limited.is_err(), machine.boot.strict, "a home with an image is asked, another is not");
        assert_eq!(machine.data.home_image(&acme).exists(), machine.boot.strict);
        std::fs::write(machine.data.home(&acme).join("file"), "x").unwrap();
        machine.log(&acme, b"hello");
        assert_eq!(std::fs::read(machine.data.log(&acme)).unwrap(), b"hello");
        machine.remove_home(&acme, slot).unwrap();
        machine.remove_home(&acme, slot).unwrap();
        assert!(!machine.data.tenant(&acme).exists() && !machine.data.log(&acme).exists());
        assert_eq!(machine.engine.0[0], machine.boot.strict.then_some(1_500_131_074));
    }

    /// A runtime in a cache, sealed.
    fn installed(cache: &Path, lock: Digest) -> std::path::PathBuf {
        let tree = openclaw::install::tree_path(cache, lock);
        std::fs::create_dir_all(&tree).unwrap();
        std::fs::write(tree.join("file"), "content").unwrap();
        let installed = openclaw::install::Installed {
            version: openclaw::PINNED.to_owned(),
            lock,
            tree: openclaw::tree::digest(&tree).unwrap(),
        };
        let seal = serde_json::to_string(&installed).unwrap();
        std::fs::write(tree.with_file_name("sealed.json"), seal).unwrap();
        tree
    }

    #[test]
    fn a_runtime_is_proved_before_its_first_cell_and_one_flipped_byte_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (good, bad, moved) = ([1; 32], [2; 32], [3; 32]);
        let [good, bad, moved] = [good, bad, moved].map(Digest::from_bytes);
        let mut machine = machine(&dir.path().join("data"));
        installed(&machine.boot.cache_dir, good);
        let tree = installed(&machine.boot.cache_dir, bad);
        let (acme, slot) = (tenant("acme"), slot(2));
        machine.make_home(&acme, slot, &Limits::default()).unwrap();
        let mut start = |lock| {
            let order = order("acme", 2, 1);
            let failed = machine.launch(&CellOrder { runtime: RuntimeRef::Openclaw(lock), ..order });
            failed.unwrap_err()
        };
        // The engine of this test has no cells: it was asked, so the proof was given.
        assert_eq!(start(good).message, "no cells");
        std::fs::write(tree.join("file"), "Content").unwrap();
        let refused = start(bad);
        assert!(refused.message.contains("not what was sealed"), "{refused:?}");
        assert_eq!(refused.mend, "cofferdam runtime install openclaw");
        std::fs::write(tree.join("file"), "content").unwrap();
        assert_eq!(start(bad).message, "no cells");

        let home = tree.parent().unwrap();
        std::fs::rename(home, home.with_file_name(moved.to_string())).unwrap();
        let refused = start(moved);
        assert!(refused.message.contains("its seal is that of"), "{refused:?}");
    }

    #[test]
    fn a_home_that_is_there_already_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let mut machine = machine(&dir.path().join("data"));
        let (acme, slot) = (tenant("acme"), slot(2));
        machine.data.make_tenant(&acme, 1_500_131_074).unwrap();
        machine.make_home(&acme, slot, &Limits::default()).unwrap();
        assert!(!machine.data.home_image(&acme).exists());
    }

    #[test]
    fn an_address_in_use_is_a_failure_with_its_mend() {
        let dir = tempfile::tempdir().unwrap();
        let mut machine = machine(&dir.path().join("data"));
        machine.started -= DYING;
        let first = TcpListener::from(machine.listen("127.0.0.1:0".parse().unwrap()).unwrap());
        let refused = machine.listen(first.local_addr().unwrap()).unwrap_err();
        assert!(refused.mend.contains("[edge] listen"), "{refused:?}");
    }

    #[test]
    fn an_address_whose_last_holder_is_dying_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut machine = machine(&dir.path().join("data"));
        let dying = machine.listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = TcpListener::from(dying.try_clone().unwrap()).local_addr().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // Dying takes its time.
                std::thread::sleep(Duration::from_millis(50));
                drop(dying);
            });
            machine.listen(address).unwrap();
        });
    }
}
