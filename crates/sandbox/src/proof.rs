//! The proof of a cell's start: what the sealed process that will be the runtime finds, and what the host sees.
//!
//! No layer holds because it was asked for. Three look at a cell before the runtime's first instruction, each while
//! the others work, and each goes on only if what it saw [`holds`]: the process that will be the runtime tries,
//! sealed, each layer from [`inside`]; init looks at what the whole cell has [`shared`]; the launcher looks from
//! [`outside`]. The [`receipt`] is of all that they saw. The threat: a layer that is silently off, as several
//! sandboxes have shipped.

pub(crate) mod trials;

use crate::{CellPlan, LayerFailure, Profile, Protection, home_image};
use cofferdam_base::ipc::receipt::{LayerRow, LayerState};
use cofferdam_sys::{attempt, clone::INNER_ID, landlock};
use rustix::{
    fs::{Mode, OFlags},
    process::Resource,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, io, sync::OnceLock};

/// What was seen of each layer, by its name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Findings(BTreeMap<String, Seen>);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    /// What is otherwise than it should be; nothing if the layer holds.
    wrong: Vec<String>,
    /// What holds exactly; nothing where there is nothing to say.
    detail: Vec<String>,
}

const EPERM: i32 = 1;
const EACCES: i32 = 13;
const ENOSYS: i32 = 38;
const EAFNOSUPPORT: i32 = 97;

/// The layers of a receipt, in order, and what each says when it holds.
const LAYERS: &[&str] = &[
    "user namespace",
    "pid namespace",
    "network namespace",
    "ipc namespace",
    "uts namespace",
    "cgroup namespace",
    "files",
    "proc",
    "capabilities",
    "no_new_privs",
    "keyring",
    "rlimits",
    "landlock",
    "seccomp allow-list",
    "seccomp families",
    "seccomp dangerous",
    "capture",
];

/// How many seccomp programs were in force for this process, or the one that it is a clone of, when it asked first.
pub(crate) fn filters_at_first() -> io::Result<usize> {
    static FILTERS: OnceLock<usize> = OnceLock::new();
    if let Some(filters) = FILTERS.get() {
        return Ok(*filters);
    }
    let status = fs::read_to_string("/proc/self/status")?;
    let filters = field(&status, "Seccomp_filters").parse().map_err(io::Error::other)?;
    Ok(*FILTERS.get_or_init(|| filters))
}

impl Findings {
    /// The layer's own, from now on tried.
    fn of(&mut self, layer: &str) -> &mut Seen {
        self.0.entry(layer.to_owned()).or_default()
    }

    fn note(&mut self, layer: &str, detail: impl Into<String>) {
        self.of(layer).detail.push(detail.into());
    }

    fn tried(&mut self, layer: &str, wrong: Option<String>) {
        self.of(layer).wrong.extend(wrong);
    }

    /// Compares what was found with what holds.
    fn equal<T: PartialEq + std::fmt::Debug>(&mut self, layer: &str, what: &str, found: &T, holds: &T) {
        self.tried(layer, (found != holds).then(|| format!("{what} is {found:?}, not {holds:?}")));
    }

    fn read(&mut self, layer: &str, path: &str) -> String {
        fs::read_to_string(path).unwrap_or_else(|error| {
            self.tried(layer, Some(format!("{path}: {error}")));
            String::new()
        })
    }

    /// Joins what somebody else has seen.
    pub(crate) fn add(&mut self, others: Self) {
        for (layer, Seen { wrong, detail }) in others.0 {
            let own = self.of(&layer);
            own.wrong.extend(wrong);
            own.detail.extend(detail);
        }
    }
}

/// What this process, sealed as the runtime will be, finds. `filters` is how many seccomp programs there should be.
pub(crate) fn inside(plan: &CellPlan, filters: usize) -> Findings {
    let mut found = Findings::default();
    let status = found.read("no_new_privs", "/proc/self/status");
    self::status(&mut found, plan, &status, filters);
    files(&mut found, plan);
    limits(&mut found, plan);
    calls(&mut found);
    found
}

