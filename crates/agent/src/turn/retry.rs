//! What is asked of the model once more: a provider that is busy or down, a connection that breaks before anything was
//! shown, an answer of nothing.
//!
//! One request is repeated, never a turn: what tools did is in the transcript by then. Once a person has seen text of
//! an answer, it is not asked for again. Numbers and times are upstream's.

use super::model::{Again, Answer, Failed, Piece};
use crate::gateway::{Active, Gateway};
use bytes::Bytes;
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// How often a run asks again where a provider says that it is asked too often, and where anything else goes wrong.
const RATE_LIMITED: u32 = 9;
const OTHERWISE: u32 = 8;
/// How long a provider may be down.
const OUTAGE: Duration = Duration::from_secs(90);
/// The first wait, which doubles, and the longest.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);
/// The longest that a provider's own wish is heeded: nobody waits longer for an answer.
const WISHED: Duration = Duration::from_mins(5);

/// How often one run has asked again.
#[derive(Debug, Default)]
pub(super) struct Retries {
    count: u32,
    /// Since when nothing was answered.
    since: Option<Instant>,
}

/// The next attempt.
#[derive(Debug, PartialEq, Eq)]
struct Next {
    reason: &'static str,
    wait: Duration,
    most: u32,
}

impl Retries {
    /// After a failure: when is it asked again? None: not at all.
    fn next(&mut self, failed: &Failed, now: Instant, jitter: f64) -> Option<Next> {
        let Again::Later { reason, least } = failed.again else { return None };
        let (most, outage) = match reason {
            "rate_limit" => (RATE_LIMITED, Duration::MAX),
            _ => (OTHERWISE, OUTAGE),
        };
        let since = *self.since.get_or_insert(now);
        let least = least.unwrap_or_default();
        if self.count >= most || now.duration_since(since) >= outage || least > WISHED {
            return None;
        }
        let wait = FIRST.saturating_mul(1 << self.count).min(LONGEST).mul_f64(1.0 + jitter / 4.0);
        self.count += 1;
        Some(Next { reason, wait: wait.max(least), most })
    }
}

/// Between 0 and 1, so that a thousand gateways do not come back at once.
fn jitter() -> f64 {
    f64::from(crate::ids::random::<1>()[0]) / 255.0
}

/// Asks, and again where that may help. `tell` says of a piece whether a person sees it.
pub(super) async fn ask(
    gateway: &Arc<Gateway>,
    active: &Active,
    retries: &mut Retries,
    body: Bytes,
    mut tell: impl FnMut(Piece) -> bool,
) -> Result<Answer, Failed> {
    loop {
        let mut shown = false;
        let answered = gateway.model.ask(body.clone(), |piece| shown |= tell(piece));
        let failed = match answered.await {
            Ok(answer) if !is_nothing(&answer) => {
                retries.since = None;
                return Ok(answer);
            }
            Ok(nothing) => {
                gateway.spent(active, &nothing).map_err(super::lost)?;
                Failed::passing("empty_response", "the model answered nothing")
            }
            Err(failed) => failed,
        };
        let next = if shown { None } else { retries.next(&failed, Instant::now(), jitter()) };
        let Some(Next { reason, wait, most }) = next else { return Err(failed) };
        let count = retries.count;
        tracing::info!(run = active.id, reason, count, said = failed.said, "the model is asked again");
        let data = json!({
            "phase": "retrying", "message": format!("Retrying… {}/{}", count + 1, most + 1), "reason": reason,
            "retryAttempt": count, "maxRetries": most, "attempt": count + 1, "maxAttempts": most + 1,
            "delayMs": u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        });
        gateway.agent_event(active, "run_status", data);
        tokio::time::sleep(wait).await;
    }
}

/// Did it say nothing, without a reason?
fn is_nothing(answer: &Answer) -> bool {
    answer.text.is_empty() && answer.calls.is_empty() && matches!(&*answer.stop, "" | "stop")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn later(reason: &'static str, least: Option<u64>) -> Failed {
        let again = Again::Later { reason, least: least.map(Duration::from_secs) };
        Failed { again, ..Failed::new("unknown", "no") }
    }

    #[test]
    fn waits_double_up_to_the_longest_and_their_number_is_bounded() {
        let now = Instant::now();
        for (reason, most) in [("rate_limit", 9), ("overloaded", 8)] {
            let mut retries = Retries::default();
            let waits: Vec<u64> = std::iter::from_fn(|| retries.next(&later(reason, None), now, 0.0))
                .map(|it| it.wait.as_secs())
                .collect();
            assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30, 30][..most], "{reason}");
        }
        let jittered = Retries::default().next(&later("overloaded", None), now, 1.0).unwrap();
        assert_eq!(jittered.wait, Duration::from_millis(1250));
    }

    #[test]
    fn a_provider_that_names_a_time_is_left_alone_for_it_or_given_up() {
        let now = Instant::now();
        let wait = |least| Retries::default().next(&later("rate_limit", Some(least)), now, 0.0);
        assert_eq!(wait(40).unwrap().wait, Duration::from_secs(40));
        assert_eq!(wait(0).unwrap().wait, FIRST);
        assert_eq!(wait(301), None);
    }

    #[test]
    fn an_outage_ends_a_run_unless_something_was_answered_in_between() {
        let (begin, down) = (Instant::now(), later("server_error", None));
        let mut retries = Retries::default();
        retries.next(&down, begin, 0.0).unwrap();
        retries.next(&down, begin + OUTAGE / 2, 0.0).unwrap();
        assert_eq!(retries.next(&down, begin + OUTAGE, 0.0), None);
        retries.since = None;
        assert!(retries.next(&down, begin + OUTAGE, 0.0).is_some());
        assert_eq!(Retries::default().next(&Failed::new("unknown", "no"), begin, 0.0), None);
    }
}
