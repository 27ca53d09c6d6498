//! Who holds what: every process of a host, read from outside and held against one table.
//!
//! A descriptor, a group, a capability or a process more than the table has fails the test, and so does one less.
//! The kernel shows no Landlock domain in `/proc`. What shows it instead: of a cell the receipt, and that a command
//! cannot signal a runtime of its own uid; of control, edge and wardens the number of their filters, because
//! `sandbox::confine` installs those after the domain is in force and ends the process if it is not.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod held;
mod host;
mod world;

use cofferdam_sys::netns;
use held::{Credentials, Object, Seen};
use host::{Host, PROGRAM, ROOTLESS, fresh_dir, instance, until};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    ops::{Range, RangeInclusive},
    os::fd::AsFd,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};
use world::World;

/// One kind of process. `T` is the tenant's id.
struct Row {
    who: &'static str,
    parent: &'static str,
    user: User,
    sets: Sets,
    /// Filters besides those of whoever started the host.
    filters: u32,
    /// Nobody but the kernel may read or trace it.
    hidden: bool,
    /// In namespaces of its cell; else in the host's.
    inside: bool,
    /// Its cgroups, after `cofferdam.<instance>.`; where they are empty, those of whoever started the host.
    group: &'static str,
    /// Every descriptor that is open, by what it is of, and how many such things (or, of anonymous ones, how many
    /// descriptors).
    holds: &'static [(&'static str, RangeInclusive<usize>)],
}

/// Whose all four uids and gids are. Without root everything is the one user's.
#[derive(Clone, Copy)]
enum User {
    /// Whoever started the host, with its groups.
    Starter,
    /// This number after the first of the host's range, no groups.
    Number(u32),
    /// This number and the tenant's slot after it, no groups.
    Tenant(u32),
}

/// The five sets of capabilities.
#[derive(Clone, Copy, PartialEq)]
enum Sets {
    /// As of whoever started the host.
    Starter,
    /// None. Without root the bounding set, which is a limit, cannot be emptied by one of our own processes.
    Service,
    /// None.
    Cell,
}

const ONE: RangeInclusive<usize> = 1..=1;
/// An async runtime's; one for each thread of the edge's.
const RUNTIME: (&str, RangeInclusive<usize>) = ("eventpoll", 2..=2);
const WAKER: (&str, RangeInclusive<usize>) = ("eventfd", 1..=1);
/// The pair by which an async runtime hears signals.
const SIGNALS: (&str, RangeInclusive<usize>) = ("unix to itself", 2..=2);
const NULL: (&str, RangeInclusive<usize>) = ("/dev/null", ONE);
/// The host's standard output and error.
const LOG: (&str, RangeInclusive<usize>) = ("log", 2..=2);

