//! The ledger as the API reads it, and the logs of cells, which are not the ledger.
//!
//! The threat in logs: the file is written by the launcher from what a cell said, in a directory that only
//! the launcher writes to; its name is made of a checked id, and it is opened without following links.

use crate::{
    Error,
    api::types::{LedgerRow, LedgerVerified},
    disk::Ledger,
    host::Host,
};
use cofferdam_base::TenantId;
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
};

impl Host {
    /// How many rows there are.
    pub async fn ledger_rows(&self) -> Result<u64, Error> {
        self.db.run(|disk| disk.ledger_rows()).await
    }

    /// The last rows, and up to which one was looked.
    pub async fn ledger_tail(
        &self,
        count: u32,
        tenant: Option<TenantId>,
    ) -> Result<(Vec<LedgerRow>, u64), Error> {
        self.read(move |ledger| Ok((ledger.tail(count, tenant.as_ref())?, ledger.rows()))).await
    }

    /// What came after a row, and up to which one was looked.
    pub async fn ledger_after(
        &self,
        seq: u64,
        tenant: Option<TenantId>,
    ) -> Result<(Vec<LedgerRow>, u64), Error> {
        if self.ledger_rows().await? <= seq {
            return Ok((Vec::new(), seq));
        }
        self.read(move |ledger| ledger.after(seq, tenant.as_ref())).await
    }

    /// Reads the whole chain.
    pub async fn ledger_verify(&self) -> Result<LedgerVerified, Error> {
        let found = self.read(|ledger| ledger.verify()).await?;
        if !found.whole {
            return Ok(found);
        }
        self.db.run(move |disk| disk.ledger_end(found)).await
    }

    /// Reads the ledger as it is now, beside the one thread that writes it.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Ledger) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let ledger = self.db.run(|disk| disk.ledger()).await?;
        let done = tokio::task::spawn_blocking(move || read(&*ledger)).await;
        done.map_err(|e| Error::io("reading the ledger", io::Error::other(e)))?
    }

    /// A tenant's log, from its beginning or so many bytes before its end.
    pub fn log(&self, id: &TenantId, tail: Option<u64>) -> Result<Log, Error> {
        self.tenant(id)?;
        let path = self.facts.logs.join(format!("{id}.log"));
        let failed = |e| Error::io(path.display().to_string(), e);
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let opened = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(&path);
        let mut file = match opened {
            // A tenant that never ran has said nothing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Log(None)),
            opened => opened.map_err(failed)?,
        };
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(failed(io::Error::other("it is no regular file")));
        }
        if let Some(tail) = tail {
            file.seek(SeekFrom::Start(metadata.len().saturating_sub(tail))).map_err(failed)?;
        }
        Ok(Log(Some(file)))
    }
}

/// An open log.
#[derive(Debug)]
pub struct Log(Option<File>);

impl Log {
    /// What is there now, at most 64 KiB; empty at the end.
    pub fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if let Some(file) = &mut self.0 {
            file.take(64 * 1024).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    }
}
