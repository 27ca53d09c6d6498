//! How many connections there may be, of strangers by address, of members by tenant; and how many bytes of
//! unfinished messages.
//!
//! It owns the counts; a guard counts while it lives. The threat: sockets that never show a token, one tenant's
//! members taking what all share, and an edge without a descriptor left for its own wires.

use crate::check::{Check, at_most};
use cofferdam_base::TenantId;
use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Sockets of one address, at one listener, that have shown no token.
pub const STRANGERS: usize = 32;
/// Connections of one tenant.
pub const SEATS: usize = 256;
/// Bytes of messages that are gathered for one tenant, and for all. One message of the gateway's own limit
/// fits twice into a tenant's part.
pub const HELD: usize = 64 << 20;
const HELD_FOR_ALL: usize = 256 << 20;
/// So much of a message is not counted: the seats bound it, and what people type is always heard.
pub const FREE: usize = 64 * 1024;

/// Sockets that are told why they are turned away, at a time; further ones are just closed.
const TURNED_AWAY: usize = 64;

/// The counts.
#[derive(Clone, Debug)]
pub struct Limits {
    most: usize,
    sockets: Counts<()>,
    turned_away: Counts<()>,
    strangers: Counts<(Option<TenantId>, IpAddr)>,
    strangers_in_all: Counts<()>,
    seats: Counts<TenantId>,
    held: Counts<TenantId>,
    held_for_all: Counts<()>,
}

/// Counts one accepted socket while it lives.
pub type Socket = Guard<()>;
/// Counts one connection while it lives.
pub type Stranger = (Guard<(Option<TenantId>, IpAddr)>, Guard<()>);
/// Counts one connection while it lives.
pub type Seat = Guard<TenantId>;

impl Limits {
    /// For a process that may have so many files open. A third of them is for clients, a third for what each
    /// of these has in a cell, and a third is kept for wires, listeners and sockets in stock.
    #[must_use]
    pub fn new(descriptors: u64) -> Self {
        Self {
            most: usize::try_from(descriptors / 3).unwrap_or(usize::MAX),
            sockets: Counts::default(),
            turned_away: Counts::default(),
            strangers: Counts::default(),
            strangers_in_all: Counts::default(),
            seats: Counts::default(),
            held: Counts::default(),
            held_for_all: Counts::default(),
        }
    }

    /// How many sockets of cells may be kept ready: half of the last third.
    pub(crate) fn stock(&self) -> usize {
        self.most / 2
    }

    /// An accepted socket; none if there are too many.
    pub fn socket(&self) -> Option<Socket> {
        self.sockets.enter((), 1, at_most(Check::Sockets, self.most))
    }

    /// A socket that is told why it is turned away; none if it is to be closed without a word.
    pub fn turned_away(&self) -> Option<Socket> {
        self.turned_away.enter((), 1, at_most(Check::TurnedAway, TURNED_AWAY))
    }

    /// A socket that has shown no token yet, at this tenant's listener or at that of all; none if its address
    /// has too many there, or if strangers have half of all sockets.
    pub fn stranger(&self, listener: Option<&TenantId>, peer: IpAddr) -> Option<Stranger> {
        let here = at_most(Check::Strangers, STRANGERS);
        let one = self.strangers.enter((listener.cloned(), block(peer)), 1, here)?;
        Some((one, self.strangers_in_all.enter((), 1, at_most(Check::StrangersInAll, self.most / 2))?))
    }

    /// How many sockets have shown no token yet.
    #[cfg(test)]
    pub(crate) fn strangers(&self) -> usize {
        self.strangers_in_all.lock().values().sum()
    }

    /// A connection of a member; none if the tenant has too many.
    pub fn seat(&self, tenant: &TenantId) -> Option<Seat> {
        self.seats.enter(tenant.clone(), 1, at_most(Check::Seats, SEATS))
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
        self.tenant.set(bytes, at_most(Check::Held, HELD))
            && self.all.set(bytes, at_most(Check::HeldForAll, HELD_FOR_ALL))
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
        let limits = Limits::new(3000);
        let here: IpAddr = [127, 0, 0, 1].into();
        let mut inside: Vec<_> = (0..STRANGERS).map(|_| limits.stranger(None, here)).collect();
        assert!(inside.iter().all(Option::is_some));
        assert!(limits.stranger(None, here).is_none());
        assert!(limits.stranger(None, [127, 0, 0, 2].into()).is_some());
        // Who speaks to a tenant's own listener is no neighbour of who speaks to another's.
        let acme = TenantId::try_from("acme").ok();
        assert!(limits.stranger(acme.as_ref(), here).is_some());
        inside.pop();
        assert!(limits.stranger(None, here).is_some());
        drop(inside);
        assert!(limits.strangers.lock().is_empty());
    }

    #[test]
    fn strangers_of_all_addresses_leave_half_of_the_sockets_to_members() {
        let limits = Limits::new(30);
        let stranger = |last| limits.stranger(None, [127, 0, 0, last].into());
        let mut inside: Vec<_> = (0..5).map(stranger).collect();
        assert!(inside.iter().all(Option::is_some));
        assert!(stranger(6).is_none());
        inside.pop();
        assert!(stranger(6).is_some());
        let sockets: Vec<_> = (0..10).map(|_| limits.socket()).collect();
        assert!(sockets.iter().all(Option::is_some));
        assert!(limits.socket().is_none());
        drop(sockets);
        assert!(limits.socket().is_some());
    }

    #[test]
    fn a_tenant_has_so_many_seats_and_takes_none_of_another() {
        let limits = Limits::new(3000);
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
        let limits = Limits::new(3000);
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
