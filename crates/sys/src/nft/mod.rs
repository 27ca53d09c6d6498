//! Two nftables tables, made with raw netlink: the cell's capture, and the host's guard by uid.
//!
//! Each is one batch, so it is there wholly or not at all. It owns the encoding and the ranges of addresses
//! that no warden may reach; which uids, ports and exceptions hold is told by the launcher. The threats:
//! code in a cell that dials around the capture or straight at its own gateway, and a warden that was broken
//! by hostile bytes and turns to the host's own network.
//!
//! Formats: `linux/netfilter/nfnetlink.h`, `linux/netfilter/nf_tables.h`.

mod batch;
mod cell;
mod expression;
mod guard;
mod ranges;

pub use cell::{CellTable, seal_cell};
pub use guard::{UidFirewall, remove_uid_firewall, uid_firewall};
pub use ranges::{Cidr, CidrError};

use std::io;

/// Why a table is not in force.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The kernel has no nf_tables.
    #[error(
        "the kernel has no nf_tables ({0}): load or build in nf_tables, nft_tproxy, nft_reject and nft_fib"
    )]
    Absent(#[source] io::Error),
    /// The kernel refused one part, and so the whole.
    #[error("nf_tables refused {what}: {source}")]
    Refused {
        /// The table, chain, set or rule.
        what: String,
        /// The errno; `ENOENT` for a rule means that the kernel lacks an expression, nft_tproxy for example.
        source: io::Error,
    },
}

#[cfg(test)]
mod tests;
