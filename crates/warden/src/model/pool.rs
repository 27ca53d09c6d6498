//! Connections to this tenant's providers that wait to be used again.
//!
//! The threat: a connection that outlives what allowed it. One is used again only by a request that was
//! admitted itself, and only while its address, judged anew with that request's permission, would still be
//! dialled.

use cofferdam_base::Destination;
use cofferdam_egress::{Pass, dial::Reached};
use cofferdam_inference::{Keeper, Kept};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::{Instant, sleep_until};

/// How many wait at most.
const MOST: usize = 8;
/// How long one waits. Its name is not looked up anew meanwhile.
const IDLE: Duration = Duration::from_secs(30);
/// How old one becomes, used or not.
const OLD: Duration = Duration::from_mins(5);

/// What waits.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The longest first.
    waiting: Vec<Waiting>,
    /// Is there a task that closes what waits too long?
    swept: bool,
}

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
        let waiting = &mut self.lock().waiting;
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
            if !pool.put(Waiting { line, kept, since: Instant::now() }) {
                tokio::spawn(pool.sweep());
            }
        })
    }

    /// Keeps it; is there a task already that will close it?
    fn put(&self, it: Waiting) -> bool {
        let State { waiting, swept } = &mut *self.lock();
        waiting.retain(Waiting::is_fresh);
        if waiting.len() >= MOST {
            waiting.remove(0);
        }
        waiting.push(it);
        std::mem::replace(swept, true)
    }

    /// Closes what waited too long, until nothing waits.
    async fn sweep(self: Arc<Self>) {
        let mut next = Instant::now();
        loop {
            sleep_until(next + IDLE).await;
            let State { waiting, swept } = &mut *self.lock();
            waiting.retain(Waiting::is_fresh);
            match waiting.first() {
                Some(first) => next = first.since,
                None => return *swept = false,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn is_fresh(&self) -> bool {
        self.kept.is_open() && self.since.elapsed() < IDLE && self.line.dialled.elapsed() < OLD
    }
}
