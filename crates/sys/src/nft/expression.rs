//! The expressions of nf_tables that our rules are made of, all over register 1.

use crate::netlink::message::Message;
use std::net::{IpAddr, Ipv6Addr};

/// One expression. Those that load or compare go on to the next only where they hold.
#[derive(Clone, Debug)]
pub(super) enum Expression {
    /// Loads what the kernel knows of a packet.
    Meta(Meta),
    /// Loads bytes of a header.
    Payload { header: Header, offset: u32, length: u32 },
    /// Masks what is loaded.
    Mask(Vec<u8>),
    /// Turns what is loaded, a host-order `u32`, into network order.
    ToNetworkOrder,
    /// Goes on if what is loaded compares like this with these bytes.
    Compare(Comparison, Vec<u8>),
    /// Goes on if what is loaded is in this range, ends included.
    Within(Vec<u8>, Vec<u8>),
    /// Goes on if what is loaded is in this set.
    InSet(&'static str, u32),
    /// Loads the type of the route to the destination.
    RouteType,
    /// Loads bytes.
    Load(Vec<u8>),
    /// Gives the packet to the transparent listener at the port that is loaded, or stops this rule.
    Tproxy(Family),
    /// Ends: the packet goes on its way.
    Accept,
    /// Continues in another chain, and does not come back.
    Goto(&'static str),
    /// Ends: the sender of a TCP segment gets a reset.
    RejectReset,
    /// Ends: the sender gets "administratively prohibited".
    RejectProhibited,
}

/// What the kernel knows of a packet; the numbers are those of `enum nft_meta_keys`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Meta {
    Mark = 3,
    SocketUid = 10,
    Family = 15,
    Protocol = 16,
}

/// Where a payload's offset counts from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Header {
    Network = 1,
    Transport = 2,
}

/// How to compare; the numbers are those of `enum nft_cmp_ops`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Comparison {
    Equal = 0,
    NotEqual = 1,
    Less = 2,
}

/// The numbers are those of `NFPROTO_IPV4` and `NFPROTO_IPV6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4 = 2,
    V6 = 10,
}

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMP: u8 = 1;
pub(super) const ICMPV6: u8 = 58;
/// `RTN_UNICAST`: a destination that is neither our own nor a broadcast, multicast or anycast address.
const UNICAST: u32 = 1;

const REGISTER: u32 = 1;
const VERDICT: u32 = 0;
const GOTO: i32 = -4;

/// Only packets of this family.
pub(super) fn family(family: Family) -> Vec<Expression> {
    vec![Expression::Meta(Meta::Family), Expression::Compare(Comparison::Equal, vec![family as u8])]
}

/// Only packets of this protocol.
pub(super) fn protocol(number: u8) -> Vec<Expression> {
    vec![Expression::Meta(Meta::Protocol), Expression::Compare(Comparison::Equal, vec![number])]
}

/// Loads the destination address; after [`family`].
pub(super) fn destination(family: Family) -> Expression {
    let (offset, length) = if family == Family::V4 { (16, 4) } else { (24, 16) };
    Expression::Payload { header: Header::Network, offset, length }
}

/// Only packets to this address.
pub(super) fn to_address(address: IpAddr) -> Vec<Expression> {
    let (of, bytes) = match address {
        IpAddr::V4(address) => (Family::V4, address.octets().to_vec()),
        IpAddr::V6(address) => (Family::V6, address.octets().to_vec()),
    };
    [family(of), vec![destination(of), Expression::Compare(Comparison::Equal, bytes)]].concat()
}

/// Only packets to 127.0.0.0/8, or to ::1.
pub(super) fn to_loopback(of: Family) -> Vec<Expression> {
    match of {
        Family::V4 => {
            let first = Expression::Payload { header: Header::Network, offset: 16, length: 1 };
            [family(of), vec![first, Expression::Compare(Comparison::Equal, vec![127])]].concat()
        }
        Family::V6 => to_address(Ipv6Addr::LOCALHOST.into()),
    }
}

/// Only packets of this port, at offset 0 (source) or 2 (destination); after [`protocol`].
pub(super) fn port(offset: u32, number: u16) -> Vec<Expression> {
    vec![
        Expression::Payload { header: Header::Transport, offset, length: 2 },
        Expression::Compare(Comparison::Equal, number.to_be_bytes().to_vec()),
    ]
}

