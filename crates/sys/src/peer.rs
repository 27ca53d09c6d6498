//! Who is at the other end of a Unix stream socket.
//!
//! The threat: a process in a user namespace that looks like root. Its uid reads as the one it is mapped to,
//! so a uid alone proves little; [`in_our_user_namespace`] tells whether it is of our own namespace.

use crate::socket::{peer_credentials, peer_pidfd};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::{
    fs, io,
    os::{fd::AsFd, unix::fs::MetadataExt},
};

/// The peer's identity when it connected (`SO_PEERCRED`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Its process, as we see it.
    pub pid: i32,
    /// Its effective uid, as we see it.
    pub uid: u32,
    /// Its effective gid, as we see it.
    pub gid: u32,
}

/// The peer's identity when it connected.
pub fn credentials(stream: impl AsFd) -> io::Result<Credentials> {
    let peer = peer_credentials(stream.as_fd())?;
    Ok(Credentials { pid: peer.pid, uid: peer.uid, gid: peer.gid })
}

/// Is the process that connected in the user namespace of this process? An error, as of a process that is
/// gone, is no yes. Needs `SO_PEERPIDFD` (Linux 6.5): without it a pid could be another process by now.
pub fn in_our_user_namespace(stream: impl AsFd) -> io::Result<bool> {
    let pidfd = peer_pidfd(stream.as_fd())?;
    let pid = credentials(&stream)?.pid;
    let theirs = match fs::metadata(format!("/proc/{pid}/ns/user")) {
        Ok(theirs) => {
            let ours = fs::metadata("/proc/self/ns/user")?;
            (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino())
        }
        // A process in a Landlock domain may not look at others' namespaces, nor may one uid at another's. The
        // map of ids can be read: whoever makes a namespace without privilege can map but its own id, so only
        // one that the host's root made could have the same map, and root is not kept out by a socket.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            fs::read(format!("/proc/{pid}/uid_map"))? == fs::read("/proc/self/uid_map")?
        }
        Err(error) => return Err(error),
    };
    // A pidfd is readable once its process has ended. It has not, so the path above was of this process and
    // of no later one with the same number.
    let mut polled = [PollFd::new(&pidfd, PollFlags::IN)];
    if rustix::event::poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? != 0 {
        return Err(io::Error::other("the peer has ended"));
    }
    Ok(theirs)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]

    use super::*;
    use std::{
        io::Read,
        os::unix::net::{UnixListener, UnixStream},
        process::{Command, Stdio},
    };

    #[test]
    fn this_process_is_in_its_own_user_namespace() {
        let (stream, _other) = UnixStream::pair().unwrap();
        let pid = i32::try_from(std::process::id()).unwrap();
        assert_eq!(credentials(&stream).unwrap().pid, pid);
        assert!(in_our_user_namespace(&stream).unwrap());
    }

    /// The child connects, and keeps the connection until its stdin ends.
    fn connect_from(mut program: Command) -> (UnixStream, std::process::Child) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let script =
            "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); sys.stdin.read()";
        let child = program.args(["python3", "-c", script]).arg(&path).stdin(Stdio::piped()).spawn().unwrap();
        (listener.accept().unwrap().0, child)
    }

    #[test]
    fn a_process_that_looks_like_root_in_another_user_namespace_is_told_apart() {
        let mut elsewhere = Command::new("unshare");
        elsewhere.args(["--user", "--map-root-user"]);
        for (program, ours) in [(Command::new("env"), true), (elsewhere, false)] {
            let (mut stream, mut child) = connect_from(program);
            assert_eq!(credentials(&stream).unwrap().uid, rustix::process::getuid().as_raw());
            assert_eq!(in_our_user_namespace(&stream).unwrap(), ours);
            drop(child.stdin.take());
            child.wait().unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
            assert!(in_our_user_namespace(&stream).is_err(), "a process that is gone proves nothing");
        }
    }
}
