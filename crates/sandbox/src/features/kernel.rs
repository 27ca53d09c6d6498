//! The kernel itself: its version, namespaces, Landlock level by level, seccomp, the clock.

use super::{Feature, Known, Need, number, text};
use cofferdam_base::{Clock, Millis, ipc::receipt::LayerState};
use cofferdam_sys::{clock::SystemClock, landlock};
use std::path::Path;

const GROUP: &str = "Kernel";

const ROOT: Known = Known {
    group: GROUP,
    name: "root",
    need: Need::Degrades,
    buys: "strict: own uids, limits, the uid firewall",
    used_by: "promises 4, 6a, 14 and 16i",
    mend: "start the host as root",
};
const VERSION: Known = Known {
    group: GROUP,
    name: "kernel",
    need: Need::Informs,
    buys: "6.12 or later, as this release was tested on",
    used_by: "nothing by itself: what matters is asked for below",
    mend: "a kernel of 6.12 or later, unless the distribution carried the features over",
};
const USER: Known = Known {
    group: GROUP,
    name: "user namespaces",
    need: Need::Required,
    buys: "root in a cell is nobody outside",
    used_by: "every cell",
    mend: "sysctl user.max_user_namespaces=10000; without root also sysctl kernel.unprivileged_userns_clone=1 and \
           kernel.apparmor_restrict_unprivileged_userns=0, where there are such",
};
const OTHERS: Known = Known {
    group: GROUP,
    name: "other namespaces",
    need: Need::Required,
    buys: "a cell sees its own files, processes and network",
    used_by: "every cell; promises 1 and 2",
    mend: "a kernel with CONFIG_NAMESPACES and all that is below it",
};
const TIME: Known = Known {
    group: GROUP,
    name: "time namespaces",
    need: Need::Informs,
    buys: "would hide the host's uptime from cells",
    used_by: "nothing: a cell sees the host's uptime, as SPECIFICATION.md says",
    mend: "a kernel with CONFIG_TIME_NS",
};
const CLOCK: Known = Known {
    group: GROUP,
    name: "clock",
    need: Need::Degrades,
    buys: "tokens end when they should; the ledger's times",
    used_by: "tokens, approvals for a time, certificates, the ledger",
    mend: "set the clock: this program was made later than now",
};
const SYNCHRONISED: Known = Known {
    group: GROUP,
    name: "clock synchronised",
    need: Need::Informs,
    buys: "the ledger's times agree with other machines'",
    used_by: "nothing by itself; a clock that jumps moves the end of tokens",
    mend: "run chrony or systemd-timesyncd",
};
const OVERLAY: Known = Known {
    group: GROUP,
    name: "overlays",
    need: Need::Informs,
    buys: "offered directories in which no socket of the host is met",
    used_by: "policies with filesystem: a cell does not start without; promise 4b2",
    mend: "a kernel of 6.15 or later with CONFIG_OVERLAY_FS",
};
const SECCOMP: Known = Known {
    group: GROUP,
    name: "seccomp",
    need: Need::Required,
    buys: "system calls by an allow-list",
    used_by: "every cell and every process of ours; promise 4",
    mend: "a kernel with CONFIG_SECCOMP_FILTER",
};

/// Each level of Landlock: its number, its name here, and what it adds.
const LEVELS: &[(i32, &str, &str)] = &[
    (1, "landlock abi 1", "rules for files and directories"),
    (2, "landlock abi 2", "moving and linking between directories"),
    (3, "landlock abi 3", "cutting files off"),
    (4, "landlock abi 4", "TCP bind and connect"),
    (5, "landlock abi 5", "ioctl on devices"),
    (6, "landlock abi 6", "no signal or abstract socket beyond the cell"),
    (7, "landlock abi 7", "refusals show in the kernel's audit log"),
    (8, "landlock abi 8", "all threads of a process at once"),
    (9, "landlock abi 9", "Unix sockets by their path"),
    (10, "landlock abi 10", "UDP, and rules that log nothing"),
];
/// What a cell needs besides a user namespace.
const NAMESPACES: [&str; 6] = ["mnt", "pid", "net", "ipc", "uts", "cgroup"];
/// What our programs answer.
const ACTIONS: [&str; 3] = ["kill_process", "errno", "allow"];
/// The kernel with the sixth level of Landlock.
const LEAST: (u32, u32) = (6, 12);
/// The kernel that makes overlays of what is mounted nowhere.
const LEAST_OVERLAY: (u32, u32) = (6, 15);
/// 1 November 2026: no clock that is right shows less.
const MADE: Millis = Millis(1_793_491_200_000);

