//! Landlock domains, every requirement hard: a right that this kernel cannot handle is an error.
//!
//! The threat: best effort. A ruleset that silently handles less than was asked for is no ruleset, so the
//! library's compatibility level is never anything but the hardest.

use crate::process::check_long;
use landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::{
    fs::{FileType, Mode, OFlags},
    io::Errno,
};
use std::{
    collections::BTreeSet,
    io,
    marker::PhantomData,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::Command,
};

/// The least that a cell is built on: file system, truncation, ioctl on devices, scopes.
pub const LEAST: ABI = ABI::V6;

/// What a domain may do below a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// List directories, nothing else.
    List,
    /// Read files and list directories.
    Read,
    /// Read, list and execute.
    Execute,
    /// Read one file.
    ReadFile,
    /// Read and execute one file.
    ExecuteFile,
    /// Write to one existing file, a device for example.
    WriteFile,
    /// Everything that is not about devices.
    Full,
}

/// One thing that a domain denies unless a rule grants it, or, for the last two, beyond itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the kernel's own names")]
pub enum Right {
    Execute,
    WriteFile,
    ReadFile,
    ReadDir,
    RemoveDir,
    RemoveFile,
    MakeChar,
    MakeDir,
    MakeReg,
    MakeSock,
    MakeFifo,
    MakeBlock,
    MakeSym,
    Refer,
    Truncate,
    IoctlDev,
    Signal,
    AbstractUnixSocket,
}

impl Right {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::Execute,
        Self::WriteFile,
        Self::ReadFile,
        Self::ReadDir,
        Self::RemoveDir,
        Self::RemoveFile,
        Self::MakeChar,
        Self::MakeDir,
        Self::MakeReg,
        Self::MakeSock,
        Self::MakeFifo,
        Self::MakeBlock,
        Self::MakeSym,
        Self::Refer,
        Self::Truncate,
        Self::IoctlDev,
        Self::Signal,
        Self::AbstractUnixSocket,
    ];

    fn file(self) -> Option<AccessFs> {
        Some(match self {
            Self::Execute => AccessFs::Execute,
            Self::WriteFile => AccessFs::WriteFile,
            Self::ReadFile => AccessFs::ReadFile,
            Self::ReadDir => AccessFs::ReadDir,
            Self::RemoveDir => AccessFs::RemoveDir,
            Self::RemoveFile => AccessFs::RemoveFile,
            Self::MakeChar => AccessFs::MakeChar,
            Self::MakeDir => AccessFs::MakeDir,
            Self::MakeReg => AccessFs::MakeReg,
            Self::MakeSock => AccessFs::MakeSock,
            Self::MakeFifo => AccessFs::MakeFifo,
            Self::MakeBlock => AccessFs::MakeBlock,
            Self::MakeSym => AccessFs::MakeSym,
            Self::Refer => AccessFs::Refer,
            Self::Truncate => AccessFs::Truncate,
            Self::IoctlDev => AccessFs::IoctlDev,
            Self::Signal | Self::AbstractUnixSocket => return None,
        })
    }

    fn scope(self) -> Option<Scope> {
        match self {
            Self::Signal => Some(Scope::Signal),
            Self::AbstractUnixSocket => Some(Scope::AbstractUnixSocket),
            _ => None,
        }
    }
}

/// Why a domain is not in force.
#[derive(Debug, thiserror::Error)]
pub enum LandlockError {
    /// The kernel's ABI is too old or switched off.
    #[error("the kernel offers Landlock ABI {found}, and {} is the least", LEAST as i32)]
    TooOld {
        /// What the kernel offers; 0 is nothing.
        found: i32,
    },
    /// A rule's path cannot be opened.
    #[error("a Landlock rule's path: {0}")]
    Path(#[from] landlock::PathFdError),
    /// What lies around a hidden directory cannot be looked through.
    #[error("what is to be hidden: {0}")]
    Around(#[from] io::Error),
    /// The kernel refused the ruleset.
    #[error("Landlock: {0}")]
    Ruleset(#[from] landlock::RulesetError),
    /// The kernel enforces less than was asked for.
    #[error("Landlock enforces only a part of what was asked for")]
    Partly,
}

/// The kernel's ABI, 0 if it has none.
pub fn abi() -> i32 {
    const VERSION: libc::c_ulong = 1;
    // SAFETY: a null ruleset with this flag asks for the version only.
    let abi =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, VERSION) };
    i32::try_from(abi).unwrap_or(0).max(0)
}

/// Puts this thread and its children into a new domain: these rights and no others on files, and no signal
/// or abstract Unix socket beyond the domain. What `without` names the domain does not deny; there is something
/// that it does.
pub fn restrict(rules: &[(&Path, Rights)], without: &[Right]) -> Result<(), LandlockError> {
    require()?;
    let files: BitFlags<AccessFs> =
        AccessFs::from_all(LEAST) & !without.iter().filter_map(|right| right.file()).collect::<BitFlags<_>>();
    let mut ruleset = scoped(without, files)?;
    for (path, rights) in rules {
        let granted = access(*rights) & files;
        if !granted.is_empty() {
            ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new(path)?, granted))?;
        }
    }
    enforce(ruleset)
}

