//! The output of cells in files of bounded size, taken at a bounded rate.
//!
//! The threat: a cell that writes without end, to fill the disk, to keep the launcher busy, or to make it
//! wait. What is over the rate is dropped and counted, and the count is written when there is room again.
//! The directory is ours; no part of a name comes from a cell.

use std::{
    fs::{File, OpenOptions, rename},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// A file of this size is put aside as `.log.1`, replacing the one before.
const LARGEST: u64 = 4 << 20;
/// Bytes taken in each second.
const RATE: u64 = 1 << 20;

/// One cell's log.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    /// Who may read it besides us.
    group: u32,
    file: Option<(File, u64)>,
    second: Instant,
    taken: u64,
    dropped: u64,
}

impl Log {
    /// The log at this path; nothing is opened before there is output.
    pub(super) fn new(path: &Path, group: u32, now: Instant) -> Self {
        Self { path: path.to_owned(), group, file: None, second: now, taken: 0, dropped: 0 }
    }

    /// Takes output. An error of the disk loses it, counted like all that is dropped.
    pub(super) fn take(&mut self, bytes: &[u8], now: Instant) {
        if now.saturating_duration_since(self.second) >= Duration::from_secs(1) {
            (self.second, self.taken) = (now, 0);
        }
        let length = bytes.len() as u64;
        if self.taken + length > RATE {
            self.dropped += length;
            return;
        }
        self.taken += length;
        let note = match self.dropped {
            0 => String::new(),
            dropped => format!("\n[cofferdam: {dropped} bytes of output were dropped]\n"),
        };
        match self.write(&[note.as_bytes(), bytes].concat()) {
            Ok(()) => self.dropped = 0,
            Err(_) => self.dropped += length,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = bytes.len() as u64;
        if self.file.as_ref().is_some_and(|(_, size)| size + length > LARGEST) {
            self.file = None;
            rename(&self.path, self.path.with_extension("log.1"))?;
        }
        let (file, size) = match self.file.take() {
            Some(open) => self.file.insert(open),
            None => self.file.insert(open(&self.path, self.group)?),
        };
        *size += length;
        file.write_all(bytes)
    }
}

fn open(path: &Path, group: u32) -> io::Result<(File, u64)> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)?;
    std::os::unix::fs::fchown(&file, None, Some(group))?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn log() -> (tempfile::TempDir, Log, Instant) {
        let dir = tempfile::tempdir().unwrap();
        let start = Instant::now();
        let log = Log::new(&dir.path().join("acme.log"), rustix::process::getegid().as_raw(), start);
        (dir, log, start)
    }

    #[test]
    fn what_is_over_the_rate_is_dropped_and_counted() {
        let (dir, mut log, start) = log();
        log.take(&vec![b'a'; 1 << 20], start);
        log.take(b"lost", start);
        log.take(b"kept", start + Duration::from_secs(1));
        let text = std::fs::read_to_string(dir.path().join("acme.log")).unwrap();
        assert!(text.ends_with("a\n[cofferdam: 4 bytes of output were dropped]\nkept"));
    }

    #[test]
    fn a_gibibyte_of_output_leaves_two_files_of_bounded_size() {
        let (dir, mut log, start) = log();
        for second in 0..64 {
            for _ in 0..32 {
                log.take(&vec![b'x'; 64 << 10], start + Duration::from_secs(second));
            }
        }
        let sizes: Vec<u64> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|file| file.unwrap().metadata().unwrap().len())
            .collect();
        assert!(sizes.len() == 2 && sizes.iter().all(|size| *size <= LARGEST), "{sizes:?}");
    }

    #[test]
    fn a_link_in_the_place_of_a_log_is_not_followed() {
        let (dir, mut log, start) = log();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "").unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join("acme.log")).unwrap();
        log.take(b"output", start);
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "");
        std::fs::remove_file(dir.path().join("acme.log")).unwrap();
        log.take(b"output", start);
        assert!(std::fs::read_to_string(dir.path().join("acme.log")).unwrap().ends_with("output"));
    }
}