const TABLE: &[Row] = &[
    // The one that is privileged and knows all others: by pidfds, wires, and listeners to hand on.
    Row {
        who: "launcher",
        parent: "",
        user: User::Starter,
        sets: Sets::Starter,
        filters: 1,
        hidden: false,
        inside: false,
        group: "",
        holds: &[
            NULL,
            LOG,
            // What ends the host, and what tells of its children.
            ("signalfd", 2..=2),
            ("data:lock", ONE),
            ("pidfd of control", ONE),
            ("pidfd of edge", ONE),
            ("pidfd of warden T", ONE),
            ("pidfd of init T", 2..=2),
            ("pidfd of command acme", ONE),
            ("unix to control", ONE),
            ("unix to edge", ONE),
            ("unix to warden T", ONE),
            ("unix to nursery", ONE),
            // The kill switch.
            ("unix listening", ONE),
            ("unix to init T", ONE),
            ("pipe of init T+launcher+runtime T", ONE),
            // That for all tenants, and one for each.
            ("tcp listening of host", 3..=3),
            ("tcp listening of T", 4..=4),
            ("udp of T", 2..=2),
            // nftables of the cell, whose closing would make the launcher wait.
            ("netlink of T", ONE),
        ],
    },
    // The only one with the state, the ledger and the keys.
    Row {
        who: "control",
        parent: "launcher",
        user: User::Number(0),
        sets: Sets::Service,
        filters: 4,
        hidden: true,
        inside: false,
        group: "_control",
        holds: &[
            NULL,
            LOG,
            RUNTIME,
            WAKER,
            SIGNALS,
            ("unix to launcher", ONE),
            ("unix to edge", ONE),
            ("unix to warden T", ONE),
            ("unix listening", ONE),
            // The operator's program that waits for the command, and the command's descriptors.
            ("unix of the operator to outside", ONE),
            ("pipe of command acme+control", 2..=3),
            ("data:control/state.db", ONE),
            ("data:control/state.db-wal", ONE),
            ("data:control/state.db-shm", ONE),
            ("data:control/ledger/lock", ONE),
            ("data:control/ledger/00000001.log", ONE),
        ],
    },
    // No file but the log; sockets of cells only to dial.
    Row {
        who: "edge",
        parent: "launcher",
        user: User::Number(1),
        sets: Sets::Service,
        filters: 4,
        hidden: true,
        inside: false,
        group: "_edge",
        holds: &[
            NULL,
            LOG,
            ("eventpoll", 2..=512),
            ("eventfd", 1..=256),
            SIGNALS,
            ("unix to launcher", ONE),
            ("unix to control", ONE),
            ("tcp listening of host", 3..=3),
            ("tcp of T", 1..=64),
        ],
    },
    // The listeners of its own cell, and no socket of another's.
    Row {
        who: "warden T",
        parent: "launcher",
        user: User::Tenant(0x1_0000),
        sets: Sets::Service,
        filters: 4,
        hidden: true,
        inside: false,
        group: "_warden.T",
        holds: &[
            NULL,
            LOG,
            RUNTIME,
            WAKER,
            SIGNALS,
            ("unix to launcher", ONE),
            ("unix to control", ONE),
            ("tcp listening of T", 4..=4),
            ("udp of T", 2..=2),
        ],
    },
    // As privileged as the launcher, because what it clones is to build a cell; it hears nobody else.
    Row {
        who: "nursery",
        parent: "launcher",
        user: User::Starter,
        sets: Sets::Starter,
        filters: 1,
        hidden: false,
        inside: false,
        group: "",
        holds: if ROOTLESS {
            &[NULL, ("log", ONE), ("unix to launcher", ONE)]
        } else {
            &[
                NULL,
                ("log", ONE),
                ("unix to launcher", ONE),
                // The way home, and the next cell's network, which is nobody's yet.
                ("network of the launcher", ONE),
                ("network of nobody", ONE),
                ("tcp listening of a foreign network", 4..=4),
                ("udp of a foreign network", 2..=2),
                ("netlink of a foreign network", ONE),
            ]
        },
    },
    // Its wire was made by the launcher, and is the one descriptor that leads out.
    Row {
        who: "init T",
        parent: "launcher",
        user: User::Tenant(0x2_0000),
        sets: Sets::Cell,
        filters: 2,
        hidden: true,
        inside: true,
        group: "T",
        holds: &[
            NULL,
            ("pipe of init T+launcher+runtime T", ONE),
            ("unix to launcher", ONE),
            ("signalfd", ONE),
        ],
    },
    // Given descriptors 0, 1 and 2; the rest this very program opened itself, inside.
    Row {
        who: "runtime T",
        parent: "init T",
        user: User::Tenant(0x2_0000),
        sets: Sets::Cell,
        filters: 4,
        hidden: false,
        inside: true,
        group: "T",
        holds: &[
            NULL,
            ("pipe of init T+launcher+runtime T", ONE),
            RUNTIME,
            WAKER,
            ("unix of T to itself", 2..=2),
            ("tcp listening of T", ONE),
        ],
    },
    // 0, 1 and 2. Nobody holds the other end of the first: the operator's input has ended.
    Row {
        who: "command acme",
        parent: "launcher",
        user: User::Tenant(0x2_0000),
        sets: Sets::Cell,
        filters: 4,
        hidden: false,
        inside: true,
        group: "acme",
        holds: &[("pipe of command acme", 0..=1), ("pipe of command acme+control", 2..=3)],
    },
];