fn scoped(without: &[Right], files: BitFlags<AccessFs>) -> Result<landlock::RulesetCreated, LandlockError> {
    let scopes: BitFlags<Scope> =
        Scope::from_all(LEAST) & !without.iter().filter_map(|right| right.scope()).collect::<BitFlags<_>>();
    let mut ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    if !files.is_empty() {
        ruleset = ruleset.handle_access(files)?;
    }
    if !scopes.is_empty() {
        ruleset = ruleset.scope(scopes)?;
    }
    Ok(ruleset.create()?)
}

/// A new domain that restricts signals and abstract Unix sockets only: a domain of its own within ours.
///
/// Every Landlock domain denies moving and linking files between directories unless one of its rules grants
/// it, so this one grants it below `root`; what an outer domain denies stays denied. For the same reason no
/// process may be in a domain that is to build a root for others: its rules cannot name what is not there yet.
pub fn separate(root: &Path, without: &[Right]) -> Result<(), LandlockError> {
    require()?;
    let ruleset = scoped(without, AccessFs::Refer.into())?;
    enforce(ruleset.add_rule(PathBeneath::new(PathFd::new(root)?, AccessFs::Refer))?)
}

/// A domain that this thread is in, but no other thread of this process.
#[derive(Debug)]
pub struct Domain(PhantomData<*const ()>);

impl Domain {
    /// A command that is started by this thread runs in a domain of its own within this one. Without that it could
    /// reach this thread, which is in its domain, and by it the process that this thread is a part of.
    #[expect(clippy::unused_self, reason = "to have it is to be in the domain")]
    pub fn within(&self, command: &mut Command) -> Result<(), LandlockError> {
        let ruleset = scoped(&[], AccessFs::Refer.into())?;
        let ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new("/")?, AccessFs::Refer))?;
        let ruleset = Option::<OwnedFd>::from(ruleset).ok_or(LandlockError::Partly)?;
        // SAFETY: between fork and exec it makes one system call, with a descriptor that it owns, and an error.
        unsafe {
            command.pre_exec(move || {
                check_long(libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0))
            });
        }
        Ok(())
    }

    /// Kills whatever this thread has started, and what that started, wherever it went: all that is in the domain but
    /// this process itself. The kernel keeps a signal from leaving the domain, and a fork under way from outliving it.
    #[expect(clippy::unused_self, reason = "to have it is to be in the domain")]
    pub fn end(&self) {
        // SAFETY: sends a signal. Having this value means that this thread is in a domain that scopes signals.
        // There may be nobody left, and nothing else can go wrong.
        unsafe { libc::kill(-1, libc::SIGKILL) };
    }
}

/// Puts this thread into a new domain that reaches whatever it could but what is in these directories; and no signal and
/// no abstract Unix socket beyond itself.
///
/// Rules grant and cannot take away. So whatever lies beside the ways to these directories is granted, as it is now:
/// directly on a way nothing new can be made. Links there grant nothing. Names of files may be listed everywhere.
pub fn hide(directories: &[&Path]) -> Result<Domain, LandlockError> {
    require()?;
    let all = AccessFs::from_all(LEAST);
    let mut ruleset = scoped(&[], all)?;
    ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new("/")?, AccessFs::ReadDir))?;
    for opened in beside(directories)? {
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&opened).map_err(io::Error::from)?.st_mode);
        let rights = match kind {
            FileType::Symlink => continue,
            FileType::Directory => all,
            _ => AccessFs::from_file(LEAST),
        };
        ruleset = ruleset.add_rule(PathBeneath::new(opened, rights))?;
    }
    enforce(ruleset).map(|()| Domain(PhantomData))
}