/// What all processes of a cell share, as this one of them finds it: namespaces, the table of mounts, the capture.
pub(crate) fn shared(plan: &CellPlan) -> Findings {
    let mut found = Findings::default();
    namespaces(&mut found, plan);
    mounts(&mut found, plan);
    trials::capture(&mut found, plan);
    found
}

/// What the kernel says of a process that is sealed.
fn status(found: &mut Findings, plan: &CellPlan, status: &str, filters: usize) {
    let id = INNER_ID;
    let ids = format!("{id}\t{id}\t{id}\t{id}");
    found.equal("user namespace", "Uid", &field(status, "Uid"), &ids.as_str());
    found.equal("user namespace", "Gid", &field(status, "Gid"), &ids.as_str());
    // Without root the user's groups cannot be given up; the profile says so.
    if plan.profile == Profile::Strict {
        found.equal("user namespace", "Groups", &field(status, "Groups"), &"");
    }
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        found.equal("capabilities", set, &field(status, set), &"0000000000000000");
    }
    found.note("capabilities", "all five sets empty");
    found.equal("no_new_privs", "NoNewPrivs", &field(status, "NoNewPrivs"), &"1");
    for layer in ["seccomp allow-list", "seccomp families", "seccomp dangerous"] {
        found.equal(layer, "Seccomp", &field(status, "Seccomp"), &"2");
        found.equal(
            layer,
            "Seccomp_filters",
            &field(status, "Seccomp_filters"),
            &filters.to_string().as_str(),
        );
    }
}

fn namespaces(found: &mut Findings, plan: &CellPlan) {
    let map = found.read("user namespace", "/proc/self/uid_map");
    let map: Vec<&str> = map.split_whitespace().collect();
    let (inner, outer) = (INNER_ID.to_string(), plan.uid.to_string());
    found.equal("user namespace", "uid_map", &map, &vec![inner.as_str(), outer.as_str(), "1"]);
    found.note("user namespace", format!("uid {inner} inside, {outer} outside"));

    // Init, this process, and nobody else.
    let listed = fs::read_dir("/proc").map_or(0, |entries| {
        entries.flatten().filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit()).count()
    });
    let wrong = (listed > 2).then(|| format!("/proc shows {listed} processes"));
    found.tried("pid namespace", wrong);

    let devices = found.read("network namespace", "/proc/self/net/dev");
    let names: Vec<&str> =
        devices.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim()).collect();
    found.equal("network namespace", "the list of interfaces", &names, &vec!["lo"]);
    found.note("network namespace", "lo only");

    let segments = found.read("ipc namespace", "/proc/sysvipc/shm").lines().skip(1).count();
    found.equal("ipc namespace", "the number of shared segments", &segments, &0);

    let name = rustix::system::uname();
    found.equal(
        "uts namespace",
        "the host name",
        &name.nodename().to_string_lossy().into_owned(),
        &plan.hostname,
    );

    let groups = found.read("cgroup namespace", "/proc/self/cgroup");
    let above: Vec<&str> =
        groups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).filter(|path| *path != "/").collect();
    // Of a hierarchy in which the cell has no group of its own it sees its launcher's, as a path upwards or down.
    let named: Vec<&&str> = above.iter().filter(|path| path.contains("cofferdam.")).collect();
    found.equal("cgroup namespace", "its own group's name", &named, &Vec::new());
}

/// The mounts of a cell that a tenant may write to, and those that are no files of ours.
const WRITABLE: [&str; 2] = ["/sandbox", "/tmp"];

fn mounts(found: &mut Findings, plan: &CellPlan) {
    let mounts = found.read("files", "/proc/self/mountinfo");
    let (mut read_only, mut hidden) = (0, false);
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let (Some(target), Some(options)) = (fields.get(4), fields.get(5)) else { continue };
        let has = |option: &str| options.split(',').any(|one| one == option);
        let device = target.starts_with("/dev/");
        let own = WRITABLE.contains(target)
            || plan
                .binds
                .iter()
                .any(|bind| bind.access == crate::Access::ReadWrite && bind.target.as_os_str() == *target);
        let proc = *target == "/proc";
        hidden |= proc && line.contains("hidepid=ptraceable");
        let layer = if target.starts_with("/proc") { "proc" } else { "files" };
        let writable = own || device || proc || (layer == "proc" && *target != "/proc/sys");
        let lacks = [
            (!has("nosuid"), "nosuid"),
            (!has("nodev") && !device && layer == "files", "nodev"),
            (!has("ro") && !writable, "ro"),
        ];
        read_only += usize::from(has("ro"));
        for (_, option) in lacks.into_iter().filter(|(lacks, _)| *lacks) {
            found.tried(layer, Some(format!("{target} is mounted without {option}")));
        }
    }
    found.note("files", format!("{read_only} mounts read-only, /sandbox and /tmp writable"));
    // Without processes of its own it has no `/proc` of its own, either.
    let listed = !hidden && plan.keeps(Protection::PidNamespace);
    found.tried("proc", listed.then(|| "processes of others are listed".to_owned()));
}

