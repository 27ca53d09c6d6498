//! A launcher that is a thread, its wardens, and control begun over it.

use super::memory::Memory;
use crate::{
    facts::{Facts, WardenFacts},
    host::Host,
    keys::Issuer,
    start::{Parts, begin},
};
use cofferdam_base::{
    TenantId,
    ipc::{
        kill::{Fate, Severed},
        launcher::{CellSeen, Command, Event, Failure, Usage},
        receipt::Receipt,
        warden,
    },
};
use cofferdam_sys::channel::{Channel, pair};
use cofferdam_vault::MasterKey;
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::TcpListener,
    os::fd::AsFd,
    path::Path,
    sync::{Arc, mpsc},
    time::Duration,
};

pub(super) struct World {
    pub(super) host: Arc<Host>,
    pub(super) disk: Memory,
    /// What the launcher was told, after Observe.
    pub(super) commands: mpsc::Receiver<Command>,
    /// Control's side of each new warden, as the warden.
    pub(super) wardens: mpsc::Receiver<Warden>,
    pub(super) dir: tempfile::TempDir,
}

/// A warden: what it was sent is read here, what it reports is sent here.
pub(super) struct Warden(pub(super) Arc<Channel>);

impl Warden {
    /// The next command that is of interest.
    pub(super) fn next(&self) -> warden::Command {
        loop {
            let (command, descriptors) = self.0.recv::<warden::Command>().unwrap().unwrap();
            match command {
                warden::Command::DataKey {} => {
                    let [pipe] = descriptors.try_into().unwrap();
                    let mut key = Vec::new();
                    std::fs::File::from(pipe).read_to_end(&mut key).unwrap();
                    assert_eq!(key.len(), 32);
                }
                warden::Command::Configure(configuration) => {
                    let revision = configuration.revision;
                    self.report(&warden::Report::Configured { revision, error: None, authority: None });
                }
                command => return command,
            }
        }
    }

    /// Reads until the snapshot is complete.
    pub(super) fn ready(&self) {
        while self.next() != (warden::Command::Ready {}) {}
    }

    pub(super) fn report(&self, report: &warden::Report) {
        self.0.send(&[report], &[]).unwrap();
    }
}

pub(super) fn acme() -> TenantId {
    TenantId::try_from("acme").unwrap()
}

pub(super) fn globex() -> TenantId {
    TenantId::try_from("globex").unwrap()
}

/// Control over a launcher that has nothing running.
pub(super) async fn world() -> World {
    over(Memory::default(), tempfile::tempdir().unwrap()).await
}

/// Control over a disk that an earlier one left.
pub(super) async fn over(disk: Memory, dir: tempfile::TempDir) -> World {
    beside(disk, dir, vec![]).await
}

/// Likewise, where cells and wardens of these run already.
pub(super) async fn beside(disk: Memory, dir: tempfile::TempDir, running: Vec<TenantId>) -> World {
    let (ours, theirs) = pair().unwrap();
    let (command, commands) = mpsc::channel();
    let (warden, wardens) = mpsc::channel();
    std::thread::spawn(move || launcher(&Channel::from(theirs), running, &command, &warden));
    let parts = Parts {
        facts: facts(dir.path()),
        disk: Box::new(disk.clone()),
        master: crate::keys::master(&dir.path().join("master.key"), true).unwrap(),
        issuer: Issuer::open(&dir.path().join("issuer.key")).unwrap(),
        launcher: ours,
    };
    let (host, _wire) = begin(parts).await.unwrap();
    World { host, disk, commands, wardens, dir }
}

pub(super) fn facts(dir: &Path) -> Facts {
    // What answers for the first tenant, whose address is 127.18.0.2.
    let edge = TcpListener::bind("127.18.0.2:0").unwrap();
    let port = edge.local_addr().unwrap().port();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = edge.accept() {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    Facts {
        keys: dir.join("control/keys"),
        issuer: "https://test.invalid".to_owned(),
        edge: ([127, 0, 0, 1], port).into(),
        domain: None,
        profile: "strict",
        degradations: vec![],
        without: BTreeSet::new(),
        accepted: BTreeSet::from(["files.known".to_owned()]),
        commands: BTreeMap::from([("echo".to_owned(), "/bin/echo".to_owned())]),
        cache: dir.join("cache"),
        logs: dir.to_owned(),
        limits: cofferdam_base::ipc::launcher::Limits::default(),
        prices: Vec::new(),
        offered: ["models".parse().unwrap()].into(),
        wardens: WardenFacts { hold_ms: 30_000, relays: 256, holds: 32, ..WardenFacts::default() },
    }
}

pub(super) fn another_key() -> MasterKey {
    MasterKey::generate().unwrap()
}

fn launcher(
    wire: &Channel,
    running: Vec<TenantId>,
    seen: &mpsc::Sender<Command>,
    wardens: &mpsc::Sender<Warden>,
) {
    let cell = |tenant| CellSeen { tenant, generation: 1, pid: 1, netns_cookie: 1, port: 80 };
    let tell = |event: Event| wire.send(&event, &[]).unwrap();
    let mut boot = 0;
    while let Ok(Some((command, _))) = wire.recv::<Command>() {
        match command.clone() {
            Command::Observe { op } => {
                let cells = running.iter().cloned().map(cell).collect();
                tell(Event::Observed { op, cells, wardens: running.clone() });
            }
            Command::StartWarden { op, tenant, .. } => {
                let (ours, theirs) = pair().unwrap();
                let event = Event::WardenWire { tenant: tenant.clone() };
                wire.send(&event, &[theirs.as_fd()]).unwrap();
                let warden = Warden(Arc::new(ours.into()));
                boot += 1;
                warden.report(&warden::Report::Hello { tenant, boot });
                wardens.send(warden).unwrap();
                tell(Event::Done { op });
            }
            Command::StartCell(order) => {
                let cell = CellSeen { generation: order.generation, ..cell(order.tenant) };
                tell(Event::CellStarted {
                    op: order.op,
                    cell,
                    receipt: Receipt::default(),
                    drift: order.generation == 2,
                });
            }
            Command::MakeHome { op, .. }
            | Command::RemoveHome { op, .. }
            | Command::StopWarden { op, .. }
            | Command::StopCell { op, .. }
            | Command::KillCell { op, .. }
            | Command::Resume { op, .. }
            | Command::CancelExec { op, .. }
            | Command::SealRuntime { op, .. } => tell(Event::Done { op }),
            Command::Kill { op, tenant, reason: _ } | Command::Freeze { op, tenant, reason: _ } => {
                let severed = Severed { tenant, cell: Fate::Frozen, warden: true, edge: true };
                tell(Event::Severed { op, severed });
            }
            Command::SetLimits { op, limits, .. } if limits.memory_bytes == 99 << 20 => {
                let failure = Failure { message: "in use".to_owned(), mend: "ask for more".to_owned() };
                tell(Event::Failed { op, failure });
            }
            Command::SetLimits { op, .. } => tell(Event::LimitsSet {
                op,
                receipt: Some(Receipt::default()),
                later: vec!["open_files".to_owned()],
            }),
            Command::Measure { op, .. } => {
                tell(Event::Measured { op, usage: Usage { pids: Some(3), ..Usage::default() } });
            }
            Command::Exec(order) => tell(Event::ExecEnded { op: order.op, code: 0 }),
        }
        // The test may be over.
        let _ = seen.send(command);
    }
}

/// Runs what blocks beside the runtime.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work);
    tokio::time::timeout(Duration::from_mins(1), done).await.unwrap().unwrap()
}
