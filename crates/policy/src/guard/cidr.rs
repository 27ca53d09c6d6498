//! A network: an address and a prefix, without host bits.

use crate::Error;
use std::{fmt, net::IpAddr, str::FromStr};

/// A network of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// The network that `address` and `prefix` spell; none if the prefix is too long or host bits are set.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let width: u32 = if address.is_ipv4() { 32 } else { 128 };
        let host_bits = width.checked_sub(u32::from(prefix))?;
        let free = 1u128.checked_shl(host_bits).map_or(u128::MAX, |bit| bit - 1);
        (bits(address) & free == 0).then_some(Self { address, prefix })
    }

    /// Is the address, of the same family, in the network?
    pub fn contains(&self, address: IpAddr) -> bool {
        is_within(address, self.address, self.prefix)
    }

    /// The lowest address of the network.
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// How many leading bits are the network's.
    pub const fn prefix(&self) -> u8 {
        self.prefix
    }
}

/// Is the address, of the same family, the network's in its leading `prefix` bits?
pub(super) fn is_within(address: IpAddr, network: IpAddr, prefix: u8) -> bool {
    let prefix = u32::from(prefix);
    match (address, network) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros() >= prefix,
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros() >= prefix,
        _ => false,
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl FromStr for Cidr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parse = || {
            let (address, prefix) = text.split_once('/')?;
            let digits = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
            Self::new(address.parse().ok()?, prefix.parse().ok().filter(|_| digits)?)
        };
        parse().ok_or_else(|| Error::Cidr(text.chars().take(64).collect()))
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

    #[test]
    fn networks_parse_strictly_and_contain_their_own() {
        for (net, inside, outside) in [
            ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("192.168.1.1/32", "192.168.1.1", "192.168.1.2"),
            ("fd00::/8", "fdff::1", "fc00::1"),
            ("::/0", "ffff::", "1.2.3.4"),
            ("::1/128", "::1", "::2"),
        ] {
            let network: Cidr = net.parse().unwrap();
            assert!(network.contains(inside.parse().unwrap()), "{net} {inside}");
            assert!(!network.contains(outside.parse().unwrap()), "{net} {outside}");
            assert_eq!(network.to_string(), net);
        }
        for bad in ["", "10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "10.0.0.1/8", "::/129", "10.0.0.0/+8", "10/8"]
        {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }
}
