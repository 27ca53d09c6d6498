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
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
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
        let shown = path.display().to_string();
        Log::open(path, tail).map_err(|error| Error::io(shown, error))
    }
}

/// A log that is read on when the launcher puts the file aside and begins another, and from the first byte of
/// a tenant that has said nothing yet.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: Option<File>,
}

impl Log {
    fn open(path: PathBuf, tail: Option<u64>) -> io::Result<Self> {
        let mut file = regular(&path)?;
        if let (Some(file), Some(tail)) = (&mut file, tail) {
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(tail)))?;
        }
        Ok(Self { path, file })
    }

    /// What is there now, at most 64 KiB; empty at the end.
    pub fn read(&mut self) -> io::Result<Vec<u8>> {
        let bytes = self.rest()?;
        if !bytes.is_empty() {
            return Ok(bytes);
        }
        let Some(newer) = self.newer()? else { return Ok(bytes) };
        // Between the end that was seen and the change of files more may have come.
        let late = self.rest()?;
        if !late.is_empty() {
            return Ok(late);
        }
        self.file = Some(newer);
        self.rest()
    }

    fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if let Some(file) = &mut self.file {
            file.take(64 * 1024).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    }

    /// The file of this name, if it is not the one that is being read.
    fn newer(&self) -> io::Result<Option<File>> {
        let identity = |file: &File| file.metadata().map(|meta| (meta.dev(), meta.ino()));
        let Some(found) = regular(&self.path)? else { return Ok(None) };
        match &self.file {
            Some(file) if identity(file)? == identity(&found)? => Ok(None),
            _ => Ok(Some(found)),
        }
    }
}

/// Opens a regular file, through no link; none if nothing is there.
fn regular(path: &Path) -> io::Result<Option<File>> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = match File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    if file.metadata()?.is_file() { Ok(Some(file)) } else { Err(io::Error::other("it is no regular file")) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::{fs, io::Write};

    #[test]
    fn a_log_is_followed_from_before_its_first_byte_and_over_a_change_of_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("acme.log");
        let mut log = Log::open(path.clone(), None).unwrap();
        assert_eq!(log.read().unwrap(), b"");
        fs::write(&path, "one").unwrap();
        assert_eq!(log.read().unwrap(), b"one");
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b" two").unwrap();
        fs::rename(&path, dir.path().join("acme.log.1")).unwrap();
        assert_eq!(log.read().unwrap(), b" two", "what the old file got last");
        assert_eq!(log.read().unwrap(), b"");
        fs::write(&path, "three").unwrap();
        assert_eq!((log.read().unwrap(), log.read().unwrap()), (b"three".to_vec(), vec![]));
    }

    #[test]
    fn a_log_can_begin_near_its_end_and_leads_through_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("acme.log"), dir.path().join("link.log"));
        fs::write(&path, "a long story").unwrap();
        assert_eq!(Log::open(path.clone(), Some(5)).unwrap().read().unwrap(), b"story");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(Log::open(link, None).is_err());
    }
}
