//! The system's clock, for the edges of the program; pure code is handed the time.

use cofferdam_base::{Clock, Millis};
use std::time::{SystemTime, UNIX_EPOCH};

/// The wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)] // This is the one place that reads the clock.
    fn now(&self) -> Millis {
        // A clock set before 1970 reads as 1970, and every token and grant is then not yet valid or fresh.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Does the kernel say that something keeps the clock right?
pub fn synchronised() -> bool {
    let mut state = std::mem::MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: all zeroes are a `timex` that asks for nothing to be set; the kernel fills it in.
    let answer = unsafe { libc::adjtimex(state.as_mut_ptr()) };
    answer >= 0 && answer != libc::TIME_ERROR
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_tells_a_time_after_this_was_written() {
        assert!(SystemClock.now() > Millis(1_700_000_000_000));
    }
}