/// The one process more of a `demo`.
const MODEL: Row = Row {
    who: "model",
    parent: "launcher",
    user: User::Number(2),
    sets: Sets::Service,
    filters: 4,
    hidden: true,
    inside: false,
    group: "_model",
    // What it gets its connections from, which every warden may give it, and which the launcher keeps for the next.
    holds: &[NULL, LOG, RUNTIME, WAKER, SIGNALS, ("unix to launcher+warden acme+warden globex", ONE)],
};

/// What the others hold besides where there is a model.
const WITH_MODEL: &[(&str, &str, RangeInclusive<usize>)] = &[
    ("launcher", "pidfd of model", ONE),
    // Both ends of the model's wire, and its own to it, on which nothing is said.
    ("launcher", "unix to launcher+model", ONE),
    ("launcher", "unix to launcher+warden acme+warden globex", ONE),
    ("launcher", "unix to nobody", ONE),
    // The kill switch, and the lease of the uids.
    ("launcher", "unix listening", 2..=2),
    ("warden T", "unix to launcher+model", ONE),
];

const TENANTS: [&str; 2] = ["acme", "globex"];
/// Of cells; `time` is the host's for all.
const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "user", "uts"];

/// All that was seen of a host at one time.
struct Sight {
    processes: BTreeMap<i32, Seen>,
    roles: BTreeMap<i32, String>,
    peers: BTreeMap<u64, Option<u64>>,
    /// The network namespaces: cookies and names.
    networks: BTreeMap<u64, String>,
    /// The inode of the world's.
    network: u64,
}

/// Which host is looked at.
struct Subject<'a> {
    world: &'a World,
    launcher: i32,
    dir: PathBuf,
    log: PathBuf,
    uids: Range<u32>,
    /// With the built-in model.
    demo: bool,
}

/// One look at a host with two tenants, one of which runs a command.
struct Judge<'a> {
    host: &'a Subject<'a>,
    sight: Sight,
    starter: Credentials,
}

impl<'a> Subject<'a> {
    fn of(host: &'a Host) -> Self {
        let (launcher, uids) = (host.launcher(), host.uids());
        Self { world: &host.world, launcher, dir: host.dir.clone(), log: host.log_path(), uids, demo: false }
    }
}

impl Sight {
    fn of(host: &Subject<'_>) -> Self {
        let parents = held::parents();
        let mut processes: BTreeMap<i32, Seen> = BTreeMap::new();
        for pid in parents.keys().copied() {
            let line = std::iter::successors(Some(pid), |pid| parents.get(pid).copied());
            let seen = || held::process(pid);
            let ours = line.take(64).any(|above| above == host.launcher);
            let within = |seen: &Seen| seen.threads.iter().any(|thread| host.uids.contains(&thread.uids[0]));
            if let Some(seen) = seen().filter(|seen| ours || within(seen)) {
                processes.insert(pid, seen);
            }
        }
        let mut sight = Self {
            roles: roles(host, &processes),
            processes,
            peers: host.world.host(held::peers),
            networks: BTreeMap::new(),
            network: host.world.host(|| inode("/proc/thread-self/ns/net")),
        };
        sight.networks.insert(host.world.host(|| netns::current_cookie().unwrap()), "host".to_owned());
        // The command line runs where the tests do, and an accepted socket is where its client is.
        sight.networks.insert(netns::current_cookie().unwrap(), "the operator".to_owned());
        sight.peers.extend(held::peers());
        for tenant in TENANTS {
            // One that is gone by now is missing from the table, too.
            let Some(init) = sight.pid(&format!("init {tenant}")) else { continue };
            let Ok(network) = File::open(format!("/proc/{init}/ns/net")) else { continue };
            let (cookie, peers) =
                netns::inside(network.as_fd(), || (netns::current_cookie().unwrap(), held::peers())).unwrap();
            sight.networks.insert(cookie, tenant.to_owned());
            sight.peers.extend(peers);
        }
        sight
    }

    fn pid(&self, role: &str) -> Option<i32> {
        self.roles.iter().find(|(_, found)| *found == role).map(|(pid, _)| *pid)
    }

