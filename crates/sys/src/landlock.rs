//! Landlock domains, every requirement hard: a right that this kernel cannot handle is an error.
//!
//! The threat: best effort. A ruleset that silently handles less than was asked for is no ruleset, so the
//! library's compatibility level is never anything but the hardest.

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use std::path::Path;

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
