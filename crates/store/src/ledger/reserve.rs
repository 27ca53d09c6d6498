//! A mebibyte kept back, so that a full disk still takes denials and kills.
//!
//! Owns the file `reserve`. Its bytes do not compress, so that it holds room on every file system.

use super::segment::{sync_directory, work};
use crate::Error;
use aws_lc_rs::digest;
use cofferdam_base::Millis;
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// The room kept back, or given up.
#[derive(Debug)]
pub(super) struct Reserve {
    dir: PathBuf,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// The file is there.
    Held,
    /// The disk is full; whether there is room again was looked at then.
    Released { tried: Millis },
}

impl Reserve {
    /// Takes the room if there is any; without it the ledger begins as on a full disk.
    pub(super) fn open(dir: &Path, now: Millis) -> Result<Self, Error> {
        let mut reserve = Self { dir: dir.to_owned(), state: State::Held };
        let held = fs::symlink_metadata(reserve.path()).is_ok_and(|m| m.is_file() && m.len() == SIZE);
        if !held && !reserve.take()? {
            reserve.state = State::Released { tried: now };
        }
        Ok(reserve)
    }

    /// Whether only essential rows may be written. Looks for room again now and then.
    pub(super) fn is_released(&mut self, now: Millis) -> Result<bool, Error> {
        let State::Released { tried } = self.state else { return Ok(false) };
        if now.0.abs_diff(tried.0) < PATIENCE_MS {
            return Ok(true);
        }
        self.state = if self.take()? { State::Held } else { State::Released { tried: now } };
        Ok(matches!(self.state, State::Released { .. }))
    }

    /// Gives the room to the rows that follow.
    pub(super) fn release(&mut self, now: Millis) -> Result<(), Error> {
        self.state = State::Released { tried: now };
        remove(&self.path())?;
        sync_directory(&self.dir)
    }

    /// Writes the file; false if there is no room. There must be room for twice its size: the room that was
    /// just given up is no proof that the disk is no longer full.
    fn take(&self) -> Result<bool, Error> {
        let fresh = self.dir.join("reserve.new");
        match write(&fresh) {
            Ok(()) => {
                fs::rename(&fresh, self.path()).map_err(work(&fresh))?;
                sync_directory(&self.dir)?;
                Ok(true)
            }
            Err(error) if is_full(&error) => {
                remove(&fresh)?;
                Ok(false)
            }
            Err(error) => Err(work(&fresh)(error)),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.join("reserve")
    }
}

/// No room on the disk, or none for this user.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn write(path: &Path) -> io::Result<()> {
    let mut file = File::create(path)?;
    let mut block = [0; 32];
    for _ in 0..2 * SIZE / 4096 {
        let mut page = Vec::with_capacity(4096);
        while page.len() < 4096 {
            let next = digest::digest(&digest::SHA256, &block);
            block.copy_from_slice(next.as_ref());
            page.extend_from_slice(&block);
        }
        file.write_all(&page)?;
    }
    file.sync_all()?;
    file.set_len(SIZE)?;
    file.sync_all()
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(work(path)(error)),
        _ => Ok(()),
    }
}

/// How much is kept back: some thousands of rows.
const SIZE: u64 = 1024 * 1024;
/// How long a full disk is believed to be full.
const PATIENCE_MS: u64 = 1000;