    fn role(&self, pid: i32) -> String {
        self.roles.get(&pid).cloned().unwrap_or_else(|| "somebody unknown".to_owned())
    }

    /// Who holds what fits.
    fn holders(&self, fits: impl Fn(&Object) -> bool) -> String {
        let holding =
            self.processes.values().filter(|seen| seen.descriptors.iter().any(|one| fits(&one.object)));
        let names: BTreeSet<String> = holding.map(|seen| self.role(seen.pid)).collect();
        names.into_iter().collect::<Vec<_>>().join("+")
    }

    /// A descriptor's object in the table's words, and which one it is.
    fn name(&self, host: &Subject<'_>, seen: &Seen, number: i32, object: &Object) -> (String, u64) {
        let of = |cookie| self.networks.get(&cookie).map_or("a foreign network", String::as_str);
        let each = u64::from(number.unsigned_abs());
        match object {
            Object::File(path) if *path == host.log => ("log".to_owned(), each),
            Object::File(path) if path.to_string_lossy().starts_with("net:[") => {
                let whose =
                    |pid: i32| fs::read_link(format!("/proc/{pid}/ns/net")).ok().as_ref() == Some(path);
                let inits = self.roles.iter().filter(|(_, role)| role.starts_with("init "));
                let role = std::iter::once((host.launcher, "the launcher".to_owned()))
                    .chain(inits.map(|(pid, role)| (*pid, role.clone())))
                    .find_map(|(pid, role)| whose(pid).then_some(role));
                (format!("network of {}", role.unwrap_or_else(|| "nobody".to_owned())), each)
            }
            Object::File(path) => match path.strip_prefix(&host.dir) {
                Ok(path) => (format!("data:{}", path.display()), each),
                Err(_) => (path.display().to_string(), each),
            },
            Object::Anonymous(kind) => (kind.clone(), each),
            Object::Pidfd(pid) => (format!("pidfd of {}", self.role(*pid)), each),
            Object::Pipe(inode) => {
                (format!("pipe of {}", self.holders(|object| object == &Object::Pipe(*inode))), *inode)
            }
            Object::Socket(socket) if socket.family == "unix" => {
                let place = match of(socket.netns) {
                    "host" => String::new(),
                    other => format!(" of {other}"),
                };
                let end =
                    if socket.listening { "listening".to_owned() } else { self.peer(seen, socket.inode) };
                (format!("unix{place} {end}"), socket.inode)
            }
            Object::Socket(socket) => {
                let listening = if socket.listening { " listening" } else { "" };
                (format!("{}{listening} of {}", socket.family, of(socket.netns)), socket.inode)
            }
        }
    }

    fn peer(&self, seen: &Seen, inode: u64) -> String {
        let Some(peer) = self.peers.get(&inode).copied().flatten() else { return "to nobody".to_owned() };
        let is = |object: &Object| matches!(object, Object::Socket(socket) if socket.inode == peer);
        match self.holders(is).as_str() {
            "" => "to outside".to_owned(),
            name if name == self.role(seen.pid) => "to itself".to_owned(),
            name => format!("to {name}"),
        }
    }
}

fn inode(path: &str) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).unwrap().ino()
}

/// Who is who: by their entry and parent, and in cells by the name that the cell has.
fn roles(host: &Subject<'_>, processes: &BTreeMap<i32, Seen>) -> BTreeMap<i32, String> {
    let launcher = host.launcher;
    let pid_namespace = |pid: i32| processes.get(&pid).and_then(|seen| seen.namespaces.get("pid"));
    let role = |seen: &Seen| {
        if seen.zombie {
            return None;
        }
        if seen.pid == launcher {
            return Some("launcher".to_owned());
        }
        let child = seen.parent == launcher;
        if pid_namespace(seen.pid) == pid_namespace(launcher) {
            let entry = seen.argv.get(1).filter(|_| child)?;
            return match entry.as_str() {
                "__control" | "__edge" | "__nursery" | "__model" => {
                    Some(entry.trim_start_matches('_').to_owned())
                }
                "__warden" => Some(format!("warden {}", seen.argv.get(2)?)),
                _ => None,
            };
        }
        let tenant = seen.hostname.as_deref()?;
        let first =
            |pid: i32| processes.get(&pid).is_some_and(|seen| seen.inner == 1 && seen.parent == launcher);
        match (child, seen.inner) {
            (true, 1) => Some(format!("init {tenant}")),
            (true, _) => Some(format!("command {tenant}")),
            (false, _) if first(seen.parent) && pid_namespace(seen.pid) == pid_namespace(seen.parent) => {
                Some(format!("runtime {tenant}"))
            }
            _ => None,
        }
    };
    processes.values().filter_map(|seen| Some((seen.pid, role(seen)?))).collect()
}

