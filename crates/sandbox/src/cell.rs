//! A running cell as the launcher holds it: signalled, entered for sockets and commands, and ended.

use crate::{
    CellPlan, Error, Network, Quota,
    cgroup::Groups,
    exec, home_image,
    wire::{Answer, Order},
};
use cofferdam_base::ipc::{
    launcher::{Limits, Usage},
    receipt::Receipt,
};
use cofferdam_sys::{
    channel::{self, Channel, ChannelError},
    netns,
    pidfd::{self, Ended},
    process::{self, Forked},
    socket,
};
use rustix::process::Signal;
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// A running cell. Dropping it does not end it; [`Cell::kill`], [`Cell::wait`] and [`Cell::remove`] do.
#[derive(Debug)]
pub struct Cell {
    /// Its init, as the host numbers it.
    pub pid: i32,
    /// Its init. Readable once it has ended.
    pub pidfd: OwnedFd,
    /// The cookie of its network namespace, if its network is captured.
    pub netns_cookie: Option<u64>,
    /// Its listeners in the order of [`cofferdam_base::ipc::warden::Listener::ALL`], likewise.
    pub listeners: Option<[OwnedFd; 6]>,
    /// What holds.
    pub receipt: Receipt,
    plan: CellPlan,
    wire: Channel,
    groups: Groups,
    /// Held because closing it soon after the start would make the launcher wait.
    _capture: Option<OwnedFd>,
}

/// What init tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CellEvent {
    /// The runtime ended; the cell is ending. `status` is `exit 0` or `signal 9`.
    RuntimeEnded {
        /// For people.
        status: String,
        /// The exit status, or 128 + the signal.
        code: u8,
    },
    /// Init is gone.
    Gone,
}

/// A running command.
#[derive(Debug)]
pub struct Exec {
    /// As the host numbers it.
    pub pid: i32,
    /// Readable once it has ended; reap it with [`Exec::wait`] or [`Exec::try_wait`].
    pub pidfd: OwnedFd,
}

impl Exec {
    /// Waits for its end. 127: no such program; 126: one that cannot be executed; 125: it was not sealed,
    /// and so not started.
    pub fn wait(&self) -> Result<Ended, Error> {
        pidfd::wait(self.pidfd.as_fd()).map_err(Error::io("waiting for a command"))
    }

    /// Reaps it if it has ended.
    pub fn try_wait(&self) -> Result<Option<Ended>, Error> {
        pidfd::try_wait(self.pidfd.as_fd()).map_err(Error::io("waiting for a command"))
    }

    /// Kills the command itself. What it started and left behind ends with the cell.
    pub fn kill(&self) -> Result<(), Error> {
        pidfd::signal(self.pidfd.as_fd(), Signal::KILL).map_err(Error::io("killing a command"))
    }
}

pub(crate) struct Parts {
    pub(crate) plan: CellPlan,
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) cookie: Option<u64>,
    pub(crate) listeners: Option<[OwnedFd; 6]>,
    pub(crate) capture: Option<OwnedFd>,
    pub(crate) receipt: Receipt,
    pub(crate) wire: Channel,
    pub(crate) groups: Groups,
}

