//! What a new tenant's cell may use: the operator's `[limits]`, what the runtime needs, and what was asked for.
//!
//! Pure. The threat is a number by which a cell takes the host's memory or processes, or by which it cannot
//! start and nobody knows why.

use crate::{Error, api::types::WantedLimits};
use cofferdam_base::ipc::launcher::{Limits, RuntimeRef};

/// An OpenClaw gateway was killed in its first turn at 1 GiB (`docs/decisions/0005`).
const OPENCLAW_MEMORY: u64 = 2 << 30;

/// Each limit that was asked for replaces its own default and no other. What a runtime needs is its default at
/// least; whoever asks for less gets less. A `/tmp` that nobody asked for takes at most half of the memory of
/// which it is a part, where it would not fit.
pub(crate) fn resolve(
    configured: Limits,
    runtime: &RuntimeRef,
    wanted: WantedLimits,
) -> Result<Limits, Error> {
    let least = match runtime {
        RuntimeRef::Openclaw(_) => OPENCLAW_MEMORY,
        RuntimeRef::Command(_) => 0,
    };
    let WantedLimits { memory_bytes, pids, cpu_percent, tmp_bytes, open_files } = wanted;
    let memory_bytes = memory_bytes.unwrap_or(configured.memory_bytes.max(least));
    let fitting = match configured.tmp_bytes {
        tmp if tmp > memory_bytes => memory_bytes / 2,
        tmp => tmp,
    };
    let limits = Limits {
        memory_bytes,
        pids: pids.unwrap_or(configured.pids),
        cpu_percent: cpu_percent.unwrap_or(configured.cpu_percent),
        tmp_bytes: tmp_bytes.unwrap_or(fitting),
        open_files: open_files.unwrap_or(configured.open_files),
    };
    check(&limits)?;
    Ok(limits)
}

fn check(limits: &Limits) -> Result<(), Error> {
    let Limits { memory_bytes, pids, cpu_percent, tmp_bytes, open_files } = *limits;
    let usage = |what: &str| Err(Error::Usage(format!("limits: {what}")));
    match () {
        () if memory_bytes < 16 << 20 => usage("memory_bytes must be at least 16777216, 16 MiB"),
        () if !(8..=1 << 22).contains(&pids) => usage("pids must be 8 to 4194304"),
        () if !(1..=100_000).contains(&cpu_percent) => usage("cpu_percent must be 1 to 100000"),
        () if !(1 << 20..=memory_bytes).contains(&tmp_bytes) => usage(
            "tmp_bytes must be at least 1048576, 1 MiB, and no more than memory_bytes, of which it is a part",
        ),
        () if !(64..=1 << 20).contains(&open_files) => usage("open_files must be 64 to 1048576"),
        () => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use cofferdam_base::Digest;

    fn command() -> RuntimeRef {
        RuntimeRef::Command("echo".to_owned())
    }

    fn openclaw() -> RuntimeRef {
        RuntimeRef::Openclaw(Digest::from_bytes([1; 32]))
    }

    #[test]
    fn each_wish_changes_its_own_limit_and_a_gateway_keeps_what_it_needs() {
        let pids = WantedLimits { pids: Some(99), ..WantedLimits::default() };
        let limits = resolve(Limits::default(), &openclaw(), pids).unwrap();
        assert_eq!(limits, Limits { memory_bytes: 2 << 30, pids: 99, ..Limits::default() });
        let less = WantedLimits { memory_bytes: Some(1 << 30), ..WantedLimits::default() };
        assert_eq!(resolve(Limits::default(), &openclaw(), less).unwrap(), Limits::default());
    }

    #[test]
    fn the_operators_limits_are_the_defaults() {
        let configured = Limits { memory_bytes: 3 << 30, pids: 64, cpu_percent: 50, ..Limits::default() };
        for runtime in [command(), openclaw()] {
            assert_eq!(resolve(configured, &runtime, WantedLimits::default()).unwrap(), configured);
        }
        let small = Limits { memory_bytes: 1 << 29, ..configured };
        assert_eq!(resolve(small, &command(), WantedLimits::default()).unwrap(), small);
        let raised = resolve(small, &openclaw(), WantedLimits::default()).unwrap();
        assert_eq!(raised, Limits { memory_bytes: 2 << 30, ..small });
    }

    #[test]
    fn a_tmp_that_nobody_asked_for_follows_the_memory_and_one_that_was_asked_for_must_fit() {
        let wanted = |memory: u64, tmp: Option<u64>| WantedLimits {
            memory_bytes: Some(memory << 20),
            tmp_bytes: tmp.map(|tmp| tmp << 20),
            ..WantedLimits::default()
        };
        let tmp = |memory, tmp| {
            resolve(Limits::default(), &command(), wanted(memory, tmp)).map(|limits| limits.tmp_bytes >> 20)
        };
        assert_eq!((tmp(128, None).unwrap(), tmp(256, None).unwrap()), (64, 256));
        assert_eq!(tmp(128, Some(100)).unwrap(), 100);
        assert!(tmp(128, Some(129)).unwrap_err().to_string().contains("tmp_bytes"));
    }

    #[test]
    fn numbers_that_no_cell_can_have_are_refused() {
        let none = WantedLimits::default();
        for wrong in [
            WantedLimits { memory_bytes: Some(1), ..none },
            WantedLimits { pids: Some(0), ..none },
            WantedLimits { cpu_percent: Some(0), ..none },
            WantedLimits { tmp_bytes: Some(0), ..none },
            WantedLimits { open_files: Some(1), ..none },
        ] {
            assert!(resolve(Limits::default(), &command(), wrong).is_err(), "{wrong:?}");
        }
        let configured = Limits { pids: 1, ..Limits::default() };
        assert!(resolve(configured, &command(), none).is_err());
    }
}
