//! The seccomp programs: three for a cell, one for the launcher, two for services.
//!
//! Three programs, because one that looks at arguments has one verdict for its rows and one for the rest. Of
//! several with the same kind of verdict the kernel takes the newest's, so the order below is also which errno a
//! caller sees: what is not listed does not exist (ENOSYS), and what is always dangerous is not permitted (EPERM);
//! families that are not ours are not supported (EAFNOSUPPORT); what is dangerous with some arguments is not
//! permitted with them (EPERM).

mod allowed;
mod denied;

use crate::error::{Layer, LayerFailure};
use cofferdam_sys::seccomp::{Action, Program, Row};
use std::sync::OnceLock;

/// The programs of a cell, in order of installation.
pub(crate) fn cell() -> Result<&'static [Program; 3], LayerFailure> {
    static PROGRAMS: OnceLock<Result<[Program; 3], LayerFailure>> = OnceLock::new();
    PROGRAMS.get_or_init(|| build(&[]).layer("seccomp")).as_ref().map_err(Clone::clone)
}

/// The programs of a service; `execs` may start programs.
pub(crate) fn service(execs: bool) -> Result<[Program; 3], LayerFailure> {
    let more = if execs { denied::SERVICE.to_vec() } else { [denied::SERVICE, denied::EXEC].concat() };
    build(&more).layer("seccomp")
}

/// The program of the launcher: what neither it nor a child needs.
pub(crate) fn launcher() -> Result<Program, LayerFailure> {
    Program::build(denied::LAUNCHER.iter().copied(), Action::Fail(libc_errno::EPERM), Action::Allow)
        .layer("seccomp")
}

/// The program of a cell's init, once the runtime runs.
pub(crate) fn init() -> Result<Program, LayerFailure> {
    Program::of_calls(allowed::INIT.iter().map(|call| (*call, Action::Allow)), fail_perm()).layer("seccomp")
}

fn build(more: &[Row]) -> Result<[Program; 3], cofferdam_sys::seccomp::TableError> {
    let listed = allowed::GROUPS.iter().flat_map(|group| group.calls).map(|call| (*call, Action::Allow));
    // Refused always: at once, whatever the allow-list says. The rest, for some arguments, by the last program,
    // and so is `seccomp`, which must pass until that is installed.
    let (always, sometimes): (Vec<Row>, Vec<Row>) = denied::DANGEROUS
        .iter()
        .chain(more)
        .partition(|row| row.when.is_empty() && row.call != cofferdam_sys::seccomp::call::SYS_seccomp);
    let always = always.iter().map(|row| (row.call, fail_perm()));
    Ok([
        Program::of_calls(listed.chain(always), Action::Fail(libc_errno::ENOSYS))?,
        Program::build(
            denied::FAMILIES.iter().copied(),
            Action::Fail(libc_errno::EAFNOSUPPORT),
            Action::Allow,
        )?,
        Program::build(sometimes, fail_perm(), Action::Allow)?,
    ])
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
    #[test]
    fn every_group_is_named_and_says_who_needs_it() {
        for group in super::allowed::GROUPS {
            assert!(!group.name.is_empty() && !group.needed_by.is_empty() && !group.calls.is_empty());
        }
    }
}
