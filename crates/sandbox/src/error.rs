//! Why a cell, a service or a confinement is not: always with the layer, and what mends it.

use cofferdam_base::ipc::launcher::Failure;
use cofferdam_sys::channel::ChannelError;
use serde::{Deserialize, Serialize};
use std::io;

/// Why something of this crate did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The plan contradicts itself.
    #[error("launch plan: {0}")]
    Plan(String),
    /// A layer of the seal cannot be applied; nothing was started.
    #[error("layer {}: {}", .0.layer, .0.message)]
    Layer(LayerFailure),
    /// Other limits cannot hold in a cell that runs; the old ones do.
    #[error("{what}: {message}")]
    Limits {
        /// Which limit, as in the receipt.
        what: String,
        /// What happened.
        message: String,
        /// What to do.
        mend: String,
    },
    /// The wire to a cell's init broke.
    #[error("the cell's init: {0}")]
    Wire(#[from] ChannelError),
    /// The cell ended before it was sealed.
    #[error("the cell ended while it was built: {0}")]
    Ended(String),
    /// A system call failed outside of any layer.
    #[error("{what}: {error}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// The errno.
        error: io::Error,
    },
}

/// A layer that cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerFailure {
    /// The layer, as in the receipt.
    pub layer: String,
    /// What happened, with the errno.
    pub message: String,
    /// What gives the layer: a kernel feature, or what to do.
    pub mend: String,
}

impl LayerFailure {
    /// With what mends the layer.
    pub(crate) fn of(layer: &str, message: String) -> Self {
        Self { layer: layer.to_owned(), message, mend: mend(layer).to_owned() }
    }
}

impl Error {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        |error| Self::Io { what, error }
    }
}

impl From<LayerFailure> for Error {
    fn from(failure: LayerFailure) -> Self {
        Self::Layer(failure)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let mend = match &error {
            Error::Layer(failure) => failure.mend.clone(),
            Error::Limits { mend, .. } => mend.clone(),
            _ => String::new(),
        };
        Self { message: error.to_string(), mend }
    }
}

/// Names the layer of an error.
pub(crate) trait Layer<T> {
    fn layer(self, layer: &str) -> Result<T, LayerFailure>;
}

impl<T, E: std::fmt::Display> Layer<T> for Result<T, E> {
    fn layer(self, layer: &str) -> Result<T, LayerFailure> {
        self.map_err(|error| LayerFailure::of(layer, error.to_string()))
    }
}

fn mend(layer: &str) -> &'static str {
    match layer {
        "user namespace" => {
            "allow user namespaces: CONFIG_USER_NS, sysctl user.max_user_namespaces, no AppArmor restriction"
        }
        "mount namespace" => "a kernel of 5.12 or later (mount_setattr), and sources that exist",
        "proc" => {
            "a host whose own /proc is not masked: run outside of a container, or with an unmasked /proc"
        }
        "network" => "a kernel with CONFIG_NET_NS",
        "capture" => "load nf_tables, nft_tproxy and nft_socket (CONFIG_NFT_TPROXY, CONFIG_NFT_CT)",
        "landlock" => "a kernel of 6.12 or later with landlock in lsm= (CONFIG_SECURITY_LANDLOCK)",
        "seccomp" => "a kernel with CONFIG_SECCOMP_FILTER",
        "home quota" => {
            "install e2fsprogs; an image that is damaged: e2fsck -f on it, while its tenant is stopped"
        }
        "cgroup" => "delegate the memory, pids and cpu controllers to this process's cgroup",
        _ => "",
    }
}
