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
/// or abstract Unix socket beyond the domain.
pub fn restrict(rules: &[(&Path, Rights)]) -> Result<(), LandlockError> {
    require()?;
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(LEAST))?
        .scope(Scope::from_all(LEAST))?
        .create()?;
    for (path, rights) in rules {
        ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new(path)?, access(*rights)))?;
    }
    enforce(ruleset)
}

/// A new domain that restricts signals and abstract Unix sockets only: a domain of its own within ours.
///
/// Every Landlock domain denies moving and linking files between directories unless one of its rules grants
/// it, so this one grants it below `root`; what an outer domain denies stays denied. For the same reason no
/// process may be in a domain that is to build a root for others: its rules cannot name what is not there yet.
pub fn separate(root: &Path) -> Result<(), LandlockError> {
    require()?;
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::Refer)?
        .scope(Scope::from_all(LEAST))?
        .create()?
        .add_rule(PathBeneath::new(PathFd::new(root)?, AccessFs::Refer))?;
    enforce(ruleset)
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
