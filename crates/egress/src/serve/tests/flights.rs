//! Connections to the world, and the permissions of what they carry.

use super::*;
use crate::http::Flight;
use tokio::sync::oneshot;

async fn granted(cell: &Cell, id: u64, port: u16) -> Pass {
    let host = Host::Name("new.example".parse().unwrap());
    let to = Destination { host, port: port.try_into().unwrap(), protocol: Protocol::Http };
    cell.egress.gate.grant(Grant { id, ..grant(&to, GrantSpan::Until(Millis(9000))) });
    cell.egress.gate.admit(&to).await.unwrap()
}

async fn revoked(cell: &Cell, id: u64) {
    cell.egress.gate.revoke(id);
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

/// A connection that lasts, and what tells that it is gone.
fn connection() -> (impl Future<Output = hyper::Result<()>> + Send + 'static, oneshot::Sender<()>) {
    let (there, gone) = oneshot::channel();
    let lasting = async move {
        let _ = gone.await;
        Ok(())
    };
    (lasting, there)
}

#[tokio::test]
async fn a_connection_ends_with_the_permission_of_what_it_carries_and_not_of_what_it_carried() {
    let cell = cell();
    let (first, second) = (granted(&cell, 1, 8001).await, granted(&cell, 2, 8002).await);
    let (lasting, there) = connection();
    let flight = Flight::driving(lasting);
    flight.carries(&first);
    flight.carries(&second);
    revoked(&cell, 1).await;
    assert!(first.withdrawn().is_cancelled() && !there.is_closed());
    // Nobody keeps it, and its last request is under way.
    drop(flight);
    revoked(&cell, 2).await;
    assert!(there.is_closed());
}

#[tokio::test]
async fn what_is_withdrawn_already_ends_the_connection_that_would_carry_it() {
    let cell = cell();
    let pass = granted(&cell, 1, 8001).await;
    revoked(&cell, 1).await;
    let (lasting, there) = connection();
    Flight::driving(lasting).carries(&pass);
    revoked(&cell, 1).await;
    assert!(there.is_closed());
}

#[tokio::test]
async fn what_waits_to_be_written_is_not_once_its_permission_is_gone() {
    for withdrawn in [false, true] {
        let cell = cell();
        let pass = granted(&cell, 1, 8001).await;
        let (waiting, written) = (Arc::new(tokio::sync::Notify::new()), Arc::new(AtomicBool::new(false)));
        let (wakes, writes) = (Arc::clone(&waiting), Arc::clone(&written));
        let flight = Flight::driving(async move {
            wakes.notified().await;
            writes.store(true, SeqCst);
            std::future::pending().await
        });
        flight.carries(&pass);
        tokio::task::yield_now().await;
        // Its turn comes next, and the withdrawal before it.
        waiting.notify_one();
        revoked(&cell, if withdrawn { 1 } else { 2 }).await;
        assert_eq!(written.load(SeqCst), !withdrawn);
    }
}
