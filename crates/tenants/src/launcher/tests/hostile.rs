//! A control that was taken over: whatever it sends, the launcher goes on, and does nothing but what its own
//! configuration says.
//!
//! The whole way from bytes on the wire to finished specifications is the product's; only the engine, which would
//! start them, is a double that notes each promise that was broken. Its processes die as slowly as real ones.

use super::{
    super::{
        core::{CELL_EXECS, Core, REMOVALS, WAITERS},
        effects::{Cell, Ended, Launched, Process, failure},
        machine::{Engine, Machine},
        plan::{Boot, CellSpec, PartSpec, native},
    },
    double::null,
};
use crate::{config::HostConfig, data::DataDir, runtime::RuntimePlan};
use cofferdam_base::{
    TenantId,
    ipc::{
        edge::Feed as EdgeFeed,
        launcher::{CellOrder, Command, Event, ExecOrder, Failure, Limits, RuntimeRef, Usage},
        receipt::Receipt,
    },
};
use cofferdam_sys::channel::Channel;
use proptest::prelude::*;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde_json::{Value, json};
use std::{
    cell::{Cell as StdCell, RefCell},
    collections::{BTreeMap, BTreeSet},
    io::IoSlice,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
    rc::Rc,
    time::{Duration, Instant},
};

const CONFIG: &str = "[edge]\nlisten = \"127.0.0.1:0\"\n\
    [runtime.command.echo]\nargv = [\"/opt/echo\"]\nenv = { A = \"1\" }\nport = 9000\n\
    binds = [{ source = \"/srv/echo\", target = \"/opt/echo\" }]\n\
    [runtime.command.other]\nargv = [\"/opt/other\", \"-x\"]\n";

/// A process that is dead only once it is buried.
#[derive(Debug, Default)]
struct Body {
    ended: StdCell<Option<Ended>>,
    dying: StdCell<bool>,
}

#[derive(Debug)]
struct Doomed(Rc<Body>, OwnedFd);

/// A cell of such.
#[derive(Debug)]
struct Hollow(Doomed, Rc<World>);

type Life = (Kind, TenantId, Option<u32>, Rc<Body>);

/// What lives, and what was done that may not be.
#[derive(Debug)]
struct World {
    boot: Boot,
    data: DataDir,
    /// Wardens and cells by uid, execs and removals without.
    lives: RefCell<Vec<Life>>,
    wires: RefCell<BTreeMap<String, (Rc<Body>, Channel)>>,
    broken: StdCell<bool>,
    forged: StdCell<bool>,
    wrong: RefCell<Vec<String>>,
    launched: StdCell<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Warden,
    Cell,
    Exec,
    Removal,
}

#[derive(Debug)]
struct Recorder(Rc<World>);

impl Doomed {
    fn new() -> Self {
        Self(Rc::default(), null())
    }
}

impl Process for Doomed {
    fn watch(&self) -> BorrowedFd<'_> {
        self.1.as_fd()
    }

    fn reap(&mut self) -> Option<Ended> {
        self.0.ended.get()
    }

    fn kill(&mut self) {
        self.0.dying.set(true);
    }
}

impl Process for Hollow {
    fn watch(&self) -> BorrowedFd<'_> {
        self.0.watch()
    }

    fn reap(&mut self) -> Option<Ended> {
        self.0.reap()
    }

    fn kill(&mut self) {
        self.0.kill();
    }
}

