//! The one thread that has the store and the ledger open.
//!
//! Everything durable goes through here, in one order: a job is answered after its rows are on disk. The
//! queue is bounded: a disk that does not keep up slows those who report, and a warden that waits too long
//! stops allowing.

use crate::{Error, disk::Disk};
use cofferdam_base::{Millis, TenantId};
use cofferdam_store::ledger::{Body, Kind};
use tokio::sync::{mpsc, oneshot};

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
    pub kind: Kind,
    /// The rest.
    pub body: Body,
}
