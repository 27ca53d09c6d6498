//! A cell's cgroups: limits on memory, processes and CPU, and the switch that kills all at once.
//!
//! Each controller is taken from version 2 where it is there, else from its version 1 hierarchy; killing is
//! version 2's. Groups lie directly below the launcher's own, `<own>/cofferdam.<instance>.<cell>`: each level
//! between would be counted and scheduled at every wake of a cell. The threat: a limit that is asked for and
//! silently not set; what cannot be set is an error or, rootless, a row.

use crate::{Error, Profile, Protection};
use cofferdam_base::ipc::{
    launcher::Limits,
    receipt::{LayerRow, LayerState},
};
use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

/// One hierarchy and our own group in it.
#[derive(Clone, Debug)]
struct Hierarchy {
    own: PathBuf,
    controllers: Vec<String>,
    unified: bool,
}

/// The groups of one cell.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// Version 1 groups: a process moves itself by their `tasks`.
    joined: Vec<PathBuf>,
    /// The version 2 group: born into.
    pub(crate) unified: Option<PathBuf>,
    pub(crate) rows: Vec<LayerRow>,
}

const WANTED: [&str; 3] = ["memory", "pids", "cpu"];
const PROTECTIONS: [Protection; 3] = [Protection::Memory, Protection::Pids, Protection::Cpu];

impl Groups {
    /// Makes the groups and sets the limits.
    pub(crate) fn create(
        name: &str,
        limits: &Limits,
        profile: Profile,
        without: &[Protection],
    ) -> Result<Self, Error> {
        let mut groups = Self::default();
        match groups.make(name, limits, profile, without) {
            Ok(()) => Ok(groups),
            Err(error) => {
                // What stays is swept at the next start; the cause is what must be told.
                let _ = groups.remove();
                Err(error)
            }
        }
    }

    fn make(
        &mut self,
        name: &str,
        limits: &Limits,
        profile: Profile,
        without: &[Protection],
    ) -> Result<(), Error> {
        let hierarchies = hierarchies().map_err(Error::io("/proc/self/cgroup"))?;
        if let Some(unified) = hierarchies.iter().find(|hierarchy| hierarchy.unified) {
            match make(&unified.own, name, &unified.controllers) {
                Ok(path) => self.unified = Some(path),
                Err(error) => self.absent("cgroup kill", &error, profile)?,
            }
        } else {
            self.absent("cgroup kill", &io::Error::other("cgroup2 is not mounted"), profile)?;
        }
        for (controller, protection) in WANTED.into_iter().zip(PROTECTIONS) {
            if without.contains(&protection) {
                continue;
            }
            if let Err(error) = self.limit(&hierarchies, controller, name, limits) {
                self.absent(&format!("cgroup {controller}"), &error, profile)?;
            }
        }
        Ok(())
    }

    fn limit(
        &mut self,
        hierarchies: &[Hierarchy],
        controller: &str,
        name: &str,
        limits: &Limits,
    ) -> io::Result<()> {
        let has = |hierarchy: &&Hierarchy| hierarchy.controllers.iter().any(|own| own == controller);
        let hierarchy = hierarchies
            .iter()
            .filter(has)
            .max_by_key(|hierarchy| hierarchy.unified)
            .ok_or_else(|| io::Error::other("this machine has no such controller"))?;
        let path = if hierarchy.unified {
            self.unified.clone().ok_or_else(|| io::Error::other("the group could not be made"))?
        } else {
            let path = make(&hierarchy.own, name, &[])?;
            self.joined.push(path.clone());
            path
        };
        let set = |file: &str, value: String| {
            fs::write(path.join(file), value)
                .map_err(|error| io::Error::new(error.kind(), format!("{}/{file}: {error}", path.display())))
        };
        let quota = u64::from(limits.cpu_percent) * 1000;
        let detail = match (controller, hierarchy.unified) {
            ("memory", true) => {
                set("memory.max", limits.memory_bytes.to_string())?;
                set("memory.oom.group", "0".into())?;
                // Without swap in the kernel the file is not there, and there is none to take.
                if path.join("memory.swap.max").exists() {
                    set("memory.swap.max", "0".into())?;
                }
                format!("{} bytes, no swap, v2", limits.memory_bytes)
            }
            ("memory", false) => {
                let bytes = limits.memory_bytes.to_string();
                set("memory.limit_in_bytes", bytes.clone())?;
                // Version 1 counts swap and the buffers of TCP apart, each only where the kernel was built so.
                for apart in ["memory.memsw.limit_in_bytes", "memory.kmem.tcp.limit_in_bytes"] {
                    if path.join(apart).exists() {
                        set(apart, bytes.clone())?;
                    }
                }
                if !path.join("memory.memsw.limit_in_bytes").exists() && has_swap()? {
                    return Err(io::Error::other(
                        "swap is on and this kernel does not count it (swapaccount=1)",
                    ));
                }
                format!("{bytes} bytes, v1")
            }
            ("pids", unified) => {
                set("pids.max", limits.pids.to_string())?;
                format!("{}, {}", limits.pids, if unified { "v2" } else { "v1" })
            }
            (_, true) => {
                set("cpu.max", format!("{quota} 100000"))?;
                format!("{} %, v2", limits.cpu_percent)
            }
            (_, false) => {
                set("cpu.cfs_quota_us", quota.to_string())?;
                format!("{} %, v1", limits.cpu_percent)
            }
        };
        self.rows.push(LayerRow {
            layer: format!("cgroup {controller}"),
            state: LayerState::Enforced,
            detail,
        });
        Ok(())
    }

