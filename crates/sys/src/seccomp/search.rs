//! A program that finds a call's number among sorted ranges.
//!
//! Owns nothing but the instructions: the calls and the verdicts are the caller's. As in every program of ours a
//! call by another architecture's convention kills the process; x32 numbers lie above every range.

use super::Action;
use std::collections::BTreeMap;

/// One instruction: operation, where to go on if it holds and if not, and its number.
type Step = (u16, u8, u8, u32);

/// The instructions as bytes; none if a jump would be too long for one, or a number is no call's. Of several
/// verdicts on one call the last counts.
pub(super) fn program(
    calls: impl IntoIterator<Item = (libc::c_long, Action)>,
    others: Action,
) -> Option<Vec<u8>> {
    let mut verdicts = BTreeMap::new();
    for (call, action) in calls {
        verdicts.insert(u32::try_from(call).ok()?, verdict(action));
    }
    let others = verdict(others);
    // Where the verdict changes, and to what: at each range's first number, and after its last.
    let mut changes = vec![(0, others)];
    for (number, verdict) in verdicts {
        if changes.last().is_some_and(|(first, _)| *first == number) {
            changes.pop();
        }
        if changes.last().is_none_or(|(_, before)| *before != verdict) {
            changes.push((number, verdict));
        }
        changes.push((number.checked_add(1)?, others));
    }
    let mut steps: Vec<Step> = vec![
        (LOAD, 0, 0, ARCHITECTURE_AT),
        (EQUAL, 1, 0, ARCHITECTURE),
        (RETURN, 0, 0, KILL_PROCESS),
        (LOAD, 0, 0, NUMBER_AT),
    ];
    search(&changes, &mut steps)?;
    let bytes = steps.into_iter().flat_map(|(operation, holds, fails, number)| {
        let [low, high] = operation.to_ne_bytes();
        let [a, b, c, d] = number.to_ne_bytes();
        [low, high, holds, fails, a, b, c, d]
    });
    Some(bytes.collect())
}

/// Finds the last change that is not above the number.
fn search(changes: &[(u32, u32)], steps: &mut Vec<Step>) -> Option<()> {
    if let [(_, verdict)] = changes {
        steps.push((RETURN, 0, 0, *verdict));
        return Some(());
    }
    let (below, above) = changes.split_at(changes.len().div_ceil(2));
    let at = steps.len();
    steps.push((AT_LEAST, 0, 0, above.first()?.0));
    search(below, steps)?;
    steps[at].1 = u8::try_from(steps.len() - at - 1).ok()?;
    search(above, steps)
}

/// As `SECCOMP_RET_*` of `<linux/seccomp.h>`.
fn verdict(action: Action) -> u32 {
    match action {
        Action::Allow => 0x7fff_0000,
        Action::Fail(errno) => 0x0005_0000 | errno.unsigned_abs(),
    }
}

const KILL_PROCESS: u32 = 0x8000_0000;
/// `BPF_LD | BPF_W | BPF_ABS`: 32 bits of `struct seccomp_data`.
const LOAD: u16 = 0x20;
/// `BPF_JMP | BPF_JEQ | BPF_K`.
const EQUAL: u16 = 0x15;
/// `BPF_JMP | BPF_JGE | BPF_K`.
const AT_LEAST: u16 = 0x35;
/// `BPF_RET | BPF_K`.
const RETURN: u16 = 0x06;
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
/// `AUDIT_ARCH_AARCH64` or `AUDIT_ARCH_X86_64` of `<linux/audit.h>`.
const ARCHITECTURE: u32 = if cfg!(target_arch = "aarch64") { 0xc000_00b7 } else { 0xc000_003e };

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What a program says of a call, as the kernel would run it.
    fn run(program: &[u8], number: u32, architecture: u32) -> u32 {
        let (mut at, mut loaded) = (0, 0);
        loop {
            let step = &program[at * 8..at * 8 + 8];
            let value = u32::from_ne_bytes(step[4..].try_into().unwrap());
            at += 1;
            match u16::from_ne_bytes(step[..2].try_into().unwrap()) {
                LOAD => loaded = if value == NUMBER_AT { number } else { architecture },
                RETURN => return value,
                operation => {
                    let holds = if operation == EQUAL { loaded == value } else { loaded >= value };
                    at += usize::from(if holds { step[2] } else { step[3] });
                }
            }
        }
    }

    const SAID: [Action; 3] = [Action::Allow, Action::Fail(1), Action::Fail(38)];

    proptest::proptest! {
        #[test]
        fn each_call_gets_the_verdict_of_the_table(
            calls in proptest::collection::btree_map(0_u32..480, 0_usize..3, 0..100),
        ) {
            let listed = calls.iter().map(|(call, said)| (libc::c_long::from(*call), SAID[*said]));
            let program = program(listed, Action::Fail(38)).unwrap();
            for number in (0..600).chain([0x4000_0000, 0x4000_0001, u32::MAX]) {
                let expected = calls.get(&number).map_or(Action::Fail(38), |said| SAID[*said]);
                assert_eq!(run(&program, number, ARCHITECTURE), verdict(expected), "{number}");
                assert_eq!(run(&program, number, 0x4000_0003), KILL_PROCESS);
            }
        }
    }

    #[test]
    fn the_last_word_on_a_call_counts_and_no_number_that_is_no_calls_makes_a_program() {
        let twice = program([(7, Action::Allow), (7, Action::Fail(1))], Action::Fail(38)).unwrap();
        assert_eq!(run(&twice, 7, ARCHITECTURE), 0x0005_0001);
        assert_eq!(run(&twice, 8, ARCHITECTURE), 0x0005_0026);
        for bad in [-1, 0x1_0000_0000, 0xffff_ffff] {
            assert!(program([(bad, Action::Allow)], Action::Fail(38)).is_none());
        }
    }
}
