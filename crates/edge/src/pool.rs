//! Sockets of the tenants' network namespaces, made by the launcher and kept in stock here.
//!
//! It owns the stock, the asking for more and the proof of each received descriptor. The threat: a socket of
//! one tenant's namespace used for another, or one left over from a cell that is gone; so each descriptor is
//! examined, and a stock belongs to exactly one start of one cell.

use crate::check::{Check, keeps};
use cofferdam_base::{TenantId, ipc::edge::SocketRequest};
use cofferdam_sys::socket;
use std::{
    collections::{HashMap, VecDeque},
    os::fd::{AsFd, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{mpsc, oneshot};

/// How many sockets are kept ready for a tenant that is being used.
pub const STOCK: usize = 16;

/// All stocks.
#[derive(Debug)]
pub struct Pool {
    shelves: Mutex<HashMap<TenantId, Shelf>>,
    most: usize,
    requests: mpsc::UnboundedSender<SocketRequest>,
}

/// A socket to dial with, once.
#[derive(Debug)]
pub struct Dialable {
    /// Unconnected TCP, in the tenant's namespace.
    pub socket: OwnedFd,
    /// Which start of the cell it belongs to.
    pub generation: u64,
    /// Where the gateway listens on the cell's 127.0.0.1.
    pub port: u16,
}

/// The tenant has no running cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoCell;

#[derive(Debug, Default)]
struct Shelf {
    generation: u64,
    ended: bool,
    port: u16,
    sockets: Vec<OwnedFd>,
    waiting: VecDeque<oneshot::Sender<Result<Dialable, NoCell>>>,
    asked: VecDeque<u8>,
}

impl Pool {
    /// An empty pool that asks for sockets on this channel. With so many in stock, further ones are kept only
    /// for those who wait.
    #[must_use]
    pub fn new(requests: mpsc::UnboundedSender<SocketRequest>, most: usize) -> Self {
        Self { shelves: Mutex::default(), most, requests }
    }

    /// A socket of this tenant's namespace; waits for the launcher if none is in stock.
    pub async fn take(&self, tenant: &TenantId) -> Result<Dialable, NoCell> {
        let answer = {
            let mut shelves = self.lock();
            let shelf = shelves.entry(tenant.clone()).or_default();
            if let Some(socket) = shelf.sockets.pop() {
                let taken = Dialable { socket, generation: shelf.generation, port: shelf.port };
                self.restock(tenant, shelf);
                return Ok(taken);
            }
            let (sender, receiver) = oneshot::channel();
            shelf.waiting.retain(|waiter| !waiter.is_closed());
            shelf.waiting.push_back(sender);
            self.restock(tenant, shelf);
            receiver
        };
        answer.await.unwrap_or(Err(NoCell))
    }

    /// Sockets arrived. Those that are not what they should be are closed.
    pub fn stock(&self, tenant: &TenantId, generation: u64, cookie: u64, port: u16, received: Vec<OwnedFd>) {
        let mut shelves = self.lock();
        let all: usize = shelves.values().map(|shelf| shelf.sockets.len()).sum();
        let shelf = shelves.entry(tenant.clone()).or_default();
        shelf.asked.pop_front();
        let past = generation < shelf.generation || (generation == shelf.generation && shelf.ended);
        if !past || !keeps(Check::StartOfCell) {
            if generation > shelf.generation {
                shelf.sockets.clear();
                shelf.generation = generation;
                shelf.ended = false;
            }
            shelf.port = port;
            let room = self.most.saturating_sub(all).max(shelf.waiting.len());
            for socket in received.into_iter().take(room) {
                if keeps(Check::FreshSockets)
                    && let Err(error) = socket::fresh_stream(socket.as_fd(), cookie)
                {
                    tracing::error!(%tenant, %error, "a socket from the launcher is refused");
                    continue;
                }
                shelf.sockets.push(socket);
            }
        }
        shelf.serve();
        // More is asked for only when somebody takes one: a launcher that sends bad ones is not asked for ever.
        if shelf.asked.is_empty() {
            shelf.refuse();
        }
    }

    /// The launcher says that there is no cell.
    pub fn absent(&self, tenant: &TenantId) {
        let mut shelves = self.lock();
        let shelf = shelves.entry(tenant.clone()).or_default();
        shelf.asked.pop_front();
        shelf.refuse();
    }

    /// A cell ended.
    pub fn gone(&self, tenant: &TenantId, generation: u64) {
        let mut shelves = self.lock();
        let shelf = shelves.entry(tenant.clone()).or_default();
        if generation >= shelf.generation {
            shelf.generation = generation;
            shelf.ended = true;
            shelf.sockets.clear();
        }
    }

    /// A tenant was deleted.
    pub fn forget(&self, tenant: &TenantId) {
        self.lock().remove(tenant);
    }

    /// Does this start of the cell still run, as far as is known?
    pub fn alive(&self, tenant: &TenantId, generation: u64) -> bool {
        self.lock().get(tenant).is_some_and(|shelf| shelf.generation == generation && !shelf.ended)
    }

    fn restock(&self, tenant: &TenantId, shelf: &mut Shelf) {
        let coming: usize = shelf.asked.iter().map(|count| usize::from(*count)).sum();
        let have = shelf.sockets.len() + coming;
        let wanted = shelf.waiting.len() + STOCK;
        if have > shelf.waiting.len() + STOCK / 2 || shelf.asked.len() >= 4 {
            return;
        }
        let count = u8::try_from((wanted - have).min(64)).unwrap_or(64);
        let request = SocketRequest { tenant: tenant.clone(), count };
        if self.requests.send(request).is_ok() {
            shelf.asked.push_back(count);
        } else {
            shelf.refuse();
        }
    }

    // A shelf that a panic left is at worst short of sockets.
    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, Shelf>> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    fn serve(&mut self) {
        while let Some(socket) = self.sockets.pop() {
            let Some(waiter) = self.waiting.pop_front() else {
                self.sockets.push(socket);
                return;
            };
            let offer = Dialable { socket, generation: self.generation, port: self.port };
            if let Err(Ok(returned)) = waiter.send(Ok(offer)) {
                self.sockets.push(returned.socket);
            }
        }
    }

    fn refuse(&mut self) {
        for waiter in self.waiting.drain(..) {
            // A waiter that left needs no answer.
            let _ = waiter.send(Err(NoCell));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use cofferdam_sys::netns;
    use rustix::net::{AddressFamily, SocketType, socket};

    fn acme() -> TenantId {
        TenantId::try_from("acme").unwrap()
    }

    /// Unconnected TCP sockets of the test's own namespace, and its cookie.
    fn fresh(count: usize) -> (Vec<OwnedFd>, u64) {
        let sockets: Vec<OwnedFd> =
            (0..count).map(|_| socket(AddressFamily::INET, SocketType::STREAM, None).unwrap()).collect();
        (sockets, netns::current_cookie().unwrap())
    }

    #[tokio::test]
    async fn a_stock_is_asked_for_ahead_and_again_when_half_is_used() {
        let (requests, mut asked) = mpsc::unbounded_channel();
        let pool = Pool::new(requests, 100);
        let tenant = acme();
        let answer = async {
            let request = asked.recv().await.unwrap();
            let (sockets, cookie) = fresh(request.count.into());
            pool.stock(&tenant, 1, cookie, 80, sockets);
            asked
        };
        let (taken, mut asked) = tokio::join!(pool.take(&tenant), answer);
        assert_eq!(taken.unwrap().generation, 1);
        for _ in 0..STOCK / 2 - 1 {
            pool.take(&tenant).await.unwrap();
            assert!(asked.try_recv().is_err());
        }
        pool.take(&tenant).await.unwrap();
        assert_eq!(usize::from(asked.try_recv().unwrap().count), STOCK / 2);
    }

    #[tokio::test]
    async fn only_fresh_sockets_of_the_named_namespace_are_kept() {
        let (requests, _asked) = mpsc::unbounded_channel();
        let pool = Pool::new(requests, 100);
        let (sockets, cookie) = fresh(2);
        pool.stock(&acme(), 1, cookie + 1, 80, sockets);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let connected = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        pool.stock(
            &acme(),
            1,
            cookie,
            80,
            vec![listener.try_clone().unwrap().into(), connected.into(), udp.into(), file.into()],
        );
        assert!(pool.lock()[&acme()].sockets.is_empty());
        let (sockets, cookie) = fresh(2);
        pool.stock(&acme(), 1, cookie, 80, sockets);
        assert_eq!(pool.lock()[&acme()].sockets.len(), 2);
    }

    #[tokio::test]
    async fn a_full_stock_still_serves_those_who_wait() {
        let (requests, mut asked) = mpsc::unbounded_channel();
        let pool = Pool::new(requests, 3);
        let tenant = |name: &str| TenantId::try_from(name).unwrap();
        let (sockets, cookie) = fresh(8);
        pool.stock(&acme(), 1, cookie, 80, sockets);
        assert_eq!(pool.lock()[&acme()].sockets.len(), 3);
        let globex = tenant("globex");
        let (sockets, _) = fresh(8);
        let answer = async {
            assert_eq!(asked.recv().await.unwrap().tenant, globex);
            pool.stock(&globex, 1, cookie, 80, sockets);
        };
        let (taken, ()) = tokio::join!(pool.take(&globex), answer);
        assert_eq!(taken.unwrap().port, 80);
        assert!(pool.lock()[&globex].sockets.is_empty(), "none is kept beyond");
    }

    #[tokio::test]
    async fn sockets_of_a_cell_that_is_gone_are_never_used() {
        let (requests, mut asked) = mpsc::unbounded_channel();
        let pool = Pool::new(requests, 100);
        let (sockets, cookie) = fresh(2);
        pool.stock(&acme(), 4, cookie, 80, sockets);
        assert!(pool.alive(&acme(), 4));
        pool.gone(&acme(), 3);
        assert!(pool.alive(&acme(), 4), "an earlier start's end is no news");
        pool.gone(&acme(), 4);
        assert!(!pool.alive(&acme(), 4));
        let (late, cookie) = fresh(2);
        pool.stock(&acme(), 4, cookie, 80, late);
        assert!(pool.lock()[&acme()].sockets.is_empty());
        while asked.try_recv().is_ok() {}
        let tenant = acme();
        let absent = async {
            pool.absent(&tenant);
        };
        let (taken, ()) = tokio::join!(pool.take(&tenant), absent);
        assert_eq!(taken.unwrap_err(), NoCell);
        let (next, cookie) = fresh(1);
        pool.stock(&acme(), 5, cookie, 81, next);
        assert_eq!(pool.take(&acme()).await.unwrap().port, 81);
    }
}
