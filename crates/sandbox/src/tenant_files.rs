//! Tenants' home directories: made and removed by a short-lived child that has taken the tenant's uid.
//!
//! Fixed operations only. The directory descriptor is opened before the uid is taken, and every name below it
//! is opened beneath it, through no link. The threat: a tenant's tree full of links and renames that lead
//! privileged host code elsewhere.

use crate::{Error, home_image};
use cofferdam_sys::{
    openat, pidfd,
    process::{self, Forked},
};
use rustix::{
    fs::{AtFlags, Gid, Mode, OFlags, Uid},
    process::PidfdFlags,
};
use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

const HOME: &CStr = c"home";

/// Makes `<tenants>/<id>/home`, owned by the tenant, 0700, if it is not there. `owner` is none without root.
pub fn make_home(tenants: &Path, id: &str, owner: Option<(u32, u32)>) -> Result<(), Error> {
    let made = (|| {
        let tenants = open(tenants)?;
        exists(rustix::fs::mkdirat(&tenants, id, Mode::from_raw_mode(0o711)))?;
        // The umask took nothing that matters away; say it anyway.
        let tenant = openat::directory(tenants.as_fd(), Path::new(id))?;
        rustix::fs::fchmod(&tenant, Mode::from_raw_mode(0o711))?;
        exists(rustix::fs::mkdirat(&tenant, HOME, Mode::RWXU))?;
        let home = openat::own_directory(tenant.as_fd(), HOME)?;
        if let Some((uid, gid)) = owner {
            rustix::fs::fchown(&home, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        Ok(rustix::fs::fchmod(&home, Mode::RWXU)?)
    })();
    made.map_err(Error::io(format!("making the home of {id}")))
}

/// A removal under way, in a process of its own: a home may hold millions of files.
#[derive(Debug)]
pub struct Removal {
    /// Its process.
    pub pid: i32,
    pidfd: OwnedFd,
}

impl Removal {
    /// Begins to remove `<tenants>/<id>` and all in it. One that is not there is no error.
    pub fn begin(tenants: &Path, id: &str, owner: Option<(u32, u32)>) -> Result<Self, Error> {
        let parent = rustix::process::getpid();
        let forked = process::fork().map_err(Error::io("fork"))?;
        match forked {
            Forked::Child => process::exit(code(
                dies_with(parent)
                    .map_err(Error::io("a removal"))
                    .and_then(|()| remove_home(tenants, id, owner)),
            )),
            Forked::Parent(pid) => {
                let child = rustix::process::pidfd_open(pid, PidfdFlags::empty());
                let pid = pid.as_raw_nonzero().get();
                child.map(|pidfd| Self { pid, pidfd }).map_err(|errno| Error::io("pidfd_open")(errno.into()))
            }
        }
    }

    /// Readable once it has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// How it ended, if it has: exit 0, or the errno.
    pub fn try_wait(&self) -> Result<Option<pidfd::Ended>, Error> {
        pidfd::try_wait(self.pidfd.as_fd()).map_err(Error::io("waiting for a removal"))
    }

    /// Ends it half-way; it can be begun again.
    pub fn kill(&self) -> Result<(), Error> {
        pidfd::signal(self.pidfd.as_fd(), rustix::process::Signal::KILL)
            .map_err(Error::io("ending a removal"))
    }
}

/// An errno as an exit status: it is less than 134.
fn code(done: Result<(), Error>) -> u8 {
    let errno = |error: Error| match error {
        Error::Io { error, .. } => {
            error.raw_os_error().and_then(|errno| u8::try_from(errno).ok()).unwrap_or(5)
        }
        _ => 5,
    };
    done.map_or_else(errno, |()| 0)
}

fn dies_with(parent: rustix::process::Pid) -> io::Result<()> {
    process::die_with_parent()?;
    // One that died before the signal was asked for sends none.
    if rustix::process::getppid() == Some(parent) {
        Ok(())
    } else {
        Err(io::Error::other("its parent is gone"))
    }
}

/// Removes `<tenants>/<id>` and all in it. One that is not there is no error.
pub fn remove_home(tenants: &Path, id: &str, owner: Option<(u32, u32)>) -> Result<(), Error> {
    let what = || format!("removing the home of {id}");
    let opened = (|| -> io::Result<Option<(OwnedFd, OwnedFd, Option<OwnedFd>)>> {
        let tenants = open(tenants)?;
        let Some(tenant) = found(openat::directory(tenants.as_fd(), Path::new(id)))? else { return Ok(None) };
        let home = found(openat::own_directory(tenant.as_fd(), HOME))?;
        Ok(Some((tenants, tenant, home)))
    })();
    let Some((tenants, tenant, home)) = opened.map_err(Error::io(what()))? else { return Ok(()) };
    if let Some(home) = &home {
        as_tenant(owner, || openat::empty(home.as_fd())).map_err(Error::io(what()))?;
        rustix::fs::unlinkat(&tenant, HOME, AtFlags::REMOVEDIR)
            .map_err(|errno| Error::io(what())(errno.into()))?;
    }
    // Ours, and the whole of a home that has a quota: what is in it is never looked at.
    for image in home_image::NAMES {
        match rustix::fs::unlinkat(&tenant, image, AtFlags::empty()) {
            Err(rustix::io::Errno::NOENT) | Ok(()) => {}
            Err(errno) => return Err(Error::io(what())(errno.into())),
        }
    }
    rustix::fs::unlinkat(&tenants, id, AtFlags::REMOVEDIR).map_err(|errno| Error::io(what())(errno.into()))
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn exists(made: rustix::io::Result<()>) -> io::Result<()> {
    match made {
        Err(rustix::io::Errno::EXIST) | Ok(()) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn found(opened: io::Result<OwnedFd>) -> io::Result<Option<OwnedFd>> {
    match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// Does something in a child that is the tenant and nobody else.
fn as_tenant(owner: Option<(u32, u32)>, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let parent = rustix::process::getpid();
    match process::fork()? {
        Forked::Child => {
            let done = owner
                .map_or(Ok(()), |(uid, gid)| process::become_user(uid, gid, true))
                .and_then(|()| cofferdam_sys::caps::drop_own())
                // After the change of uid, which would clear it.
                .and_then(|()| dies_with(parent))
                .and_then(|()| work());
            process::exit(code(done.map_err(Error::io("a home"))))
        }
        Forked::Parent(pid) => {
            let child = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
            match pidfd::wait(child.as_fd())? {
                pidfd::Ended::Exit(0) => Ok(()),
                pidfd::Ended::Exit(errno) => Err(io::Error::from_raw_os_error(i32::from(errno))),
                ended @ pidfd::Ended::Signal(_) => Err(io::Error::other(ended.to_string())),
            }
        }
    }
}
