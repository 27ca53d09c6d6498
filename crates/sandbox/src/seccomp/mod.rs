//! The seccomp programs: three for a cell, one for the launcher, two for services.
//!
//! Three programs, because one that looks at arguments has one verdict for its rows and one for the rest. Of
//! several with the same kind of verdict the kernel takes the newest's, so the order below is also which errno a
//! caller sees: what is not listed does not exist (ENOSYS), and what is always dangerous is not permitted (EPERM);
//! families that are not ours are not supported (EAFNOSUPPORT); what is dangerous with some arguments is not
//! permitted with them (EPERM).

mod allowed;
mod denied;

use crate::{
    Protection,
    error::{Layer, LayerFailure},
};
use cofferdam_sys::seccomp::{Action, Program, Row};
use std::{borrow::Cow, sync::OnceLock};

/// What some calls are refused for, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is explained where its calls are listed")]
pub enum Danger {
    RawSockets,
    Namespaces,
    Watches,
    Limits,
    Modules,
    Terminals,
    Filters,
    Personality,
    Mounts,
    Processes,
    Kernel,
    Handles,
    Clocks,
    Placement,
}

impl Danger {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::RawSockets,
        Self::Namespaces,
        Self::Watches,
        Self::Limits,
        Self::Modules,
        Self::Terminals,
        Self::Filters,
        Self::Personality,
        Self::Mounts,
        Self::Processes,
        Self::Kernel,
        Self::Handles,
        Self::Clocks,
        Self::Placement,
    ];
}

/// The programs of a cell, in order of installation, but for what is left out.
pub(crate) fn cell(without: &[Protection]) -> Result<Cow<'static, [Program]>, LayerFailure> {
    static PROGRAMS: OnceLock<Result<Vec<Program>, LayerFailure>> = OnceLock::new();
    if without.is_empty() {
        let whole = PROGRAMS.get_or_init(|| build(&[], &[]).layer("seccomp"));
        return whole.as_ref().map(Into::into).map_err(Clone::clone);
    }
    Ok(build(&[], without).layer("seccomp")?.into())
}

/// What a call gives that the allow-list, a named danger and the list of families refuse, if it is one of them
/// whatever its arguments: an errno. None for a call that is allowed, at least with some arguments.
pub fn locked(call: i64) -> Option<i32> {
    let listed = allowed::GROUPS.iter().any(|group| group.calls.contains(&call));
    let dangerous = denied::DANGEROUS.iter().flat_map(|(_, rows)| *rows);
    let always = dangerous.filter(|row| row.when.is_empty()).any(|row| row.call == call);
    match (always, listed) {
        (true, _) => Some(libc_errno::EPERM),
        (false, true) => None,
        (false, false) => Some(libc_errno::ENOSYS),
    }
}

/// The programs of a service; `execs` may start programs.
pub(crate) fn service(execs: bool) -> Result<Vec<Program>, LayerFailure> {
    let more = if execs { denied::SERVICE.to_vec() } else { [denied::SERVICE, denied::EXEC].concat() };
    build(&more, &[]).layer("seccomp")
}

/// The programs of the reader of a home: a service that starts nothing, and has no sockets.
pub(crate) fn reader() -> Result<Vec<Program>, LayerFailure> {
    build(&[denied::SERVICE, denied::EXEC, denied::SOCKETS].concat(), &[]).layer("seccomp")
}

/// The program of the launcher: what neither it nor a child needs.
pub(crate) fn launcher() -> Result<Program, LayerFailure> {
    Program::build(launchers(), fail_perm(), Action::Allow).layer("seccomp")
}

fn launchers() -> impl Iterator<Item = Row> {
    let groups = denied::DANGEROUS.iter().filter(|(danger, _)| denied::LAUNCHER_GROUPS.contains(danger));
    groups.flat_map(|(_, rows)| *rows).chain(denied::LAUNCHER).copied()
}

/// The program of a cell's init, once the runtime runs.
pub(crate) fn init() -> Result<Program, LayerFailure> {
    Program::of_calls(allowed::INIT.iter().map(|call| (*call, Action::Allow)), fail_perm()).layer("seccomp")
}

fn build(more: &[Row], without: &[Protection]) -> Result<Vec<Program>, cofferdam_sys::seccomp::TableError> {
    let kept = |protection| !without.contains(&protection);
    let listed = allowed::GROUPS.iter().flat_map(|group| group.calls).map(|call| (*call, Action::Allow));
    let dangerous = denied::DANGEROUS
        .iter()
        .filter(|(danger, _)| kept(Protection::Dangerous(*danger)))
        .flat_map(|(_, rows)| *rows);
    // Refused always: at once, whatever the allow-list says. The rest, for some arguments, by the last program,
    // and so is `seccomp`, which must pass until that is installed.
    let (always, sometimes): (Vec<Row>, Vec<Row>) = dangerous.chain(more).partition(|row| {
        row.when.is_empty()
            && row.call != cofferdam_sys::seccomp::call::SYS_seccomp
            && kept(Protection::AllowList)
    });
    let always = always.iter().map(|row| (row.call, fail_perm()));
    let mut programs = Vec::with_capacity(3);
    if kept(Protection::AllowList) {
        programs.push(Program::of_calls(listed.chain(always), Action::Fail(libc_errno::ENOSYS))?);
    }
    if kept(Protection::Families) {
        let refuse = Action::Fail(libc_errno::EAFNOSUPPORT);
        programs.push(Program::build(denied::FAMILIES.iter().copied(), refuse, Action::Allow)?);
    }
    if !sometimes.is_empty() {
        programs.push(Program::build(sometimes, fail_perm(), Action::Allow)?);
    }
    Ok(programs)
}

fn fail_perm() -> Action {
    Action::Fail(libc_errno::EPERM)
}

/// The three errors that a program gives.
mod libc_errno {
    pub(super) const EPERM: i32 = 1;
    pub(super) const ENOSYS: i32 = 38;
    pub(super) const EAFNOSUPPORT: i32 = 97;
}

#[cfg(test)]
mod tests {
    use super::*;
    use cofferdam_sys::seccomp::call;

    /// Its children inherit this program: a cell must be mounted, entered and named under it.
    #[test]
    fn the_launcher_keeps_what_it_makes_cells_with_and_loses_what_steers_processes_and_the_kernel() {
        let refused: Vec<_> = launchers().collect();
        assert!(refused.iter().all(|row| row.when.is_empty()));
        let has = |call| refused.iter().any(|row| row.call == call);
        for lost in [call::SYS_ptrace, call::SYS_process_madvise, call::SYS_bpf, call::SYS_fanotify_mark] {
            assert!(has(lost), "{lost}");
        }
        let kept = [Danger::Mounts, Danger::Namespaces, Danger::Filters];
        for (_, rows) in denied::DANGEROUS.iter().filter(|(danger, _)| kept.contains(danger)) {
            assert!(!rows.iter().any(|row| has(row.call)), "{rows:?}");
        }
        assert!(!has(call::SYS_sethostname) && !has(call::SYS_setdomainname));
    }

    #[test]
    fn every_group_is_named_and_says_who_needs_it() {
        for group in allowed::GROUPS {
            assert!(!group.name.is_empty() && !group.needed_by.is_empty() && !group.calls.is_empty());
        }
    }
}
