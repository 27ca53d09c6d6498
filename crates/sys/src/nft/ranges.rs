//! Which addresses no warden reaches: a table with its reasons, and the arithmetic of ranges.

use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// A block of addresses, `10.0.0.0/8` for example, without bits behind its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// The text is no block of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a block of addresses: use one like 10.0.0.0/8 or fd00::/8, no bits behind the prefix")]
pub struct CidrError(String);

/// First and last address, as numbers.
type Range = (u128, u128);
/// First and last address, as bytes in network order.
pub(super) type Bytes = (Vec<u8>, Vec<u8>);

/// Never reached, whatever the operator opens.
const NEVER: &[&str] = &[
    "0.0.0.0/8",          // "this host", which Linux takes for loopback
    "127.0.0.0/8",        // loopback
    "169.254.0.0/16",     // link-local; the metadata service of most clouds
    "100.100.100.200/32", // metadata of Alibaba Cloud
    "168.63.129.16/32",   // the platform address of Azure
    "192.0.0.0/24",       // protocol assignments; metadata of Oracle Cloud
    "192.0.2.0/24",       // documentation
    "192.88.99.0/24",     // 6to4 relays
    "198.18.0.0/15",      // benchmarks; our own synthetic addresses
    "198.51.100.0/24",    // documentation
    "203.0.113.0/24",     // documentation
    "224.0.0.0/4",        // multicast
    "240.0.0.0/4",        // reserved, broadcast
    "::/3",               // loopback, mapped and compatible IPv4, NAT64, discard: all below 2000::/3
    "2001::/23",          // protocol assignments: Teredo, benchmarks, ORCHID
    "2001:db8::/32",      // documentation
    "2002::/16",          // 6to4
    "3fff::/20",          // documentation
    "4000::/2",           // not assigned
    "8000::/2",           // not assigned
    "c000::/3",           // not assigned
    "e000::/4",           // not assigned
    "f000::/5",           // not assigned
    "f800::/6",           // not assigned
    "fe00::/7",           // link-local, site-local, multicast
    "fd00:42::42/128",    // metadata of Scaleway
    "fd00:ec2::23/128",   // pod identities of AWS
    "fd00:ec2::253/128",  // the resolver of AWS
    "fd00:ec2::254/128",  // metadata of AWS
    "fd20:ce::254/128",   // metadata of Google Cloud
];

/// Reached only where the operator opened a block of them.
const PRIVATE: &[&str] = &[
    "10.0.0.0/8",
    "100.64.0.0/10", // carrier-grade NAT
    "172.16.0.0/12",
    "192.168.0.0/16",
    "fc00::/7", // unique local
];

/// What is refused when these blocks are open: ranges of IPv4 and of IPv6, upwards, apart from each other.
pub(super) fn refused(opened: &[Cidr]) -> (Vec<Bytes>, Vec<Bytes>) {
    let of = |v4: bool| {
        let bytes = |number: u128| number.to_be_bytes()[if v4 { 12 } else { 0 }..].to_vec();
        let all = refused_of(opened, v4);
        all.into_iter().map(|(first, last)| (bytes(first), bytes(last))).collect()
    };
    (of(true), of(false))
}

/// Is the whole block refused when these are open?
pub(super) fn is_refused(block: Cidr, opened: &[Cidr]) -> bool {
    let (first, last) = block.range();
    refused_of(opened, block.address.is_ipv4()).iter().any(|range| range.0 <= first && last <= range.1)
}

fn refused_of(opened: &[Cidr], v4: bool) -> Vec<Range> {
    let table = |rows: &[&str]| ranges(rows.iter().filter_map(|row| Cidr::from_str(row).ok()), v4);
    let private = without(table(PRIVATE), &ranges(opened.iter().copied(), v4));
    union([table(NEVER), private].concat())
}

/// The blocks of one family as ranges, upwards and apart.
fn ranges(blocks: impl Iterator<Item = Cidr>, v4: bool) -> Vec<Range> {
    union(blocks.filter(|block| block.address.is_ipv4() == v4).map(Cidr::range).collect())
}