/// What can be written, and what not.
fn files(found: &mut Findings, plan: &CellPlan) {
    for (path, layer) in [("/", "files"), ("/usr", "files"), ("/etc", "files"), ("/proc/sys", "proc")] {
        let made = rustix::fs::mkdir(format!("{}/.cofferdam-proof", path.trim_end_matches('/')), Mode::RWXU);
        found.equal(layer, &format!("making a directory in {path}"), &made.is_err(), &true);
    }
    for path in WRITABLE {
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let made = rustix::fs::open(path, flags, Mode::RUSR).map(drop);
        // A home that is full is writable, and a tenant with a full home can be started and mended.
        let full = matches!(made, Err(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT));
        found.equal("files", &format!("a file in {path}"), &if full { Ok(()) } else { made }, &Ok(()));
    }
    let tmp = rustix::fs::statvfs("/tmp").map_or(0, |tmp| tmp.f_blocks * tmp.f_frsize);
    let pages = plan.limits.tmp_bytes.next_multiple_of(4096);
    found.equal("files", "the size of /tmp", &tmp, &pages);
    let told = fs::read("/proc/kallsyms").is_ok_and(|text| !text.is_empty());
    found.equal("proc", "whether /proc/kallsyms tells anything", &told, &false);
}

fn limits(found: &mut Findings, plan: &CellPlan) {
    for (name, resource, holds) in [
        ("core", Resource::Core, 1),
        ("nofile", Resource::Nofile, u64::from(plan.limits.open_files)),
        ("msgqueue", Resource::Msgqueue, 0),
    ] {
        let limit = rustix::process::getrlimit(resource);
        found.equal("rlimits", name, &(limit.current, limit.maximum), &(Some(holds), Some(holds)));
    }
    found.note("rlimits", format!("no core dumps, {} files", plan.limits.open_files));
}

fn calls(found: &mut Findings) {
    found.equal("seccomp allow-list", "an unlisted call", &attempt::unlisted(), &ENOSYS);
    found.note("seccomp allow-list", "others ENOSYS");
    found.equal("seccomp families", "a socket of another family", &attempt::family(), &EAFNOSUPPORT);
    found.note("seccomp families", "others EAFNOSUPPORT");
    found.equal("seccomp dangerous", "a call refused by name", &attempt::dangerous(), &EPERM);
    found.note("seccomp dangerous", "EPERM");

    // Everybody may write to it, on a mount that is not read-only: only Landlock says no.
    let zero = rustix::fs::open("/dev/zero", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    let errno = zero.err().map_or(0, rustix::io::Errno::raw_os_error);
    found.equal("landlock", "writing to /dev/zero", &errno, &EACCES);
    // Of the same uid: only the domain's scope says no.
    let init = rustix::process::test_kill_process(rustix::process::Pid::INIT);
    let errno = init.err().map_or(0, rustix::io::Errno::raw_os_error);
    found.equal("landlock", "a signal to init", &errno, &EPERM);
    found.note("landlock", format!("abi {} or later", landlock::LEAST as i32));
}

/// What a `status` of `/proc` says of something.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or("not told").trim()
}

/// An error if one of the layers of which something was seen does not hold, and neither the profile nor the
/// operator lets it go.
pub(crate) fn holds(plan: &CellPlan, found: &Findings) -> Result<(), LayerFailure> {
    let wrong = found.0.iter().filter(|(_, seen)| !seen.wrong.is_empty());
    let rows: Vec<LayerRow> = wrong.map(|(layer, seen)| row(plan, layer, seen.clone())).collect();
    allow(plan, &rows)
}

