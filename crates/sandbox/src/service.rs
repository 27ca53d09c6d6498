//! Our own processes: control, edge, wardens. Each is this binary again, under its own uid.
//!
//! The child has a wire at descriptor 3, stdout and stderr, no other descriptor, no environment but what the
//! plan names, no capability, groups with limits of its own, and dies with the launcher. The threat: a service
//! that was broken by hostile bytes and finds a descriptor or a variable that was not meant for it, leaves a
//! child behind, or takes the machine's memory.

use crate::{
    Error, Profile,
    cgroup::{self, Groups},
};
use cofferdam_base::ipc::{LAUNCHER_FD, launcher::Limits};
use cofferdam_sys::{
    caps, clone, pidfd,
    pidfd::Ended,
    process::{self, Forked},
};
use rustix::{
    fs::{Mode, OFlags},
    process::{PidfdFlags, Signal},
};
use std::{
    ffi::CString,
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
};

/// What a service is started with.
#[derive(Debug)]
pub struct Plan {
    /// Its name in messages: `control`, `edge`, `warden acme`.
    pub role: String,
    /// Arguments after the program's name; the first is the hidden entry, `__edge` for example.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// The uid and gid to become; none keeps ours (rootless).
    pub uid: Option<(u32, u32)>,
    /// Becomes descriptor 3.
    pub wire: OwnedFd,
    /// Its cgroup, below our own.
    pub cgroup: String,
    /// What it may use; of these memory, processes and CPU count.
    pub limits: Limits,
    /// Whether it may start without limits, where none can be set.
    pub profile: Profile,
}

/// A running service.
#[derive(Debug)]
pub struct Service {
    /// Its process.
    pub pid: i32,
    /// Its process. Readable once it has ended.
    pub pidfd: OwnedFd,
    groups: Groups,
}

impl Service {
    /// Kills it, and what it started. One that has ended is no error.
    pub fn kill(&self) -> Result<(), Error> {
        self.groups.kill();
        pidfd::signal(self.pidfd.as_fd(), Signal::KILL).map_err(Error::io("killing a service"))
    }

    /// Reaps it if it has ended; then nothing that it started is left either.
    pub fn try_wait(&self) -> Result<Option<Ended>, Error> {
        let ended = pidfd::try_wait(self.pidfd.as_fd()).map_err(Error::io("waiting for a service"))?;
        if ended.is_some() {
            self.groups.kill();
            self.groups.remove()?;
        }
        Ok(ended)
    }

    /// Reaps it, waiting for it.
    pub fn wait(&self) -> Result<Ended, Error> {
        let ended = pidfd::wait(self.pidfd.as_fd()).map_err(Error::io("waiting for a service"))?;
        self.groups.kill();
        self.groups.remove()?;
        Ok(ended)
    }
}

/// Starts a service. Returns once it has been executed. The calling thread must be the one that lives as long
/// as the launcher: the service dies with it.
pub fn spawn(plan: &Plan) -> Result<Service, Error> {
    let text = |text: String| CString::new(text).map_err(|_| Error::Plan(format!("{}: a NUL", plan.role)));
    let argv = [plan.role.clone()].into_iter().chain(plan.argv.iter().cloned());
    let argv = argv.map(text).collect::<Result<Vec<_>, _>>()?;
    let env = plan.env.iter().map(|(name, value)| text(format!("{name}={value}")));
    let env = env.collect::<Result<Vec<_>, _>>()?;
    let (mut says, tells) = io::pipe().map_err(Error::io("a pipe"))?;
    let (alive, ours) = io::pipe().map_err(Error::io("a pipe"))?;
    let mut groups = Groups::create(&plan.cgroup, &plan.limits, None, plan.profile)?;
    let ways = groups.limit(plan.profile, &[]).and_then(|()| ways(&groups)).inspect_err(|_| {
        // What stays is swept at the next start; the cause is what must be told.
        let _ = groups.remove();
    })?;
    let forked = match &ways.0 {
        Some(cradle) => clone::fork_into(cradle.as_fd()),
        None => process::fork(),
    };
    match forked.map_err(Error::io("fork"))? {
        Forked::Child => {
            drop((says, ours));
            // Out of the way of the wire's number.
            let Ok(tells) = process::duplicate_above(tells.as_fd(), 10) else { process::exit(127) };
            let error = match cgroup::enter(&ways.1) {
                Ok(()) => become_service(plan, &argv, &env, &alive),
                Err(error) => error,
            };
            let _ = rustix::io::write(&tells, error.to_string().as_bytes());
            process::exit(127)
        }
        Forked::Parent(pid) => {
            drop((tells, alive));
            let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())
                .map_err(|errno| Error::io("pidfd_open")(errno.into()))?;
            let mut told = String::new();
            says.read_to_string(&mut told).map_err(Error::io("a pipe"))?;
            let service = Service { pid: pid.as_raw_nonzero().get(), pidfd, groups };
            if told.is_empty() {
                return Ok(service);
            }
            service.wait()?;
            Err(Error::Ended(format!("{} did not start: {told}", plan.role)))
        }
    }
}

/// How a child comes into its groups: where it is born, and where it moves itself. The first alone is quick, and is for
/// a process with one thread.
fn ways(groups: &Groups) -> Result<(Option<OwnedFd>, Vec<OwnedFd>), Error> {
    let alone = process::is_alone().map_err(Error::io("/proc/self/task"))?;
    match groups.cradle()?.filter(|_| alone) {
        Some(cradle) => Ok((Some(cradle), groups.tasks()?)),
        None => Ok((None, groups.entrances()?)),
    }
}

/// `alive` ends when the launcher does.
fn become_service(plan: &Plan, argv: &[CString], env: &[CString], alive: &io::PipeReader) -> io::Error {
    let prepared = (|| -> io::Result<OwnedFd> {
        process::default_signals();
        rustix::process::setsid()?;
        let program = rustix::fs::open("/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let program = process::duplicate_above(program.as_fd(), 10)?;
        let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let alive = process::duplicate_above(alive.as_fd(), 10)?;
        process::place(null.as_fd(), 0)?;
        // Marks what `place` then makes anew; the pipe that tells of errors is marked already.
        process::close_on_exec_from(3)?;
        let wire = process::duplicate_above(plan.wire.as_fd(), 10)?;
        process::place(wire.as_fd(), LAUNCHER_FD)?;
        rustix::process::umask(Mode::from_raw_mode(0o077));
        process::limit_service()?;
        if let Some((uid, gid)) = plan.uid {
            caps::drop_bounding()?;
            process::become_user(uid, gid, true)?;
        }
        caps::drop_own()?;
        // After the change of uid, which would clear it; and if the launcher died before, its end of the pipe
        // has closed.
        process::die_with_parent()?;
        let mut polled = [rustix::event::PollFd::new(&alive, rustix::event::PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        if rustix::event::poll(&mut polled, Some(&now))? != 0 {
            return Err(io::Error::other("the launcher is gone"));
        }
        rustix::process::chdir("/")?;
        Ok(program)
    })();
    match prepared {
        Ok(program) => process::exec_fd(program.as_fd(), argv, env),
        Err(error) => error,
    }
}
