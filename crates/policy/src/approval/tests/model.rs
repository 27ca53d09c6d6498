//! The approval machine exhaustively: every order of questions, answers, uses, ends, crashes, losses,
//! repetitions and moments, over the real `step`; and over seven steps that were broken on purpose, each of
//! which is found out by a shortest way.
#![allow(clippy::print_stdout)] // How much was seen is what a run is for.

use super::{
    super::{Effect, Event, Span, State, step},
    world::{CALM, Move, ROUGH, Step, World},
};
use crate::Reason;
use cofferdam_base::{
    Millis,
    explore::{Counterexample, Model, explore},
};

/// One destination with so many connections, words of people, and mishaps.
struct Asking {
    step: Step,
    connections: u8,
    words: u8,
    crashes: u8,
}

impl Model for Asking {
    type State = World;
    type Move = Move;

    fn starts(&self) -> Vec<World> {
        vec![World::new(self.connections, self.words, self.crashes)]
    }

    fn moves(&self, world: &World) -> Vec<(Move, World)> {
        let after = |choice: &Move| Some((choice.clone(), world.after(self.step, choice)?));
        CALM.iter().chain(&ROUGH).filter_map(after).collect()
    }

    fn is_calm(&self, choice: &Move) -> bool {
        CALM.contains(choice)
    }

    fn wrong(&self, world: &World) -> Option<String> {
        world.wrong.map(str::to_owned)
    }

    fn at_rest(&self, world: &World) -> bool {
        world.is_at_rest()
    }
}

#[test]
fn no_denied_expired_revoked_stale_or_used_approval_lets_a_byte_through_and_every_question_ends() {
    for (connections, words, crashes) in [(2, 2, 1), (1, 2, 2)] {
        let seen = explore(&Asking { step, connections, words, crashes }, 2_000_000);
        let seen = seen.unwrap_or_else(|found| panic!("{found}"));
        println!("{connections} connections, {words} words, {crashes} crashes: {seen}");
        assert!(seen.states > 10_000, "the model was not explored: {seen}");
    }
}

fn found(step: Step) -> Counterexample<Move> {
    let found = *explore(&Asking { step, connections: 2, words: 2, crashes: 0 }, 2_000_000).unwrap_err();
    println!("{found}");
    found
}

/// A machine that hears yes where no was said.
fn mishears(state: State, event: Event, now: Millis) -> (State, Vec<Effect>) {
    step(state, if event == Event::Deny { Event::Approve(Span::Once) } else { event }, now)
}

/// A machine that looks at no clock once something is granted.
fn is_timeless(state: State, event: Event, now: Millis) -> (State, Vec<Effect>) {
    let end = if let State::Granted(span) = state { span.end() } else { None };
    step(state, event, end.map_or(now, |end| now.min(Millis(end.0 - 1))))
}

/// A machine that does not remember a use.
fn forgets_a_use(state: State, event: Event, now: Millis) -> (State, Vec<Effect>) {
    let (next, effects) = step(state, event, now);
    (if next == State::Used { state } else { next }, effects)
}

/// A machine that keeps what is taken back to itself.
fn is_silent(state: State, event: Event, now: Millis) -> (State, Vec<Effect>) {
    let (next, mut effects) = step(state, event, now);
    effects.retain(|effect| *effect != Effect::Withdraw);
    (next, effects)
}

/// A machine that lets questions wait for ever.
fn is_patient(state: State, event: Event, now: Millis) -> (State, Vec<Effect>) {
    let ends = |effect: &Effect| *effect == Effect::Refuse(Reason::NoAnswer);
    let (next, effects) = step(state, event, now);
    if effects.iter().any(ends) { (state, vec![]) } else { (next, effects) }
}

/// A machine to which one policy is like another.
fn clings(state: State, event: Event, now: Millis) -> (State, Vec<Effect>) {
    step(state, if event == Event::PolicyMoved { Event::Tick } else { event }, now)
}

/// A machine to which one cell is like another.
fn outlives(state: State, event: Event, now: Millis) -> (State, Vec<Effect>) {
    step(state, if matches!(event, Event::CellEnded(_)) { Event::Tick } else { event }, now)
}

#[test]
fn every_broken_step_is_found_out_by_the_shortest_way() {
    for (broken, why, length) in [
        (mishears as Step, "a denied approval lets a byte through", 5),
        (is_timeless, "an expired approval lets a byte through", 6),
        (forgets_a_use, "an approval for one connection was used twice", 10),
        (is_silent, "a revoked approval lets a byte through", 5),
        (clings, "a revoked approval lets a byte through", 5),
        (outlives, "a revoked approval lets a byte through", 5),
        (is_patient, "it never comes to rest", 1),
    ] {
        let found = found(broken);
        assert_eq!((found.why.as_str(), found.path.len()), (why, length), "{found}");
    }
}
