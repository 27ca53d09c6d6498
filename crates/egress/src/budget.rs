//! What was sent under a rule's budget. Pure: the time is passed in.
//!
//! A window of slots slides over the period; what was sent counts for the whole period and up to a slot
//! longer. A warden counts from its start: a budget slows a leak down, it does not account for one.

use crate::check::{Check, keeps};
use cofferdam_base::Millis;
use cofferdam_policy::Budget;
use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
};

/// So many slots make a period; one more is kept, for what was sent late in the oldest.
const PARTS: u64 = 60;
const SLOTS: usize = 61;
const MINUTE: u64 = 60 * 1000;

/// What was sent under one budget.
#[derive(Debug)]
pub(crate) struct Spent {
    budget: Budget,
    hour: Window,
    day: Window,
    requests: Window,
    /// When each URL was last asked for, by a hash under a key that no cell knows.
    urls: HashMap<u64, Millis>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Window {
    period: u64,
    slots: [u64; SLOTS],
    /// The slot in which something was last counted.
    last: u64,
}

impl Spent {
    pub(crate) fn new(budget: Budget) -> Self {
        let window = |minutes| Window { period: minutes * MINUTE, slots: [0; SLOTS], last: 0 };
        let (hour, day, requests) = (window(60), window(24 * 60), window(1));
        Self { budget, hour, day, requests, urls: HashMap::new(), hasher: RandomState::new() }
    }

    /// Is nothing counted any more?
    pub(crate) fn is_idle(&mut self, now: Millis) -> bool {
        let Self { budget: _, hour, day, requests, urls, hasher: _ } = self;
        urls.retain(|_, at| now.since(*at) < 24 * 60 * MINUTE);
        let empty = [hour, day, requests].into_iter().all(|window| {
            window.slide(now);
            window.slots.iter().all(|slot| *slot == 0)
        });
        empty && urls.is_empty()
    }

    /// Counts one request or connection, and its URL where one is seen; false: it would be too many.
    pub(crate) fn request(&mut self, url: Option<impl Hash>, now: Millis) -> bool {
        let url = url.map(|url| self.hasher.hash_one(url));
        if !self.url_fits(url, now) {
            return false;
        }
        let limit = self.budget.requests_per_minute.map(u64::from);
        let fits = !keeps(Check::BudgetRequests) || self.requests.fits(1, limit, now);
        // Bytes that are used up let nothing more begin.
        let bytes = self.bytes_fit(1, now);
        if fits && bytes {
            self.requests.add(1, now);
            let counts = self.budget.urls_per_hour.is_some() || self.budget.urls_per_day.is_some();
            self.urls.extend(url.filter(|_| counts).map(|url| (url, now)));
        }
        fits && bytes
    }

    /// One that was asked for within the period is not another one.
    fn url_fits(&mut self, url: Option<u64>, now: Millis) -> bool {
        let limits = [(self.budget.urls_per_hour, 60 * MINUTE), (self.budget.urls_per_day, 24 * 60 * MINUTE)];
        self.urls.retain(|_, at| now.since(*at) < 24 * 60 * MINUTE);
        let fits = |(limit, period): (Option<u32>, u64)| {
            let Some(limit) = limit else { return true };
            let lately = |at: &&Millis| now.since(**at) < period;
            // What asks for no URL that is seen is not let through by a budget of URLs.
            let Some(url) = url else { return false };
            self.urls.get(&url).as_ref().is_some_and(lately)
                || self.urls.values().filter(lately).count() < usize::try_from(limit).unwrap_or(usize::MAX)
        };
        !keeps(Check::BudgetUrls) || limits.into_iter().all(fits)
    }

    /// Counts bytes that are about to be sent; false: they would be too many.
    pub(crate) fn send(&mut self, bytes: u64, now: Millis) -> bool {
        let fits = self.bytes_fit(bytes, now);
        if fits {
            self.hour.add(bytes, now);
            self.day.add(bytes, now);
        }
        fits
    }