impl<'a> Judge<'a> {
    fn new(host: &'a Subject<'a>) -> Self {
        Self { host, sight: Sight::of(host), starter: held::own() }
    }

    /// What is not as the table says. Empty is good.
    fn judge(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for seen in self.sight.processes.values() {
            if !self.sight.roles.contains_key(&seen.pid) {
                let zombie = if seen.zombie { ", a zombie" } else { "" };
                wrong.push(format!("nobody knows the process {}{zombie}: {:?}", seen.pid, seen.argv));
            }
        }
        for (row, tenant) in rows(self.host.demo) {
            let who = row.who.replace('T', tenant);
            let found: Vec<&Seen> = (self.sight.roles.iter())
                .filter(|(_, role)| **role == who)
                .filter_map(|(pid, _)| self.sight.processes.get(pid))
                .collect();
            match found[..] {
                [seen] => wrong.extend(self.compare(row, tenant, seen)),
                _ => wrong.push(format!("{who}: there are {}", found.len())),
            }
        }
        wrong.extend(self.shared());
        wrong
    }

    /// One process against one row.
    fn compare(&self, row: &Row, tenant: &str, seen: &Seen) -> Vec<String> {
        let who = row.who.replace('T', tenant);
        let mut wrong = Vec::new();
        let mut check = |what: &str, found: String, expected: String| {
            if found != expected {
                wrong.push(format!("{who}: {what} {found}, not {expected}"));
            }
        };
        if !row.parent.is_empty() {
            check("parent", self.sight.role(seen.parent), row.parent.replace('T', tenant));
        }
        let credentials = self.credentials(row, tenant);
        for thread in &seen.threads {
            check("credentials", format!("{thread:?}"), format!("{credentials:?}"));
        }
        let owner = if row.hidden { 0 } else { credentials.uids[0] };
        check("the owner in /proc", seen.owner.to_string(), owner.to_string());
        check(
            "namespaces",
            self.places(seen),
            if row.inside { "its cell's" } else { "the host's" }.to_owned(),
        );
        check("cgroups", format!("{:?}", seen.cgroups), format!("{:?}", self.groups(row, tenant, seen)));
        wrong.extend(self.descriptors(row, tenant, seen));
        wrong
    }

    fn credentials(&self, row: &Row, tenant: &str) -> Credentials {
        let base = self.host.uids.start;
        let launcher = if ROOTLESS { base } else { self.starter.uids[0] };
        let id = match row.user {
            User::Number(number) if !ROOTLESS => base + number,
            User::Tenant(number) if !ROOTLESS => base + number + slot(tenant),
            _ => launcher,
        };
        let groups = if ROOTLESS || !matches!(row.user, User::Starter) {
            Vec::new()
        } else {
            self.starter.groups.clone()
        };
        let [.., bounding, _] = self.starter.capabilities;
        let capabilities = match row.sets {
            Sets::Starter if !ROOTLESS => self.starter.capabilities,
            Sets::Starter | Sets::Service if ROOTLESS => [0, 0, 0, bounding, 0],
            _ => [0; 5],
        };
        Credentials {
            uids: vec![id; 4],
            gids: vec![id; 4],
            groups,
            capabilities,
            no_new_privs: true,
            seccomp: 2,
            filters: self.starter.filters + row.filters,
        }
    }