impl Cell {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { plan, pid, pidfd, cookie, listeners, capture, receipt, wire, groups } = parts;
        Self { pid, pidfd, netns_cookie: cookie, listeners, receipt, plan, wire, groups, _capture: capture }
    }

    /// The plan it was made from.
    pub fn plan(&self) -> &CellPlan {
        &self.plan
    }

    /// Asks init to send SIGTERM to the runtime. A cell that is ending already is no error.
    pub fn terminate(&self) -> Result<(), Error> {
        match self.wire.try_send(&Order::Terminate {}, &[]) {
            Ok(()) | Err(ChannelError::Closed) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Kills every process of the cell, now.
    pub fn kill(&self) -> Result<(), Error> {
        self.groups.kill();
        pidfd::signal(self.pidfd.as_fd(), Signal::KILL).map_err(Error::io("killing a cell"))
    }

    /// Stops every process of the cell where it is. What is stopped can still be killed, and [`Cell::thaw`]ed.
    pub fn freeze(&self) -> Result<(), Error> {
        self.groups.freeze(true)
    }

    /// Tells them to stop, without waiting until they have: [`Cell::frozen`] does.
    pub fn begin_freeze(&self) -> Result<(), Error> {
        self.groups.begin_freeze(true)
    }

    /// Waits until every process stands still; an error if they do not in time.
    pub fn frozen(&self) -> Result<(), Error> {
        self.groups.settle(true)
    }

    /// Lets them go on.
    pub fn thaw(&self) -> Result<(), Error> {
        self.groups.freeze(false)
    }

    /// What it uses now.
    pub fn usage(&self) -> Usage {
        let mut usage = self.groups.usage();
        if let Quota::Image(image) = &self.plan.quota {
            home_image::usage(self.pid, image, &mut usage);
        }
        usage
    }

    /// Sets other limits of memory, processes, CPU, io and `/sandbox`, all or none. Those of `/tmp` and of open files
    /// are as they were at its start, and so is that of `/sandbox` where the answer is false. The receipt says what
    /// holds now.
    pub fn change_limits(&mut self, limits: &Limits) -> Result<bool, Error> {
        let before = self.groups.change(limits)?;
        let grown = match &self.plan.quota {
            Quota::Image(image) => home_image::grow(self.pid, image, limits),
            Quota::Scratch | Quota::None { .. } => Ok(false),
        };
        let grown = match grown {
            Ok(grown) => grown,
            Err(error) => {
                self.groups.change(&before)?;
                return Err(error);
            }
        };
        let rows = self.groups.rows.iter().cloned().chain(home_image::row(&self.plan.quota));
        for row in rows {
            if let Some(old) = self.receipt.layers.iter_mut().find(|old| old.layer == row.layer) {
                *old = row;
            }
        }
        Ok(grown)
    }

    /// The wire to init: readable when [`Cell::event`] has something.
    pub fn wire(&self) -> BorrowedFd<'_> {
        self.wire.as_fd()
    }

    /// What init has told, if anything.
    pub fn event(&self) -> Result<Option<CellEvent>, Error> {
        match self.wire.try_recv() {
            Ok(Some((Answer::Ended { status, code }, _))) => {
                Ok(Some(CellEvent::RuntimeEnded { status, code }))
            }
            Ok(None) => Ok(Some(CellEvent::Gone)),
            Err(ChannelError::WouldBlock) => Ok(None),
            Ok(Some(_)) => Err(Error::Ended("it said what it may not say".into())),
            Err(error) => Err(error.into()),
        }
    }

    /// Reaps init if it has ended; then no process of the cell is left, and [`Cell::remove`] is due.
    pub fn try_wait(&self) -> Result<Option<Ended>, Error> {
        pidfd::try_wait(self.pidfd.as_fd()).map_err(Error::io("waiting for a cell"))
    }

    /// Reaps init, waiting for it.
    pub fn wait(&self) -> Result<Ended, Error> {
        pidfd::wait(self.pidfd.as_fd()).map_err(Error::io("waiting for a cell"))
    }

    /// Removes the cell's groups. After [`Cell::wait`], and once every [`Exec`] is reaped.
    pub fn remove(self) -> Result<(), Error> {
        self.groups.kill();
        self.groups.remove()
    }

    /// Unconnected, marked TCP sockets of the cell's network.
    pub fn sockets(&self, count: u8) -> Result<Vec<OwnedFd>, Error> {
        let Network::Captured { mark, .. } = self.plan.network else {
            return Err(Error::Plan("a cell without network has no sockets".into()));
        };
        let count = usize::from(count).min(channel::MAX_DESCRIPTORS);
        let make = || (0..count).map(|_| socket::marked_stream(mark)).collect::<io::Result<Vec<_>>>();
        if rustix::process::geteuid().is_root() {
            let path = format!("/proc/{}/ns/net", self.pid);
            let namespace = std::fs::File::open(&path).map_err(Error::io(path))?;
            return netns::inside(namespace.as_fd(), make)
                .and_then(|made| made)
                .map_err(Error::io("sockets"));
        }
        // Without root only a process inside the cell's user namespace may; it makes them and is gone.
        let (ours, theirs) = channel::pair().map_err(Error::io("the wire of a helper"))?;
        match process::fork().map_err(Error::io("fork"))? {
            Forked::Child => {
                let made = pidfd::join_network(self.pidfd.as_fd()).and_then(|()| make());
                let sent = made.is_ok_and(|made| {
                    let lent: Vec<_> = made.iter().map(AsFd::as_fd).collect();
                    Channel::from(theirs).send(&"sockets", &lent).is_ok()
                });
                process::exit(u8::from(!sent))
            }
            Forked::Parent(helper) => {
                drop(theirs);
                let received = Channel::from(ours).recv::<String>();
                rustix::process::waitpid(Some(helper), rustix::process::WaitOptions::empty())
                    .map_err(|errno| Error::io("reaping a helper")(errno.into()))?;
                match received? {
                    Some((_, sockets)) => Ok(sockets),
                    None => Err(Error::Ended("no socket could be made in it".into())),
                }
            }
        }
    }

    /// Runs a command in the cell, under its seal. `stdio` are its three descriptors; `terminal` says that they
    /// are one terminal, which becomes the command's own.
    pub fn exec(&self, argv: &[String], stdio: [OwnedFd; 3], terminal: bool) -> Result<Exec, Error> {
        exec::exec(&self.plan, self.pidfd.as_fd(), &self.groups, argv, &stdio, terminal)
    }
}