impl Cell for Hollow {
    fn freeze(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    fn frozen(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    fn terminate(&mut self) {}

    fn sockets(&mut self, count: u8) -> Result<Vec<OwnedFd>, Failure> {
        Ok((0..count).map(|_| null()).collect())
    }

    fn set_limits(&mut self, _: &Limits, receipt: &Receipt) -> Result<(Receipt, Vec<&'static str>), Failure> {
        self.1.attempt()?;
        Ok((receipt.clone(), Vec::new()))
    }

    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn listeners(&mut self) -> Result<Vec<OwnedFd>, Failure> {
        if self.1.forged.get() { Err(failure("forged")) } else { Ok((0..6).map(|_| null()).collect()) }
    }
}

impl World {
    fn check(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.wrong.borrow_mut().push(what());
        }
    }

    fn living(&self, kind: Kind, tenant: &TenantId) -> usize {
        let lives = self.lives.borrow();
        lives
            .iter()
            .filter(|(k, id, _, body)| *k == kind && id == tenant && body.ended.get().is_none())
            .count()
    }

    /// Of these, those that were not killed either.
    fn staying(&self, kind: Kind, tenant: &TenantId) -> usize {
        let lives = self.lives.borrow();
        let stays = |body: &Body| body.ended.get().is_none() && !body.dying.get();
        lives.iter().filter(|(k, id, _, body)| *k == kind && id == tenant && stays(body)).count()
    }

    fn born(&self, kind: Kind, tenant: &TenantId, uid: Option<u32>) -> Doomed {
        let process = Doomed::new();
        self.lives.borrow_mut().push((kind, tenant.clone(), uid, Rc::clone(&process.0)));
        process
    }

    /// No uid of one tenant lives under another's name.
    fn alone(&self, kind: Kind, tenant: &TenantId, uid: Option<u32>) {
        for (other, id, taken, body) in self.lives.borrow().iter() {
            let shared = *other == kind && id != tenant && *taken == uid && uid.is_some();
            self.check(!shared || body.ended.get().is_some(), || {
                format!("{tenant} has the uid of {id}: {uid:?}")
            });
        }
        self.check(self.living(kind, tenant) == 0, || format!("a second {kind:?} of {tenant}"));
    }

    fn attempt(&self) -> Result<(), Failure> {
        if self.broken.get() { Err(failure("broken")) } else { Ok(()) }
    }

    fn bury(&self) {
        let wires = self.wires.borrow();
        for body in self.lives.borrow().iter().map(|life| &life.3).chain(wires.values().map(|wire| &wire.0)) {
            if body.dying.get() && body.ended.get().is_none() {
                body.ended.set(Some(Ended::Signal(9)));
            }
        }
    }
}

impl Engine for Recorder {
    type Part = Doomed;
    type Cell = Hollow;
    type Exec = Doomed;
    type Work = Doomed;

    fn spawn(&mut self, part: &PartSpec, wire: OwnedFd) -> Result<Doomed, Failure> {
        let world = &self.0;
        let uids = world.boot.config.uids.base;
        // The host's own two always start, so that there is somebody to be hostile.
        let process = match &part.arguments[..] {
            [entry, tenant] if entry == "__warden" => {
                world.attempt()?;
                let tenant = TenantId::try_from(tenant.as_str()).unwrap();
                let (first, last) = uids.wardens();
                let own = part.uid.is_none_or(|uid| (first..=last).contains(&uid));
                world.check(own, || format!("a warden of uid {:?}", part.uid));
                let group = cofferdam_sandbox::group(&world.boot.instance(), &format!("_warden.{tenant}"));
                world.check(part.cgroup == group, || format!("a warden in {}", part.cgroup));
                world.alone(Kind::Warden, &tenant, part.uid);
                world.born(Kind::Warden, &tenant, part.uid)
            }
            _ => Doomed::new(),
        };
        world.check(part.uid.is_some() == world.boot.strict, || format!("a part of uid {:?}", part.uid));
        let known = (Rc::clone(&process.0), Channel::from(wire));
        world.wires.borrow_mut().insert(part.arguments[0].clone() + &part.cgroup, known);
        Ok(process)
    }

