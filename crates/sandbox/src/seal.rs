//! The last steps before a program of the cell's runs: what is given up, in which order, and the proof.
//!
//! Init gives up its own with [`shed`]; the runtime and each command end in [`enter`]. A command's Landlock
//! domain is a sibling of the runtime's, and the runtime's lies within init's: none can signal or trace
//! "upwards" or "sideways".

use crate::{
    Access, CellPlan, Protection, TRUST,
    error::{Layer, LayerFailure},
};
use cofferdam_sys::{
    caps,
    landlock::{self, Right, Rights},
    process,
    seccomp::{self, Program},
};
use std::{
    ffi::CString,
    io,
    path::{Path, PathBuf},
};

/// Capabilities, keyring, limits: what every process of a cell gives up.
pub(crate) fn shed(plan: &CellPlan) -> Result<(), LayerFailure> {
    if plan.keeps(Protection::Keyring) {
        process::new_keyring().layer("keyring")?;
    }
    let files = plan.keeps(Protection::OpenFiles).then_some(u64::from(plan.limits.open_files));
    process::limit(files, plan.keeps(Protection::NoCoreDumps)).layer("rlimits")?;
    if plan.keeps(Protection::Capabilities) {
        caps::drop_all().layer("capabilities")?;
    } else {
        rustix::thread::set_no_new_privs(true).layer("no_new_privs")?;
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    Ok(())
}

/// A Landlock domain within the one that [`files`] made: the runtime's own.
pub(crate) fn apart(plan: &CellPlan) -> Result<(), LayerFailure> {
    let without = plan.free_rights();
    if without.len() == Right::ALL.len() {
        return Ok(());
    }
    landlock::separate(Path::new("/"), &without).layer("landlock")
}

/// The cell's files as a Landlock domain.
pub(crate) fn files(plan: &CellPlan) -> Result<(), LayerFailure> {
    let without = plan.free_rights();
    if without.len() == Right::ALL.len() {
        return Ok(());
    }
    let mut rules: Vec<(PathBuf, Rights)> = vec![
        ("/".into(), Rights::List),
        ("/usr".into(), Rights::Execute),
        ("/etc".into(), Rights::Read),
        ("/proc".into(), Rights::Read),
        ("/dev".into(), Rights::Read),
        ("/dev/null".into(), Rights::WriteFile),
        ("/sandbox".into(), Rights::Full),
        ("/tmp".into(), Rights::Full),
    ];
    for tree in ["/bin", "/sbin", "/lib", "/lib64"] {
        if std::fs::symlink_metadata(tree).is_ok_and(|meta| meta.is_dir()) {
            rules.push((tree.into(), Rights::Execute));
        }
    }
    // What is trusted is below /etc, which may be read.
    for bind in plan.binds.iter().filter(|bind| bind.label != TRUST) {
        let file = std::fs::metadata(&bind.target).is_ok_and(|meta| !meta.is_dir());
        let rights = match (&bind.access, file) {
            (Access::ReadOnly | Access::Offered { .. }, false) => Rights::Execute,
            (Access::ReadOnly | Access::Offered { .. }, true) => Rights::ExecuteFile,
            (Access::ReadWrite, false) => Rights::Full,
            (Access::ReadWrite, true) => Rights::WriteFile,
        };
        rules.push((bind.target.clone(), rights));
    }
    let rules: Vec<(&Path, Rights)> = rules.iter().map(|(path, rights)| (path.as_path(), *rights)).collect();
    landlock::restrict(&rules, &without).layer("landlock")
}

/// The seccomp programs, the newest last.
pub(crate) fn filters(programs: &[Program]) -> Result<(), LayerFailure> {
    programs.iter().try_for_each(seccomp::install).layer("seccomp")
}

/// A program and all that it is given, ready for exec.
#[derive(Debug)]
pub(crate) struct Command {
    argv: Vec<CString>,
    env: Vec<CString>,
    candidates: Vec<CString>,
}

impl Command {
    /// A name without a slash is looked for on the PATH of the plan's environment.
    pub(crate) fn new(plan: &CellPlan, argv: &[String]) -> io::Result<Self> {
        let text = |text: String| CString::new(text).map_err(|_| io::Error::other("a NUL in a command"));
        let name = argv.first().ok_or_else(|| io::Error::other("an empty command"))?;
        let path = plan.env.iter().find(|(name, _)| name == "PATH").map_or("/usr/bin:/bin", |(_, path)| path);
        let candidates = if name.contains('/') {
            vec![text(name.clone())?]
        } else {
            path.split(':')
                .filter(|directory| directory.starts_with('/'))
                .map(|directory| text(format!("{directory}/{name}")))
                .collect::<io::Result<_>>()?
        };
        Ok(Self {
            argv: argv.iter().cloned().map(text).collect::<io::Result<_>>()?,
            env: plan.env.iter().map(|(n, value)| text(format!("{n}={value}"))).collect::<io::Result<_>>()?,
            candidates,
        })
    }

    /// Becomes the program. Returns only the error: of the candidates, the one that was there.
    pub(crate) fn exec(&self) -> io::Error {
        let mut worst = io::Error::from_raw_os_error(2);
        for candidate in &self.candidates {
            let error = process::exec(candidate, &self.argv, &self.env);
            if error.kind() != io::ErrorKind::NotFound && error.kind() != io::ErrorKind::NotADirectory {
                worst = error;
            }
        }
        worst
    }
}
