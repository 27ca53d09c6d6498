//! Every order of answers, ends, crashes, losses, repetitions and wishes, exhaustively, over the real `step`;
//! and over four steps that were broken on purpose, each of which must be found out.

#![allow(clippy::print_stdout)] // How much was seen is what a run is for.

use super::{
    super::{Action, Cell, Desired, Effect, Event, TenantState, Warden, step},
    world::{CALM, Machine, Move, ROUGH, World},
};
use cofferdam_base::{
    Millis,
    explore::{Counterexample, Model, explore},
};

/// A tenant's life with so many crashes and wishes.
struct Life {
    machine: Machine,
    crashes: u8,
    wishes: u8,
}

impl Model for Life {
    type State = World;
    type Move = Move;

    fn starts(&self) -> Vec<World> {
        [Desired::Running, Desired::Stopped, Desired::Killed, Desired::Deleted]
            .map(|desired| World::with(self.machine, desired, self.crashes, self.wishes))
            .into()
    }

    fn moves(&self, world: &World) -> Vec<(Move, World)> {
        let after = |choice: &Move| {
            let mut next = world.after(choice)?;
            // For people only: no step reads it.
            next.state.trouble.clear();
            Some((choice.clone(), next))
        };
        CALM.iter().chain(&ROUGH).filter_map(after).collect()
    }

    fn is_calm(&self, choice: &Move) -> bool {
        CALM.contains(choice)
    }

    fn wrong(&self, world: &World) -> Option<String> {
        world.wrong.map(str::to_owned)
    }

    fn at_rest(&self, world: &World) -> bool {
        world.has_converged()
    }
}

#[test]
fn from_every_state_it_converges_to_what_is_desired_and_no_tenant_has_two_cells_or_one_without_its_warden() {
    for (crashes, wishes) in [(2, 2), (3, 1)] {
        let seen = explore(&Life { machine: Machine(step), crashes, wishes }, 2_000_000);
        let seen = seen.unwrap_or_else(|found| panic!("{found}"));
        println!("{crashes} crashes, {wishes} wishes: {seen}");
        assert!(seen.states > 50_000, "the model was not explored: {seen}");
    }
}

fn found(machine: Machine, crashes: u8, wishes: u8) -> Counterexample<Move> {
    let found = *explore(&Life { machine, crashes, wishes }, 2_000_000).unwrap_err();
    println!("{found}");
    found
}

/// A machine that takes a lost warden for a lost start of the cell.
fn forgets_a_start(state: &TenantState, event: Event, now: Millis) -> (TenantState, Vec<Effect>) {
    let lost = event == Event::WardenLost;
    let (mut next, effects) = step(state, event, now);
    if lost && next.cell == Cell::Starting {
        next.cell = Cell::Absent;
    }
    (next, effects)
}

#[test]
fn a_step_that_forgets_a_start_is_found_out_by_the_shortest_way() {
    let found = found(Machine(forgets_a_start), 1, 0);
    assert_eq!(found.why, "two starts of one tenant");
    assert!(found.path.contains(&Move::ReadCut));
    assert_eq!(found.path.len(), 16, "{found}");
}

/// A machine that takes a warden that runs for one that enforces its policy.
fn trusts_too_soon(state: &TenantState, event: Event, now: Millis) -> (TenantState, Vec<Effect>) {
    let started = event == Event::Done(Action::StartWarden);
    let (mut next, mut effects) = step(state, event, now);
    if started && next.warden == Warden::Configuring && next.cell == Cell::Absent {
        next.warden = Warden::Configured;
        next.generation += 1;
        next.cell = Cell::Starting;
        effects = vec![Effect::StartCell { generation: next.generation }];
    }
    (next, effects)
}

#[test]
fn a_step_that_trusts_a_warden_too_soon_is_found_out_by_the_shortest_way() {
    let found = found(Machine(trusts_too_soon), 1, 1);
    assert_eq!(found.why, "a cell whose warden has no policy");
    // Home, warden and cell are each asked for and made: nothing has to go wrong.
    let way = [Move::Execute, Move::Read, Move::Execute, Move::Read, Move::Execute];
    assert_eq!(found.path, way, "{found}");
}

/// A machine that, when its warden is ready, has forgotten what the last proof found.
fn forgets_its_proof(state: &TenantState, event: Event, now: Millis) -> (TenantState, Vec<Effect>) {
    let mut state = state.clone();
    state.barred &= event != Event::WardenConfigured;
    step(&state, event, now)
}

#[test]
fn a_step_that_forgets_its_proof_is_found_out_by_the_shortest_way() {
    let found = found(Machine(forgets_its_proof), 0, 1);
    assert_eq!(found.why, "a start of what escapes");
    assert!(found.path.contains(&Move::Proof(true)), "{found}");
}

/// A machine that does not hear that its cell was stopped.
fn is_deaf(state: &TenantState, event: Event, now: Millis) -> (TenantState, Vec<Effect>) {
    let stopped = matches!(event, Event::Done(Action::StopCell) | Event::CellEnded { .. });
    if stopped && state.cell == Cell::Stopping { (state.clone(), vec![]) } else { step(state, event, now) }
}

#[test]
fn a_step_that_waits_for_ever_is_found_out_by_the_shortest_way() {
    let found = found(Machine(is_deaf), 1, 1);
    assert_eq!(found.why, "it never comes to rest");
    assert!(found.path.iter().any(|step| matches!(step, Move::Wish(_) | Move::WishRestart)), "{found}");
}