    fn launch(&mut self, order: &CellOrder, spec: &CellSpec) -> Result<Launched<Hollow>, Failure> {
        let (world, tenant) = (&self.0, &order.tenant);
        world.attempt()?;
        let (boot, uids) = (&world.boot, world.boot.config.uids.base);
        let uid = boot.strict.then(|| uids.tenant(order.slot));
        world.check(spec.uid == uid, || format!("a cell of uid {:?}, not {uid:?}", spec.uid));
        world.check(spec.uid.is_none_or(|uid| uids.contains(uid)), || format!("uid {:?}", spec.uid));
        world.check(spec.home == boot.data_dir.join(format!("tenants/{tenant}/home")), || {
            format!("{tenant} in {}", spec.home.display())
        });
        let owner = std::fs::symlink_metadata(&spec.home).unwrap().uid();
        world.check(uid.is_none_or(|uid| uid == owner), || format!("{tenant} in a home of {owner}"));
        world.check(spec.cgroup == cofferdam_sandbox::group(&boot.instance(), tenant.as_str()), || {
            format!("{tenant} in the group {}", spec.cgroup)
        });
        // Arguments, environment, binds and port are the configuration's to the letter.
        let named = match &order.runtime {
            RuntimeRef::Command(name) => RuntimePlan::of_command(&boot.config, name).ok(),
            RuntimeRef::Openclaw(_) => None,
            RuntimeRef::Native => native().ok(),
        };
        world.check(named.as_ref() == Some(&spec.runtime), || format!("runs {:?}", spec.runtime));
        world.alone(Kind::Cell, tenant, uid);
        world.check(world.staying(Kind::Warden, tenant) == 1, || format!("{tenant} starts without a warden"));
        world.check(world.living(Kind::Removal, tenant) == 0, || format!("{tenant} starts in a dying home"));
        world.launched.set(world.launched.get() + 1);
        let cell = Hollow(world.born(Kind::Cell, tenant, uid), Rc::clone(world));
        let (receipt, output) = (Receipt::default(), null());
        Ok(Launched { cell, pid: 7, netns_cookie: 5, port: spec.runtime.port, receipt, output, drift: false })
    }

    fn make_image(&mut self, image: &Path, uid: u32, _: &Limits) -> Result<(), Failure> {
        let (world, uids) = (&self.0, self.0.boot.config.uids.base);
        let home = world.boot.data_dir.join("tenants");
        let own = image.parent().and_then(Path::parent) == Some(&home) && image.ends_with("home.img");
        world.check(own, || format!("an image at {}", image.display()));
        world.check(uids.contains(uid), || format!("an image of uid {uid}"));
        world.attempt()
    }

    fn check_image(&mut self, _: &Path, _: &Limits) -> Result<(), Failure> {
        self.0.attempt()
    }

    fn exec(&mut self, _: &mut Hollow, order: &ExecOrder, _: [OwnedFd; 3]) -> Result<Doomed, Failure> {
        self.0.attempt()?;
        self.0.check(!order.argv.is_empty(), || "an empty command".to_owned());
        self.0.check(self.0.living(Kind::Cell, &order.tenant) == 1, || format!("{order:?} in no cell"));
        Ok(self.0.born(Kind::Exec, &order.tenant, None))
    }

    fn remove_home(
        &mut self,
        tenants: &Path,
        tenant: &TenantId,
        uid: Option<u32>,
    ) -> Result<Doomed, Failure> {
        let world = &self.0;
        world.attempt()?;
        world.check(tenants == world.data.tenants(), || format!("removes below {}", tenants.display()));
        let uids = world.boot.config.uids.base;
        world.check(uid.is_some() == world.boot.strict, || format!("removes as {uid:?}"));
        world.check(uid.is_none_or(|uid| uids.contains(uid)), || format!("removes as {uid:?}"));
        world.check(world.living(Kind::Cell, tenant) == 0, || format!("the home of {tenant} under its cell"));
        world.check(world.living(Kind::Removal, tenant) == 0, || format!("{tenant} removed twice at once"));
        Ok(world.born(Kind::Removal, tenant, uid))
    }
}

/// What happens to a launcher.
#[derive(Clone, Debug)]
enum Step {
    /// Control says this, with so many descriptors (none: as many as are right).
    Say(Value, Option<usize>, Twist),
    /// The edge does.
    Ask(Value, usize, Twist),
    /// Warden number so and so says something, which it never may.
    Babble(usize),
    /// A process ends by itself: the how manieth of what there is.
    End(usize, u8),
    /// What was killed is dead.
    Bury,
    /// Time passes, in milliseconds.
    Later(u64),
    /// Nothing can be started, or it can again.
    Broken(bool),
    /// No listener can be proved, or it can again.
    Forged(bool),
    /// Control does not read what it is told, or it does again.
    Deaf(bool),
}

/// What becomes of a message before it is sent.
#[derive(Clone, Debug)]
enum Twist {
    Straight,
    Extra,
    Cut(usize),
    Flip(usize, u8),
    Nested(usize),
    Twice,
    Noise(Vec<u8>),
}

impl Twist {
    fn apply(&self, message: &Value) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(message).unwrap();
        match self {
            Self::Straight => {}
            Self::Extra => {
                let mut message = message.clone();
                if let Some(Value::Object(fields)) =
                    message.as_object_mut().and_then(|all| all.values_mut().next())
                {
                    fields.insert("uid".to_owned(), json!(0));
                }
                bytes = serde_json::to_vec(&message).unwrap();
            }
            Self::Cut(at) => bytes.truncate(at % bytes.len().max(1)),
            Self::Flip(at, bits) => {
                let at = at % bytes.len().max(1);
                bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= bits);
            }
            Self::Nested(depth) => bytes = [vec![b'['; *depth], bytes, vec![b']'; *depth]].concat(),
            Self::Twice => bytes = [&bytes[..], &bytes[..]].concat(),
            Self::Noise(noise) => bytes.clone_from(noise),
        }
        bytes
    }
}

