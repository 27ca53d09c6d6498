//! What kind of address an address is: the special-purpose registries of IANA as a table, and the forms in
//! which an IPv6 address carries an IPv4 address.

use super::{
    Cidr,
    check::{Check, keeps},
    cidr::is_within,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The kind of an address. Anything not known to be global is some other kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressClass {
    /// Globally routable unicast.
    Global,
    /// This host.
    Loopback,
    /// This link.
    LinkLocal,
    /// A cloud's metadata or credential service.
    Metadata,
    /// RFC 1918.
    Private,
    /// RFC 6598, shared between carriers and customers.
    Cgnat,
    /// RFC 4193.
    UniqueLocal,
    /// The deprecated fec0::/10.
    SiteLocal,
    /// One to many.
    Multicast,
    /// For examples in texts.
    Documentation,
    /// For measurements; the synthetic addresses of our own resolver lie here.
    Benchmark,
    /// Anything else that is not for use as a destination.
    Reserved,
    /// No address.
    Unspecified,
    /// An IPv6 address that carries an IPv4 address.
    Embedded(Embedding, Ipv4Addr),
}

/// How an IPv6 address carries an IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Embedding {
    /// `::a.b.c.d`, deprecated.
    Compatible,
    /// `::ffff:a.b.c.d`.
    Mapped,
    /// `::ffff:0:a.b.c.d`, RFC 2765.
    Translated,
    /// `64:ff9b::a.b.c.d`, RFC 6052.
    Nat64,
    /// `2002:aabb:ccdd::`, RFC 3056.
    SixToFour,
    /// `2001::/32`, the client's address inverted, RFC 4380.
    Teredo,
    /// `…:[0200:]5efe:a.b.c.d`, RFC 5214.
    Isatap,
}

impl Embedding {
    /// Every way.
    pub const ALL: [Self; 7] = [
        Self::Compatible,
        Self::Mapped,
        Self::Translated,
        Self::Nat64,
        Self::SixToFour,
        Self::Teredo,
        Self::Isatap,
    ];
}

impl AddressClass {
    /// The kind of this address.
    pub fn of(address: IpAddr) -> Self {
        let known = |(at, known): (usize, &IpAddr)| *known == address && keeps(Check::Metadata(at));
        if METADATA.iter().enumerate().any(known) {
            return Self::Metadata;
        }
        let mut rows = TABLE.iter().enumerate();
        let row =
            rows.find(|(at, row)| row.contains(address) && keeps(Check::Range(*at))).map(|(_, row)| row.2);
        match address {
            IpAddr::V4(_) => row.unwrap_or(Self::Global),
            IpAddr::V6(address) => {
                match (row, embedding(address).filter(|it| keeps(Check::Embedded(it.0)))) {
                    (_, Some((how, inner))) => Self::Embedded(how, inner),
                    (Some(class), None) => class,
                    // Only 2000::/3 is assigned as global unicast.
                    (None, None) if address.segments()[0] >> 13 == 1 || !keeps(Check::Unassigned) => {
                        Self::Global
                    }
                    (None, None) => Self::Reserved,
                }
            }
        }
    }

    /// The IPv4 address inside.
    pub const fn embedded(self) -> Option<IpAddr> {
        match self {
            Self::Embedded(_, inner) => Some(IpAddr::V4(inner)),
            _ => None,
        }
    }

    /// Is it one of the kinds that an operator may open?
    pub const fn is_private(self) -> bool {
        matches!(self, Self::Private | Self::Cgnat | Self::UniqueLocal | Self::SiteLocal)
    }
}

/// The networks that are refused unless the operator opened them, for a firewall that backs the guard up.
/// Metadata addresses outside of them come as networks of one address.
pub fn refused_networks() -> impl Iterator<Item = (Cidr, AddressClass)> {
    let rows = TABLE.iter().filter_map(|row| Some((Cidr::new(row.0, row.1)?, row.2)));
    let single = |address: &IpAddr| Cidr::new(*address, if address.is_ipv4() { 32 } else { 128 });
    rows.chain(METADATA.iter().filter_map(move |address| Some((single(address)?, AddressClass::Metadata))))
}

pub(super) fn embedding(address: Ipv6Addr) -> Option<(Embedding, Ipv4Addr)> {
    let low = |bits: u128| Ipv4Addr::from_bits(u32::try_from(bits & 0xffff_ffff).unwrap_or_default());
    let bits = address.to_bits();
    let last = low(bits);
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0, ..] => Some((Embedding::Compatible, last)),
        [0, 0, 0, 0, 0, 0xffff, ..] => Some((Embedding::Mapped, last)),
        [0, 0, 0, 0, 0xffff, 0, ..] => Some((Embedding::Translated, last)),
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some((Embedding::Nat64, last)),
        [0x2002, ..] => Some((Embedding::SixToFour, low(bits >> 80))),
        [0x2001, 0, ..] => Some((Embedding::Teredo, Ipv4Addr::from_bits(!last.to_bits()))),
        [_, _, _, _, 0 | 0x0200, 0x5efe, ..] => Some((Embedding::Isatap, last)),
        _ => None,
    }
}