pub(super) fn features(root: bool) -> Vec<Feature> {
    let release = text("/proc/sys/kernel/osrelease");
    let lacking: Vec<&str> = NAMESPACES.into_iter().filter(|kind| !has_namespace(kind)).collect();
    let mut rows = vec![
        ROOT.is(root, ""),
        VERSION.is(version(&release) >= LEAST, &release),
        USER.is(user_namespaces(root), ""),
        OTHERS.is(lacking.is_empty(), list("without ", &lacking)),
        TIME.is(has_namespace("time"), ""),
        OVERLAY.is(version(&release) >= LEAST_OVERLAY && has_overlays(), ""),
        seccomp(&text("/proc/sys/kernel/seccomp/actions_avail")),
        CLOCK.is(SystemClock.now() >= MADE, ""),
        SYNCHRONISED.is(cofferdam_sys::clock::synchronised(), ""),
    ];
    rows.extend(landlock_levels(landlock::abi()));
    rows
}

/// One row a level: those that a cell is built on are required, the rest is what a later kernel adds.
pub(super) fn landlock_levels(abi: i32) -> Vec<Feature> {
    let row = |(level, name, buys): &(i32, &'static str, &'static str)| {
        let required = *level <= landlock::LEAST as i32;
        let known = Known {
            group: "Landlock",
            name,
            need: if required { Need::Required } else { Need::Informs },
            buys,
            used_by: if required {
                "every cell, control, edge and wardens; promise 4"
            } else {
                "nothing yet"
            },
            mend: if required { "a kernel of 6.12 or later with landlock in lsm=" } else { "a later kernel" },
        };
        known.is(abi >= *level, "")
    };
    LEVELS.iter().map(row).collect()
}

/// From the kernel's list of what a filter may answer.
pub(super) fn seccomp(actions: &str) -> Feature {
    let has = |wanted: &&str| actions.split(' ').any(|action| action == *wanted);
    let lacking: Vec<&str> = ACTIONS.into_iter().filter(|action| !has(action)).collect();
    SECCOMP.is(lacking.is_empty(), list("without ", &lacking))
}

/// `6.18.44-x` → 6.18; what is no version is 0.0.
pub(super) fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn user_namespaces(root: bool) -> bool {
    number("/proc/sys/user/max_user_namespaces").is_some_and(|most| most > 0)
        && (root
            || (number("/proc/sys/kernel/unprivileged_userns_clone").is_none_or(|on| on == 1)
                && number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").is_none_or(|on| on == 0)))
}

/// Built in, or a module that is loaded or can be.
fn has_overlays() -> bool {
    text("/proc/filesystems").lines().any(|line| line.ends_with("\toverlay")) || {
        let release = text("/proc/sys/kernel/osrelease");
        text(format!("/lib/modules/{release}/modules.dep")).contains("/overlay.ko")
    }
}

fn has_namespace(kind: &str) -> bool {
    Path::new("/proc/self/ns").join(kind).exists()
}

fn list(before: &str, words: &[&str]) -> String {
    if words.is_empty() { String::new() } else { format!("{before}{}", words.join(", ")) }
}

/// The state of what is there in part.
pub(super) fn partly(whole: bool, some: bool) -> LayerState {
    match (whole, some) {
        (true, _) => LayerState::Enforced,
        (false, true) => LayerState::Partial,
        (false, false) => LayerState::Absent,
    }
}
