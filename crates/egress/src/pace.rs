//! How fast a cell gets connections: a warden weighs more than a cell on a busy processor, and must not work for a flood.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Each costs a cell so much of its time, and four times that where it is crowded.
const PACE: Duration = Duration::from_micros(250);
/// So many are taken up at once.
const BURST: u32 = 1024;
/// Timers are no finer.
const TIMER: Duration = Duration::from_millis(1);

/// The pace of one cell, of all its listeners together: the turn of the next connection, if all before it had kept to it.
#[derive(Debug)]
pub(crate) struct Pace(Mutex<Instant>);

impl Pace {
    /// As if the cell had been quiet for long.
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self(Mutex::new(now.checked_sub(PACE * BURST).unwrap_or(now)))
    }

    /// Waits for the turn of a connection; nobody saves turns up where it is crowded.
    pub(crate) async fn keep(&self, crowded: bool) {
        let (pace, burst) = if crowded { (PACE * 4, 1) } else { (PACE, BURST) };
        let turn = {
            let mut turn = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let earliest = Instant::now().checked_sub(pace * burst);
            *turn = earliest.map_or(*turn, |earliest| earliest.max(*turn)) + pace;
            *turn
        };
        if turn > Instant::now() + TIMER {
            tokio::time::sleep_until(turn).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_opens_connections_without_end_gets_them_at_a_pace_however_few_stay_open() {
        let (pace, begun) = (Pace::new(), Instant::now());
        for _ in 0..BURST {
            pace.keep(false).await;
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
        for _ in 0..4000 {
            pace.keep(false).await;
        }
        assert!(begun.elapsed() >= 3990 * PACE, "{:?}", begun.elapsed());
        let begun = Instant::now();
        for _ in 0..20 {
            pace.keep(true).await;
        }
        assert!(begun.elapsed() >= 16 * 4 * PACE, "{:?}", begun.elapsed());
    }
}