/// A network and the kind of its addresses.
pub(super) struct Row(pub(super) IpAddr, pub(super) u8, pub(super) AddressClass);

impl Row {
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        is_within(address, self.0, self.1)
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8, class: AddressClass) -> Row {
    Row(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix, class)
}

const fn v6(segments: [u16; 4], prefix: u8, class: AddressClass) -> Row {
    let [a, b, c, d] = segments;
    Row(IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)), prefix, class)
}

/// Metadata and credential services of clouds.
pub(super) const METADATA: &[IpAddr] = &[
    // AWS, Google, Azure, Oracle, DigitalOcean, Hetzner and most others.
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    // AWS: task credentials, pod identities, time, resolver.
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 123)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 253)),
    // Alibaba.
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    // Oracle, its first address.
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    // Azure's wire server: a global address that only ever means the host.
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    // AWS: metadata, pod identities, resolver.
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x253)),
    // Scaleway.
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42)),
    // Google.
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// First match wins.
pub(super) const TABLE: &[Row] = &[
    Row(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 32, AddressClass::Unspecified),
    // "This network": Linux takes 0.x as reserved, 0.0.0.0 as this host.
    v4(0, 0, 0, 0, 8, AddressClass::Reserved),
    v4(10, 0, 0, 0, 8, AddressClass::Private),
    v4(100, 64, 0, 0, 10, AddressClass::Cgnat),
    v4(127, 0, 0, 0, 8, AddressClass::Loopback),
    v4(169, 254, 0, 0, 16, AddressClass::LinkLocal),
    v4(172, 16, 0, 0, 12, AddressClass::Private),
    // IETF protocol assignments: DS-Lite, NAT64 discovery, anycast PCP and TURN.
    v4(192, 0, 0, 0, 24, AddressClass::Reserved),
    v4(192, 0, 2, 0, 24, AddressClass::Documentation),
    // 6to4 relay anycast, deprecated.
    v4(192, 88, 99, 0, 24, AddressClass::Reserved),
    v4(192, 168, 0, 0, 16, AddressClass::Private),
    v4(198, 18, 0, 0, 15, AddressClass::Benchmark),
    v4(198, 51, 100, 0, 24, AddressClass::Documentation),
    v4(203, 0, 113, 0, 24, AddressClass::Documentation),
    v4(224, 0, 0, 0, 4, AddressClass::Multicast),
    // Former class E, and limited broadcast.
    v4(240, 0, 0, 0, 4, AddressClass::Reserved),
    Row(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 128, AddressClass::Unspecified),
    Row(IpAddr::V6(Ipv6Addr::LOCALHOST), 128, AddressClass::Loopback),
    // Compatible, mapped and translated forms, whole.
    v6([0, 0, 0, 0], 64, AddressClass::Reserved),
    // NAT64: well-known and local-use prefixes.
    v6([0x64, 0xff9b, 0, 0], 96, AddressClass::Reserved),
    v6([0x64, 0xff9b, 1, 0], 48, AddressClass::Reserved),
    // Discard-only and dummy prefixes.
    v6([0x100, 0, 0, 0], 63, AddressClass::Reserved),
    v6([0x2001, 2, 0, 0], 48, AddressClass::Benchmark),
    v6([0x2001, 0xdb8, 0, 0], 32, AddressClass::Documentation),
    // IETF protocol assignments: Teredo, ORCHID, AMT, drones.
    v6([0x2001, 0, 0, 0], 23, AddressClass::Reserved),
    // 6to4.
    v6([0x2002, 0, 0, 0], 16, AddressClass::Reserved),
    v6([0x3fff, 0, 0, 0], 20, AddressClass::Documentation),
    // SRv6 segment identifiers.
    v6([0x5f00, 0, 0, 0], 16, AddressClass::Reserved),
    v6([0xfc00, 0, 0, 0], 7, AddressClass::UniqueLocal),
    v6([0xfe80, 0, 0, 0], 10, AddressClass::LinkLocal),
    v6([0xfec0, 0, 0, 0], 10, AddressClass::SiteLocal),
    v6([0xff00, 0, 0, 0], 8, AddressClass::Multicast),
];