struct Rig {
    core: Core<Machine<Recorder>>,
    world: Rc<World>,
    now: Instant,
    deaf: bool,
    /// How often control sent a command of this number, and how often that was answered.
    sent: BTreeMap<u64, usize>,
    answered: BTreeMap<u64, usize>,
    named: BTreeSet<String>,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = HostConfig::parse(Path::new("c"), CONFIG).unwrap();
        let strict = rustix::process::geteuid().is_root();
        let (data_dir, cache_dir) = (dir.path().join("data"), dir.path().join("cache"));
        let boot = Boot { data_dir, cache_dir, config, strict, builtin_model: true };
        let data = DataDir::create(&boot.data_dir, boot.owners()).unwrap();
        let world = Rc::new(World {
            boot: boot.clone(),
            data: DataDir::open(&boot.data_dir, boot.owners()).unwrap(),
            lives: RefCell::default(),
            wires: RefCell::default(),
            broken: StdCell::default(),
            forged: StdCell::default(),
            wrong: RefCell::default(),
            launched: StdCell::default(),
        });
        let now = Instant::now();
        let listen = boot.config.edge.listen;
        let machine = Machine::new(boot, data, Recorder(Rc::clone(&world)));
        let core = Core::start(machine, listen, true, now).unwrap();
        let (sent, answered, named) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { core, world, now, deaf: false, sent, answered, named, _dir: dir }
    }

    /// Bytes and descriptors to the launcher as this part; what does not fit is not sent.
    fn post(&self, part: &str, bytes: &[u8], descriptors: usize) -> bool {
        let wires = self.world.wires.borrow();
        let Some((_, (_, wire))) = wires.iter().find(|(name, _)| name.starts_with(part)) else {
            return false;
        };
        let own: Vec<OwnedFd> = (0..descriptors).map(|_| null()).collect();
        let lent: Vec<BorrowedFd<'_>> = own.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(70))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(lent.is_empty() || control.push(SendAncillaryMessage::ScmRights(&lent)));
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        rustix::net::sendmsg(wire, &[IoSlice::new(bytes)], &mut control, flags).is_ok()
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Say(message, descriptors, twist) => self.say(message, *descriptors, twist),
            Step::Ask(message, descriptors, twist) => {
                self.post("__edge", &twist.apply(message), *descriptors);
            }
            Step::Babble(which) => {
                let names: Vec<String> = self.world.wires.borrow().keys().cloned().collect();
                let wardens: Vec<&String> =
                    names.iter().filter(|name| name.starts_with("__warden")).collect();
                if let Some(name) = wardens.get(which % wardens.len().max(1)) {
                    self.post(name, b"null", 0);
                }
            }
            Step::End(which, code) => {
                let lives = self.world.lives.borrow();
                let wires = self.world.wires.borrow();
                let bodies: Vec<_> =
                    lives.iter().map(|life| &life.3).chain(wires.values().map(|wire| &wire.0)).collect();
                let body = bodies[which % bodies.len()];
                if body.ended.get().is_none() {
                    // Not one of those by which control ends the host.
                    body.ended.set(Some(Ended::Exit(code % 21)));
                }
            }
            Step::Bury => self.world.bury(),
            Step::Later(wait) => self.now += Duration::from_millis(*wait),
            Step::Broken(broken) => self.world.broken.set(*broken),
            Step::Forged(forged) => self.world.forged.set(*forged),
            Step::Deaf(deaf) => self.deaf = *deaf,
        }
        self.turn();
        self.check();
    }

    fn say(&mut self, message: &Value, descriptors: Option<usize>, twist: &Twist) {
        // Somebody has to be there to speak.
        if let Some(moment) = self.core.control.restart_at {
            self.now = self.now.max(moment);
            self.core.pass(self.now);
        }
        let right = if message.get("exec").is_some() { 3 } else { 0 };
        let bytes = twist.apply(message);
        if !self.post("__control", &bytes, descriptors.unwrap_or(right)) {
            return;
        }
        if let Ok(command) = serde_json::from_slice::<Command>(&bytes) {
            let shown = serde_json::to_value(&command).unwrap();
            let fields = shown.as_object().unwrap().values().next().unwrap();
            *self.sent.entry(fields["op"].as_u64().unwrap()).or_default() += 1;
            self.named.extend(fields["tenant"].as_str().map(str::to_owned));
        }
    }

    /// As the loop does it, with this test's clock and without waiting.
    fn turn(&mut self) {
        self.core.control_speaks(self.now);
        self.core.edge_speaks();
        let wardens: Vec<TenantId> = self.core.wardens.keys().cloned().collect();
        for tenant in wardens {
            self.core.warden_speaks(&tenant);
        }
        self.core.flush();
        self.core.reap(self.now);
        self.core.pass(self.now);
        let wires = self.world.wires.borrow();
        for (name, (_, wire)) in wires.iter() {
            if name.starts_with("__edge") {
                while matches!(wire.try_recv::<EdgeFeed>(), Ok(Some(_))) {}
            } else if name.starts_with("__control") && !self.deaf {
                while let Ok(Some((event, _))) = wire.try_recv::<Event>() {
                    if let Event::Done { op }
                    | Event::Failed { op, .. }
                    | Event::Observed { op, .. }
                    | Event::CellStarted { op, .. }
                    | Event::ExecEnded { op, .. } = event
                    {
                        *self.answered.entry(op).or_default() += 1;
                    }
                }
            }
        }
    }

    fn check(&mut self) {
        let wrong = self.world.wrong.take();
        assert!(wrong.is_empty(), "{wrong:#?}");
        for (op, answers) in &self.answered {
            let sent = self.sent.get(op).copied().unwrap_or(0);
            assert!(*answers <= sent, "the number {op} was sent {sent} times and answered {answers} times");
        }
        let cells = self.core.cells.len();
        assert!(
            self.core.execs.len() <= CELL_EXECS * self.named.len().max(1),
            "{} execs",
            self.core.execs.len()
        );
        assert!(self.core.removals.len() <= REMOVALS && cells <= self.named.len());
        assert!(self.core.listeners.len() <= 1 + self.named.len());
        assert!(self.core.cells.values().all(|running| running.stopping.len() <= WAITERS));
        let waiters = |ops: &Option<Vec<u64>>| ops.as_ref().map_or(0, Vec::len);
        assert!(self.core.wardens.values().all(|warden| waiters(&warden.stopping) <= WAITERS));
        for wire in [self.core.control.wire(), self.core.edge.wire()].into_iter().flatten() {
            assert!(wire.waiting() <= 4096);
        }
    }

    /// An honest control is served as if nothing had been.
    fn converges(&mut self) {
        self.world.broken.set(false);
        self.world.forged.set(false);
        self.deaf = false;
        for _ in 0..3 {
            self.step(&Step::Bury);
            self.step(&Step::Later(11_000));
        }
        let before = self.answered.get(&u64::MAX).copied().unwrap_or(0);
        self.step(&Step::Say(json!({"observe": {"op": u64::MAX}}), None, Twist::Straight));
        assert_eq!(self.answered.get(&u64::MAX).copied().unwrap_or(0), before + 1);
    }
}

