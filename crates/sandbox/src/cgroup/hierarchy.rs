//! The hierarchies of cgroups that are mounted here, and the making, emptying and removing of groups in them.
//!
//! It owns no limit. The threat: groups of a launcher that was killed, with processes in them that nobody holds;
//! [`sweep`] ends them by the instance's own prefix, and touches no group of anybody else.

use super::{controller::Kind, group};
use crate::Error;
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

/// One hierarchy and our own group in it.
#[derive(Clone, Debug)]
pub(super) struct Hierarchy {
    pub(super) own: PathBuf,
    pub(super) controllers: Vec<String>,
    pub(super) unified: bool,
}

impl Hierarchy {
    fn has(&self, kind: Kind) -> bool {
        // Version 1 has another name for one of them.
        let name = if kind == Kind::Io && !self.unified { "blkio" } else { kind.name() };
        self.controllers.iter().any(|own| own == name)
    }
}

/// The hierarchy that has a controller: version 2 where both do.
pub(super) fn holder(hierarchies: &[Hierarchy], kind: Kind) -> io::Result<&Hierarchy> {
    let having = hierarchies.iter().filter(|hierarchy| hierarchy.has(kind));
    having
        .max_by_key(|hierarchy| hierarchy.unified)
        .ok_or_else(|| io::Error::other("this machine has no such controller"))
}

/// Makes `own/name`, and hands it the wanted ones of these controllers of a unified hierarchy.
pub(super) fn make(own: &Path, name: &str, controllers: &[String]) -> io::Result<PathBuf> {
    let has = |kind: &Kind| controllers.iter().any(|own| own == kind.name());
    for kind in Kind::ALL.into_iter().filter(has) {
        let handed = fs::write(own.join("cgroup.subtree_control"), format!("+{}", kind.name()));
        if kind.is_required() {
            handed?;
        }
    }
    let path = own.join(name);
    match fs::create_dir(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(path),
    }
}

/// Removes a group once it is empty; waits for the kernel to notice that it is.
pub(super) fn remove(group: &Path) -> io::Result<()> {
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

/// Where the launcher itself is in version 2, below the group that its cells share with it.
const LEAF: &str = "cofferdam.launcher";

/// Moves the launcher, a process of one thread, into a leaf of its version 2 group: the kernel hands controllers
/// on to the groups below only from a group without processes of its own, the root apart.
pub fn settle() -> Result<(), Error> {
    let hierarchies = hierarchies().map_err(Error::io("/proc/self/cgroup"))?;
    let Some(unified) = hierarchies.into_iter().find(|hierarchy| hierarchy.unified) else { return Ok(()) };
    let wanted = Kind::ALL.into_iter().any(|kind| unified.has(kind));
    if !wanted || !unified.own.join("cgroup.type").exists() {
        return Ok(());
    }
    let leaf = unified.own.join(LEAF);
    let moved = make(&unified.own, LEAF, &[]).and_then(|leaf| fs::write(leaf.join("cgroup.procs"), "0"));
    moved.map_err(Error::io(leaf.display().to_string()))
}

/// The hierarchies that are mounted, with our own group in each; in version 2 the one above our leaf.
pub(super) fn hierarchies() -> io::Result<Vec<Hierarchy>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let own = fs::read_to_string("/proc/self/cgroup")?;
    Ok(own.lines().filter_map(|line| mounted(line, &mounts)).collect())
}

/// The hierarchy of one line of `/proc/self/cgroup`, if it is mounted.
fn mounted(line: &str, mounts: &str) -> Option<Hierarchy> {
    let mut parts = line.splitn(3, ':');
    let (number, named, own) = (parts.next()?, parts.next()?, parts.next()?);
    let unified = number == "0";
    let (root, point) = mounts.lines().find_map(|mount| place(mount, unified, named))?;
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
    Some(Hierarchy { own, controllers, unified })
}

/// The root and the mount point of a line of `mountinfo`, if it is of that hierarchy.
fn place<'a>(mount: &'a str, unified: bool, named: &str) -> Option<(&'a str, &'a str)> {
    let (left, right) = mount.split_once(" - ")?;
    let mut right = right.split(' ');
    let (kind, options) = (right.next()?, right.nth(1).unwrap_or_default());
    let matches = if unified {
        kind == "cgroup2"
    } else {
        kind == "cgroup" && named.split(',').all(|name| options.split(',').any(|option| option == name))
    };
    let mut fields = left.split(' ').skip(3);
    matches.then_some((fields.next()?, fields.next()?))
}

/// Which of the required controllers are here, for `doctor`.
pub(crate) fn available() -> Vec<(&'static str, Option<&'static str>)> {
    let hierarchies = hierarchies().unwrap_or_default();
    let usable = |kind| {
        holder(&hierarchies, kind)
            .ok()
            .filter(|hierarchy| rustix::fs::access(&hierarchy.own, rustix::fs::Access::WRITE_OK).is_ok())
            .map(|hierarchy| if hierarchy.unified { "v2" } else { "v1" })
    };
    Kind::ALL.into_iter().filter(|kind| kind.is_required()).map(|kind| (kind.name(), usable(kind))).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MOUNTS: &str = "\
30 20 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
31 20 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 20 0:28 /box /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";

    #[test]
    fn our_own_group_is_found_in_each_hierarchy_that_is_mounted() {
        let memory = mounted("4:memory:/a/b", MOUNTS).unwrap();
        assert_eq!((memory.own.to_str().unwrap(), memory.unified), ("/sys/fs/cgroup/memory/a/b", false));
        let cpu = mounted("2:cpu,cpuacct:/", MOUNTS).unwrap();
        assert!(cpu.has(Kind::Cpu) && !cpu.has(Kind::Memory));
        let unified = mounted("0::/box/cofferdam.launcher", MOUNTS).unwrap();
        assert_eq!((unified.own.to_str().unwrap(), unified.unified), ("/sys/fs/cgroup/unified", true));
        assert!(mounted("8:pids:/", MOUNTS).is_none());
    }

    #[test]
    fn each_controller_is_taken_from_version_2_where_it_is_there() {
        let hierarchy = |own: &str, controllers: &[&str], unified| Hierarchy {
            own: own.into(),
            controllers: controllers.iter().map(ToString::to_string).collect(),
            unified,
        };
        let all = [
            hierarchy("/1", &["memory"], false),
            hierarchy("/2", &["memory", "io"], true),
            hierarchy("/3", &["pids"], false),
        ];
        assert_eq!(holder(&all, Kind::Memory).unwrap().own, Path::new("/2"));
        assert_eq!(holder(&all, Kind::Pids).unwrap().own, Path::new("/3"));
        assert!(holder(&all, Kind::Cpu).is_err());
    }
}
