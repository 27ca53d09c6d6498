//! The table of a cell's network namespace: capture of every TCP port, and the gateway's port for marked
//! sockets only.
//!
//! Nothing here tracks connections: a rule that needs conntrack lets an untracked packet by. Without raw
//! sockets, which no cell has, every connection begins with a SYN, so refusing those is enough; and each
//! later packet costs a cell nothing.

use super::{
    NftError,
    batch::{Batch, Hook},
    expression::{
        Comparison, Expression, Family, Header, ICMP, ICMPV6, Meta, TCP, UDP, family, opening, port,
        protocol, to_loopback,
    },
};
use std::os::fd::OwnedFd;

/// What a cell's table has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellTable {
    /// Where captured connections go: [`CAPTURE_PORT`](crate::socket::CAPTURE_PORT).
    pub capture_port: u16,
    /// The port of the gateway on the cell's loopback, closed to unmarked sockets.
    pub gateway_port: u16,
    /// The mark that opens it.
    pub mark: u32,
}

const TABLE: &str = "cofferdam";
/// `NF_IP_PRI_MANGLE`.
const MANGLE: i32 = -150;

/// Puts the table in force in this thread's network namespace, replacing an older one. Needs CAP_NET_ADMIN
/// over the namespace. Returns the socket that did it: closing that waits for a grace period of the kernel,
/// some ten milliseconds, which whoever is in no hurry may do.
pub fn seal_cell(table: CellTable) -> Result<OwnedFd, NftError> {
    batch(table).commit()
}

pub(super) fn batch(table: CellTable) -> Batch {
    let mut batch = Batch::new(TABLE);
    batch.new_table();
    batch.delete_table();
    batch.new_table();
    capture(&mut batch, table.capture_port);
    output(&mut batch, table.gateway_port, table.mark);
    batch
}

/// Every TCP connection but those to loopback goes to the transparent listener. One that the listener does
/// not take, because it is not there, is reset, lest it reach whoever listens at that port.
fn capture(batch: &mut Batch, capture_port: u16) {
    let chain = "capture";
    batch.base_chain(chain, Hook::Prerouting, MANGLE);
    for of in [Family::V4, Family::V6] {
        batch.rule(
            chain,
            "loopback is the cell's own",
            &[to_loopback(of), vec![Expression::Accept]].concat(),
        );
    }
    for of in [Family::V4, Family::V6] {
        let give = vec![
            Expression::Load(capture_port.to_be_bytes().to_vec()),
            Expression::Tproxy(of),
            Expression::Accept,
        ];
        batch.rule(chain, "capture tcp", &[family(of), protocol(TCP), give].concat());
    }
    let refuse = [protocol(TCP), opening(), vec![Expression::RejectReset]].concat();
    batch.rule(chain, "reset what is not captured", &refuse);
}

fn output(batch: &mut Batch, gateway_port: u16, mark: u32) {
    let chain = "output";
    batch.base_chain(chain, Hook::Output, 0);
    for of in [Family::V4, Family::V6] {
        let unmarked = vec![
            Expression::Meta(Meta::Mark),
            Expression::Compare(Comparison::NotEqual, mark.to_ne_bytes().to_vec()),
            Expression::RejectReset,
        ];
        let rule = [to_loopback(of), protocol(TCP), port(2, gateway_port), opening(), unmarked].concat();
        batch.rule(chain, "the gateway is for marked sockets", &rule);
    }
    for of in [Family::V4, Family::V6] {
        batch.rule(
            chain,
            "loopback is the cell's own",
            &[to_loopback(of), vec![Expression::Accept]].concat(),
        );
    }
    batch.rule(chain, "tcp is captured", &[protocol(TCP), vec![Expression::Accept]].concat());
    for (offset, label) in [(2, "questions to the resolver"), (0, "answers of the resolver")] {
        batch.rule(chain, label, &[protocol(UDP), port(offset, 53), vec![Expression::Accept]].concat());
    }
    // The kernel's own errors, those of the last rule among them, go through this chain too.
    let kind = Expression::Payload { header: Header::Transport, offset: 0, length: 1 };
    for number in [3, 11, 12] {
        let error =
            vec![kind.clone(), Expression::Compare(Comparison::Equal, vec![number]), Expression::Accept];
        batch.rule(chain, "icmp errors", &[family(Family::V4), protocol(ICMP), error].concat());
    }
    let error = vec![kind, Expression::Compare(Comparison::Less, vec![128]), Expression::Accept];
    batch.rule(chain, "icmpv6 errors", &[family(Family::V6), protocol(ICMPV6), error].concat());
    batch.rule(chain, "nothing else leaves", &[Expression::RejectProhibited]);
}
