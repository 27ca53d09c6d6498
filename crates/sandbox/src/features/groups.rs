//! What limits a tenant: cgroups and their controllers, swap, and what a quota of files could be made of.

use super::{
    Feature, Known, Need,
    kernel::{partly, version},
    strictly, text,
};
use crate::cgroup;
use std::path::Path;

const GROUP: &str = "Limits";

const KILL: Known = Known {
    group: GROUP,
    name: "cgroup.kill",
    need: Need::Required,
    buys: "a cell or a service is killed whole, at once",
    used_by: "stopping cells and services, the sweep at a start; promise 6a",
    mend: "mount cgroup2 at /sys/fs/cgroup, on a kernel of 5.14 or later",
};
const FREEZE: Known = Known {
    group: GROUP,
    name: "cgroup.freeze",
    need: Need::Informs,
    buys: "a cell is stopped in its tracks, to go on later",
    used_by: "nothing yet",
    mend: "mount cgroup2 at /sys/fs/cgroup, on a kernel of 5.2 or later",
};
const MEMORY: Known = Known {
    group: GROUP,
    name: "cgroup memory",
    need: Need::Required,
    buys: "a cell that takes memory dies alone",
    used_by: "every cell and service; promises 4 and 6a",
    mend: WRITABLE,
};
const PIDS: Known = Known { name: "cgroup pids", buys: "a fork bomb stops at its cell's limit", ..MEMORY };
const CPU: Known = Known {
    name: "cgroup cpu",
    buys: "a cell that spins leaves others their share, and edge and wardens ten times that",
    ..MEMORY
};
const IO: Known = Known {
    name: "cgroup io",
    need: Need::Informs,
    buys: "would bound a cell's share of the disk",
    used_by: "nothing yet: cells share the disk's speed",
    mend: "boot with cgroup v2 for the io controller: version 1 does not see buffered writes",
    ..MEMORY
};
const SWAP: Known = Known {
    group: GROUP,
    name: "swap counted",
    need: Need::Required,
    buys: "no limit of memory is passed by swapping",
    used_by: "the limit of memory; promise 4",
    mend: "swapoff -a, or boot with swapaccount=1, or with cgroup v2 for the memory controller",
};
const LOOP: Known = Known {
    group: GROUP,
    name: "loop images",
    need: Need::Informs,
    buys: "a tenant's files in an image of fixed size",
    used_by: "a quota of /sandbox",
    mend: "modprobe loop ext4, and install e2fsprogs for mkfs.ext4",
};
const PROJECT: Known = Known {
    group: GROUP,
    name: "project quota",
    need: Need::Informs,
    buys: "a bound on a directory's bytes and inodes",
    used_by: "a quota of /sandbox",
    mend: "mount the data directory's ext4 or xfs with prjquota",
};
/// As root only a container's limits, or a mount that is read-only, can be in the way.
const WRITABLE: &str = "mount the memory, pids and cpu controllers, writable";
const DELEGATE: &str =
    "delegate the memory, pids and cpu controllers to this user: Delegate=yes in its systemd unit";

/// Where version 2 may be mounted.
const UNIFIED: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// Where distributions keep it, whatever the PATH of the host's user is.
const MKFS: [&str; 3] = ["/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4", "/usr/bin/mkfs.ext4"];

pub(super) fn features(root: bool) -> Vec<Feature> {
    let need = strictly(root);
    let kernel = version(&text("/proc/sys/kernel/osrelease"));
    let unified = UNIFIED.iter().find(|dir| Path::new(dir).join("cgroup.controllers").exists());
    let mut rows = vec![
        KILL.needed(need).is(unified.is_some() && kernel >= (5, 14), ""),
        FREEZE.is(unified.is_some() && kernel >= (5, 2), ""),
    ];
    for (controller, version) in cgroup::available() {
        let known = [MEMORY, PIDS, CPU].into_iter().find(|known| known.name.ends_with(controller));
        let mend = if root { WRITABLE } else { DELEGATE };
        let row = |known| Known { need, mend, ..known }.is(version.is_some(), version.unwrap_or_default());
        rows.extend(known.map(row));
    }
    let controllers = unified.map(|dir| text(Path::new(dir).join("cgroup.controllers"))).unwrap_or_default();
    rows.push(io(&controllers, &text("/proc/self/cgroup")));
    let counted = Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists()
        || controllers.split(' ').any(|name| name == "memory");
    rows.push(swap(&text("/proc/swaps"), counted).with(need));
    rows.extend(quota(root));
    rows
}

/// Version 1 counts a write only when it is not buffered.
pub(super) fn io(unified: &str, own: &str) -> Feature {
    let (v2, v1) = (unified.split(' ').any(|name| name == "io"), own.contains(":blkio:"));
    IO.in_state(
        partly(v2, v1),
        if v2 {
            "v2"
        } else if v1 {
            "v1"
        } else {
            ""
        },
    )
}

/// No swap needs no counting.
pub(super) fn swap(swaps: &str, counted: bool) -> Feature {
    let on = swaps.lines().count() > 1;
    SWAP.is(!on || counted, if on { "swap on" } else { "no swap" })
}

fn quota(root: bool) -> [Feature; 2] {
    let ext4 = text("/proc/filesystems").lines().any(|line| line.trim() == "ext4");
    let image = [
        (Path::new("/dev/loop-control").exists(), "loop devices"),
        (ext4, "ext4"),
        (MKFS.iter().any(|path| Path::new(path).exists()), "mkfs.ext4"),
    ];
    let lacking: Vec<&str> = image.iter().filter(|(there, _)| !there).map(|(_, what)| *what).collect();
    let found = if lacking.is_empty() { String::new() } else { format!("without {}", lacking.join(", ")) };
    let mounts = text("/proc/self/mountinfo");
    let project = mounts.lines().filter(|line| line.split([' ', ',']).any(|option| option == "prjquota"));
    let points: Vec<&str> = project.filter_map(|line| line.split(' ').nth(4)).collect();
    // Without root a home has no quota, whatever is there.
    let known = if root { LOOP.needed(Need::Required) } else { LOOP };
    [known.is(lacking.is_empty(), found), PROJECT.is(!points.is_empty(), points.join(", "))]
}

impl Feature {
    fn with(self, need: Need) -> Self {
        Self { need, ..self }
    }
}