    fn absent(&mut self, layer: &str, error: &io::Error, profile: Profile) -> Result<(), Error> {
        if profile == Profile::Strict {
            return Err(Error::Layer(crate::LayerFailure {
                layer: layer.to_owned(),
                message: error.to_string(),
                mend: "delegate the memory, pids and cpu controllers to this process's cgroup".into(),
            }));
        }
        self.rows.push(LayerRow {
            layer: layer.to_owned(),
            state: LayerState::Absent,
            detail: format!("not delegated: {error}"),
        });
        Ok(())
    }

    /// Where a process of one thread writes `0` to move itself into the version 1 groups.
    pub(crate) fn tasks(&self) -> Result<Vec<OwnedFd>, Error> {
        let open = |group: &PathBuf| {
            let tasks = group.join("tasks");
            let file = fs::OpenOptions::new().write(true).open(&tasks);
            file.map(OwnedFd::from).map_err(Error::io(tasks.display().to_string()))
        };
        self.joined.iter().map(open).collect()
    }

    /// The same, and of the version 2 group. What [`enter`] takes.
    pub(crate) fn entrances(&self) -> Result<Vec<OwnedFd>, Error> {
        let mut entrances = self.tasks()?;
        for procs in self.unified.iter().map(|group| group.join("cgroup.procs")) {
            let file = fs::OpenOptions::new().write(true).open(&procs);
            entrances.push(file.map_err(Error::io(procs.display().to_string()))?.into());
        }
        Ok(entrances)
    }

    /// Kills everything in the groups.
    pub(crate) fn kill(&self) {
        if let Some(unified) = &self.unified {
            // A group that is gone has nobody to kill; init's own death kills its pid namespace besides.
            let _ = fs::write(unified.join("cgroup.kill"), "1");
        }
    }

    /// Removes the groups once they are empty; waits for the kernel to notice that they are.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        for group in self.joined.iter().chain(&self.unified) {
            remove(group).map_err(Error::io(group.display().to_string()))?;
        }
        Ok(())
    }
}

/// The name of a group of an instance, which has no dot in its own name.
pub fn group(instance: &str, name: &str) -> String {
    format!("cofferdam.{instance}.{name}")
}

/// Moves the caller, a process of one thread, into groups. The kernel asks whether whoever opened them may.
pub(crate) fn enter(entrances: &[OwnedFd]) -> io::Result<()> {
    entrances.iter().try_for_each(|entrance| rustix::io::write(entrance, b"0").map(drop)).map_err(Into::into)
}

fn has_swap() -> io::Result<bool> {
    Ok(fs::read_to_string("/proc/swaps")?.lines().count() > 1)
}

fn remove(group: &Path) -> io::Result<()> {
    let mut pause = Duration::from_micros(50);
    loop {
        match fs::remove_dir(group) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && pause < Duration::from_secs(1) => {
                std::thread::sleep(pause);
                pause = pause * 3 / 2;
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => return Ok(()),
        }
    }
}

/// Kills and removes every group that an earlier launcher of this instance left below our own groups. Returns the
/// names of what it removed.
pub fn sweep(instance: &str) -> Result<Vec<String>, Error> {
    let prefix = group(instance, "");
    let mut removed = std::collections::BTreeSet::new();
    for hierarchy in hierarchies().map_err(Error::io("/proc/self/cgroup"))? {
        let entries = fs::read_dir(&hierarchy.own);
        for entry in entries.map_err(Error::io(hierarchy.own.display().to_string()))?.flatten() {
            let (name, group) = (entry.file_name(), entry.path());
            let Some(name) = name.to_str().and_then(|name| name.strip_prefix(&prefix)) else { continue };
            empty(&group).map_err(Error::io(group.display().to_string()))?;
            remove(&group).map_err(Error::io(group.display().to_string()))?;
            removed.insert(name.to_owned());
        }
    }
    Ok(removed.into_iter().collect())
}

