//! What this machine offers for the seal, for `doctor`: each feature, what it buys, and what mends its lack.
//!
//! What can be asked of files is read there. The network of a cell is tried out, in a namespace that a child
//! of ours makes and that goes with it.

use crate::cgroup;
use cofferdam_base::ipc::receipt::LayerState;
use cofferdam_sys::{
    landlock, netlink, netns,
    nft::{self, CellTable, NftError, UidFirewall},
    process::{self, Forked},
    userns,
};
use serde::{Deserialize, Serialize};
use std::{
    io::{self, Read, Write},
    path::Path,
};

/// One feature of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Feature {
    /// Its name.
    pub name: String,
    /// Whether it is there.
    pub state: LayerState,
    /// Without it no cell starts under the profile that this user would get.
    pub required: bool,
    /// What it buys.
    pub buys: String,
    /// What to do if it is not there; empty if it is.
    pub mend: String,
}

/// What a cell needs besides a user namespace.
const NAMESPACES: [&str; 6] = ["mnt", "pid", "net", "ipc", "uts", "cgroup"];

/// Looks at this machine. Changes nothing.
pub fn host_features() -> Vec<Feature> {
    let root = rustix::process::geteuid().is_root();
    let mut features = vec![
        feature("root", root, false, "own uids, profile strict", "start as root"),
        feature(
            "user namespaces",
            number("/proc/sys/user/max_user_namespaces") > 0
                && flag("/proc/sys/kernel/unprivileged_userns_clone")
                && number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == 0,
            true,
            "cells without privilege",
            "sysctl user.max_user_namespaces=10000, and lift AppArmor's restriction",
        ),
    ];
    let lacking: Vec<&str> = NAMESPACES.into_iter().filter(|kind| !has_namespace(kind)).collect();
    features.push(feature(
        "other namespaces",
        lacking.is_empty(),
        true,
        "a cell sees its own files, processes, network, names and groups only",
        &format!("a kernel with namespaces of the kinds {}", lacking.join(", ")),
    ));
    features.extend([
        feature(
            &format!("landlock (abi {})", landlock::abi()),
            landlock::abi() >= landlock::LEAST as i32,
            true,
            "files, signals and abstract sockets stay in the cell",
            "a kernel of 6.12 or later with landlock in lsm=",
        ),
        feature(
            "seccomp",
            Path::new("/proc/sys/kernel/seccomp/actions_avail").exists(),
            true,
            "the allow-list of system calls",
            "a kernel with CONFIG_SECCOMP_FILTER",
        ),
    ]);
    features.extend(network(root));
    features.push(feature(
        "cgroup.kill",
        Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
            || Path::new("/sys/fs/cgroup/unified/cgroup.controllers").exists(),
        root,
        "a cell is killed whole, at once",
        "mount cgroup2 at /sys/fs/cgroup",
    ));
    for (controller, version) in cgroup::available() {
        features.push(feature(
            &format!(
                "cgroup {controller}{}",
                version.map(|version| format!(" ({version})")).unwrap_or_default()
            ),
            version.is_some(),
            root,
            "a cell's limits",
            "delegate the memory, pids and cpu controllers to this user",
        ));
    }
    features
}

/// What became of the trial; none is fine.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Trial {
    namespace: Option<String>,
    any_ip: Option<String>,
    absent: Option<String>,
    table: Option<String>,
    firewall: Option<String>,
}

