//! Completing upstream's package lifecycle: code from the registry, run once over the staging copy, in a cell
//! without network.
//!
//! The threat: code that never ends, or that prints without end. Its output is taken as it comes and only the
//! end of it is kept; it has five minutes; and whatever happens, nothing of the cell stays.

use super::{CELL_TREE, Error, command_argv, lock::sha256, npm::end_of};
use cofferdam_base::ipc::launcher::Limits;
use cofferdam_sandbox::{
    Access, Bind, Cell, CellEvent, CellPlan, Network, Profile, Quota, close_nursery, group, launch, sweep,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    fs,
    io::{PipeReader, Read},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::PermissionsExt,
    },
    path::Path,
    time::{Duration, Instant},
};

/// The uid of the sealing cell as root: no tenant, warden or part of a host ever has it.
const UID: u32 = 1_499_999_999;
/// The lifecycle takes seconds; what takes longer than this is stuck.
const PATIENCE: Duration = Duration::from_mins(5);
/// The end of its output that is kept.
const KEPT: usize = 64 * 1024;

/// Runs `openclaw --version` over the tree, which may be changed by it, until `stop` becomes readable.
pub fn complete(tree: &Path, stop: BorrowedFd<'_>) -> Result<(), Error> {
    let tree = fs::canonicalize(tree).map_err(Error::io(tree))?;
    let root = rustix::process::geteuid().is_root();
    let home = tree.with_file_name("home");
    fs::create_dir(&home).map_err(Error::io(&home))?;
    let (uid, gid) = if root {
        (UID, UID)
    } else {
        (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
    };
    if root {
        give(&tree, uid)?;
        give(&home, uid)?;
    }
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).map_err(Error::io(&home))?;
    let plan = CellPlan {
        name: "sealing".to_owned(),
        generation: 1,
        profile: if root { Profile::Strict } else { Profile::Rootless },
        uid,
        gid,
        hostname: "sealing".to_owned(),
        binds: vec![Bind {
            source: tree.clone(),
            target: CELL_TREE.into(),
            access: Access::ReadWrite,
            label: "runtime".to_owned(),
        }],
        home: home.clone(),
        quota: Quota::Scratch,
        argv: command_argv(&["--version"]),
        env: vec![
            ("HOME".to_owned(), "/sandbox".to_owned()),
            ("PATH".to_owned(), "/usr/bin:/bin".to_owned()),
        ],
        cwd: "/sandbox".into(),
        network: Network::None,
        limits: Limits::default(),
        cgroup: group(&groups(&tree), "cell"),
        without: Vec::new(),
    };
    run(&plan, stop)?;
    if root {
        give(&tree, 0)?;
    }
    super::tree::remove(&home)
}

/// Kills and removes what the cell of an installer that was killed left. The caller holds the lock of the
/// cache in which this staging copy is, or was, so no installer lives.
pub(super) fn sweep_groups(tree: &Path) -> Result<(), Error> {
    let swept = sweep(&groups(tree)).map_err(lifecycle)?;
    if !swept.is_empty() {
        tracing::warn!("an earlier installation left a cell, and now it is gone");
    }
    Ok(())
}

/// One name for each cache, so that its next writer finds what the last one left.
fn groups(tree: &Path) -> String {
    let digest = sha256(tree.as_os_str().as_encoded_bytes()).to_string();
    format!("sealing-{}", &digest[..16])
}

fn lifecycle(error: cofferdam_sandbox::Error) -> Error {
    Error::Lifecycle(error.to_string())
}

/// Runs the cell to its end.
fn run(plan: &CellPlan, stop: BorrowedFd<'_>) -> Result<(), Error> {
    let pipe = |source| Error::Io { path: "a pipe".into(), source };
    let (output, writer) = std::io::pipe().map_err(pipe)?;
    rustix::io::ioctl_fionbio(&output, true).map_err(|errno| pipe(errno.into()))?;
    let second = writer.try_clone().map_err(pipe)?;
    let cell = launch(plan, [writer.into(), second.into()]).map_err(lifecycle)?;
    let mut output = Output { pipe: Some(output), end: Vec::new() };
    let outcome = follow(&cell, &mut output, stop, Instant::now() + PATIENCE);
    cell.kill().and_then(|()| cell.wait()).and_then(|_| cell.remove()).map_err(lifecycle)?;
    close_nursery().map_err(lifecycle)?;
    match outcome? {
        Some(0) => Ok(()),
        _ => Err(Error::Lifecycle(end_of(&output.end))),
    }
}