/// An error if one of the layers does not hold, and neither the profile nor the operator lets it go.
pub(crate) fn allow(plan: &CellPlan, rows: &[LayerRow]) -> Result<(), LayerFailure> {
    match rows.iter().find(|row| row.state != LayerState::Enforced && !allowed(plan, row)) {
        None => Ok(()),
        Some(row) => Err(refused(row)),
    }
}

/// The receipt of a cell: what was found, and the rows of its groups. An error as of [`allow`]; a layer of which
/// nobody saw anything does not hold.
pub(crate) fn receipt(
    plan: &CellPlan,
    found: Findings,
    groups: &[LayerRow],
) -> Result<Vec<LayerRow>, LayerFailure> {
    let Findings(mut found) = found;
    let unseen = || Seen { wrong: vec!["nobody tried it".to_owned()], detail: Vec::new() };
    let mut rows: Vec<LayerRow> =
        LAYERS.iter().map(|layer| row(plan, layer, found.remove(*layer).unwrap_or_else(unseen))).collect();
    rows.extend(found.into_iter().map(|(layer, seen)| row(plan, &layer, seen)));
    rows.extend(groups.iter().cloned());
    rows.extend(home_image::row(&plan.quota).filter(|_| plan.keeps(Protection::HomeQuota)));
    rows.extend(left_out(plan));
    allow(plan, &rows).map(|()| rows)
}

/// With what mends the layer, and what an operator may do who wants to go without.
fn refused(row: &LayerRow) -> LayerFailure {
    let failure = LayerFailure::of(&row.layer, format!("it does not hold: {}", row.detail));
    let without = format!("name {:?} with a reason in [[without]] of cofferdam.toml", row.layer);
    let mend = if failure.mend.is_empty() { without } else { format!("{}; or {without}", failure.mend) };
    LayerFailure { mend, ..failure }
}

const NAMESPACES: [(&str, &str); 7] = [
    ("user namespace", "user"),
    ("files", "mnt"),
    ("pid namespace", "pid"),
    ("network namespace", "net"),
    ("ipc namespace", "ipc"),
    ("uts namespace", "uts"),
    ("cgroup namespace", "cgroup"),
];

/// Namespaces and ids of a cell whose init is `pid` for the host, as the host sees them.
pub(crate) fn outside(plan: &CellPlan, pid: i32) -> Findings {
    let mut found = Findings::default();
    for (layer, file) in NAMESPACES {
        let read = |whose: &str| fs::read_link(format!("/proc/{whose}/ns/{file}"));
        let wrong = match (read(&pid.to_string()), read("self")) {
            (Ok(theirs), Ok(ours)) if theirs != ours => None,
            (Ok(theirs), Ok(_)) => Some(format!("{} is the launcher's too", theirs.display())),
            (Err(error), _) | (_, Err(error)) => Some(format!("its namespace cannot be seen: {error}")),
        };
        found.tried(layer, wrong);
    }
    let status = found.read("user namespace", &format!("/proc/{pid}/status"));
    let uid = plan.uid;
    let ids = format!("{uid}\t{uid}\t{uid}\t{uid}");
    found.equal("user namespace", "its uid on the host", &field(&status, "Uid"), &ids.as_str());
    let capture = match plan.captured() {
        Some((port, _)) => format!("every TCP port; {port} is the edge's"),
        None => "no network".to_owned(),
    };
    found.note("capture", capture);
    found
}

fn row(plan: &CellPlan, layer: &str, Seen { wrong, detail }: Seen) -> LayerRow {
    let parts = Protection::of_layer(layer);
    let left: Vec<String> =
        parts.iter().filter(|part| !plan.keeps(**part)).map(ToString::to_string).collect();
    let state = match (left.len(), wrong.is_empty()) {
        (0, true) => LayerState::Enforced,
        (0, false) => LayerState::Absent,
        (some, _) if some == parts.len() => LayerState::Absent,
        _ => LayerState::Partial,
    };
    let told = if state == LayerState::Enforced { detail } else { wrong };
    let left = (!left.is_empty()).then(|| format!("left out: {}", left.join(", ")));
    let detail: Vec<String> = left.into_iter().chain(told).collect();
    LayerRow { layer: layer.to_owned(), state, detail: detail.join("; ") }
}

