//! Room kept back behind the end of a file, so that a full disk still takes denials and kills.
//!
//! The blocks are the file's own already, beyond its end: no tenant who fills the disk can take them. On a
//! file system that cannot give a file blocks beyond its end nothing is kept back.

use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};
use std::{fs::File, io};

/// How far the blocks of one file reach.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Reserve {
    through: u64,
}

impl Reserve {
    /// Sees to it that so many bytes fit behind `len`, and the room kept back behind these; false if the
    /// disk has no room for both.
    pub(crate) fn keep(&mut self, file: &File, len: u64, bytes: u64) -> io::Result<bool> {
        let wanted = len.saturating_add(bytes).saturating_add(KEPT);
        if wanted <= self.through {
            return Ok(true);
        }
        for more in [STEP, 0] {
            match allocate(file, len, wanted.saturating_add(more)) {
                Ok(through) => {
                    self.through = through;
                    return Ok(true);
                }
                Err(error) if is_full(&error) => {}
                Err(error) => return Err(error),
            }
        }
        // How much of it is left, if that is not known since the last start.
        if !self.has(len, bytes)
            && let Ok(through) = allocate(file, len, len + bytes + LAST)
        {
            self.through = through;
        }
        Ok(false)
    }

    /// Would the last of the room kept back be left behind so many bytes?
    pub(crate) fn has(self, len: u64, bytes: u64) -> bool {
        len.saturating_add(bytes).saturating_add(LAST) <= self.through
    }

    /// The file was cut to its length, and with that lost what lay behind it.
    pub(crate) fn lost(&mut self) {
        self.through = 0;
    }
}

/// Gives a file blocks from one offset to another, beyond its end if need be; how far they reach now.
pub(crate) fn allocate(file: &File, from: u64, to: u64) -> io::Result<u64> {
    loop {
        return match fallocate(file, FallocateFlags::KEEP_SIZE, from, to.saturating_sub(from).max(1)) {
            Ok(()) => Ok(to),
            Err(Errno::INTR) => continue,
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(u64::MAX),
            Err(error) => Err(error.into()),
        };
    }
}

/// No room on the disk, or none for this user.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// How much is kept back: some thousands of rows.
const KEPT: u64 = 1024 * 1024;
/// So much of it is for class A alone: a flood of denials leaves room for a stop.
const LAST: u64 = 256 * 1024;
/// Blocks are asked for in steps, so that not every row waits for them.
const STEP: u64 = 1024 * 1024;