fn tenants() -> impl Strategy<Value = Value> {
    let odd = ["", "..", "../acme", "ACME", "acme/home", "-a", "a\0b"].map(|id| json!(id));
    prop_oneof![
        12 => prop::sample::select(["acme", "globex", "a"].map(|id| json!(id)).to_vec()),
        1 => prop::sample::select(odd.to_vec()),
        1 => "[a-z0-9-]{1,60}".prop_map(|id| json!(id)),
    ]
}

fn slots() -> impl Strategy<Value = Value> {
    prop_oneof![
        12 => (2_u16..5).prop_map(|slot| json!(slot)),
        1 => prop::sample::select(vec![json!(0), json!(1), json!(65_534), json!(65_536), json!(-2), json!("2")]),
    ]
}

fn ops() -> impl Strategy<Value = u64> {
    prop_oneof![12 => 1_u64..20, 1 => Just(0), 1 => any::<u64>()]
}

fn runtimes() -> impl Strategy<Value = Value> {
    prop_oneof![
        8 => Just(json!({"command": "echo"})),
        2 => Just(json!({"command": "other"})),
        1 => prop::sample::select(vec![
            json!({"command": "../echo"}),
            json!({"command": "/bin/sh"}),
            json!({"command": "x".repeat(100_000)}),
            json!({"openclaw": "sha256:".to_owned() + &"0".repeat(64)}),
            json!({"openclaw": "0".repeat(64)}),
        ]),
    ]
}