fn network(root: bool) -> Vec<Feature> {
    let trial = tried(root).unwrap_or_else(|error| Trial {
        namespace: Some(format!("it could not be tried: {error}")),
        ..Trial::default()
    });
    let Trial { namespace, any_ip, absent, table, firewall } = trial;
    let row = |name: &str, required, buys: &str, mend: &str, whys: &[&Option<String>]| {
        let why = whys.iter().find_map(|why| why.as_deref());
        let mend = why.map(|why| format!("{mend} ({why})")).unwrap_or_default();
        feature(name, why.is_none(), required, buys, &mend)
    };
    let mut rows = vec![
        row(
            "anyip",
            true,
            "each destination of a cell arrives at its warden",
            "a kernel that takes local routes for whole families",
            &[&namespace, &any_ip],
        ),
        row(
            "nf_tables",
            root,
            "the gateway's port is closed to the cell's own tools",
            "modprobe nf_tables nft_reject_inet",
            &[&namespace, &any_ip, &absent],
        ),
        row(
            "nft tproxy",
            root,
            "every TCP port is captured, not only those of the policy",
            "modprobe nft_tproxy",
            &[&namespace, &any_ip, &absent, &table],
        ),
    ];
    if root {
        rows.push(row(
            "uid firewall",
            true,
            "no warden reaches the host or a private network, even if it is broken",
            "modprobe nf_tables nft_reject_inet nft_fib_inet",
            &[&namespace, &absent, &firewall],
        ));
    }
    rows
}

/// Makes in a child what a cell and a host make, in a network that ends with it.
fn tried(root: bool) -> io::Result<Trial> {
    let (mut reader, mut writer) = io::pipe()?;
    match process::fork()? {
        Forked::Child => {
            let trial = serde_json::to_vec(&trial(root)).unwrap_or_default();
            process::exit(u8::from(writer.write_all(&trial).is_err()))
        }
        Forked::Parent(child) => {
            drop(writer);
            let mut bytes = Vec::new();
            let read = reader.read_to_end(&mut bytes);
            rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty())?;
            read?;
            serde_json::from_slice(&bytes).map_err(io::Error::other)
        }
    }
}

fn trial(root: bool) -> Trial {
    let mut trial = Trial::default();
    let entered = if root { netns::unshare() } else { userns::unshare_with_network() };
    if let Err(error) = entered {
        return Trial { namespace: Some(format!("no new network namespace: {error}")), ..trial };
    }
    trial.any_ip = netlink::any_ip().err().map(|error| error.to_string());
    match nft::seal_cell(CellTable { capture_port: 1, gateway_port: 2, mark: 3 }) {
        Ok(_) => {}
        Err(NftError::Absent(error)) => trial.absent = Some(error.to_string()),
        Err(error) => trial.table = Some(error.to_string()),
    }
    if root {
        let firewall = UidFirewall {
            table: "cofferdam_doctor".to_owned(),
            uids: 1..=2,
            nameservers: Vec::new(),
            opened: Vec::new(),
        };
        trial.firewall = nft::uid_firewall(&firewall).err().map(|error| error.to_string());
    }
    trial
}

fn feature(name: &str, there: bool, required: bool, buys: &str, mend: &str) -> Feature {
    Feature {
        name: name.to_owned(),
        required,
        state: if there { LayerState::Enforced } else { LayerState::Absent },
        buys: buys.to_owned(),
        mend: if there { String::new() } else { mend.to_owned() },
    }
}

fn has_namespace(kind: &str) -> bool {
    Path::new("/proc/self/ns").join(kind).exists()
}

/// A number in a file; a file that is not there is 0.
fn number(path: &str) -> u64 {
    std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// A switch that only some kernels have: not there means on.
fn flag(path: &str) -> bool {
    !Path::new(path).exists() || number(path) == 1
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_network_of_a_cell_is_tried_and_nothing_of_the_trial_stays() {
        let root = rustix::process::geteuid().is_root();
        let before = netns::current_cookie().unwrap();
        let trial = tried(root).unwrap();
        assert!(trial.any_ip.is_none() && trial.table.is_none(), "{trial:?}");
        assert_eq!(netns::current_cookie().unwrap(), before);
    }

    #[test]
    fn what_could_not_be_tried_is_no_feature() {
        for row in network(rustix::process::geteuid().is_root()) {
            assert_eq!(row.state == LayerState::Enforced, row.mend.is_empty(), "{row:?}");
        }
        let row = feature("x", false, true, "y", "mend it");
        assert_eq!((row.state, row.mend.as_str()), (LayerState::Absent, "mend it"));
    }
}
