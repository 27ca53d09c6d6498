//! This process: forking, executing, descriptors, limits. What a child is to become is said by its caller.
//!
//! The threat: a descriptor, an environment variable or a privilege that a child inherits by accident. So
//! nothing here inherits: programs are given an environment and three descriptors, and the rest is closed.

use rustix::process::{Pid, Resource, Rlimit, Signal};
use std::{
    ffi::{CStr, CString, c_char},
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

/// The two returns of [`fork`].
#[derive(Debug)]
pub enum Forked {
    /// In the child.
    Child,
    /// In the parent.
    Parent(Pid),
}

/// Forks. The child of a process with several threads may allocate (the C library sees to that), but must
/// not wait for anything that another thread would have done, and ends with [`exit`] or an exec.
pub fn fork() -> io::Result<Forked> {
    // SAFETY: the child continues on a copy of this thread's stack; see above for what it may do there.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => Pid::from_raw(pid).map(Forked::Parent).ok_or_else(|| io::Error::other("fork gave no pid")),
    }
}

/// Has this process one thread?
pub fn is_alone() -> io::Result<bool> {
    Ok(std::fs::read_dir("/proc/self/task")?.count() == 1)
}

/// Ends this process at once: no destructors, no flushing of what the parent had buffered.
pub fn exit(code: u8) -> ! {
    // SAFETY: `_exit` ends the process and touches nothing else.
    unsafe { libc::_exit(i32::from(code)) }
}

/// Replaces this process by a program, by path. Returns only the error.
pub fn exec(program: &CStr, argv: &[CString], env: &[CString]) -> io::Error {
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both arrays end with a null pointer, and their strings live through the call.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Replaces this process by a program, by descriptor. Returns only the error.
pub fn exec_fd(program: BorrowedFd<'_>, argv: &[CString], env: &[CString]) -> io::Error {
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both arrays end with a null pointer, and their strings live through the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

/// Puts a copy of a descriptor at this number, open across exec.
pub fn place(descriptor: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: both are numbers; what was open at `number` belongs to a process that is about to exec.
    check(unsafe { libc::dup2(descriptor.as_raw_fd(), number) })?;
    // dup2 onto itself leaves the flag as it was.
    // SAFETY: F_SETFD takes a number.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, 0) })
}

/// A close-on-exec copy of a descriptor, at this number or above.
pub fn duplicate_above(descriptor: BorrowedFd<'_>, number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC takes a number.
    let copy = unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_DUPFD_CLOEXEC, number) };
    check(copy)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Marks every descriptor from this number on to be closed by the next exec.
pub fn close_on_exec_from(number: u32) -> io::Result<()> {
    // SAFETY: marks descriptors; closes none.
    check_long(unsafe { libc::syscall(libc::SYS_close_range, number, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })
}

/// Closes what this process was started with but its standard streams: a careless starter left it open.
///
/// The caller must own none yet: call it before anything else opens descriptors.
pub fn close_inherited() -> io::Result<()> {
    // SAFETY: by this function's contract nobody owns what is closed.
    check_long(unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) })
}

/// Takes a descriptor that this process was started with. None if nothing is open there.
///
/// The caller must be the one owner: call it once a number, before anything else opens descriptors.
pub fn inherited(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: F_GETFD reads a flag.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: it is open, and by this function's contract nobody else owns it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    // SAFETY: F_SETFD takes a number.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) }).ok()?;
    Some(descriptor)
}

/// Makes the terminal at descriptor 0 the controlling terminal of this process, which must lead a session.
pub fn take_terminal() -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes a number.
    check(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) })
}

/// A new, empty session keyring: none of the parent's keys can be named.
pub fn new_keyring() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, ptr::null::<c_char>()) };
    match check_long(result) {
        // A kernel without keyrings has none to leak.
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        outcome => outcome,
    }
}

