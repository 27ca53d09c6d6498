//! What this machine offers for the seal, for `doctor`: each feature, what it buys, and what mends its lack.

use crate::cgroup;
use cofferdam_base::ipc::receipt::LayerState;
use cofferdam_sys::landlock;
use serde::Serialize;
use std::path::Path;

/// One feature of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Feature {
    /// Its name.
    pub name: String,
    /// Whether it is there.
    pub state: LayerState,
    /// Without it no cell starts, whatever the profile.
    pub required: bool,
    /// What it buys.
    pub buys: String,
    /// What to do if it is not there; empty if it is.
    pub mend: String,
}

/// Looks at this machine. Changes nothing.
pub fn host_features() -> Vec<Feature> {
    let mut features = vec![
        feature("root", rustix::process::geteuid().is_root(), "own uids, profile strict", "start as root"),
        feature(
            "user namespaces",
            number("/proc/sys/user/max_user_namespaces") > 0
                && flag("/proc/sys/kernel/unprivileged_userns_clone")
                && number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == 0,
            "cells without privilege",
            "sysctl user.max_user_namespaces=10000, and lift AppArmor's restriction",
        ),
        feature(
            &format!("landlock (abi {})", landlock::abi()),
            landlock::abi() >= landlock::LEAST as i32,
            "files, signals and abstract sockets stay in the cell",
            "a kernel of 6.12 or later with landlock in lsm=",
        ),
        feature(
            "seccomp",
            Path::new("/proc/sys/kernel/seccomp/actions_avail").exists(),
            "the allow-list of system calls",
            "a kernel with CONFIG_SECCOMP_FILTER",
        ),
        feature(
            "cgroup.kill",
            Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
                || Path::new("/sys/fs/cgroup/unified/cgroup.controllers").exists(),
            "a cell is killed whole, at once",
            "mount cgroup2 at /sys/fs/cgroup",
        ),
    ];
    for (controller, version) in cgroup::available() {
        features.push(feature(
            &format!(
                "cgroup {controller}{}",
                version.map(|version| format!(" ({version})")).unwrap_or_default()
            ),
            version.is_some(),
            "a cell's limits",
            "delegate the memory, pids and cpu controllers to this user",
        ));
    }
    features
}

fn feature(name: &str, there: bool, buys: &str, mend: &str) -> Feature {
    // Without root or cgroups there is still the profile `rootless`.
    let optional = name == "root" || name.starts_with("cgroup");
    Feature {
        name: name.to_owned(),
        required: !optional,
        state: if there { LayerState::Enforced } else { LayerState::Absent },
        buys: buys.to_owned(),
        mend: if there { String::new() } else { mend.to_owned() },
    }
}

/// A number in a file; a file that is not there is 0.
fn number(path: &str) -> u64 {
    std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// A switch that only some kernels have: not there means on.
fn flag(path: &str) -> bool {
    !Path::new(path).exists() || number(path) == 1
}
