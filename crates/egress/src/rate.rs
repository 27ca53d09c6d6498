//! How fast something may happen: buckets that fill with time. Pure: the time is passed in.

use cofferdam_base::{Destination, Millis};
use std::collections::BTreeMap;

/// A bucket: so many a second, and so many at once.
#[derive(Debug)]
pub(crate) struct Bucket {
    per_second: u32,
    burst: u32,
    /// Thousandths.
    level: u64,
    at: Millis,
}

impl Bucket {
    pub(crate) const fn new(per_second: u32, burst: u32) -> Self {
        Self { per_second, burst, level: burst as u64 * 1000, at: Millis(0) }
    }

    /// Changes the rate to this many a second, and as many at once.
    pub(crate) fn set(&mut self, per_second: u32) {
        (self.per_second, self.burst) = (per_second, per_second);
    }

    /// Takes one, if there is one.
    pub(crate) fn take(&mut self, now: Millis) -> bool {
        self.fill(now);
        let there = self.level >= 1000;
        if there {
            self.level -= 1000;
        }
        there
    }

    fn fill(&mut self, now: Millis) {
        let full = u64::from(self.burst) * 1000;
        let gained = now.since(self.at).saturating_mul(self.per_second.into());
        self.level = self.level.saturating_add(gained).min(full);
        self.at = self.at.max(now);
    }

    fn is_full(&mut self, now: Millis) -> bool {
        self.fill(now);
        self.level >= u64::from(self.burst) * 1000
    }
}

/// How often a cell may have people asked. Each question, and its end, is durable before it counts, so a cell
/// that asks in a loop would fill the ledger.
#[derive(Debug)]
pub(crate) struct Questions {
    all: Bucket,
    each: BTreeMap<Destination, Bucket>,
}

impl Default for Questions {
    fn default() -> Self {
        Self { all: Bucket::new(ALL, ALL_BURST), each: BTreeMap::new() }
    }
}

impl Questions {
    /// May somebody be asked about this destination now?
    pub(crate) fn take(&mut self, destination: &Destination, now: Millis) -> bool {
        // A full bucket is as good as none, so only what was asked in the last seconds is remembered.
        self.each.retain(|_, bucket| !bucket.is_full(now));
        let known = self.each.get_mut(destination);
        if known.is_some_and(|bucket| bucket.level < 1000) || !self.all.take(now) {
            return false;
        }
        self.each.entry(destination.clone()).or_insert(Bucket::new(EACH, EACH_BURST)).take(now)
    }
}

/// Questions of a tenant, a second and at once: as many as may wait.
const ALL: u32 = 5;
const ALL_BURST: u32 = 16;
/// Questions about one destination.
const EACH: u32 = 1;
const EACH_BURST: u32 = 3;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use cofferdam_base::{Host, Protocol};
    use proptest::prelude::*;

    fn destination(port: u16) -> Destination {
        let host = Host::Name("a.example".parse().unwrap());
        Destination { host, port: (port + 1).try_into().unwrap(), protocol: Protocol::Tcp }
    }

    #[test]
    fn one_destination_is_asked_about_once_a_second_and_another_is_not_kept_waiting_by_it() {
        let mut questions = Questions::default();
        let asked = (0..10).filter(|_| questions.take(&destination(1), Millis(1000))).count();
        assert_eq!(asked, 3);
        assert!(questions.take(&destination(2), Millis(1000)));
        assert!(!questions.take(&destination(1), Millis(1999)));
        assert!(questions.take(&destination(1), Millis(2000)));
    }

    proptest! {
        #[test]
        fn questions_come_no_faster_than_their_rate_whatever_is_asked(
            steps in proptest::collection::vec((0u16..400, 0u64..50), 1..400)
        ) {
            let mut questions = Questions::default();
            let mut now = Millis(1000);
            let mut asked = 0;
            for (port, pause) in steps {
                now = now.plus(pause);
                asked += u64::from(questions.take(&destination(port), now));
                prop_assert!(asked * 1000 <= u64::from(ALL_BURST) * 1000 + now.since(Millis(1000)) * u64::from(ALL));
                prop_assert!(questions.each.len() <= 64, "{}", questions.each.len());
            }
        }
    }
}
