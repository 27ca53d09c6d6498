//! The one thread that has the store and the ledger open, and the group commit of class B.
//!
//! Everything durable goes through here, in one order. A job of class A is answered after its rows are on
//! disk; rows of class B are gathered for a few milliseconds and written together, in the order in which
//! they came, and what cannot be written is tried again, never dropped. The queue is bounded: a disk that
//! does not keep up slows those who report, and a warden that waits too long stops allowing.

use crate::{Error, disk::Disk};
use cofferdam_base::{Millis, TenantId};
use serde_json::Value;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

/// Rows of class B wait no longer than this for others, which leaves the disk the rest of 5 ms.
const GATHER: Duration = Duration::from_millis(2);
/// So many rows at most are one commit.
const BATCH: usize = 512;
/// The pause before rows that could not be written are tried again.
const AGAIN: Duration = Duration::from_millis(250);

type Job = Box<dyn FnOnce(&mut dyn Disk) + Send>;

/// The way to the thread.
#[derive(Clone, Debug)]
pub struct Db(mpsc::Sender<Job>);

impl Db {
    /// Starts the thread.
    pub fn start(mut disk: Box<dyn Disk>) -> Result<Self, Error> {
        let (sender, mut jobs) = mpsc::channel::<Job>(256);
        std::thread::Builder::new()
            .name("disk".to_owned())
            .spawn(move || {
                while let Some(job) = jobs.blocking_recv() {
                    job(&mut *disk);
                }
            })
            .map_err(|e| Error::io("the disk thread", e))?;
        Ok(Self(sender))
    }

    /// Does something on the disk. Once begun it is done, even if nobody waits for it any more.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut dyn Disk) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move |disk| drop(sender.send(job(disk))));
        let gone = || Error::io("the disk thread", std::io::Error::other("it ended"));
        self.0.send(job).await.map_err(|_| gone())?;
        receiver.await.map_err(|_| gone())?
    }
}

/// One row for the ledger.
#[derive(Clone, Debug)]
pub struct Row {
    /// When it happened.
    pub at: Millis,
    /// About whom.
    pub tenant: Option<TenantId>,
    /// What happened.
    pub kind: String,
    /// The rest.
    pub body: Value,
}

type Done = Box<dyn FnOnce() + Send>;

/// The queue of class B.
#[derive(Clone)]
pub struct Scribe(mpsc::Sender<(Row, Done)>);

impl std::fmt::Debug for Scribe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scribe")
    }
}

impl Scribe {
    /// Starts the task that writes.
    pub fn start(db: Db) -> Self {
        let (sender, queue) = mpsc::channel(4096);
        tokio::spawn(write(db, queue));
        Self(sender)
    }

    /// Queues a row, waiting for room; `done` is called once it is on disk.
    pub async fn record(&self, row: Row, done: impl FnOnce() + Send + 'static) {
        // The task ends only with the process.
        let _ = self.0.send((row, Box::new(done))).await;
    }
}

async fn write(db: Db, mut queue: mpsc::Receiver<(Row, Done)>) {
    while let Some(first) = queue.recv().await {
        let deadline = Instant::now() + GATHER;
        let (mut rows, mut dones) = (vec![first.0], vec![first.1]);
        while rows.len() < BATCH
            && let Ok(Some((row, done))) = timeout_at(deadline, queue.recv()).await
        {
            rows.push(row);
            dones.push(done);
        }
        let rows = Arc::new(rows);
        loop {
            let batch = Arc::clone(&rows);
            match db.run(move |disk| disk.append(&batch)).await {
                Ok(()) => break,
                Err(error) => {
                    tracing::error!(%error, rows = rows.len(), "the ledger cannot be written");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
        for done in dones {
            done();
        }
    }
}