/// Only the first segment of a connection: SYN without ACK, FIN or RST; after [`protocol`].
pub(super) fn opening() -> Vec<Expression> {
    vec![
        Expression::Payload { header: Header::Transport, offset: 13, length: 1 },
        Expression::Mask(vec![0x17]),
        Expression::Compare(Comparison::Equal, vec![0x02]),
    ]
}

/// Only packets to an address that is not an ordinary one of somebody else: the host's own above all.
pub(super) fn not_unicast() -> Vec<Expression> {
    vec![Expression::RouteType, Expression::Compare(Comparison::NotEqual, UNICAST.to_ne_bytes().to_vec())]
}

impl Expression {
    /// Appends the expression to a rule's list.
    pub(super) fn encode(&self, list: &mut Message) {
        list.nest(1, |element| {
            element.text(1, self.name());
            element.nest(2, |data| self.data(data));
        });
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Meta(_) => "meta",
            Self::Payload { .. } => "payload",
            Self::Mask(_) => "bitwise",
            Self::ToNetworkOrder => "byteorder",
            Self::Compare(..) => "cmp",
            Self::Within(..) => "range",
            Self::InSet(..) => "lookup",
            Self::RouteType => "fib",
            Self::Load(_) | Self::Accept | Self::Goto(_) => "immediate",
            Self::Tproxy(_) => "tproxy",
            Self::RejectReset | Self::RejectProhibited => "reject",
        }
    }

    /// The attributes, numbered as in the kernel's `enum nft_*_attributes`.
    fn data(&self, data: &mut Message) {
        match self {
            Self::Meta(key) => {
                data.be32(1, REGISTER);
                data.be32(2, *key as u32);
            }
            Self::Payload { header, offset, length } => {
                data.be32(1, REGISTER);
                data.be32(2, *header as u32);
                data.be32(3, *offset);
                data.be32(4, *length);
            }
            Self::Mask(mask) => {
                data.be32(1, REGISTER);
                data.be32(2, REGISTER);
                data.be32(3, u32::try_from(mask.len()).unwrap_or(u32::MAX));
                data.nest(4, |value| value.attribute(1, mask));
                data.nest(5, |value| value.attribute(1, &vec![0; mask.len()]));
            }
            Self::ToNetworkOrder => {
                data.be32(1, REGISTER);
                data.be32(2, REGISTER);
                data.be32(3, 1);
                data.be32(4, 4);
                data.be32(5, 4);
            }
            Self::Compare(comparison, bytes) => {
                data.be32(1, REGISTER);
                data.be32(2, *comparison as u32);
                data.nest(3, |value| value.attribute(1, bytes));
            }
            Self::Within(first, last) => {
                data.be32(1, REGISTER);
                data.be32(2, 0);
                data.nest(3, |value| value.attribute(1, first));
                data.nest(4, |value| value.attribute(1, last));
            }
            Self::InSet(name, id) => {
                data.text(1, name);
                data.be32(2, REGISTER);
                data.be32(4, *id);
            }
            Self::RouteType => {
                data.be32(1, REGISTER);
                data.be32(2, 3);
                data.be32(3, 2);
            }
            Self::Load(bytes) => {
                data.be32(1, REGISTER);
                data.nest(2, |value| value.attribute(1, bytes));
            }
            Self::Tproxy(family) => {
                data.be32(1, *family as u32);
                data.be32(3, REGISTER);
            }
            Self::Accept => {
                data.be32(1, VERDICT);
                data.nest(2, |value| value.nest(2, |verdict| verdict.be32(1, 1)));
            }
            Self::Goto(chain) => {
                data.be32(1, VERDICT);
                data.nest(2, |value| {
                    value.nest(2, |verdict| {
                        verdict.be32(1, GOTO.cast_unsigned());
                        verdict.text(2, chain);
                    });
                });
            }
            Self::RejectReset => {
                data.be32(1, 1);
                data.attribute(2, &[0]);
            }
            Self::RejectProhibited => {
                data.be32(1, 2);
                data.attribute(2, &[3]);
            }
        }
    }
}
