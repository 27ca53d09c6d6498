//! The control socket: who may connect.
//!
//! The socket is control's own, mode 0600. As root, control has a uid of its own and only uid 0 is let in;
//! without root, only the user that started us. The threat: a process in a user namespace of its own that
//! looks like either of them.

use crate::Error;
use axum::serve::Listener;
use cofferdam_sys::peer;
use std::{
    io,
    os::{fd::AsFd, unix::fs::PermissionsExt},
    path::Path,
};
use tokio::net::{UnixListener, UnixStream, unix::SocketAddr};

/// The listening control socket.
#[derive(Debug)]
pub struct Door {
    listener: UnixListener,
    own_uid: u32,
}

impl Door {
    /// Opens the socket at this path; one that an earlier control left behind is replaced.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let what = || format!("the control socket {}", path.display());
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::io(what(), error)),
            _ => {}
        }
        // Nobody but us may write to the directory, so nobody gets between bind and chmod but who could
        // connect anyway; connections before the chmod are checked like all others.
        let listener = UnixListener::bind(path).map_err(|e| Error::io(what(), e))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
            .map_err(|e| Error::io(what(), e))?;
        Ok(Self { listener, own_uid: rustix::process::geteuid().as_raw() })
    }

    fn admits(&self, stream: &UnixStream) -> bool {
        let Ok(credentials) = peer::credentials(stream.as_fd()) else { return false };
        match peer::in_our_user_namespace(stream.as_fd()) {
            Ok(ours) => ours && (credentials.uid == 0 || credentials.uid == self.own_uid),
            Err(_) => false,
        }
    }
}

impl Listener for Door {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (UnixStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) if self.admits(&stream) => return (stream, address),
                Ok(_) => tracing::warn!("a connection to the control socket was refused: not our operator"),
                Err(error) => {
                    tracing::warn!(%error, "the control socket");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
