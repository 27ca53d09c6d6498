//! The host's guard by uid: what no warden may reach, even one that was taken over.
//!
//! A socket's uid is that of the process that made it, so the guard holds for every socket of a warden's own,
//! and for none that somebody hands to it.

use super::{
    Cidr, NftError,
    batch::{Batch, Hook},
    expression::{
        Expression, Family, Meta, TCP, UDP, destination, family, not_unicast, port, protocol, to_address,
    },
    ranges::{is_refused, refused},
};
use std::{net::SocketAddr, ops::RangeInclusive};

/// The guard: whom it binds, and what it leaves open.
#[derive(Clone, Debug)]
pub struct UidFirewall {
    /// The table's name: one for each host that runs on this machine.
    pub table: String,
    /// The uids of wardens.
    pub uids: RangeInclusive<u32>,
    /// Name servers, with their port, which may be local or private.
    pub nameservers: Vec<SocketAddr>,
    /// The operator's proxy, which may be local or private, too: this port of this address, over TCP.
    pub proxy: Option<SocketAddr>,
    /// Private blocks that the operator opened. They open nothing else: no loopback, metadata or link-local
    /// address, and no address of the host itself.
    pub opened: Vec<Cidr>,
}

impl UidFirewall {
    /// Is this whole block refused, whatever the host's own addresses are?
    pub fn refuses(&self, block: Cidr) -> bool {
        is_refused(block, &self.opened)
    }
}

/// `NF_IP_PRI_FILTER`: after any translation of the destination.
const FILTER: i32 = 0;
const SETS: [(Family, &str, u32, u32); 2] = [(Family::V4, "refused4", 1, 7), (Family::V6, "refused6", 2, 8)];

/// Puts the guard in force in this thread's network namespace, replacing an older one of the same name in
/// one step. Needs CAP_NET_ADMIN.
pub fn uid_firewall(firewall: &UidFirewall) -> Result<(), NftError> {
    batch(firewall).commit().map(drop)
}

/// Removes the guard; it is no error if there is none.
pub fn remove_uid_firewall(table: &str) -> Result<(), NftError> {
    let mut batch = Batch::new(table);
    batch.new_table();
    batch.delete_table();
    batch.commit().map(drop)
}

pub(super) fn batch(firewall: &UidFirewall) -> Batch {
    let mut batch = Batch::new(&firewall.table);
    batch.new_table();
    batch.delete_table();
    batch.new_table();
    let (refused4, refused6) = refused(&firewall.opened);
    for ((_, name, id, type_code), ranges) in SETS.into_iter().zip([refused4, refused6]) {
        batch.intervals(name, id, type_code, &ranges);
    }
    batch.chain("refuse");
    batch.chain("warden");
    batch.base_chain("output", Hook::Output, FILTER);

    batch.rule("refuse", "reset tcp", &[protocol(TCP), vec![Expression::RejectReset]].concat());
    batch.rule("refuse", "prohibit the rest", &[Expression::RejectProhibited]);

    for server in &firewall.nameservers {
        for number in [UDP, TCP] {
            let ask = [protocol(number), port(2, server.port()), vec![Expression::Accept]].concat();
            batch.rule("warden", "a name server", &[to_address(server.ip()), ask].concat());
        }
    }
    if let Some(proxy) = &firewall.proxy {
        let dial = [protocol(TCP), port(2, proxy.port()), vec![Expression::Accept]].concat();
        batch.rule("warden", "the operator's proxy", &[to_address(proxy.ip()), dial].concat());
    }
    for (of, name, id, _) in SETS {
        let look = vec![destination(of), Expression::InSet(name, id), Expression::Goto("refuse")];
        batch.rule("warden", "refused addresses", &[family(of), look].concat());
    }
    let own = [not_unicast(), vec![Expression::Goto("refuse")]].concat();
    batch.rule("warden", "the host's own addresses", &own);

    // Loaded in host order, but compared byte by byte.
    let (first, last) = (firewall.uids.start().to_be_bytes(), firewall.uids.end().to_be_bytes());
    let bound = [
        Expression::Meta(Meta::SocketUid),
        Expression::ToNetworkOrder,
        Expression::Within(first.to_vec(), last.to_vec()),
        Expression::Goto("warden"),
    ];
    batch.rule("output", "wardens are bound", &bound);
    batch
}