    /// Where it is: each namespace the launcher's, or each of a cell's another.
    fn places(&self, seen: &Seen) -> String {
        let launcher = &self.sight.processes[&self.host.launcher].namespaces;
        let own = seen.namespaces.iter().filter(|(name, inode)| launcher.get(*name) != Some(inode));
        let own: Vec<&str> = own.map(|(name, _)| name.as_str()).collect();
        match &own[..] {
            [] => "the host's".to_owned(),
            own if *own == NAMESPACES => "its cell's".to_owned(),
            own => format!("{own:?} of its own"),
        }
    }

    /// Groups of its own for all that is limited; elsewhere those of the launcher, or its own too.
    fn groups(&self, row: &Row, tenant: &str, seen: &Seen) -> BTreeMap<String, String> {
        let mut groups = self.sight.processes[&self.host.launcher].cgroups.clone();
        // Without root none were handed to the host, and the receipts of the cells say so.
        if row.group.is_empty() || ROOTLESS {
            return groups;
        }
        let name = format!("cofferdam.{}.{}", instance(&self.host.dir), row.group.replace('T', tenant));
        for (controllers, path) in &mut groups {
            let above = path.trim_end_matches("/cofferdam.launcher").trim_end_matches('/');
            let own = format!("{above}/{name}");
            let limited = |name| ["", "memory", "pids", "cpu"].contains(&name);
            if controllers.split(',').any(limited) || seen.cgroups.get(controllers) == Some(&own) {
                *path = own;
            }
        }
        groups
    }

    fn descriptors(&self, row: &Row, tenant: &str, seen: &Seen) -> Vec<String> {
        let mut found: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
        for one in &seen.descriptors {
            let (name, which) = self.sight.name(self.host, seen, one.number, &one.object);
            found.entry(name).or_default().insert(which);
        }
        let who = row.who.replace('T', tenant);
        let mut wrong = Vec::new();
        // Whoever is one for all tenants has what is a tenant's for each.
        let each = if tenant.is_empty() { TENANTS.to_vec() } else { vec![tenant] };
        let more = WITH_MODEL.iter().filter(|(who, ..)| self.host.demo && *who == row.who);
        let expected: BTreeMap<String, RangeInclusive<usize>> = (row.holds.iter().cloned())
            .chain(more.map(|(_, kind, count)| (*kind, count.clone())))
            .flat_map(|(kind, count)| each.iter().map(move |tenant| (with(kind, tenant), count.clone())))
            .collect();
        for (kind, count) in &expected {
            let number = found.remove(kind).map_or(0, |which| which.len());
            if !count.contains(&number) {
                wrong.push(format!("{who}: holds {number} of {kind:?}, not {count:?}"));
            }
        }
        wrong.extend(
            found.into_iter().map(|(kind, which)| format!("{who}: holds {kind:?}, {} of it", which.len())),
        );
        wrong
    }

    /// All of a cell are in the same namespaces, and two cells share none.
    fn shared(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut owners: BTreeMap<(&str, u64), BTreeSet<&str>> = BTreeMap::new();
        for (pid, role) in &self.sight.roles {
            let Some((_, tenant)) = role.split_once(' ').filter(|(kind, _)| *kind != "warden") else {
                continue;
            };
            for name in NAMESPACES {
                let inode = self.sight.processes[pid].namespaces.get(name).copied().unwrap_or(0);
                owners.entry((name, inode)).or_default().insert(tenant);
            }
        }
        for ((name, _), tenants) in &owners {
            if tenants.len() != 1 {
                wrong.push(format!("{tenants:?} share a namespace: {name}"));
            }
        }
        if owners.len() != NAMESPACES.len() * TENANTS.len() {
            wrong.push(format!("one cell is in more than one namespace of a kind: {owners:?}"));
        }
        let launcher = &self.sight.processes[&self.host.launcher].namespaces;
        for (name, inode) in launcher {
            // The tests are in the host's namespaces but for the network, which is the world's.
            let own = if name == "net" {
                self.sight.network
            } else {
                self::inode(&format!("/proc/thread-self/ns/{name}"))
            };
            if own != *inode {
                wrong.push(format!("launcher: in another namespace than who started it: {name}"));
            }
        }
        wrong
    }
}

