#![allow(clippy::unwrap_used)]
//! Single stories, short exhaustive walks and long random ones of the machine alone; with its world in [`model`].

mod model;
mod world;

use super::*;
use proptest::prelude::*;
use std::collections::HashSet;

const HOUR: u64 = 60 * 60 * 1000;

const EVENTS: [Event; 14] = [
    Event::Asked { ruled: true },
    Event::Asked { ruled: false },
    Event::HoldEnded,
    Event::Approve(Span::Once),
    Event::Approve(Span::For(HOUR)),
    Event::Approve(Span::Cell(3)),
    Event::Approve(Span::Always),
    Event::PolicyMoved,
    Event::CellEnded(2),
    Event::CellEnded(3),
    Event::Deny,
    Event::Spend,
    Event::Revoke,
    Event::Tick,
];

/// What an onlooker saw of one approval.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    grants: u32,
    spent: u32,
    withdrawn: bool,
    refused: bool,
}

/// One step, and every promise that must hold after it.
fn checked(state: State, event: Event, now: Millis, mut seen: Seen) -> (State, Seen) {
    let (next, effects) = step(state, event, now);
    let yes = matches!(event, Event::Approve(_));
    for effect in &effects {
        match effect {
            Effect::Grant(span) => {
                assert!(state.is_open() && yes || state == State::Granted(*span), "{state:?} {event:?}");
                assert!(!seen.withdrawn && seen.spent == 0, "a grant after its end: {state:?} {event:?}");
                let alive = match span {
                    GrantSpan::Once { until } | GrantSpan::Until(until) => now < *until,
                    GrantSpan::Cell { .. } | GrantSpan::Always => true,
                };
                assert!(alive && !state.is_over());
                seen.grants += u32::from(state.is_open());
            }
            Effect::Spent { ok: true } => {
                let State::Granted(GrantSpan::Once { until }) = state else { panic!("{state:?} spent") };
                assert!(now < until && event == Event::Spend);
                seen.spent += 1;
            }
            Effect::Withdraw => seen.withdrawn = true,
            Effect::Refuse(_) => {
                assert!(state.is_open());
                seen.refused = true;
            }
            Effect::Conflict => assert!(next == state || next == State::Expired),
            Effect::Wait | Effect::Spent { ok: false } | Effect::AskAnew => {}
        }
    }
    assert!(seen.spent <= 1, "a once-grant was used twice");
    assert!(seen.grants <= 1, "granted twice");
    assert!(!(seen.refused && seen.grants > 0), "refused by a person or by time, and granted");
    assert!(!state.is_over() || next == state, "{state:?} came back as {next:?}");
    assert!(
        next.is_over() || next.deadline().is_none_or(|deadline| deadline > now),
        "{next:?} outlived itself"
    );
    (next, seen)
}

#[test]
fn no_sequence_of_eight_events_breaks_a_promise() {
    // Every event at once, and just before and at the moment at which time alone would act; situations
    // that were seen before are not walked again.
    let mut frontier = vec![(State::new(Millis(1)), Millis(1), Seen::default())];
    let mut known: HashSet<String> = HashSet::new();
    let mut ends: HashSet<String> = HashSet::new();
    for _ in 0..8 {
        let mut next = Vec::new();
        for (state, now, seen) in frontier {
            let deadline = state.deadline();
            let near = deadline.into_iter().flat_map(|at| [Millis(at.0 - 1), at]);
            for moment in near.chain([now]).filter(|moment| *moment >= now) {
                for event in EVENTS {
                    let (after, seen) = checked(state, event, moment, seen);
                    if after.is_over() {
                        ends.insert(format!("{after:?}"));
                    }
                    if known.insert(format!("{after:?} {moment:?} {seen:?}")) {
                        next.push((after, moment, seen));
                    }
                }
            }
        }
        frontier = next;
    }
    assert!(known.len() > 100, "{} situations are no exhaustive walk", known.len());
    assert_eq!(ends.len(), 5, "every end is reached: {ends:?}");
}

#[test]
fn an_unanswered_hold_ends_and_can_be_granted_once_afterwards() {
    let start = Millis(1000);
    let (state, _) = step(State::new(start), Event::HoldEnded, start.plus(30_000));
    let late = start.plus(30_000 + OPEN_MS - 1);
    let (state, effects) = step(state, Event::Approve(Span::Once), late);
    let until = late.plus(OPEN_MS);
    assert_eq!(effects, [Effect::Grant(GrantSpan::Once { until })]);
    let (used, effects) = step(state, Event::Spend, Millis(until.0 - 1));
    assert_eq!((used, effects), (State::Used, vec![Effect::Spent { ok: true }]));
    assert_eq!(step(used, Event::Spend, until).1, [Effect::Spent { ok: false }]);
    // Too late by a millisecond: withdrawn, not used.
    assert_eq!(
        step(state, Event::Spend, until),
        (State::Expired, vec![Effect::Withdraw, Effect::Spent { ok: false }])
    );
}

