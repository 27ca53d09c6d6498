//! Seccomp programs: built from tables, carried as bytes, installed one on the other.
//!
//! Which calls are in the tables is not decided here. Every program kills a process that calls by another
//! architecture's convention.

mod search;

use crate::process::check_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Op,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use std::{collections::BTreeMap, io};

/// A condition on one argument, of which the low 32 bits count unless it is said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Is {
    /// Equal.
    Equal(u32),
    /// Not equal.
    Not(u32),
    /// Equal once masked.
    Masked(u32, u32),
    /// A pointer that is not null; all 64 bits count.
    Given,
}

/// One row: a call, and the arguments (all must match) with which it is meant; none means always.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The call's number.
    pub call: libc::c_long,
    /// Argument number and condition.
    pub when: &'static [(u8, Is)],
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is made.
    Allow,
    /// It fails with this error.
    Fail(libc::c_int),
}

/// Why a table makes no program.
#[derive(Debug, thiserror::Error)]
#[error("a seccomp table makes no program: {0}")]
pub struct TableError(#[from] BackendError);

/// A program as the kernel takes it: 8 bytes an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program(Vec<u8>);

impl Program {
    /// `listed` happens to calls that a row matches, `others` to the rest.
    pub fn build(
        rows: impl IntoIterator<Item = Row>,
        listed: Action,
        others: Action,
    ) -> Result<Self, TableError> {
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        let mut always = std::collections::BTreeSet::new();
        for row in rows {
            let entry = rules.entry(row.call).or_default();
            if row.when.is_empty() {
                always.insert(row.call);
                entry.clear();
            } else if !always.contains(&row.call) {
                let conditions = row.when.iter().map(|(argument, is)| {
                    let (length, op, value) = match *is {
                        Is::Equal(value) => (Length::Dword, Op::Eq, value),
                        Is::Not(value) => (Length::Dword, Op::Ne, value),
                        Is::Masked(mask, value) => (Length::Dword, Op::MaskedEq(u64::from(mask)), value),
                        Is::Given => (Length::Qword, Op::Ne, 0),
                    };
                    SeccompCondition::new(*argument, length, op, u64::from(value))
                });
                entry.push(SeccompRule::new(conditions.collect::<Result<_, _>>()?)?);
            }
        }
        let filter = SeccompFilter::new(rules, action(others), action(listed), arch())?;
        let program = BpfProgram::try_from(filter)?;
        let bytes = program.iter().flat_map(|step| {
            let [code_low, code_high] = step.code.to_ne_bytes();
            let [a, b, c, d] = step.k.to_ne_bytes();
            [code_low, code_high, step.jt, step.jf, a, b, c, d]
        });
        Ok(Self(bytes.collect()))
    }

    /// What happens to each call whatever its arguments, the last word counting, and `others` to the rest. A search
    /// among the calls' ranges instead of a walk along them: the kernel tries every call when it installs a
    /// program, which for a walk over all calls takes a good part of a cell's start.
    pub fn of_calls(
        calls: impl IntoIterator<Item = (libc::c_long, Action)>,
        others: Action,
    ) -> Result<Self, TableError> {
        search::program(calls, others).map(Self).ok_or(TableError(BackendError::FilterTooLarge(0)))
    }

    /// The instructions.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Program {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

/// Puts a program in force for this thread and its children, over those already in force. Needs no_new_privs.
pub fn install(program: &Program) -> io::Result<()> {
    const SET_MODE_FILTER: libc::c_ulong = 1;
    let steps: Vec<libc::sock_filter> = program
        .0
        .chunks_exact(8)
        .map(|step| libc::sock_filter {
            code: u16::from_ne_bytes([step[0], step[1]]),
            jt: step[2],
            jf: step[3],
            k: u32::from_ne_bytes([step[4], step[5], step[6], step[7]]),
        })
        .collect();
    let length = u16::try_from(steps.len()).map_err(|_| io::Error::other("a seccomp program is too long"))?;
    let program = libc::sock_fprog { len: length, filter: steps.as_ptr().cast_mut() };
    // SAFETY: the structure points to `length` instructions that live through the call.
    check_long(unsafe {
        libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, 0 as libc::c_ulong, std::ptr::from_ref(&program))
    })
}

fn action(action: Action) -> SeccompAction {
    match action {
        Action::Allow => SeccompAction::Allow,
        Action::Fail(errno) => SeccompAction::Errno(errno.unsigned_abs()),
    }
}

const fn arch() -> TargetArch {
    if cfg!(target_arch = "aarch64") { TargetArch::aarch64 } else { TargetArch::x86_64 }
}

/// The numbers of the calls, for tables.
pub mod call {
    pub use libc::*;
}