/// How the runtime ended, or none if its init did not tell.
fn follow(
    cell: &Cell,
    output: &mut Output,
    stop: BorrowedFd<'_>,
    deadline: Instant,
) -> Result<Option<u8>, Error> {
    loop {
        output.drain();
        match cell.event().map_err(lifecycle)? {
            Some(CellEvent::RuntimeEnded { code, .. }) => {
                output.drain();
                return Ok(Some(code));
            }
            Some(CellEvent::Gone) => return Ok(None),
            None => {}
        }
        match wait(cell.wire(), output.pipe.as_ref().map(AsFd::as_fd), stop, deadline)? {
            Woken::News => {}
            Woken::Stop => return Err(Error::Interrupted),
            Woken::Deadline => {
                let minutes = PATIENCE.as_secs() / 60;
                let text = end_of(&output.end);
                return Err(Error::Lifecycle(format!("it had not ended after {minutes} minutes: {text}")));
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Woken {
    News,
    Stop,
    Deadline,
}

fn wait(
    wire: BorrowedFd<'_>,
    output: Option<BorrowedFd<'_>>,
    stop: BorrowedFd<'_>,
    deadline: Instant,
) -> Result<Woken, Error> {
    let left = deadline.saturating_duration_since(Instant::now());
    let left = Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(left.subsec_nanos()),
    };
    let mut polled: Vec<PollFd<'_>> = [Some(stop), Some(wire), output]
        .into_iter()
        .flatten()
        .map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN))
        .collect();
    match poll(&mut polled, Some(&left)) {
        Ok(0) => Ok(Woken::Deadline),
        Ok(_) if !polled[0].revents().is_empty() => Ok(Woken::Stop),
        // Output without end brings news without end.
        Ok(_) if Instant::now() >= deadline => Ok(Woken::Deadline),
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(Woken::News),
        Err(errno) => Err(Error::io("a pipe")(errno.into())),
    }
}

/// What the cell prints, of which the end is kept.
struct Output {
    /// None once it has ended.
    pipe: Option<PipeReader>,
    end: Vec<u8>,
}

impl Output {
    /// Takes what is there, at most a pipe full.
    fn drain(&mut self) {
        let mut bytes = vec![0; KEPT];
        match self.pipe.as_mut().map(|pipe| pipe.read(&mut bytes)) {
            Some(Ok(0)) => self.pipe = None,
            Some(Ok(count)) => {
                self.end.extend_from_slice(&bytes[..count]);
                let over = self.end.len().saturating_sub(KEPT);
                self.end.drain(..over);
            }
            // Nothing now; or a pipe that cannot be read, and then the cell's end ends the wait.
            Some(Err(error)) if error.kind() != std::io::ErrorKind::WouldBlock => self.pipe = None,
            Some(Err(_)) | None => {}
        }
    }
}

/// Gives a tree to a user, links themselves included.
fn give(root: &Path, uid: u32) -> Result<(), Error> {
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        std::os::unix::fs::lchown(&path, Some(uid), Some(uid)).map_err(Error::io(&path))?;
        if fs::symlink_metadata(&path).map_err(Error::io(&path))?.is_dir() {
            for entry in fs::read_dir(&path).map_err(Error::io(&path))? {
                pending.push(entry.map_err(Error::io(&path))?.path());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn output_of_any_length_is_taken_and_its_end_kept() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        let mut output = Output { pipe: Some(reader), end: Vec::new() };
        for _ in 0..20 {
            writer.write_all(&[b'x'; 16 * 1024]).unwrap();
            output.drain();
        }
        writer.write_all(b"the cause").unwrap();
        output.drain();
        output.drain();
        assert!(output.pipe.is_some() && output.end.len() == KEPT && output.end.ends_with(b"xthe cause"));
        drop(writer);
        output.drain();
        assert!(output.pipe.is_none());
    }

    #[test]
    fn a_cell_that_never_ends_is_given_up_and_a_wish_to_stop_is_heard_first() {
        let (quiet, _kept) = std::io::pipe().unwrap();
        let (said, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"x").unwrap();
        let (now, later) = (Instant::now(), Instant::now() + PATIENCE);
        let woken = |wire: &PipeReader, output: &PipeReader, stop: &PipeReader, deadline| {
            wait(wire.as_fd(), Some(output.as_fd()), stop.as_fd(), deadline).unwrap()
        };
        assert_eq!(woken(&quiet, &quiet, &quiet, now), Woken::Deadline);
        assert_eq!(woken(&quiet, &said, &quiet, now), Woken::Deadline);
        assert_eq!(woken(&said, &said, &said, now), Woken::Stop);
        assert_eq!(woken(&quiet, &said, &quiet, later), Woken::News);
        assert_eq!(woken(&said, &quiet, &quiet, later), Woken::News);
    }
}
