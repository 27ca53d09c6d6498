//! How many connections there may be, of strangers by address, of members by tenant; and how many bytes of
//! unfinished messages.
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
/// Bytes of messages that are gathered for one tenant, and for all. One message of the gateway's own limit
/// fits twice into a tenant's part.
pub const HELD: usize = 64 << 20;
const HELD_FOR_ALL: usize = 256 << 20;
/// So much of a message is not counted: the seats bound it, and what people type is always heard.
pub const FREE: usize = 64 * 1024;

/// The counts.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    strangers: Counts<IpAddr>,
    seats: Counts<TenantId>,
    held: Counts<TenantId>,
    held_for_all: Counts<()>,
}

/// Counts one connection while it lives.
pub type Stranger = Guard<IpAddr>;
/// Counts one connection while it lives.
pub type Seat = Guard<TenantId>;

impl Limits {
    /// A socket that has shown no token yet; none if its address has too many.
    pub fn stranger(&self, peer: IpAddr) -> Option<Stranger> {
        self.strangers.enter(block(peer), 1, STRANGERS)
    }

    /// A connection of a member; none if the tenant has too many.
    pub fn seat(&self, tenant: &TenantId) -> Option<Seat> {
        self.seats.enter(tenant.clone(), 1, SEATS)
    }

    /// For a message of a member, of which nothing is there yet.
    pub fn held(&self, tenant: &TenantId) -> Held {
        Held { tenant: self.held.begin(tenant.clone()), all: self.held_for_all.begin(()) }
    }
}

/// Counts a message's bytes in memory while it lives.
#[derive(Debug)]
pub struct Held {
    tenant: Guard<TenantId>,
    all: Guard<()>,
}

impl Held {
    /// There are so many bytes now; false if that is more than the tenant, or the edge, has room for.
    #[must_use]
    pub fn cover(&mut self, bytes: usize) -> bool {
        let bytes = if bytes > FREE { bytes } else { 0 };
        self.tenant.set(bytes, HELD) && self.all.set(bytes, HELD_FOR_ALL)
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
    fn begin(&self, key: K) -> Guard<K> {
        Guard { counts: self.clone(), key, amount: 0 }
    }

    fn enter(&self, key: K, amount: usize, limit: usize) -> Option<Guard<K>> {
        let mut guard = self.begin(key);
        guard.set(amount, limit).then_some(guard)
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
pub struct Guard<K: Eq + Hash + Clone> {
    counts: Counts<K>,
    key: K,
    amount: usize,
}

impl<K: Eq + Hash + Clone> Guard<K> {
    /// Counts for so much from now on; false, and nothing changes, if all together would be too much.
    fn set(&mut self, amount: usize, limit: usize) -> bool {
        let mut counts = self.counts.lock();
        let others = counts.get(&self.key).map_or(0, |count| count - self.amount);
        if amount > self.amount && others.saturating_add(amount) > limit {
            return false;
        }
        self.amount = amount;
        match others + amount {
            0 => drop(counts.remove(&self.key)),
            count => drop(counts.insert(self.key.clone(), count)),
        }
        true
    }
}

impl<K: Eq + Hash + Clone> Drop for Guard<K> {
    fn drop(&mut self) {
        self.set(0, 0);
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

    #[test]
    fn a_tenants_long_messages_leave_room_for_another_tenants_and_for_short_ones() {
        let limits = Limits::default();
        let tenant = |id: &str| TenantId::try_from(id).map(|id| limits.held(&id));
        let (Ok(mut first), Ok(mut second)) = (tenant("acme"), tenant("acme")) else { panic!("it is an id") };
        assert!(first.cover(HELD / 2) && first.cover(HELD));
        assert!(!second.cover(FREE + 1), "the tenant's part is used up");
        assert!(second.cover(FREE));
        let mut others: Vec<Held> = ["b", "c", "d"].into_iter().flat_map(tenant).collect();
        assert!(others.iter_mut().all(|held| held.cover(HELD)));
        let Ok(mut last) = tenant("e") else { panic!("it is an id") };
        assert!(!last.cover(FREE + 1), "all parts together are more than there is");
        assert!(last.cover(FREE));
        assert!(first.cover(FREE + 1) && second.cover(HELD / 2) && last.cover(HELD / 4));
        drop((first, second, others, last));
        assert!(limits.held.lock().is_empty() && limits.held_for_all.lock().is_empty());
    }
}
