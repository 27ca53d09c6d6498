//! The synthetic addresses: which name of which cell stands behind 198.18.x.y and its IPv6 twin.
//!
//! It owns the mapping and the rate of new names. It refuses to resolve anything: no look-up of a cell is
//! ever passed on, so names carry nothing out. The threats: an address that is re-used while somebody still
//! means the old name, and a cell that floods us with names. Pure: the time is passed in.

use crate::{
    check::{Check, keeps},
    rate::Bucket,
};
use cofferdam_base::{HostName, Millis};
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// How many names have an address at one time: 198.18.0.0 to 198.18.255.255, so that the edge's source
/// address in 198.19.255.0/24 is never one of them.
pub const ADDRESSES: usize = 1 << 16;
/// How long an address rests after the last look-up or connection before another name gets it.
pub const REST_MS: u64 = 10 * 60 * 1000;

const V4: u32 = u32::from_be_bytes([198, 18, 0, 0]);
const V4_BITS: u32 = 0xfffe_0000;
const V6: u128 = 0xfdcf_c0ff_e2da << 80;

/// What an address of ours means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// It was given to this name.
    Name(HostName),
    /// It is one of the synthetic ranges, and no name has it.
    NeverHandedOut,
    /// It is an ordinary address.
    Literal(IpAddr),
}

/// The addresses of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// In 198.18.0.0/16.
    pub v4: Ipv4Addr,
    /// Its twin in fdcf:c0ff:e2da::/48.
    pub v6: Ipv6Addr,
}

/// Why a name got no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAddress {
    /// More new names this second than the limit.
    #[error("more new names in a second than the limit")]
    TooFast,
    /// Every address was used in the last ten minutes.
    #[error("every synthetic address is in use")]
    Full,
}

/// The table of one cell.
#[derive(Debug)]
pub struct Names {
    entries: Vec<Entry>,
    by_name: HashMap<HostName, u16>,
    rate: Bucket,
    cursor: usize,
    capacity: usize,
}

#[derive(Debug)]
struct Entry {
    name: HostName,
    used: Millis,
}

impl Names {
    /// An empty table that takes this many new names a second.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        Self::with_capacity(per_second, ADDRESSES)
    }

    pub(crate) fn with_capacity(per_second: u32, capacity: usize) -> Self {
        Self {
            entries: Vec::new(),
            by_name: HashMap::new(),
            rate: Bucket::new(per_second, per_second),
            cursor: 0,
            capacity,
        }
    }

    /// Changes the limit of new names a second.
    pub fn set_rate(&mut self, per_second: u32) {
        self.rate.set(per_second);
    }

    /// The name's addresses, new or known.
    pub fn look_up(&mut self, name: &HostName, now: Millis) -> Result<Pair, NoAddress> {
        if let Some(index) = self.by_name.get(name) {
            self.entries[usize::from(*index)].used = now;
            return Ok(Pair::of(*index));
        }
        // First, so that a cell whose table is full has it searched no faster than that.
        if keeps(Check::NewNames) && !self.rate.take(now) {
            return Err(NoAddress::TooFast);
        }
        let index = self.free(now)?;
        let entry = Entry { name: name.clone(), used: now };
        match self.entries.get_mut(usize::from(index)) {
            Some(old) => {
                self.by_name.remove(&old.name);
                *old = entry;
            }
            None => self.entries.push(entry),
        }
        self.by_name.insert(name.clone(), index);
        Ok(Pair::of(index))
    }

    /// What a connection to this address means. Counts as use.
    pub fn meaning(&mut self, address: IpAddr, now: Millis) -> Meaning {
        let index = match address.to_canonical() {
            literal if !keeps(Check::HandedOut) => return Meaning::Literal(literal),
            IpAddr::V4(v4) if v4.to_bits() & V4_BITS == V4 => v4.to_bits() - V4,
            IpAddr::V6(v6) if v6.to_bits() >> 80 == V6 >> 80 => {
                u32::try_from(v6.to_bits() ^ V6).unwrap_or(u32::MAX)
            }
            other => return Meaning::Literal(other),
        };
        match usize::try_from(index).ok().and_then(|index| self.entries.get_mut(index)) {
            Some(entry) => {
                entry.used = now;
                Meaning::Name(entry.name.clone())
            }
            None => Meaning::NeverHandedOut,
        }
    }

    /// Notes that a connection to this name is or was open.
    pub fn touch(&mut self, name: &HostName, now: Millis) {
        if let Some(index) = self.by_name.get(name) {
            self.entries[usize::from(*index)].used = now;
        }
    }

    fn free(&mut self, now: Millis) -> Result<u16, NoAddress> {
        if self.entries.len() < self.capacity {
            return u16::try_from(self.entries.len()).map_err(|_| NoAddress::Full);
        }
        for _ in 0..self.entries.len() {
            let index = self.cursor;
            self.cursor = (self.cursor + 1) % self.entries.len();
            if now.since(self.entries[index].used) >= REST_MS || !keeps(Check::NamesRest) {
                return u16::try_from(index).map_err(|_| NoAddress::Full);
            }
        }
        Err(NoAddress::Full)
    }
}

