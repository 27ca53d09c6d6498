//! Connections to this tenant's providers that wait to be used again.
//!
//! The threat: a connection that outlives what allowed it. One is used again only by a request that was
//! admitted itself, and only while its address, judged anew with that request's permission, would still be
//! dialled.

use cofferdam_base::Destination;
use cofferdam_egress::{Pass, dial::Reached};
use cofferdam_inference::{Keeper, Kept};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// How many wait at most.
const MOST: usize = 8;
/// How long one waits. Its name is not looked up anew meanwhile.
const IDLE: Duration = Duration::from_secs(30);
/// How old one becomes, used or not.
const OLD: Duration = Duration::from_mins(5);

/// What waits.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<Vec<Waiting>>);

#[derive(Debug)]
struct Waiting {
    line: Line,
    kept: Kept,
    since: Instant,
}

/// Where a connection leads, and since when.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    destination: Destination,
    address: Reached,
    dialled: Instant,
}

impl Line {
    pub(crate) fn new(destination: Destination, address: Reached) -> Self {
        Self { destination, address, dialled: Instant::now() }
    }
}

impl Pool {
    /// A connection to where this permission leads, if its address still may be dialled.
    pub(crate) fn take(&self, pass: &Pass) -> Option<(Line, Kept)> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(Waiting::is_fresh);
        while let Some(at) = waiting.iter().rposition(|it| it.line.destination == *pass.destination()) {
            let Waiting { line, kept, since: _ } = waiting.remove(at);
            if pass.dialled(line.address).is_ok() {
                return Some((line, kept));
            }
        }
        None
    }

    /// Takes that connection back, and closes it when it waited too long.
    pub(crate) fn keeper(self: &Arc<Self>, line: Line) -> Keeper {
        let pool = Arc::clone(self);
        Box::new(move |kept| {
            pool.put(Waiting { line, kept, since: Instant::now() });
            tokio::spawn(async move {
                sleep(IDLE).await;
                pool.0.lock().unwrap_or_else(PoisonError::into_inner).retain(Waiting::is_fresh);
            });
        })
    }

    fn put(&self, it: Waiting) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(Waiting::is_fresh);
        if waiting.len() >= MOST {
            waiting.remove(0);
        }
        waiting.push(it);
    }
}

impl Waiting {
    fn is_fresh(&self) -> bool {
        self.kept.is_open() && self.since.elapsed() < IDLE && self.line.dialled.elapsed() < OLD
    }
}