#[test]
fn a_denied_approval_never_allows() {
    let (denied, effects) = step(State::new(Millis(1)), Event::Deny, Millis(2));
    assert_eq!(effects, [Effect::Refuse(Reason::DeniedByPerson)]);
    for event in EVENTS {
        let (state, effects) = step(denied, event, Millis(3));
        assert_eq!(state, State::Denied);
        assert!(
            !effects.iter().any(|effect| matches!(effect, Effect::Grant(_) | Effect::Spent { ok: true }))
        );
    }
}

#[test]
fn what_was_granted_for_ever_is_asked_anew_once_its_rule_is_gone() {
    let always = State::Granted(GrantSpan::Always);
    let crossed = step(always, Event::Asked { ruled: true }, Millis(2));
    assert_eq!(crossed, (always, vec![Effect::Grant(GrantSpan::Always)]));
    let stale = step(always, Event::Asked { ruled: false }, Millis(2));
    assert_eq!(stale, (State::Revoked, vec![Effect::Withdraw, Effect::AskAnew]));
    // What is granted for a time is no rule, and lasts.
    let until = State::Granted(GrantSpan::Until(Millis(9)));
    let granted = step(until, Event::Asked { ruled: false }, Millis(2));
    assert_eq!(granted, (until, vec![Effect::Grant(GrantSpan::Until(Millis(9)))]));
}

#[test]
fn a_question_and_a_yes_are_over_when_the_policy_moves_unless_the_yes_is_a_rule_of_it() {
    let now = Millis(5);
    let moved = |state| step(state, Event::PolicyMoved, now);
    assert_eq!(moved(State::new(Millis(1))), (State::Stale, vec![Effect::AskAnew]));
    assert_eq!(moved(State::HoldEnded { until: Millis(9) }), (State::Stale, vec![]));
    for span in
        [GrantSpan::Once { until: Millis(9) }, GrantSpan::Until(Millis(9)), GrantSpan::Cell { generation: 1 }]
    {
        assert_eq!(moved(State::Granted(span)), (State::Stale, vec![Effect::Withdraw]));
    }
    let always = State::Granted(GrantSpan::Always);
    assert_eq!(moved(always), (always, vec![]));
    for event in EVENTS {
        let (state, effects) = step(State::Stale, event, now);
        assert_eq!(state, State::Stale);
        assert!(!effects.iter().any(|it| matches!(it, Effect::Grant(_) | Effect::Spent { ok: true })));
    }
    assert_eq!(step(State::Stale, Event::Approve(Span::Once), now).1, [Effect::Conflict]);
}

#[test]
fn a_yes_for_a_cells_life_ends_with_that_start_of_the_cell_and_no_other() {
    let (state, effects) = step(State::new(Millis(1)), Event::Approve(Span::Cell(7)), Millis(2));
    let span = GrantSpan::Cell { generation: 7 };
    assert_eq!((state, effects), (State::Granted(span), vec![Effect::Grant(span)]));
    let years = Millis(u64::MAX / 2);
    assert_eq!(step(state, Event::Tick, years), (state, vec![]), "time alone does not end it");
    assert_eq!(step(state, Event::CellEnded(6), years), (state, vec![]));
    for through in [7, 8] {
        let ended = step(state, Event::CellEnded(through), years);
        assert_eq!(ended, (State::Expired, vec![Effect::Withdraw]));
    }
    // Nothing else ends with a cell.
    let until = State::Granted(GrantSpan::Until(Millis(9)));
    assert_eq!(step(until, Event::CellEnded(9), Millis(3)), (until, vec![]));
}

#[test]
fn sixteen_wait_and_the_seventeenth_is_refused() {
    assert_eq!(may_ask(15), Ok(()));
    assert_eq!(may_ask(16), Err(Reason::TooManyWaiting));
}

proptest! {
    #[test]
    fn no_long_life_breaks_a_promise(life in prop::collection::vec((0..EVENTS.len(), 0..OPEN_MS * 2), 0..60)) {
        let (mut state, mut now, mut seen) = (State::new(Millis(1)), Millis(1), Seen::default());
        for (event, pause) in life {
            now = now.plus(pause);
            (state, seen) = checked(state, EVENTS[event], now, seen);
        }
    }
}