/// Groups and a quota that were left out have no rows of their own.
fn left_out(plan: &CellPlan) -> Vec<LayerRow> {
    let groups = [Protection::Memory, Protection::Pids, Protection::Cpu, Protection::HomeQuota];
    let left = groups.into_iter().filter(|group| !plan.keeps(*group));
    left.map(|group| LayerRow {
        layer: group.layer().to_owned(),
        state: LayerState::Absent,
        detail: "left out".to_owned(),
    })
    .collect()
}

/// Layers that hold only where the machine has what they need, under any profile; the receipt says how far.
const LESS: [&str; 1] = ["cgroup io"];

/// May a cell start without this layer?
fn allowed(plan: &CellPlan, row: &LayerRow) -> bool {
    let named = plan.without.iter().any(|protection| protection.layer() == row.layer);
    let limits = row.layer.starts_with("cgroup ") || row.layer == home_image::LAYER;
    let rootless = plan.profile == Profile::Rootless && limits;
    named || rootless || LESS.contains(&row.layer.as_str())
}

/// Compares what the kernel says of the runtime, which has just been executed, with what was proved of the other.
pub(crate) fn of_runtime(plan: &CellPlan, runtime: i32, filters: usize) -> Result<(), LayerFailure> {
    let mut found = Findings::default();
    let text = found.read("no_new_privs", &format!("/proc/{runtime}/status"));
    status(&mut found, plan, &text, filters);
    let kept = |layer: &str| Protection::of_layer(layer).into_iter().all(|part| plan.keeps(part));
    match found.0.into_iter().find(|(layer, seen)| !seen.wrong.is_empty() && kept(layer)) {
        None => Ok(()),
        Some((layer, Seen { wrong, .. })) => {
            Err(LayerFailure::of(&layer, format!("the kernel says of the runtime: {}", wrong.join("; "))))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Network, Quota};
    use cofferdam_base::ipc::launcher::Limits;

    pub(super) fn plan(without: Vec<Protection>) -> CellPlan {
        CellPlan {
            name: "acme".into(),
            generation: 1,
            profile: Profile::Strict,
            uid: 20_001,
            gid: 20_001,
            hostname: "acme".into(),
            binds: Vec::new(),
            home: "/h".into(),
            quota: Quota::Scratch,
            argv: vec!["/x".into()],
            env: Vec::new(),
            cwd: "/".into(),
            network: Network::None,
            limits: Limits::default(),
            cgroup: "x".into(),
            without,
        }
    }

    #[test]
    fn a_layer_of_which_nobody_says_anything_does_not_hold() {
        // This process stands for a cell that is none: all that can be seen of it is its launcher's, too.
        let own = i32::try_from(std::process::id()).unwrap();
        let found = outside(&plan(Vec::new()), own);
        let failure = holds(&plan(Vec::new()), &found).unwrap_err();
        assert!(failure.message.contains("launcher's too"), "{failure:?}");
        assert!(failure.mend.contains("[[without]]"), "{failure:?}");
        let all = plan(Protection::all());
        let failure = receipt(&all, outside(&all, own), &[]).unwrap_err();
        // The user namespace is in no list of what can be left out.
        assert_eq!(failure.layer, "user namespace");
    }

    #[test]
    fn what_is_left_out_is_never_enforced_and_one_right_of_many_is_a_part() {
        let seen = Seen { wrong: Vec::new(), detail: vec!["fine".to_owned()] };
        let state = |without: Vec<Protection>| row(&plan(without), "landlock", seen.clone()).state;
        let rights = Protection::of_layer("landlock");
        assert_eq!(state(Vec::new()), LayerState::Enforced);
        assert_eq!(state(rights[..1].to_vec()), LayerState::Partial);
        assert_eq!(state(rights), LayerState::Absent);
        let unseen = Seen { wrong: vec!["nobody tried it".to_owned()], detail: Vec::new() };
        assert_eq!(row(&plan(Vec::new()), "landlock", unseen).state, LayerState::Absent);
    }
}