    fn bytes_fit(&mut self, bytes: u64, now: Millis) -> bool {
        let Budget { bytes_per_hour, bytes_per_day, .. } = self.budget;
        !keeps(Check::BudgetBytes)
            || self.hour.fits(bytes, bytes_per_hour, now) && self.day.fits(bytes, bytes_per_day, now)
    }
}

impl Window {
    fn fits(&mut self, more: u64, limit: Option<u64>, now: Millis) -> bool {
        self.slide(now);
        limit.is_none_or(|limit| self.slots.iter().sum::<u64>().saturating_add(more) <= limit)
    }

    fn add(&mut self, more: u64, now: Millis) {
        self.slide(now);
        let slot = slot(self.last);
        self.slots[slot] = self.slots[slot].saturating_add(more);
    }

    fn slide(&mut self, now: Millis) {
        let here = now.0 / (self.period / PARTS);
        let gone = here.saturating_sub(self.last).min(SLOTS as u64);
        for at in 0..gone {
            let slot = slot(here - at);
            self.slots[slot] = 0;
        }
        // A clock that goes back gives nothing back.
        self.last = self.last.max(here);
    }
}

fn slot(at: u64) -> usize {
    usize::try_from(at % SLOTS as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_budget_is_used_up_and_comes_back_with_time() {
        let budget = Budget {
            bytes_per_hour: Some(100),
            bytes_per_day: Some(150),
            requests_per_minute: Some(2),
            ..Budget::default()
        };
        let mut spent = Spent::new(budget);
        let now = Millis(1_700_000_000_000);
        assert!(
            spent.request(Some(""), now) && spent.request(Some(""), now) && !spent.request(Some(""), now)
        );
        assert!(spent.request(Some(""), now.plus(62_000)));
        assert!(spent.send(100, now) && !spent.send(1, now));
        assert!(!spent.request(Some(""), now.plus(124_000)), "nothing begins that could send nothing");
        assert!(spent.send(50, now.plus(62 * MINUTE)) && !spent.send(1, now.plus(63 * MINUTE)));
        assert!(!spent.send(51, now.plus(123 * MINUTE)), "the day");
        assert!(spent.send(100, now.plus(26 * 60 * MINUTE)));
    }

    #[test]
    fn so_many_different_urls_are_asked_for_in_an_hour_and_the_same_ones_as_often_as_one_likes() {
        let mut spent =
            Spent::new(Budget { urls_per_hour: Some(2), urls_per_day: Some(3), ..Budget::default() });
        let now = Millis(1_700_000_000_000);
        assert!(
            spent.request(Some("a"), now) && spent.request(Some("b"), now) && spent.request(Some("a"), now)
        );
        assert!(!spent.request(Some("c"), now) && !spent.request(None::<&str>, now));
        let later = now.plus(60 * MINUTE);
        assert!(spent.request(Some("c"), later) && !spent.request(Some("d"), later), "the day");
        assert!(spent.request(Some("a"), later) && !spent.is_idle(later));
        assert!(!spent.request(Some("b"), later), "the hour has two again");
        let next = now.plus(26 * 60 * MINUTE);
        assert!(spent.request(Some("d"), next) && spent.is_idle(next.plus(26 * 60 * MINUTE)));
    }

    proptest! {
        #[test]
        fn no_more_is_sent_in_any_hour_than_its_budget(steps in proptest::collection::vec((0u64..40, 0u64..600_000), 0..200)) {
            let mut spent = Spent::new(Budget { bytes_per_hour: Some(100), ..Budget::default() });
            let (mut now, mut sent) = (Millis(0), Vec::new());
            for (bytes, pause) in steps {
                now = now.plus(pause);
                if spent.send(bytes, now) {
                    sent.push((now, bytes));
                }
                let hour = sent.iter().filter(|(at, _)| now.since(*at) < 60 * MINUTE);
                prop_assert!(hour.map(|(_, bytes)| bytes).sum::<u64>() <= 100);
            }
        }
    }
}