impl Pair {
    fn of(index: u16) -> Self {
        Self {
            v4: Ipv4Addr::from_bits(V4 | u32::from(index)),
            v6: Ipv6Addr::from_bits(V6 | u128::from(index)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> HostName {
        HostName::try_from(text).unwrap()
    }

    #[test]
    fn a_name_keeps_its_addresses_and_both_lead_back_to_it() {
        let mut names = Names::new(20);
        let pair = names.look_up(&name("a.example"), Millis(0)).unwrap();
        assert_eq!(names.look_up(&name("a.example"), Millis(5)).unwrap(), pair);
        for address in [IpAddr::V4(pair.v4), IpAddr::V6(pair.v6), IpAddr::V6(pair.v4.to_ipv6_mapped())] {
            assert_eq!(names.meaning(address, Millis(9)), Meaning::Name(name("a.example")));
        }
    }

    #[test]
    fn an_address_that_was_never_handed_out_has_no_meaning() {
        let mut names = Names::new(20);
        let pair = names.look_up(&name("a.example"), Millis(0)).unwrap();
        for text in ["198.18.0.1", "198.19.0.0", "198.19.255.1", "fdcf:c0ff:e2da::1", "fdcf:c0ff:e2da:1::"] {
            assert_eq!(names.meaning(text.parse().unwrap(), Millis(0)), Meaning::NeverHandedOut, "{text}");
        }
        // The positive controls: the one handed out, and an address that is none of ours.
        assert_eq!(names.meaning(pair.v4.into(), Millis(0)), Meaning::Name(name("a.example")));
        for text in ["198.20.0.0", "198.17.255.255", "8.8.8.8", "fd00::1"] {
            let address = text.parse().unwrap();
            assert_eq!(names.meaning(address, Millis(0)), Meaning::Literal(address));
        }
    }

    #[test]
    fn new_names_come_at_the_rate_and_known_ones_at_any() {
        let mut names = Names::new(20);
        let ask = |names: &mut Names, n: u32, at| names.look_up(&name(&format!("n{n}.example")), Millis(at));
        for n in 0..20 {
            ask(&mut names, n, 1000).unwrap();
        }
        assert_eq!(ask(&mut names, 20, 1000), Err(NoAddress::TooFast));
        ask(&mut names, 0, 1000).unwrap();
        ask(&mut names, 20, 1050).unwrap();
        assert_eq!(ask(&mut names, 21, 1050), Err(NoAddress::TooFast));
    }

    #[test]
    fn an_address_is_used_again_only_after_it_rested() {
        let mut names = Names::with_capacity(1000, 2);
        let a = names.look_up(&name("a.example"), Millis(0)).unwrap();
        names.look_up(&name("b.example"), Millis(0)).unwrap();
        names.meaning(a.v4.into(), Millis(REST_MS - 1));
        names.touch(&name("b.example"), Millis(REST_MS - 1));
        assert_eq!(names.look_up(&name("c.example"), Millis(REST_MS)), Err(NoAddress::Full));
        assert_eq!(names.look_up(&name("c.example"), Millis(2 * REST_MS - 1)).unwrap(), a);
        assert_eq!(names.meaning(a.v4.into(), Millis(2 * REST_MS)), Meaning::Name(name("c.example")));
    }

    proptest! {
        #[test]
        fn no_two_names_share_an_address_and_none_moves_while_in_use(
            steps in proptest::collection::vec((0u8..24, 0u64..400_000), 1..200)
        ) {
            let mut names = Names::with_capacity(1000, 8);
            let mut given: HashMap<u16, (HostName, Millis)> = HashMap::new();
            let mut now = Millis(0);
            for (which, pause) in steps {
                now = now.plus(pause);
                let asked = name(&format!("n{which}.example"));
                let Ok(pair) = names.look_up(&asked, now) else { continue };
                let index = u16::try_from(pair.v4.to_bits() & 0xffff).unwrap();
                if let Some((before, used)) = given.get(&index) {
                    prop_assert!(*before == asked || now.since(*used) >= REST_MS);
                }
                given.insert(index, (asked.clone(), now));
                prop_assert_eq!(names.meaning(pair.v6.into(), now), Meaning::Name(asked));
            }
        }
    }
}