/// The same addresses in as few ranges as can be, upwards.
fn union(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable();
    let mut joined: Vec<Range> = Vec::new();
    for (first, last) in ranges {
        match joined.last_mut() {
            Some(open) if first <= open.1.saturating_add(1) => open.1 = open.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    joined
}

/// What is in `ranges` and not in `holes`; both upwards and apart.
fn without(ranges: Vec<Range>, holes: &[Range]) -> Vec<Range> {
    let mut rest = ranges;
    for &(first, last) in holes {
        let cut = |range: Range| {
            let before = (range.0 < first).then(|| (range.0, range.1.min(first - 1)));
            let after = (range.1 > last).then(|| (range.0.max(last + 1), range.1));
            before.into_iter().chain(after)
        };
        rest = rest.into_iter().flat_map(cut).collect();
    }
    rest
}

impl Cidr {
    /// Is this address in the block?
    pub fn contains(self, address: IpAddr) -> bool {
        let (first, last) = self.range();
        address.is_ipv4() == self.address.is_ipv4() && (first..=last).contains(&number(address))
    }

    fn range(self) -> Range {
        let behind = self.behind();
        (number(self.address), number(self.address) | behind)
    }

    /// The bits behind the prefix, all set.
    fn behind(self) -> u128 {
        let bits = if self.address.is_ipv4() { 32 } else { 128 };
        u128::MAX.checked_shr(128 - (bits - u32::from(self.prefix))).unwrap_or(0)
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(Ipv4Addr::to_bits(address)),
        IpAddr::V6(address) => Ipv6Addr::to_bits(address),
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let parse = || {
            let (address, prefix) = text.split_once('/')?;
            let address: IpAddr = address.parse().ok()?;
            let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
            let prefix: u8 = digits.then(|| prefix.parse().ok())??;
            let block = Self { address, prefix };
            let fits = prefix <= if address.is_ipv4() { 32 } else { 128 };
            (fits && number(address) & block.behind() == 0).then_some(block)
        };
        parse().ok_or_else(|| CidrError(text.chars().take(64).collect()))
    }
}

impl TryFrom<String> for Cidr {
    type Error = CidrError;

    fn try_from(text: String) -> Result<Self, CidrError> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(block: Cidr) -> Self {
        block.to_string()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn is_refused(address: &str, opened: &[&str]) -> bool {
        let opened: Vec<Cidr> = opened.iter().map(|text| text.parse().unwrap()).collect();
        let (v4, v6) = refused(&opened);
        let (bytes, ranges) = match address.parse().unwrap() {
            IpAddr::V4(address) => (address.octets().to_vec(), v4),
            IpAddr::V6(address) => (address.octets().to_vec(), v6),
        };
        ranges.iter().any(|(first, last)| *first <= bytes && bytes <= *last)
    }

    #[test]
    fn every_row_of_the_tables_is_a_block_and_refused_at_both_ends() {
        for row in NEVER.iter().chain(PRIVATE) {
            let block: Cidr = row.parse().unwrap();
            let (first, last) = block.range();
            for end in [first, last] {
                let text = match block.address {
                    IpAddr::V4(_) => Ipv4Addr::from_bits(u32::try_from(end).unwrap()).to_string(),
                    IpAddr::V6(_) => Ipv6Addr::from_bits(end).to_string(),
                };
                assert!(is_refused(&text, &[]), "{text} of {row}");
            }
        }
    }

    #[test]
    fn public_addresses_are_not_refused() {
        for public in
            ["8.8.8.8", "93.184.216.34", "172.15.255.255", "172.32.0.0", "198.20.0.0", "223.255.255.255"]
        {
            assert!(!is_refused(public, &[]), "{public}");
        }
        for public in ["2606:4700::1", "2001:4860:4860::8888", "2620:fe::fe", "2a00::1", "3ffe::1"] {
            assert!(!is_refused(public, &[]), "{public}");
        }
    }

    #[test]
    fn an_opened_block_opens_private_addresses_only() {
        assert!(!is_refused("10.9.9.9", &["10.9.0.0/16"]));
        assert!(is_refused("10.10.0.0", &["10.9.0.0/16"]));
        assert!(is_refused("10.8.255.255", &["10.9.0.0/16"]));
        for never in ["127.0.0.1", "169.254.169.254", "100.100.100.200", "224.0.0.1"] {
            assert!(is_refused(never, &["0.0.0.0/0", "::/0"]), "{never}");
        }
        assert!(!is_refused("fd12::1", &["::/0"]) && !is_refused("100.64.0.1", &["0.0.0.0/0"]));
        for never in ["::1", "::ffff:8.8.8.8", "64:ff9b::808:808", "fe80::1", "fd00:ec2::254", "2002::1"] {
            assert!(is_refused(never, &["::/0"]), "{never}");
        }
    }

    #[test]
    fn only_whole_blocks_are_blocks() {
        for bad in [
            "",
            "10.0.0.0",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "::/129",
            "fd00::1/8",
            "x/1",
            "1.2.3.4/",
        ] {
            assert!(Cidr::from_str(bad).is_err(), "{bad}");
        }
        assert!(Cidr::from_str("0.0.0.0/0").unwrap().contains("1.2.3.4".parse().unwrap()));
        assert!(!Cidr::from_str("10.0.0.0/8").unwrap().contains("::a00:1".parse().unwrap()));
    }
}