fn empty(group: &Path) -> io::Result<()> {
    if group.join("cgroup.kill").exists() {
        return fs::write(group.join("cgroup.kill"), "1");
    }
    for pid in fs::read_to_string(group.join("cgroup.procs"))?.lines() {
        let pid = pid.parse().ok().and_then(rustix::process::Pid::from_raw);
        let Some(Ok(process)) =
            pid.map(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()))
        else {
            continue;
        };
        // Still in the group after the descriptor was opened: then the descriptor is of that process.
        let again = fs::read_to_string(group.join("cgroup.procs"))?;
        if again.lines().any(|line| pid.is_some_and(|pid| line == pid.as_raw_nonzero().to_string())) {
            use std::os::fd::AsFd;
            cofferdam_sys::pidfd::signal(process.as_fd(), rustix::process::Signal::KILL)?;
        }
    }
    Ok(())
}

/// Makes `own/name`, and hands it the wanted ones of these controllers of a unified hierarchy.
fn make(own: &Path, name: &str, controllers: &[String]) -> io::Result<PathBuf> {
    for controller in WANTED.iter().filter(|wanted| controllers.iter().any(|own| own == *wanted)) {
        fs::write(own.join("cgroup.subtree_control"), format!("+{controller}"))?;
    }
    let path = own.join(name);
    match fs::create_dir(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(path),
    }
}

/// Where the launcher itself is in version 2, below the group that its cells share with it.
const LEAF: &str = "cofferdam.launcher";

/// Moves the launcher, a process of one thread, into a leaf of its version 2 group: the kernel hands controllers
/// on to the groups below only from a group without processes of its own, the root apart.
pub fn settle() -> Result<(), Error> {
    let hierarchies = hierarchies().map_err(Error::io("/proc/self/cgroup"))?;
    let Some(unified) = hierarchies.into_iter().find(|hierarchy| hierarchy.unified) else { return Ok(()) };
    let wanted = unified.controllers.iter().any(|own| WANTED.contains(&own.as_str()));
    if !wanted || !unified.own.join("cgroup.type").exists() {
        return Ok(());
    }
    let leaf = unified.own.join(LEAF);
    let moved = make(&unified.own, LEAF, &[]).and_then(|leaf| fs::write(leaf.join("cgroup.procs"), "0"));
    moved.map_err(Error::io(leaf.display().to_string()))
}

/// The hierarchies that are mounted, with our own group in each; in version 2 the one above our leaf.
fn hierarchies() -> io::Result<Vec<Hierarchy>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mut found = Vec::new();
    for line in fs::read_to_string("/proc/self/cgroup")?.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(number), Some(named), Some(own)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let unified = number == "0";
        for mount in mounts.lines() {
            let Some((left, right)) = mount.split_once(" - ") else { continue };
            let mut right = right.split(' ');
            let kind = right.next().unwrap_or_default();
            let options = right.nth(1).unwrap_or_default();
            let matches = if unified {
                kind == "cgroup2"
            } else {
                kind == "cgroup"
                    && named.split(',').all(|name| options.split(',').any(|option| option == name))
            };
            if !matches {
                continue;
            }
            let fields: Vec<&str> = left.split(' ').collect();
            let (Some(root), Some(point)) = (fields.get(3), fields.get(4)) else { continue };
            // In a container the mount may show our group's own part of the tree only.
            let below = own.strip_prefix(root.trim_end_matches('/')).unwrap_or(own);
            let mut own = Path::new(point).join(below.trim_start_matches('/'));
            if unified && own.ends_with(LEAF) {
                own.pop();
            }
            let controllers = if unified {
                let list = fs::read_to_string(own.join("cgroup.controllers")).unwrap_or_default();
                list.split_whitespace().map(str::to_owned).collect()
            } else {
                named.split(',').map(str::to_owned).collect()
            };
            found.push(Hierarchy { own, controllers, unified });
            break;
        }
    }
    Ok(found)
}

/// Which of the wanted controllers are here, for `doctor`.
pub(crate) fn available() -> Vec<(&'static str, Option<&'static str>)> {
    let hierarchies = hierarchies().unwrap_or_default();
    WANTED
        .iter()
        .map(|wanted| {
            let holder = hierarchies
                .iter()
                .filter(|hierarchy| hierarchy.controllers.iter().any(|own| own == wanted))
                .max_by_key(|hierarchy| hierarchy.unified);
            let usable = holder
                .filter(|hierarchy| rustix::fs::access(&hierarchy.own, rustix::fs::Access::WRITE_OK).is_ok());
            (*wanted, usable.map(|hierarchy| if hierarchy.unified { "v2" } else { "v1" }))
        })
        .collect()
}
