//! The group commit of class B, and what becomes of it on a full disk.
//!
//! Rows are gathered for a few milliseconds and written together, in the order in which they came. On a full
//! disk what is essential is written by itself, ahead of the rest; what a warden or the edge reported is held
//! and not acknowledged, so that they stop allowing by themselves; what nobody waits for is counted. The
//! threat: one row that is not essential, and a batch that is tried again for ever with a denial in it.

use crate::{
    Error,
    db::{Db, Row},
};
use cofferdam_base::{Clock, Millis, TenantId};
use cofferdam_store::ledger::Kind;
use cofferdam_sys::clock::SystemClock;
use serde_json::json;
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};

/// Rows of class B wait no longer than this for others, which leaves the disk the rest of 5 ms.
const GATHER: Duration = Duration::from_millis(2);
/// So many rows at most are one commit.
const BATCH: usize = 512;
/// The pause before rows that could not be written are tried again.
const AGAIN: Duration = Duration::from_millis(250);
/// So many rows are held for room on the disk: the windows of many wardens. More are counted.
const HELD: usize = 65_536;

type Done = Box<dyn FnOnce() + Send + Sync>;
type Entry = (Option<Row>, Option<Done>);

/// The queue of class B.
#[derive(Clone)]
pub struct Scribe(mpsc::Sender<Entry>);

impl std::fmt::Debug for Scribe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scribe")
    }
}

impl Scribe {
    /// Starts the task that writes.
    pub fn start(db: Db) -> Self {
        let (sender, queue) = mpsc::channel(4096);
        let desk = Desk { db, held: VecDeque::new(), withheld: Vec::new(), counted: BTreeMap::new() };
        tokio::spawn(desk.write(queue));
        Self(sender)
    }

    /// Queues a row that somebody reported, waiting for room; `done` is called once it is on disk, and all
    /// that was queued before it.
    pub async fn record(&self, row: Row, done: impl FnOnce() + Send + Sync + 'static) {
        // The task ends only with the process.
        let _ = self.0.send((Some(row), Some(Box::new(done)))).await;
    }

    /// Calls `done` once all that was queued before is on disk.
    pub async fn after(&self, done: impl FnOnce() + Send + Sync + 'static) {
        let _ = self.0.send((None, Some(Box::new(done)))).await;
    }

    /// Queues a row that nobody waits for.
    pub async fn note(&self, row: Row) {
        let _ = self.0.send((Some(row), None)).await;
    }
}

struct Desk {
    db: Db,
    /// What waits for room on the disk, in order.
    held: VecDeque<Entry>,
    /// Whose rows are on disk, but not all before them.
    withheld: Vec<Done>,
    /// What was not kept, by tenant and kind.
    counted: BTreeMap<(Option<TenantId>, &'static str), u64>,
}

impl Desk {
    async fn write(mut self, mut queue: mpsc::Receiver<Entry>) {
        let mut again_at = Instant::now();
        loop {
            let first = if self.is_behind() {
                let Ok(first) = timeout_at(again_at, queue.recv()).await else {
                    self.again().await;
                    again_at = Instant::now() + AGAIN;
                    continue;
                };
                first
            } else {
                queue.recv().await
            };
            let Some(first) = first else { return };
            let batch = gathered(first, &mut queue, GATHER, BATCH).await;
            if self.is_behind() {
                self.apart(batch).await;
            } else if self.append(&batch).await {
                batch.into_iter().filter_map(|(_, done)| done).for_each(|done| done());
            } else {
                tracing::error!("the disk is full: the ledger takes only what is essential");
                again_at = Instant::now() + AGAIN;
                self.apart(batch).await;
            }
        }
    }

    /// Is anything left that has to be written first?
    fn is_behind(&self) -> bool {
        !self.held.is_empty() || !self.withheld.is_empty() || !self.counted.is_empty()
    }

    /// The disk is full: what is essential goes ahead, the rest is held or counted.
    async fn apart(&mut self, batch: Vec<Entry>) {
        let (essential, rest): (Vec<_>, Vec<_>) = batch.into_iter().partition(is_essential);
        if essential.is_empty() || self.append(&essential).await {
            self.withheld.extend(essential.into_iter().filter_map(|(_, done)| done));
        } else {
            // Even the room kept back is used up.
            self.hold(essential);
        }
        self.hold(rest);
    }

    fn hold(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            if self.held.len() < HELD && (entry.1.is_some() || is_essential(&entry)) {
                self.held.push_back(entry);
            } else if let Some(Row { at: _, tenant, kind, body: _ }) = entry.0 {
                *self.counted.entry((tenant, kind.as_str())).or_default() += 1;
            }
        }
    }

    /// Tries again what is held; once all is written, everybody hears of it.
    async fn again(&mut self) {
        while !self.held.is_empty() {
            let batch: Vec<Entry> = self.held.drain(..self.held.len().min(BATCH)).collect();
            if !self.append(&batch).await {
                batch.into_iter().rev().for_each(|entry| self.held.push_front(entry));
                return;
            }
            self.withheld.extend(batch.into_iter().filter_map(|(_, done)| done));
        }
        let counted: Vec<Entry> = self.counted.iter().map(counted_row).map(|row| (Some(row), None)).collect();
        if !counted.is_empty() && !self.append(&counted).await {
            return;
        }
        self.counted.clear();
        self.withheld.drain(..).for_each(|done| done());
    }

    /// Writes these rows, all or none; false if the disk is full. Any other failure is tried again here.
    async fn append(&self, entries: &[Entry]) -> bool {
        loop {
            let rows: Vec<Row> = entries.iter().filter_map(|(row, _)| row.clone()).collect();
            match self.db.run(move |disk| disk.append(&rows)).await {
                Ok(()) => return true,
                Err(Error::DiskFull) => return false,
                Err(error) => {
                    tracing::error!(%error, rows = entries.len(), "the ledger cannot be written");
                    sleep(AGAIN).await;
                }
            }
        }
    }
}

/// What came first, and what waits behind it after a pause, so many at most; no pause if so many wait already. Nobody is
/// woken for each of them.
pub(crate) async fn gathered<T>(
    first: T,
    queue: &mut mpsc::Receiver<T>,
    pause: Duration,
    most: usize,
) -> Vec<T> {
    if queue.len() < most {
        sleep(pause).await;
    }
    let mut batch = vec![first];
    while batch.len() < most
        && let Ok(next) = queue.try_recv()
    {
        batch.push(next);
    }
    batch
}

/// Does a full disk take it? What is no row needs no room.
fn is_essential((row, _): &Entry) -> bool {
    row.as_ref().is_none_or(|row| row.kind.is_essential())
}

fn counted_row(((tenant, kind), count): (&(Option<TenantId>, &'static str), &u64)) -> Row {
    let at: Millis = SystemClock.now();
    let body = json!({ "counted": count, "kind": kind, "why": "the disk was full" });
    Row { at, tenant: tenant.clone(), kind: Kind::Unkept, body: body.into() }
}
