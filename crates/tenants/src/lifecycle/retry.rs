//! How long to wait after how many failures. Owns the counting and the delays, not what is tried.

use cofferdam_base::Millis;

/// Failures in a row, and the moment before which nothing is tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Retry {
    /// How many in a row.
    pub failures: u32,
    /// Not before this moment; the epoch where there is nothing to wait for.
    pub not_before: Millis,
}

impl Retry {
    /// One more failure: waits `first` milliseconds after the first, then twice as long each time, up to
    /// a minute.
    pub(super) fn failed(&mut self, now: Millis, first: u64) {
        let doubled = first.saturating_mul(1_u64.checked_shl(self.failures).unwrap_or(u64::MAX));
        self.failures = self.failures.saturating_add(1);
        self.not_before = now.plus(doubled.min(LONGEST));
    }

    /// May it be tried at this moment?
    pub(super) fn is_due(&self, now: Millis) -> bool {
        now >= self.not_before
    }
}

/// The longest wait between two tries, in milliseconds.
pub(super) const LONGEST: u64 = 60_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_stop_growing_at_a_minute() {
        let mut retry = Retry::default();
        let mut waits = Vec::new();
        for _ in 0..80 {
            retry.failed(Millis(1_000), 500);
            waits.push(retry.not_before.since(Millis(1_000)));
        }
        assert_eq!(waits[..8], [500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000]);
        assert!(waits[8..].iter().all(|wait| *wait == LONGEST));
    }
}
