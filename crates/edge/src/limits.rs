//! How many connections there may be: of strangers by address, of members by tenant.
//!
//! It owns the counts; a guard counts while it lives. The threat: sockets that never show a token, and one
//! tenant's members taking what all share.

use cofferdam_base::TenantId;
use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Sockets of one address that have shown no token.
pub const STRANGERS: usize = 32;
/// Connections of one tenant.
pub const SEATS: usize = 256;

/// The counts.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    strangers: Counts<IpAddr>,
    seats: Counts<TenantId>,
}

/// Counts one connection while it lives.
pub type Stranger = Guard<IpAddr>;
/// Counts one connection while it lives.
pub type Seat = Guard<TenantId>;

impl Limits {
    /// A socket that has shown no token yet; none if its address has too many.
    pub fn stranger(&self, peer: IpAddr) -> Option<Stranger> {
        self.strangers.enter(block(peer), STRANGERS)
    }

    /// A connection of a member; none if the tenant has too many.
    pub fn seat(&self, tenant: &TenantId) -> Option<Seat> {
        self.seats.enter(tenant.clone(), SEATS)
    }
}

/// One subscriber has a whole /64 of version 6.
fn block(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[derive(Debug)]
struct Counts<K>(Arc<Mutex<HashMap<K, usize>>>);

impl<K> Clone for Counts<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Eq + Hash + Clone> Counts<K> {
    fn enter(&self, key: K, limit: usize) -> Option<Guard<K>> {
        let mut counts = self.lock();
        let count = counts.entry(key.clone()).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Guard { counts: self.clone(), key })
    }
}

impl<K> Counts<K> {
    // Each change of the counts is whole.
    fn lock(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts while it lives.
#[derive(Debug)]
pub struct Guard<K: Eq + Hash> {
    counts: Counts<K>,
    key: K,
}

impl<K: Eq + Hash> Drop for Guard<K> {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thirty_third_stranger_of_an_address_is_refused_until_one_leaves() {
        let limits = Limits::default();
        let here: IpAddr = [127, 0, 0, 1].into();
        let mut inside: Vec<_> = (0..STRANGERS).map(|_| limits.stranger(here)).collect();
        assert!(inside.iter().all(Option::is_some));
        assert!(limits.stranger(here).is_none());
        assert!(limits.stranger([127, 0, 0, 2].into()).is_some());
        inside.pop();
        assert!(limits.stranger(here).is_some());
        drop(inside);
        assert!(limits.strangers.lock().is_empty());
    }

    #[test]
    fn a_tenant_has_so_many_seats_and_takes_none_of_another() {
        let limits = Limits::default();
        let [acme, globex] = ["acme", "globex"].map(|id| TenantId::try_from(id).ok());
        let (Some(acme), Some(globex)) = (acme, globex) else { panic!("both are ids") };
        let taken: Vec<_> = (0..SEATS).map(|_| limits.seat(&acme)).collect();
        assert!(taken.iter().all(Option::is_some));
        assert!(limits.seat(&acme).is_none());
        assert!(limits.seat(&globex).is_some());
        drop(taken);
        assert!(limits.seat(&acme).is_some());
    }

    #[test]
    fn addresses_of_one_network_of_version_6_count_together() {
        let wide: [IpAddr; 2] =
            [Ipv6Addr::from_bits(1 << 64 | 5).into(), Ipv6Addr::from_bits(1 << 64 | 6).into()];
        assert_eq!(block(wide[0]), block(wide[1]));
        assert_ne!(block(wide[0]), block(Ipv6Addr::from_bits(2 << 64 | 5).into()));
    }
}
