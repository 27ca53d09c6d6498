//! What our own processes do to themselves before they read a byte from anybody.
//!
//! Landlock is a hard requirement here as in a cell. Both it and seccomp bind the calling thread and those
//! made later, so each function refuses to run in a process that has more than one.

use crate::{
    Error,
    error::{Layer, LayerFailure},
    seccomp as table,
};
use cofferdam_sys::{
    landlock::{self, Rights},
    process, seccomp,
};
use std::{
    os::fd::{AsRawFd as _, BorrowedFd},
    path::{Path, PathBuf},
};

/// The launcher: a deny-list. It must mount, and its children inherit; why it is in no Landlock domain is in
/// `docs/decisions/0004`.
pub fn launcher() -> Result<(), Error> {
    single()?;
    // What we were started with is ours alone: our own children execute, too.
    process::close_on_exec_from(3).layer("descriptors")?;
    process::all_files().layer("rlimits")?;
    rustix::thread::set_no_new_privs(true).layer("no_new_privs")?;
    Ok(seccomp::install(&table::launcher()?).layer("seccomp")?)
}

/// Control: its state directory, what `writable` names besides (the socket's directory), what `readable` names
/// (the logs; the cache, to know what is installed), the host's programs (the key command), nothing else.
pub fn control(state_dir: &Path, writable: &[&Path], readable: &[&Path]) -> Result<(), Error> {
    let mut rules = host(Rights::Execute);
    rules.push((state_dir, Rights::Full));
    rules.extend(writable.iter().map(|path| (*path, Rights::Full)));
    rules.extend(readable.iter().map(|path| (*path, Rights::Read)));
    confine(&rules, &table::service(true)?)
}

/// The edge: reads the host's libraries and certificates, and what `readable` names (its TLS keys).
pub fn edge(readable: &[&Path]) -> Result<(), Error> {
    let mut rules = host(Rights::Read);
    rules.extend(readable.iter().map(|path| (*path, Rights::Read)));
    confine(&rules, &table::service(false)?)
}

/// A warden: reads the host's libraries and certificates.
pub fn warden() -> Result<(), Error> {
    confine(&host(Rights::Read), &table::service(false)?)
}

/// The reader of a home that is imported: reads that home and nothing else of the host, writes nothing, talks to nobody,
/// and comes to an end. What it needs of the host it has loaded.
/// The descriptor says which: its path may lead elsewhere by now.
pub fn reader(home: BorrowedFd<'_>) -> Result<(), Error> {
    process::most(MOST_MEMORY, MOST_SECONDS).layer("rlimits")?;
    let home = PathBuf::from(format!("/proc/self/fd/{}", home.as_raw_fd()));
    let rules = [(home.as_path(), Rights::Read), (Path::new("/dev/urandom"), Rights::ReadFile)];
    confine(&rules, &table::reader()?)
}

/// What the reader may use: a file at a time, and a conversation as a tree.
const MOST_MEMORY: u64 = 3 << 30;
const MOST_SECONDS: u64 = 1800;

fn host(programs: Rights) -> Vec<(&'static Path, Rights)> {
    // `/proc/self` for the runtime's own needs: thread names, limits.
    let all = [
        ("/usr", programs),
        ("/bin", programs),
        ("/lib", programs),
        ("/lib64", programs),
        ("/etc", Rights::Read),
        ("/proc", Rights::Read),
        ("/dev/null", Rights::WriteFile),
        ("/dev/urandom", Rights::ReadFile),
    ];
    all.into_iter()
        .map(|(path, rights)| (Path::new(path), rights))
        .filter(|(path, _)| path.exists())
        .collect()
}

fn confine(rules: &[(&Path, Rights)], programs: &[seccomp::Program]) -> Result<(), Error> {
    single()?;
    process::hide().layer("capabilities")?;
    landlock::restrict(rules, &[]).layer("landlock")?;
    programs.iter().try_for_each(seccomp::install).layer("seccomp")?;
    Ok(())
}

fn single() -> Result<(), LayerFailure> {
    if process::is_alone().layer("seccomp")? {
        Ok(())
    } else {
        Err(std::io::Error::other("several threads where one is expected")).layer("seccomp")
    }
}