/// All that lies beside the ways to these directories: neither on them, nor the same as what is, by another mount.
fn beside(directories: &[&Path]) -> io::Result<Vec<OwnedFd>> {
    let hidden: Vec<PathBuf> = directories.iter().map(std::fs::canonicalize).collect::<Result<_, _>>()?;
    let ways: BTreeSet<&Path> = hidden.iter().flat_map(|directory| directory.ancestors()).collect();
    let same = ways.iter().map(|way| rustix::fs::stat(*way).map(|stat| (stat.st_dev, stat.st_ino)));
    let same: BTreeSet<_> = same.collect::<Result<_, _>>()?;
    let mut beside = Vec::new();
    for way in ways.iter().filter(|way| !hidden.iter().any(|directory| way.starts_with(directory))) {
        for entry in std::fs::read_dir(way)? {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = match rustix::fs::open(entry?.path(), flags, Mode::empty()) {
                Ok(opened) => opened,
                // What is gone, or lies behind something that is, is not there to be granted.
                Err(Errno::NOENT | Errno::ACCESS | Errno::NOTCONN) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let stat = rustix::fs::fstat(&opened)?;
            if !same.contains(&(stat.st_dev, stat.st_ino)) {
                beside.push(opened);
            }
        }
    }
    Ok(beside)
}

fn require() -> Result<(), LandlockError> {
    let found = abi();
    if found < LEAST as i32 { Err(LandlockError::TooOld { found }) } else { Ok(()) }
}

fn enforce(ruleset: landlock::RulesetCreated) -> Result<(), LandlockError> {
    let status = ruleset.restrict_self()?;
    if status.ruleset == RulesetStatus::FullyEnforced && status.no_new_privs {
        Ok(())
    } else {
        Err(LandlockError::Partly)
    }
}

fn access(rights: Rights) -> BitFlags<AccessFs> {
    match rights {
        Rights::List => AccessFs::ReadDir.into(),
        Rights::Read => AccessFs::ReadFile | AccessFs::ReadDir,
        Rights::Execute => AccessFs::from_read(LEAST),
        Rights::ReadFile => AccessFs::ReadFile.into(),
        Rights::ExecuteFile => AccessFs::Execute | AccessFs::ReadFile,
        Rights::WriteFile => AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate,
        Rights::Full => {
            AccessFs::from_all(LEAST) & !(AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;
    use std::{fs, os::unix::fs::symlink, thread, time::Duration};

    #[test]
    fn what_is_hidden_is_reached_by_no_way_and_the_rest_by_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let (secret, open) = (dir.path().join("state"), dir.path().join("work"));
        fs::create_dir(&secret).unwrap();
        fs::create_dir(&open).unwrap();
        fs::write(secret.join("db"), "secret").unwrap();
        fs::write(open.join("note"), "note").unwrap();
        symlink(&secret, dir.path().join("link")).unwrap();
        let read = |path: &Path| fs::read_to_string(path).map_err(|error| error.kind());
        let denied = Err(io::ErrorKind::PermissionDenied);
        thread::scope(|scope| {
            scope.spawn(|| {
                hide(&[&secret]).unwrap();
                assert_eq!(read(&open.join("note")).as_deref(), Ok("note"));
                fs::write(open.join("more"), "more").unwrap();
                for way in ["state/db", "link/db", "work/../state/db", "work/soft"] {
                    let _ = symlink(secret.join("db"), open.join("soft"));
                    assert_eq!(read(&dir.path().join(way)), denied, "{way}");
                }
                assert!(fs::write(secret.join("new"), "").is_err());
                assert!(fs::hard_link(secret.join("db"), open.join("hard")).is_err());
                assert!(fs::rename(&secret, dir.path().join("moved")).is_err());
                assert!(fs::rename(secret.join("db"), open.join("db")).is_err());
                assert!(fs::create_dir(dir.path().join("beside")).is_err());
            });
        });
        // The control, and that no other thread is in it.
        assert_eq!(read(&dir.path().join("link/db")).as_deref(), Ok("secret"));
    }

    #[test]
    fn a_domain_ends_with_all_that_it_started_and_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let shell = |script: &str| {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", script]);
            shell
        };
        let mut other = shell("exec sleep 600").spawn().unwrap();
        let left = dir.path().join("work");
        fs::create_dir(&left).unwrap();
        let script =
            format!("cd {}; setsid sh -c 'echo $$ > pid; exec sleep 600' & exec sleep 600", left.display());
        thread::scope(|scope| {
            scope.spawn(|| {
                let state = dir.path().join("state");
                fs::create_dir(&state).unwrap();
                let domain = hide(&[&state]).unwrap();
                let start = |script: &str| {
                    let mut shell = shell(script);
                    domain.within(&mut shell).unwrap();
                    shell.spawn().unwrap()
                };
                // A child may not reach out of it, not even to the thread that started it.
                let tasks = fs::read_dir("/proc/self/task").unwrap();
                let tasks = tasks.map(|task| task.unwrap().file_name().into_string().unwrap());
                for pid in tasks.chain([other.id().to_string()]) {
                    for tries in [format!("kill -0 {pid}"), format!("readlink /proc/{pid}/fd/0")] {
                        assert!(!start(&tries).wait().unwrap().success(), "{tries}");
                    }
                }
                let mut child = start(&script);
                let pid = loop {
                    match fs::read_to_string(left.join("pid")) {
                        Ok(pid) if pid.ends_with('\n') => break pid.trim().to_owned(),
                        _ => thread::sleep(Duration::from_millis(5)),
                    }
                };
                let lives = || {
                    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
                    stat.is_ok_and(|stat| !stat.contains(") Z "))
                };
                assert!(lives());
                domain.end();
                assert!(!child.wait().unwrap().success());
                while lives() {
                    thread::sleep(Duration::from_millis(5));
                }
            });
        });
        assert!(other.try_wait().unwrap().is_none(), "what is outside lives on");
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