fn limits() -> impl Strategy<Value = Value> {
    let any = (any::<u64>(), any::<u32>());
    prop_oneof![
        3 => Just(json!({})),
        1 => any.prop_map(|(bytes, count)| json!({"memory_bytes": bytes, "tmp_bytes": bytes, "pids": count})),
    ]
}

fn argv() -> impl Strategy<Value = Value> {
    prop_oneof![
        6 => Just(json!(["id"])),
        1 => Just(json!([])),
        1 => Just(json!(["a\0b"])),
        1 => (1_usize..120_000).prop_map(|length| json!(["x".repeat(length)])),
        1 => (1_usize..20_000).prop_map(|count| json!(vec!["x"; count])),
    ]
}

/// A tenant with a slot: mostly its own, so that much of what is asked can be done.
fn whose() -> impl Strategy<Value = (Value, Value)> {
    let own = [("acme", 2), ("acme", 2), ("globex", 3), ("a", 4)].map(|(id, slot)| (json!(id), json!(slot)));
    prop_oneof![3 => prop::sample::select(own.to_vec()), 1 => (tenants(), slots())]
}

fn commands() -> impl Strategy<Value = Value> {
    let who = || (ops(), whose()).prop_map(|(op, (tenant, slot))| (op, tenant, slot));
    let cell = (who(), 0_u64..4, runtimes(), limits()).prop_map(
        |((op, tenant, slot), generation, runtime, limits)| {
            json!({"start_cell": {"op": op, "tenant": tenant, "slot": slot, "generation": generation,
            "runtime": runtime, "limits": limits}})
        },
    );
    let slotted = (prop::sample::select(vec!["remove_home", "start_warden"]), who())
        .prop_map(|(kind, (op, tenant, slot))| json!({kind: {"op": op, "tenant": tenant, "slot": slot}}));
    let homes = (who(), any::<u64>()).prop_map(|((op, tenant, slot), bytes)| {
        json!({"make_home": {"op": op, "tenant": tenant, "slot": slot, "limits": {"disk_bytes": bytes}}})
    });
    let limits = (ops(), tenants(), any::<u64>()).prop_map(|(op, tenant, bytes)| {
        json!({"set_limits": {"op": op, "tenant": tenant, "limits": {"memory_bytes": bytes}}})
    });
    let named = (prop::sample::select(vec!["stop_warden", "kill_cell"]), ops(), tenants())
        .prop_map(|(kind, op, tenant)| json!({kind: {"op": op, "tenant": tenant}}));
    let stop = (ops(), tenants(), prop_oneof![0_u32..50, any::<u32>()]).prop_map(
        |(op, tenant, grace)| json!({"stop_cell": {"op": op, "tenant": tenant, "grace_ms": grace}}),
    );
    let exec = (ops(), tenants(), argv(), any::<bool>()).prop_map(|(op, tenant, argv, terminal)| {
        json!({"exec": {"op": op, "tenant": tenant, "argv": argv, "terminal": terminal}})
    });
    prop_oneof![
        8 => slotted,
        4 => homes,
        2 => limits,
        6 => cell,
        4 => exec,
        2 => named,
        2 => stop,
        1 => ops().prop_map(|op| json!({"observe": {"op": op}})),
        1 => (ops(), ops()).prop_map(|(op, exec)| json!({"cancel_exec": {"op": op, "exec": exec}})),
        1 => ops().prop_map(|op| json!({"seal_runtime": {"op": op, "lock": "0".repeat(64)}})),
    ]
}

