//! What a cell is to be: data, made by the launcher from its own configuration and by nobody else.
//!
//! A plan names host paths and ids, so none ever travels from control. Everything in it that could be wrong
//! is checked by [`CellPlan::check`] before anything is made.

use crate::{Error, Protection};
use cofferdam_base::ipc::launcher::Limits;
use cofferdam_sys::landlock::Right;
use serde::{Deserialize, Serialize};
use std::path::{Component, Path, PathBuf};

/// How much of the seal is required.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// Started as root: every layer, or no cell.
    Strict,
    /// Started without root: resource limits hold only where a cgroup was delegated.
    Rootless,
}

/// May a cell write to a mount?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// It may read and execute.
    ReadOnly,
    /// It may read and execute what is in a directory of the operator's, and meets nobody there.
    Offered {
        /// What the directory may neither hold nor be a part of.
        apart_from: PathBuf,
    },
    /// It may do anything but make devices.
    ReadWrite,
}

/// A tree or file of the host that a cell sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// On the host; absolute. No link on the way is followed.
    pub source: PathBuf,
    /// In the cell; absolute.
    pub target: PathBuf,
    /// Whether the cell may write to it.
    pub access: Access,
    /// What it is to a person: `runtime`, `configuration`.
    pub label: String,
}

/// The label of what a cell trusts: files of certificates, which may stand in [`TRUSTED`] and nowhere else.
pub const TRUST: &str = "trust";
/// A directory of ours, and the place of the host's bundle.
const TRUSTED: [&str; 2] = ["/etc/cofferdam/trust", "/etc/ssl/certs/ca-certificates.crt"];

/// A cell's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// Every connection is captured; connections to the runtime's port need the mark.
    Captured {
        /// The runtime's port on 127.0.0.1.
        port: u16,
        /// What the launcher's sockets bear. Never 0.
        mark: u32,
    },
    /// A loopback that is down.
    None,
}

/// What holds a home to its bytes and inodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quota {
    /// Nothing, and nobody asks: a scratch cell.
    Scratch,
    /// Nothing, and the receipt says why.
    None {
        /// What is missing, and what mends it.
        why: String,
    },
    /// The home is the file system in this image; see [`home_image`](crate::home_image).
    Image(PathBuf),
}

/// The whole plan of one cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellPlan {
    /// The tenant's id, or a scratch name.
    pub name: String,
    /// Which start of this cell.
    pub generation: u64,
    /// How much is required.
    pub profile: Profile,
    /// The host's uid for every process in it; 1000 inside.
    pub uid: u32,
    /// The host's gid, likewise.
    pub gid: u32,
    /// The host name inside.
    pub hostname: String,
    /// The runtime's tree, its configuration, and the like.
    pub binds: Vec<Bind>,
    /// Becomes `/sandbox`, writable; with a quota by an image, the image's content does.
    pub home: PathBuf,
    /// What holds it to its limits.
    pub quota: Quota,
    /// The runtime: an absolute path or a name on the PATH in `env`, and its arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Where the runtime starts, in the cell.
    pub cwd: PathBuf,
    /// Its network.
    pub network: Network,
    /// What it may use.
    pub limits: Limits,
    /// Its cgroup, below our own; see [`group`](crate::group).
    pub cgroup: String,
    /// What of the seal is left out: nothing, but for what the operator named with a reason, and for the controls
    /// of a proof.
    pub without: Vec<Protection>,
}

impl CellPlan {
    /// Is this protection part of the seal?
    pub(crate) fn keeps(&self, protection: Protection) -> bool {
        !self.without.contains(&protection)
    }

    /// The rights that its Landlock domain does not handle.
    pub(crate) fn free_rights(&self) -> Vec<Right> {
        let right = |protection: &Protection| match protection {
            Protection::Landlock(right) => Some(*right),
            _ => None,
        };
        self.without.iter().filter_map(right).collect()
    }

    /// Port and mark of a network that is captured.
    pub(crate) fn captured(&self) -> Option<(u16, u32)> {
        match self.network {
            Network::Captured { port, mark } if self.keeps(Protection::NetworkNamespace) => {
                Some((port, mark))
            }
            _ => None,
        }
    }

    /// Refuses a plan that could not mean what its author meant.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |what: String| Err(Error::Plan(what));
        if self.argv.is_empty() || self.argv.iter().any(|text| text.contains('\0')) {
            return refuse("the command is empty or holds a NUL".into());
        }
        if self
            .env
            .iter()
            .any(|(name, value)| name.is_empty() || name.contains(['=', '\0']) || value.contains('\0'))
        {
            return refuse("an environment variable has no name, or holds a NUL".into());
        }
        if self.profile == Profile::Strict && (self.uid == 0 || self.gid == 0) {
            return refuse("a cell never runs as the host's root".into());
        }
        if let Network::Captured { port, mark } = self.network
            && (port == 0 || mark == 0)
        {
            return refuse("the runtime's port and mark are never 0".into());
        }
        if !plain(&self.cwd) || !plain(&self.home) {
            return refuse("home and cwd are plain absolute paths".into());
        }
        if matches!(&self.quota, Quota::Image(image) if !plain(image) || self.profile == Profile::Rootless) {
            return refuse("the image of a home is a plain absolute path, and root's".into());
        }
        for bind in &self.binds {
            if !plain(&bind.source) || !plain(&bind.target) || bind.target == Path::new("/") {
                return refuse(format!("bind {}: not plain absolute paths", bind.label));
            }
            let reserved =
                ["/proc", "/dev", "/etc", "/usr", "/tmp", "/bin", "/lib", "/lib64", "/sbin", "/sandbox"];
            let trust = bind.label == TRUST;
            let taken = reserved.iter().any(|taken| bind.target.starts_with(taken));
            if trust
                && TRUSTED.iter().any(|place| bind.target == Path::new(place))
                && bind.access == Access::ReadOnly
            {
                continue;
            }
            if taken || trust {
                return refuse(format!("bind {}: {} is the cell's own", bind.label, bind.target.display()));
            }
        }
        let below = Path::new(&self.cgroup);
        if self.cgroup.is_empty() || !below.components().all(|part| matches!(part, Component::Normal(_))) {
            return refuse("the cgroup is a relative path".into());
        }
        Ok(())
    }
}

fn plain(path: &Path) -> bool {
    path.is_absolute()
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
        && !path.as_os_str().as_encoded_bytes().contains(&0)
}