/// No core dumps, and at most this many open files, each only if it is wanted. A core limit of 1 is too small for
/// a file, and the only one at which the kernel leaves a helper that the host named in `core_pattern` alone.
pub fn limit(open_files: Option<u64>, no_core: bool) -> io::Result<()> {
    let both = |value| Rlimit { current: Some(value), maximum: Some(value) };
    if no_core {
        rustix::process::setrlimit(Resource::Core, both(1))?;
    }
    if let Some(files) = open_files {
        rustix::process::setrlimit(Resource::Nofile, both(files))?;
    }
    rustix::process::setrlimit(Resource::Memlock, both(8 << 20))?;
    rustix::process::setrlimit(Resource::Msgqueue, both(0))?;
    Ok(())
}

/// What the program of this command may use at most: bytes of private memory that it may write to, and as many processes
/// of its user as there may be when it makes one. Address space that is only reserved is not counted.
pub fn bound(command: &mut std::process::Command, memory: u64, processes: u64) {
    use std::os::unix::process::CommandExt as _;
    let limit = move |resource, value: u64| {
        let Rlimit { maximum, .. } = rustix::process::getrlimit(resource);
        let value = Some(value.min(maximum.unwrap_or(u64::MAX)));
        rustix::process::setrlimit(resource, Rlimit { current: value, maximum: value })
    };
    // SAFETY: between fork and exec it makes system calls, and neither allocates nor waits.
    unsafe {
        command.pre_exec(move || {
            limit(Resource::Data, memory)?;
            limit(Resource::Nproc, processes)?;
            Ok(())
        })
    };
}

/// No core dumps, and as many open files as whoever started us allows at all.
pub fn limit_service() -> io::Result<()> {
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(1), maximum: Some(1) })?;
    all_files()
}

/// Raises the soft limit of open files to the hard one. Nothing here calls `select`, for which the soft one is.
pub fn all_files() -> io::Result<()> {
    let files = rustix::process::getrlimit(Resource::Nofile);
    Ok(rustix::process::setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files })?)
}

/// How many files this process may have open at a time.
pub fn open_files() -> u64 {
    rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// This process may have so many bytes of addresses and so many seconds of a processor, and writes no core.
pub fn most(memory: u64, seconds: u64) -> io::Result<()> {
    for (resource, most) in [(Resource::As, memory), (Resource::Cpu, seconds), (Resource::Core, 0)] {
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        rustix::process::setrlimit(resource, limit)?;
    }
    Ok(())
}

/// Nobody but the kernel may read or trace this process; until the next exec.
pub fn hide() -> io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?)
}

/// This process dies when the thread that made it ends.
pub fn die_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?)
}

/// All of this process's ids become these, and its supplementary groups none.
pub fn become_user(uid: u32, gid: u32, groups: bool) -> io::Result<()> {
    use rustix::{
        fs::{Gid, Uid},
        thread,
    };
    if groups {
        thread::set_thread_groups(&[])?;
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    thread::set_thread_res_gid(gid, gid, gid)?;
    thread::set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

/// Blocks SIGCHLD and gives a descriptor that is readable when a child has changed.
pub fn child_signal() -> io::Result<OwnedFd> {
    signal_descriptor(&[libc::SIGCHLD])
}

/// Blocks SIGTERM, SIGINT and SIGHUP and gives a descriptor that is readable when one of them came. To be
/// called before there is a second thread.
pub fn stop_signal() -> io::Result<OwnedFd> {
    signal_descriptor(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP])
}

fn signal_descriptor(signals: &[libc::c_int]) -> io::Result<OwnedFd> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set that the others then read.
    let descriptor = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), ptr::null_mut());
        libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    check(descriptor)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Every signal as a new program expects it: unblocked and at its default.
pub fn default_signals() {
    // SAFETY: default dispositions and an empty mask are valid in any process.
    unsafe {
        for signal in 1..=64 {
            if signal != libc::SIGKILL && signal != libc::SIGSTOP && signal != 32 && signal != 33 {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), ptr::null_mut());
    }
}

pub(crate) fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

pub(crate) fn check_long(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
