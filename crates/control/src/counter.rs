//! The sums of what models used: reports gather, and all that wait are counted in one transaction.
//!
//! Who asks fast waits for no commit a request. It acknowledges nothing that is not on disk, and forgets nothing that is
//! not: a disk that takes no more is tried again, and meanwhile the wardens run out of room and stop asking. The threat:
//! use that no budget saw, and a tenant whose reports hold back another's.

use crate::{db::Db, scribe::gathered};
use cofferdam_base::{TenantId, ipc::warden::Usage};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};

/// How long a report waits for others, unless so many wait already, which is the most that one transaction counts. Until
/// then its warden keeps it.
const GATHER: Duration = Duration::from_millis(10);
const BATCH: usize = 512;
/// So many wait for the next ones; who has more to say waits.
const QUEUE: usize = 4096;
/// The pause before reports that could not be counted are tried again.
const AGAIN: Duration = Duration::from_millis(250);

type Done = Box<dyn FnOnce() + Send + Sync>;
/// A report, if it is not one that was counted before; and what is called once it is on disk.
type Entry = (Option<(TenantId, Usage)>, Done);

/// The queue of reports, and how many are not on disk yet.
#[derive(Clone)]
pub(crate) struct Counter(mpsc::Sender<Entry>, Arc<AtomicUsize>);

impl std::fmt::Debug for Counter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Counter")
    }
}

impl Counter {
    /// Starts the task that counts.
    pub(crate) fn start(db: Db) -> Self {
        let (sender, queue) = mpsc::channel(QUEUE);
        let waiting = Arc::default();
        tokio::spawn(count(db, queue, Arc::clone(&waiting)));
        Self(sender, waiting)
    }

    /// Queues a report, waiting for room; `done` is called once it and all before it are counted.
    pub(crate) async fn count(
        &self,
        tenant: &TenantId,
        usage: Usage,
        done: impl FnOnce() + Send + Sync + 'static,
    ) {
        self.1.fetch_add(1, Ordering::SeqCst);
        // The task ends only with the process.
        let _ = self.0.send((Some((tenant.clone(), usage)), Box::new(done))).await;
    }

    /// Calls `done` once all that was queued before is counted.
    pub(crate) async fn after(&self, done: impl FnOnce() + Send + Sync + 'static) {
        let _ = self.0.send((None, Box::new(done))).await;
    }

    /// Waits until all that was queued before is counted. Where nothing is queued that is at once.
    pub(crate) async fn settled(&self) {
        if self.1.load(Ordering::SeqCst) == 0 {
            return;
        }
        let (counted, known) = oneshot::channel();
        self.after(move || counted.send(()).unwrap_or_default()).await;
        // The task ends only with the process.
        let _ = known.await;
    }
}

async fn count(db: Db, mut queue: mpsc::Receiver<Entry>, waiting: Arc<AtomicUsize>) {
    while let Some(first) = queue.recv().await {
        let batch = gathered(first, &mut queue, GATHER, BATCH).await;
        let (uses, done): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        let uses: Vec<_> = uses.into_iter().flatten().collect();
        let counted = uses.len();
        keep(&db, uses).await;
        waiting.fetch_sub(counted, Ordering::SeqCst);
        for done in done {
            done();
        }
    }
}

/// Counts these, at whatever time the disk takes them. Those of a tenant that is gone have nobody to count for.
async fn keep(db: &Db, uses: Vec<(TenantId, Usage)>) {
    while !uses.is_empty() {
        let these = uses.clone();
        match db.run(move |disk| disk.add_usage(&these)).await {
            Ok(()) => return,
            Err(error) => {
                tracing::error!(%error, uses = uses.len(), "the sums of usage cannot be written");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}
