//! Attempts on files. What was made is removed again, if that is allowed; else it goes with the cell.

use super::{Outcome, sockets::PATIENCE};
use cofferdam_sys::{attempt, attempt::Argument};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{FlockOperation, Mode, OFlags},
};
use std::{
    fs, io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

pub(super) fn write(path: &Path) -> io::Result<Outcome> {
    rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?;
    Ok(Outcome::success("opened for writing"))
}

pub(super) fn read(path: &Path, holds: &str) -> io::Result<Outcome> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(fs::File::open(path)?, 1 << 20), &mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(if !bytes.is_empty() && text.contains(holds) {
        Outcome::success(format!("{} bytes read", bytes.len()))
    } else {
        Outcome::failure(format!("{} bytes, without it", bytes.len()))
    })
}

/// Waits no longer than for a witness: nobody may have it open for writing.
pub(super) fn pipe(path: &Path, holds: &str) -> io::Result<Outcome> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let pipe = rustix::fs::open(path, flags, Mode::empty())?;
    let mut polled = [PollFd::new(&pipe, PollFlags::IN)];
    poll(&mut polled, Some(&PATIENCE.try_into().map_err(io::Error::other)?))?;
    let mut bytes = [0; 1024];
    let length = rustix::io::read(&pipe, &mut bytes)?;
    let heard = String::from_utf8_lossy(&bytes[..length]).contains(holds);
    Ok(if heard { Outcome::success("the witness wrote") } else { Outcome::failure("nobody wrote") })
}

/// A lock that is not to be had is somebody's. Of this process alone none is.
pub(super) fn locked(path: &Path) -> io::Result<Outcome> {
    let file = fs::File::open(path)?;
    Ok(match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => Outcome::success("it is locked"),
        locked => locked.map(|()| Outcome::failure("nobody has locked it"))?,
    })
}

pub(super) fn create(path: &Path) -> io::Result<Outcome> {
    fs::OpenOptions::new().write(true).create_new(true).open(path)?;
    let _ = fs::remove_file(path);
    Ok(Outcome::success("made"))
}

pub(super) fn make_directory(path: &Path) -> io::Result<Outcome> {
    fs::create_dir(path)?;
    let _ = fs::remove_dir(path);
    Ok(Outcome::success("made"))
}

pub(super) fn make_link(path: &Path) -> io::Result<Outcome> {
    std::os::unix::fs::symlink("nowhere", path)?;
    let _ = fs::remove_file(path);
    Ok(Outcome::success("made"))
}

pub(super) fn make_socket(path: &Path) -> io::Result<Outcome> {
    std::os::unix::net::UnixListener::bind(path)?;
    let _ = fs::remove_file(path);
    Ok(Outcome::success("made"))
}

pub(super) fn link(from: &Path, to: &Path) -> io::Result<Outcome> {
    fs::hard_link(from, to)?;
    let _ = fs::remove_file(to);
    Ok(Outcome::success("it has two names"))
}

pub(super) fn rename(from: &Path, to: &Path) -> io::Result<Outcome> {
    fs::rename(from, to)?;
    let _ = fs::rename(to, from);
    Ok(Outcome::success("it had another name"))
}

/// Asks for a number; opened before, so that only the question is judged.
pub(super) fn ioctl(path: &Path, request: u32) -> io::Result<Outcome> {
    let file = fs::File::open(path)?;
    let descriptor = u64::from(file.as_raw_fd().unsigned_abs());
    let arguments =
        [Argument::Number(descriptor), Argument::Number(u64::from(request)), Argument::Bytes(vec![0; 64])];
    super::called(attempt::IOCTL, &arguments)
}

pub(super) fn watch(path: &Path, mask: u32) -> io::Result<Outcome> {
    use rustix::fs::inotify;
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    inotify::add_watch(&watch, path, inotify::WatchFlags::from_bits_retain(mask))?;
    Ok(Outcome::success("it is watched"))
}

pub(super) fn fill(path: &Path, bytes: u64) -> io::Result<Outcome> {
    let file = fs::OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    let grown = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes);
    let _ = fs::remove_file(path);
    grown?;
    Ok(Outcome::success(format!("{bytes} bytes")))
}

/// Empty files, until one cannot be made.
pub(super) fn inodes(path: &Path, count: u64) -> io::Result<Outcome> {
    fs::create_dir(path)?;
    let made = (0..count).try_for_each(|number| fs::File::create(path.join(number.to_string())).map(drop));
    fs::remove_dir_all(path)?;
    made?;
    Ok(Outcome::success(format!("{count} files")))
}

/// Every environment that can be read, and every file up to a size that no secret has.
pub(super) fn find(words: &[u8], below: &[PathBuf]) -> io::Result<Outcome> {
    let holds = |path: &Path| {
        let mut bytes = Vec::new();
        let file = fs::File::open(path).map(|file| io::Read::take(file, 1 << 20));
        file.is_ok_and(|mut file| io::Read::read_to_end(&mut file, &mut bytes).is_ok())
            && bytes.windows(words.len()).any(|piece| piece == words)
    };
    let mut searched = 0;
    for entry in fs::read_dir("/proc")?.flatten() {
        let environment = entry.path().join("environ");
        searched += 1;
        if holds(&environment) {
            return Ok(Outcome::success(format!("in {}", environment.display())));
        }
    }
    let mut rest = below.to_vec();
    while let Some(directory) = rest.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => rest.push(entry.path()),
                Ok(kind) if kind.is_file() => {
                    searched += 1;
                    if holds(&entry.path()) {
                        return Ok(Outcome::success(format!("in {}", entry.path().display())));
                    }
                }
                _ => {}
            }
        }
    }
    Ok(Outcome::failure(format!("in none of {searched} places")))
}