fn twists() -> impl Strategy<Value = Twist> {
    prop_oneof![
        24 => Just(Twist::Straight),
        1 => Just(Twist::Extra),
        1 => any::<usize>().prop_map(Twist::Cut),
        2 => (any::<usize>(), 1_u8..).prop_map(|(at, bits)| Twist::Flip(at, bits)),
        1 => (1_usize..60_000).prop_map(Twist::Nested),
        1 => Just(Twist::Twice),
        1 => prop::collection::vec(any::<u8>(), 0..200).prop_map(Twist::Noise),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    let descriptors = prop_oneof![20 => Just(None), 1 => (0_usize..70).prop_map(Some)];
    let ask = (
        tenants(),
        prop_oneof![4 => 1_u16..65, 1 => any::<u16>()],
        prop_oneof![9 => Just(0_usize), 1 => 1..4_usize],
        twists(),
    );
    prop_oneof![
        24 => (commands(), descriptors, twists()).prop_map(|(message, fds, twist)| Step::Say(message, fds, twist)),
        2 => ask.prop_map(|(id, count, fds, twist)| Step::Ask(json!({"tenant": id, "count": count}), fds, twist)),
        1 => any::<usize>().prop_map(Step::Babble),
        2 => (any::<usize>(), any::<u8>()).prop_map(|(which, code)| Step::End(which, code)),
        4 => Just(Step::Bury),
        2 => (0_u64..20_000).prop_map(Step::Later),
        1 => prop::bool::weighted(0.3).prop_map(Step::Broken),
        1 => prop::bool::weighted(0.3).prop_map(Step::Forged),
        1 => any::<bool>().prop_map(Step::Deaf),
    ]
}

/// Seeds of failures are kept nowhere; the failing steps are printed whole.
fn cases(count: u32) -> ProptestConfig {
    ProptestConfig {
        cases: count,
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn whatever_control_and_the_edge_say_the_launcher_keeps_to_its_own_configuration(
        all in prop::collection::vec(steps(), 1..80),
    ) {
        let mut rig = Rig::new();
        // Somewhere to begin with, so that most of it finds something.
        for message in [
            json!({"make_home": {"op": 1, "tenant": "acme", "slot": 2, "limits": {}}}),
            json!({"start_warden": {"op": 2, "tenant": "acme", "slot": 2}}),
        ] {
            rig.step(&Step::Say(message, None, Twist::Straight));
        }
        for step in &all {
            rig.step(step);
        }
        rig.converges();
    }

    #[test]
    fn whatever_is_ordered_a_cell_is_made_of_paths_uids_and_programs_of_the_configuration(
        slot in slots(), tenant in tenants(), runtime in runtimes(), limits in limits(), generation in any::<u64>(),
    ) {
        let rig = Rig::new();
        let order = json!({"op": 1, "tenant": tenant, "slot": slot, "generation": generation,
            "runtime": runtime, "limits": limits});
        let Ok(order) = serde_json::from_value::<CellOrder>(order) else { return Ok(()) };
        let (boot, data) = (&rig.world.boot, &rig.world.data);
        let uids = boot.config.uids.base;
        data.make_tenant(&order.tenant, uids.tenant(order.slot)).unwrap();
        let Ok(spec) = boot.cell(data, &order) else {
            let known = matches!(&order.runtime, RuntimeRef::Command(name) if ["echo", "other"].contains(&name.as_str()));
            prop_assert!(!known, "{order:?} is what the configuration says, and was refused");
            return Ok(());
        };
        prop_assert!(spec.uid.is_none_or(|uid| uid == uids.tenant(order.slot) && uids.contains(uid)));
        prop_assert_eq!(&spec.home, &boot.data_dir.join("tenants").join(order.tenant.as_str()).join("home"));
        prop_assert!(spec.home.starts_with(&boot.data_dir));
        let RuntimeRef::Command(name) = &order.runtime else {
            prop_assert_eq!(&order.runtime, &RuntimeRef::Native, "not installed");
            return Ok(());
        };
        prop_assert_eq!(&spec.runtime, &RuntimePlan::of_command(&boot.config, name).unwrap());
        for bind in &spec.runtime.binds {
            prop_assert_eq!(bind.source.as_path(), Path::new("/srv/echo"));
        }
        prop_assert_eq!(spec.limits, order.limits);
    }
}

#[test]
fn the_steps_do_reach_cells() {
    let mut rig = Rig::new();
    for message in [
        json!({"make_home": {"op": 1, "tenant": "acme", "slot": 2, "limits": {}}}),
        json!({"start_warden": {"op": 2, "tenant": "acme", "slot": 2}}),
        json!({"start_cell": {"op": 3, "tenant": "acme", "slot": 2, "generation": 1,
            "runtime": {"command": "echo"}, "limits": {}}}),
        json!({"exec": {"op": 4, "tenant": "acme", "argv": ["id"], "terminal": false}}),
    ] {
        rig.step(&Step::Say(message, None, Twist::Straight));
    }
    assert_eq!((rig.world.launched.get(), rig.core.execs.len()), (1, 1));
    assert_eq!(rig.answered, BTreeMap::from([(1, 1), (2, 1), (3, 1)]));
    rig.converges();
}

#[test]
fn the_double_sees_a_promise_that_is_broken() {
    let rig = Rig::new();
    let acme = TenantId::try_from("acme").unwrap();
    let uid = rig.world.boot.config.uids.base.tenant(2.try_into().unwrap());
    rig.world.data.make_tenant(&acme, uid).unwrap();
    let order = super::double::order("acme", 2, 1);
    let mut spec = rig.world.boot.cell(&rig.world.data, &order).unwrap();
    spec.cgroup = "another".to_owned();
    spec.runtime.argv.push("more".to_owned());
    Recorder(Rc::clone(&rig.world)).launch(&order, &spec).unwrap();
    let wrong = rig.world.wrong.take().join("\n");
    for word in ["in the group another", "\"more\"", "starts without a warden"] {
        assert!(wrong.contains(word), "{word}: {wrong}");
    }
}

#[test]
fn a_control_that_asks_without_end_is_refused_and_one_that_never_reads_is_ended() {
    let mut rig = Rig::new();
    let start = [
        json!({"make_home": {"op": 1, "tenant": "acme", "slot": 2, "limits": {}}}),
        json!({"start_warden": {"op": 2, "tenant": "acme", "slot": 2}}),
        json!({"start_cell": {"op": 3, "tenant": "acme", "slot": 2, "generation": 1,
            "runtime": {"command": "echo"}, "limits": {}}}),
    ];
    for message in start {
        rig.step(&Step::Say(message, None, Twist::Straight));
    }
    for op in 10..600 {
        for message in [
            json!({"exec": {"op": op, "tenant": "acme", "argv": ["id"], "terminal": false}}),
            json!({"remove_home": {"op": op, "tenant": format!("t{op}"), "slot": 9}}),
            json!({"stop_cell": {"op": op, "tenant": "acme", "grace_ms": u32::MAX}}),
            json!({"stop_warden": {"op": op, "tenant": "acme"}}),
        ] {
            rig.step(&Step::Say(message, None, Twist::Straight));
        }
    }
    assert_eq!((rig.core.execs.len(), rig.core.removals.len()), (CELL_EXECS, REMOVALS));
    rig.deaf = true;
    let long = json!({"start_cell": {"op": 7, "tenant": "globex", "slot": 3, "generation": 1,
        "runtime": {"command": "x".repeat(100_000)}, "limits": {}}});
    let warden = json!({"start_warden": {"op": 6, "tenant": "globex", "slot": 3}});
    let home = json!({"make_home": {"op": 5, "tenant": "globex", "slot": 3}});
    for message in [home, warden] {
        rig.step(&Step::Say(message, None, Twist::Straight));
    }
    let control = Rc::clone(
        &rig.world.wires.borrow().iter().find(|(name, _)| name.starts_with("__control")).unwrap().1.0,
    );
    let mut asked = 0;
    while !control.dying.get() {
        rig.step(&Step::Say(long.clone(), None, Twist::Straight));
        asked += 1;
        assert!(asked < 1000, "a hundred megabytes wait for a control that does not read");
    }
    rig.converges();
}