/// The table, each row for each tenant that it is about.
fn rows(demo: bool) -> Vec<(&'static Row, &'static str)> {
    let each = |row: &'static Row| match row.who.split_once(' ') {
        Some((_, "T")) => TENANTS.map(|tenant| (row, tenant)).to_vec(),
        Some((_, tenant)) => vec![(row, tenant)],
        None => vec![(row, "")],
    };
    TABLE.iter().chain(demo.then_some(&MODEL)).flat_map(each).collect()
}

fn row(who: &str) -> &'static Row {
    TABLE.iter().find(|row| row.who == who).unwrap()
}

/// `T` as a word of its own.
fn with(kind: &str, tenant: &str) -> String {
    let word = |word: &str| if word == "T" { tenant.to_owned() } else { word.to_owned() };
    let pluses = |part: &str| part.split('+').map(word).collect::<Vec<_>>().join("+");
    kind.split(' ').map(pluses).collect::<Vec<_>>().join(" ")
}

fn slot(tenant: &str) -> u32 {
    2 + u32::try_from(TENANTS.iter().position(|id| *id == tenant).unwrap()).unwrap()
}

/// Judges until so many things are wrong: what is just being done takes a moment.
fn settled(host: &Subject<'_>, count: usize) -> Vec<String> {
    let mut wrong = Vec::new();
    for _ in 0..200 {
        let judge = Judge::new(host);
        // One that closes something while it is read is not read.
        if judge.sight.processes.contains_key(&host.launcher) {
            wrong = judge.judge();
            if wrong.len() == count {
                break;
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    wrong
}

/// A host whose starter left a descriptor open, which nobody has, and had a child.
fn host() -> Host {
    let mut host = Host::prepare("");
    host.prelude = Some("sleep 7777 & exec 9</etc/hostname");
    host.serve();
    host
}

/// A child that the launcher had before it became one.
struct Stray(i32);

impl Stray {
    fn find(host: &Host) -> Self {
        let child = |(pid, parent): (i32, i32)| (parent == host.launcher()).then_some(pid);
        let sleeps = |pid: &i32| {
            held::process(*pid).is_some_and(|seen| seen.argv.get(1).is_some_and(|word| word == "7777"))
        };
        Self(held::parents().into_iter().filter_map(child).find(sleeps).unwrap())
    }
}

impl Drop for Stray {
    fn drop(&mut self) {
        // Its number is nobody else's: it is no zombie before this.
        kill_process(Pid::from_raw(self.0).unwrap(), Signal::KILL).unwrap();
    }
}

#[test]
fn every_process_of_a_host_holds_what_the_table_says_and_nothing_else() {
    let host = host();
    let stray = Stray::find(&host);
    for id in TENANTS {
        host.create(id);
    }
    let command = host.begin("acme", &["sleep", "600"]);
    let subject = Subject::of(&host);

    // The child that the launcher had before it became one is in no row: the first positive control.
    let wrong = settled(&subject, 1);
    assert!(matches!(&wrong[..], [one] if one.contains("7777")), "{wrong:#?}");
    drop(stray);
    // Nobody waits for it, so the launcher does; its zombie would be in no row either.
    assert_eq!(settled(&subject, 0), Vec::<String>::new());

    let judge = Judge::new(&subject);
    let seen = |who: &str| &judge.sight.processes[&judge.sight.pid(who).unwrap()];
    // The same reader and the same judge find what is another's.
    let wrong = judge.compare(row("warden T"), "globex", seen("warden acme")).join("\n");
    for word in ["\"tcp listening of acme\", 4 of it", "0 of \"tcp listening of globex\""] {
        assert!(wrong.contains(word), "{word}: {wrong}");
    }
    assert_eq!(wrong.contains("globex: credentials"), !ROOTLESS, "{wrong}");
    assert_eq!(wrong.contains("globex: cgroups"), !ROOTLESS, "{wrong}");
    let wrong = judge.compare(row("runtime T"), "acme", seen("edge")).join("\n");
    for word in ["parent", "credentials", "owner", "namespaces", "holds"] {
        assert!(wrong.contains(word), "{word}: {wrong}");
    }
    end(command);

    // A nursery that was killed is reaped at once, and there again with the next cell.
    kill_process(Pid::from_raw(judge.sight.pid("nursery").unwrap()).unwrap(), Signal::KILL).unwrap();
    let command = host.begin("acme", &["sleep", "600"]);
    let without = ["launcher: holds 0 of \"unix to nursery\", not 1..=1", "nursery: there are 0"];
    assert_eq!(settled(&subject, without.len()), without);
    host.json(&["tenant", "restart", "globex"]);
    host.ready("globex");
    assert_eq!(settled(&subject, 0), Vec::<String>::new());
    end(command);

    // What a command opens itself is found, too.
    let command = host.begin("acme", &["sh", "-c", "exec 9</etc/passwd; exec sleep 600"]);
    until("its own descriptor, and nothing else", || {
        let judge = Judge::new(&subject);
        let seen = &judge.sight.processes[&judge.sight.pid("command acme")?];
        let wrong = judge.compare(row("command acme"), "acme", seen);
        (wrong == ["command acme: holds \"/etc/passwd\", 1 of it"]).then_some(())
    });
    end(command);
}

#[test]
fn a_demo_has_the_model_besides_and_its_guide_leaves_nothing() {
    if ROOTLESS {
        eprintln!("skipped: a demo takes the profile of whoever starts it, which is root here");
        return;
    }
    let (world, log) = (World::new(), fresh_dir().with_extension("log"));
    fs::remove_dir(log.with_extension("")).unwrap();
    let mut demo = Command::new(PROGRAM);
    let out = File::create(&log).unwrap();
    demo.args(["demo", "--runtime", "command", "--json"]).stdin(Stdio::null());
    let demo = world.spawn(demo.stdout(out.try_clone().unwrap()).stderr(out));
    let ready = until("a demo", || {
        let text = fs::read_to_string(&log).unwrap();
        text.lines().find_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
    });
    let dir = PathBuf::from(ready["data_dir"].as_str().unwrap());
    let config = fs::read_to_string(dir.join("cofferdam.toml")).unwrap();
    let base = config.lines().find_map(|line| line.strip_prefix("base = ")).unwrap().parse::<u32>().unwrap();
    let launcher = i32::try_from(demo.id()).unwrap();
    let subject = Subject { world: &world, launcher, dir, log, uids: base..base + 0x4_0000, demo: true };
    let mut command = Command::new(PROGRAM);
    command.arg("--data-dir").arg(&subject.dir).args(["tenant", "exec", "acme", "--", "sleep", "600"]);
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let wrong = settled(&subject, 0);
    end(command);
    let ended = demo.terminate().unwrap();
    let said = fs::read_to_string(&subject.log).unwrap();
    fs::remove_file(&subject.log).unwrap();
    assert_eq!(wrong, Vec::<String>::new(), "{said}");
    assert!(ended.success(), "{said}");
}

#[test]
fn a_domain_that_the_kernel_does_not_show_is_in_the_receipt_and_in_what_it_refuses() {
    let host = Host::with(&TENANTS);
    let receipt = host.ready("acme")["receipt"].to_string();
    assert!(receipt.contains(r#""layer":"landlock""#), "{receipt}");
    let subject = Subject::of(&host);
    let judge = Judge::new(&subject);
    let runtime = &judge.sight.processes[&judge.sight.pid("runtime acme").unwrap()];
    let program = format!(
        r#"
import os, subprocess
def signal(pid):
    try:
        os.kill(pid, 0)
        return "signalled"
    except OSError as error:
        return type(error).__name__
child = subprocess.Popen(["sleep", "60"])
print(signal({}), signal(1), signal(child.pid))
child.kill()
"#,
        runtime.inner
    );
    // All of one uid. Without a domain between them the first two would be as the third.
    assert_eq!(host.python("acme", &program).trim(), "PermissionError PermissionError signalled");
}

fn end(mut command: Child) {
    command.kill().unwrap();
    command.wait().unwrap();
}
