//! The two ends of what a command in a cell reads and writes: pipes, or a terminal of its own.
//!
//! The caller's descriptors never go into a cell: what goes there was made here, and is closed here once the
//! command ended. The threat: a descriptor of the operator's terminal in a hostile process (TIOCSTI).

use crate::Error;
use rustix::{
    fs::OFlags,
    pipe::{PipeFlags, pipe_with},
    pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};
use tokio::io::{Interest, unix::AsyncFd};

/// Our end of a pipe or terminal.
#[derive(Clone, Debug)]
pub(super) struct End(Arc<AsyncFd<OwnedFd>>);

/// Our ends of one command.
#[derive(Debug)]
pub(super) struct Ours {
    /// Where its input is written; none once the input ended.
    pub(super) stdin: Option<End>,
    /// Where its output comes from.
    pub(super) stdout: End,
    /// Where its errors come from; none with a terminal, where both are one.
    pub(super) stderr: Option<End>,
    /// Is it a terminal?
    pub(super) terminal: bool,
}

/// Makes the ends of a command: ours, and the three that travel to the launcher.
pub(super) fn make(terminal: bool, size: Option<(u16, u16)>) -> Result<(Ours, [OwnedFd; 3]), Error> {
    if terminal { make_terminal(size) } else { make_pipes() }.map_err(|e| Error::io("exec", e))
}

fn make_pipes() -> io::Result<(Ours, [OwnedFd; 3])> {
    let (stdin, to) = pipe_with(PipeFlags::CLOEXEC)?;
    let (from, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
    let (from_errors, stderr) = pipe_with(PipeFlags::CLOEXEC)?;
    let ours = Ours {
        stdin: Some(End::new(to, Interest::WRITABLE)?),
        stdout: End::new(from, Interest::READABLE)?,
        stderr: Some(End::new(from_errors, Interest::READABLE)?),
        terminal: false,
    };
    Ok((ours, [stdin, stdout, stderr]))
}

fn make_terminal(size: Option<(u16, u16)>) -> io::Result<(Ours, [OwnedFd; 3])> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    unlockpt(&ours)?;
    let theirs = ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    let end = End::new(ours, Interest::READABLE | Interest::WRITABLE)?;
    let ours = Ours { stdin: Some(end.clone()), stdout: end, stderr: None, terminal: true };
    if let Some((rows, columns)) = size {
        ours.resize(rows, columns)?;
    }
    Ok((ours, [theirs.try_clone()?, theirs.try_clone()?, theirs]))
}

impl Ours {
    /// Gives the terminal another size; nothing without one.
    pub(super) fn resize(&self, rows: u16, columns: u16) -> io::Result<()> {
        if !self.terminal {
            return Ok(());
        }
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(tcsetwinsize(self.stdout.0.as_fd(), size)?)
    }

    /// No more input: closes the pipe, or sends the terminal its end-of-file character.
    pub(super) async fn end_input(&mut self) -> io::Result<()> {
        match self.stdin.take() {
            Some(end) if self.terminal => end.write_all(&[4]).await,
            _ => Ok(()),
        }
    }
}

impl End {
    fn new(fd: OwnedFd, interest: Interest) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        #[expect(
            deprecated,
            reason = "an OwnedFd never changes or closes the descriptor that was registered"
        )]
        let fd = AsyncFd::with_interest(fd, interest)?;
        Ok(Self(Arc::new(fd)))
    }

    /// Reads what is there; 0 at the end.
    pub(super) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            match rustix::io::read(self.0.as_fd(), &mut *buffer) {
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(rustix::io::Errno::INTR) => {}
                // A terminal whose other end nobody has open any more.
                Err(rustix::io::Errno::IO) => return Ok(0),
                outcome => return Ok(outcome?),
            }
        }
    }

    /// Writes all.
    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            match rustix::io::write(self.0.as_fd(), bytes) {
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(rustix::io::Errno::INTR) => {}
                outcome => bytes = &bytes[outcome?..],
            }
        }
        Ok(())
    }
}
