//! A tenant's slot: the small number from which its uids and its loopback address follow.

use serde::{Deserialize, Serialize};
use std::{fmt, net::Ipv4Addr};

/// 2 to 65,533, never used again after its tenant is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Slot(u16);

/// The number is outside 2 to 65,533.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a tenant slot: slots go from 2 to 65533")]
pub struct SlotError(u16);

impl Slot {
    /// The first slot that a host gives away.
    pub const FIRST: Self = Self(2);

    /// The loopback address at which the edge answers for this tenant alone: `127.18.x.y`.
    #[must_use]
    pub fn loopback_address(self) -> Ipv4Addr {
        let [high, low] = self.0.to_be_bytes();
        Ipv4Addr::new(127, 18, high, low)
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for Slot {
    type Error = SlotError;

    fn try_from(number: u16) -> Result<Self, SlotError> {
        if (2..=65_533).contains(&number) { Ok(Self(number)) } else { Err(SlotError(number)) }
    }
}

impl From<Slot> for u16 {
    fn from(slot: Slot) -> Self {
        slot.0
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_slot_lives_at_127_18_0_2() {
        assert_eq!(Slot::FIRST.loopback_address(), Ipv4Addr::new(127, 18, 0, 2));
        assert_eq!(Slot::try_from(0x0102).unwrap().loopback_address(), Ipv4Addr::new(127, 18, 1, 2));
        assert!(Slot::try_from(1).is_err());
    }
}
