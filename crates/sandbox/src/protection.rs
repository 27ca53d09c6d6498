//! The protections of a cell, each by a name of its own: what can be left out, one by one, to show what it does.
//!
//! A cell that serves a tenant leaves out nothing but what its operator named with a reason; a throw-away cell of
//! `prove` leaves out what a control needs. The threat: a protection that is thought to hold and does not, which
//! only its absence can show. The user and mount namespaces are in no list: without them there is no cell.

use crate::seccomp::Danger;
use cofferdam_sys::landlock::Right;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// One protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Protection {
    /// Processes of its own.
    PidNamespace,
    /// A network of its own.
    NetworkNamespace,
    /// System V and POSIX objects of its own.
    IpcNamespace,
    /// A host name of its own.
    UtsNamespace,
    /// A view of cgroups of its own.
    CgroupNamespace,
    /// The root directory cannot be written to.
    ReadOnlyRoot,
    /// Trees of the host and of the runtime cannot be written to.
    ReadOnlyTrees,
    /// No setuid bit counts.
    Nosuid,
    /// No device file counts.
    Nodev,
    /// What `/proc` tells of the machine is covered.
    MaskedProc,
    /// `/proc/sys` cannot be written to.
    ReadOnlySys,
    /// `/proc` shows only what the reader may trace.
    HiddenProcesses,
    /// A file of an offered directory is another one than the host's.
    OwnFiles,
    /// `/tmp` ends at its size.
    TmpSize,
    /// The five capability sets are empty, and stay it.
    Capabilities,
    /// The session keyring is the cell's own.
    Keyring,
    /// No memory is dumped to disk.
    NoCoreDumps,
    /// Open files end at their limit.
    OpenFiles,
    /// Memory ends at its limit.
    Memory,
    /// Processes end at their limit.
    Pids,
    /// Processor time ends at its share.
    Cpu,
    /// `/sandbox` ends at its bytes and inodes.
    HomeQuota,
    /// One right of the Landlock domain.
    Landlock(Right),
    /// What is not on the list of system calls does not exist.
    AllowList,
    /// Families of sockets that are not listed do not exist.
    Families,
    /// A group of calls that are refused by name.
    Dangerous(Danger),
    /// Every TCP connection is captured, and the gateway's port is the edge's.
    Capture,
}

impl Protection {
    /// All of them, in the order of a receipt.
    pub fn all() -> Vec<Self> {
        let mut all = vec![
            Self::PidNamespace,
            Self::NetworkNamespace,
            Self::IpcNamespace,
            Self::UtsNamespace,
            Self::CgroupNamespace,
            Self::ReadOnlyRoot,
            Self::ReadOnlyTrees,
            Self::Nosuid,
            Self::Nodev,
            Self::MaskedProc,
            Self::ReadOnlySys,
            Self::HiddenProcesses,
            Self::OwnFiles,
            Self::TmpSize,
            Self::Capabilities,
            Self::Keyring,
            Self::NoCoreDumps,
            Self::OpenFiles,
            Self::Memory,
            Self::Pids,
            Self::Cpu,
            Self::HomeQuota,
        ];
        all.extend(Right::ALL.map(Self::Landlock));
        all.extend([Self::AllowList, Self::Families]);
        all.extend(Danger::ALL.map(Self::Dangerous));
        all.push(Self::Capture);
        all
    }

    /// The layer, as a receipt names it.
    pub const fn layer(self) -> &'static str {
        match self {
            Self::PidNamespace => "pid namespace",
            Self::NetworkNamespace => "network namespace",
            Self::IpcNamespace => "ipc namespace",
            Self::UtsNamespace => "uts namespace",
            Self::CgroupNamespace => "cgroup namespace",
            Self::ReadOnlyRoot
            | Self::ReadOnlyTrees
            | Self::Nosuid
            | Self::Nodev
            | Self::OwnFiles
            | Self::TmpSize => "files",
            Self::MaskedProc | Self::ReadOnlySys | Self::HiddenProcesses => "proc",
            Self::Capabilities => "capabilities",
            Self::Keyring => "keyring",
            Self::NoCoreDumps | Self::OpenFiles => "rlimits",
            Self::Memory => "cgroup memory",
            Self::Pids => "cgroup pids",
            Self::Cpu => "cgroup cpu",
            Self::HomeQuota => "home quota",
            Self::Landlock(_) => "landlock",
            Self::AllowList => "seccomp allow-list",
            Self::Families => "seccomp families",
            Self::Dangerous(_) => "seccomp dangerous",
            Self::Capture => "capture",
        }
    }

    /// Every protection of a layer; none if no layer is called so.
    pub fn of_layer(layer: &str) -> Vec<Self> {
        Self::all().into_iter().filter(|protection| protection.layer() == layer).collect()
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReadOnlyRoot => f.write_str("files: root read-only"),
            Self::ReadOnlyTrees => f.write_str("files: trees read-only"),
            Self::Nosuid => f.write_str("files: nosuid"),
            Self::Nodev => f.write_str("files: nodev"),
            Self::OwnFiles => f.write_str("files: offered apart"),
            Self::TmpSize => f.write_str("files: size of /tmp"),
            Self::MaskedProc => f.write_str("proc: masks"),
            Self::ReadOnlySys => f.write_str("proc: sys read-only"),
            Self::HiddenProcesses => f.write_str("proc: hidepid"),
            Self::NoCoreDumps => f.write_str("rlimits: core"),
            Self::OpenFiles => f.write_str("rlimits: files"),
            Self::Landlock(right) => write!(f, "landlock: {}", name(right)),
            Self::Dangerous(danger) => write!(f, "seccomp dangerous: {}", name(danger)),
            whole => f.write_str(whole.layer()),
        }
    }
}

/// `ReadFile` becomes `read file`.
fn name(part: &impl fmt::Debug) -> String {
    let mut name = String::new();
    for letter in format!("{part:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push(' ');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

impl FromStr for Protection {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::all().into_iter().find(|protection| protection.to_string() == text);
        known.ok_or_else(|| format!("{text:?} is no protection of a cell"))
    }
}

impl TryFrom<String> for Protection {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Protection> for String {
    fn from(protection: Protection) -> Self {
        protection.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_protection_has_a_name_of_its_own_and_is_found_by_it() {
        let all = Protection::all();
        assert!(all.len() >= 50, "{}", all.len());
        for protection in &all {
            assert_eq!(protection.to_string().parse::<Protection>().unwrap(), *protection);
            assert!(Protection::of_layer(protection.layer()).contains(protection));
        }
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), all.len());
        assert!("no such thing".parse::<Protection>().is_err());
        assert!(Protection::of_layer("no such thing").is_empty());
    }
}
