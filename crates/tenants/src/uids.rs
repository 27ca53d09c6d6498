//! Which host uid belongs to whom: arithmetic on one base, so that a message never has to carry a uid.
//!
//! The threat: a number from a hostile control that leads to root or to somebody else's uid. There is no
//! such number: every uid is made here, from a [`Slot`], and lies in the host's own range.

use cofferdam_base::Slot;
use serde::{Deserialize, Serialize};

/// The uids of one host: [`Uids::SPAN`] of them from its base.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Uids(u32);

/// The base is unusable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} is no base for uids: take a number from 100000 to {max} that begins a range of {span} free uids",
    max = Uids::HIGHEST, span = Uids::SPAN
)]
pub struct UidsError(u32);

impl Uids {
    /// How many uids a host takes.
    pub const SPAN: u32 = 0x3_0000;
    /// 65,534 and 65,535 are nobody, and the kernel keeps the last number of all for "none".
    const HIGHEST: u32 = u32::MAX - Self::SPAN;
    const WARDENS: u32 = 0x1_0000;
    const TENANTS: u32 = 0x2_0000;

    /// Control's uid and gid.
    #[must_use]
    pub const fn control(self) -> u32 {
        self.0
    }

    /// The edge's uid and gid.
    #[must_use]
    pub const fn edge(self) -> u32 {
        self.0 + 1
    }

    /// The uid and gid of the built-in model of `demo`.
    #[must_use]
    pub const fn model(self) -> u32 {
        self.0 + 2
    }

    /// The uid and gid of a tenant's warden.
    #[must_use]
    pub fn warden(self, slot: Slot) -> u32 {
        self.0 + Self::WARDENS + u32::from(slot.number())
    }

    /// The uid and gid of a tenant's cell and files.
    #[must_use]
    pub fn tenant(self, slot: Slot) -> u32 {
        self.0 + Self::TENANTS + u32::from(slot.number())
    }

    /// The first and last uid that any warden can have.
    #[must_use]
    pub const fn wardens(self) -> (u32, u32) {
        (self.0 + Self::WARDENS, self.0 + Self::TENANTS - 1)
    }

    /// Is this uid one of ours?
    #[must_use]
    pub const fn contains(self, uid: u32) -> bool {
        uid >= self.0 && uid - self.0 < Self::SPAN
    }
}

impl Default for Uids {
    fn default() -> Self {
        Self(1_500_000_000)
    }
}

impl TryFrom<u32> for Uids {
    type Error = UidsError;

    fn try_from(base: u32) -> Result<Self, UidsError> {
        if (100_000..=Self::HIGHEST).contains(&base) { Ok(Self(base)) } else { Err(UidsError(base)) }
    }
}

impl From<Uids> for u32 {
    fn from(uids: Uids) -> Self {
        uids.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_base_that_reaches_root_people_or_the_end_is_refused() {
        for bad in [0, 1, 99_999, u32::MAX, u32::MAX - Uids::SPAN + 1] {
            assert_eq!(Uids::try_from(bad), Err(UidsError(bad)));
        }
        for good in [100_000, 1_500_000_000, u32::MAX - Uids::SPAN] {
            assert_eq!(u32::from(Uids::try_from(good).unwrap()), good);
        }
    }

    proptest! {
        #[test]
        fn no_two_parts_of_a_host_share_a_uid(
            base in 100_000..=u32::MAX - Uids::SPAN, one in 2_u16..=65_533, two in 2_u16..=65_533,
        ) {
            let uids = Uids::try_from(base).unwrap();
            let (one, two) = (Slot::try_from(one).unwrap(), Slot::try_from(two).unwrap());
            let all = [uids.control(), uids.edge(), uids.model(), uids.warden(one), uids.tenant(two)];
            for (at, uid) in all.iter().enumerate() {
                prop_assert!(uids.contains(*uid));
                prop_assert!(!all[..at].contains(uid));
            }
            prop_assert_eq!(uids.warden(one) == uids.warden(two), one == two);
            prop_assert_eq!(uids.tenant(one) == uids.tenant(two), one == two);
            let (first, last) = uids.wardens();
            prop_assert!((first..=last).contains(&uids.warden(one)));
            prop_assert!(!(first..=last).contains(&uids.tenant(one)));
        }
    }
}
