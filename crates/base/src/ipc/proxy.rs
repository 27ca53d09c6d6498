//! The operator's proxy, as a warden is told of it.

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// A proxy (`[egress] upstream_proxy`) through which everything goes that is dialled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamProxy {
    /// Where it is. The firewall by uid opens exactly this to wardens.
    pub address: SocketAddr,
    /// What is dialled without it: blocks of addresses, and names with all that is beneath them.
    pub no_proxy: Vec<String>,
    /// It resolves names, and no warden does: the addresses behind a name are checked by nobody here.
    pub resolves_names: bool,
}
