//! What control takes from the configuration, parsed once at the start.

use cofferdam_base::Digest;
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

/// The host's standing facts.
#[derive(Clone, Debug)]
pub struct Facts {
    /// `iss` of every token: names this data directory.
    pub issuer: String,
    /// Where the edge listens for all tenants, and by whose port for each.
    pub edge: SocketAddr,
    /// The production domain; none in development.
    pub domain: Option<String>,
    /// `strict` or `rootless`.
    pub profile: &'static str,
    /// What the profile does not keep.
    pub degradations: Vec<String>,
    /// The command runtimes: name and program.
    pub commands: BTreeMap<String, String>,
    /// The installed OpenClaws: the digest of the lock, and the version.
    pub openclaws: BTreeMap<Digest, String>,
    /// Where the launcher writes `<id>.log`.
    pub logs: PathBuf,
    /// What each warden is told of the host.
    pub wardens: WardenFacts,
}

/// The same for every warden.
#[derive(Clone, Debug, Default)]
pub struct WardenFacts {
    /// Where real names are resolved.
    pub nameservers: Vec<SocketAddr>,
    /// Private CIDR blocks that the operator opened.
    pub operator_private: Vec<String>,
    /// The host's own addresses.
    pub host_addresses: Vec<IpAddr>,
    /// How long a connection is held for an answer.
    pub hold_ms: u32,
    /// Relays at one time.
    pub relays: u32,
    /// Connections on hold at one time.
    pub holds: u32,
    /// New names a second.
    pub names_per_second: u32,
}
