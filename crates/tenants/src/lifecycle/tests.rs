#![allow(clippy::unwrap_used)]
//! The machine in a small world: single stories and long random walks here, every order of everything in
//! [`model`].

mod model;
mod world;

use super::{Cell, Desired, Effect, Event, Home, Phase, TenantState, step};
use cofferdam_base::Millis;
use proptest::prelude::*;
use world::{CALM, Move, ROUGH, World};

proptest! {
    #[test]
    fn long_walks_converge_unless_starting_was_given_up(
        choices in prop::collection::vec(0..CALM.len() + ROUGH.len() - 1, 0..400),
    ) {
        let mut moves = [&CALM[..], &ROUGH[..]].concat();
        // Wires say each thing once; how often it may be said again is a matter of the exhaustive model.
        moves.retain(|choice| *choice != Move::Repeat);
        let mut world = World::new(Desired::Running, u8::MAX, u8::MAX);
        for choice in choices {
            // Deletion ends the walk, so it is chosen rarely.
            let choice = &moves[choice];
            let choice = if *choice == Move::Wish(Desired::Deleted) && world.wishes() > 200 { &CALM[0] } else { choice };
            world = world.after(choice).unwrap_or(world);
            prop_assert_eq!(world.wrong, None, "{:?}", world);
        }
        let settled = world.settle();
        if settled.state.failed {
            prop_assert!(!settled.state.trouble.is_empty());
            let mut asked = settled;
            asked.feed(Event::Want(Desired::Running));
            asked.settle().assert_converged();
        } else {
            settled.assert_converged();
        }
    }
}

fn running() -> World {
    World::new(Desired::Running, u8::MAX, u8::MAX).settle()
}

#[test]
fn a_dead_warden_leaves_the_cell_alone_and_egress_denied_until_the_next_is_configured() {
    let world = running();
    let generation = world.cell();
    let mut crashed = world.after(&Move::CrashWarden).unwrap().after(&Move::Read).unwrap();
    assert_eq!(crashed.state.phase(), Phase::Degraded);
    assert!(crashed.wake.is_some(), "waits before the next warden");
    crashed = crashed.settle();
    assert_eq!((crashed.cell(), crashed.state.phase()), (generation, Phase::Running));
}

#[test]
fn a_cell_that_keeps_dying_is_given_up_with_its_reason_until_somebody_asks() {
    let mut world = running();
    for _ in 0..super::drive::MAX_FAILURES {
        assert_ne!(world.state.phase(), Phase::Failed);
        world = world.after(&Move::CrashCell).unwrap().settle();
    }
    assert_eq!(world.state.phase(), Phase::Failed);
    assert_eq!(world.state.trouble, "the cell ended by itself: signal 9");
    assert!(world.wake.is_none() && world.commands.is_empty());
    world.feed(Event::Want(Desired::Running));
    world.settle().assert_converged();
}

#[test]
fn a_cell_that_was_good_for_long_is_forgiven() {
    let mut world = running();
    for _ in 0..20 {
        world.now = world.now.plus(60_000);
        world = world.after(&Move::CrashCell).unwrap().settle();
        assert_eq!(world.state.phase(), Phase::Running);
    }
}

#[test]
fn a_start_that_takes_back_the_stop_of_an_unready_cell_has_it_probed_anew() {
    use Move::{CutWarden, Execute, ProbeGivesUp, Read, ReadCut, Refuse, WardenAnswers, Wish};
    let mut world = World::new(Desired::Running, 3, 1);
    for choice in [Execute, Read, Execute, Read, WardenAnswers, Execute, Read] {
        world = world.after(&choice).unwrap();
    }
    // Stopping the warden fails, so the cell's stop, too, has to wait.
    for choice in [CutWarden, ReadCut, Refuse, Read, ProbeGivesUp, Wish(Desired::Running)] {
        world = world.after(&choice).unwrap();
    }
    world.settle().assert_converged();
}

#[test]
fn a_restart_is_one_more_generation_and_no_failure() {
    let mut world = running();
    world.feed(Event::Restart);
    assert_eq!(world.state.cell, Cell::Stopping);
    let world = world.settle();
    assert_eq!((world.cell(), world.state.cell_retry.failures), (Some(2), 0));
    world.assert_converged();
}

#[test]
fn what_was_killed_starts_nothing_and_runs_again_in_another_cell_only() {
    let mut world = running();
    world.feed(Event::Want(Desired::Killed));
    let mut world = world.settle();
    world.assert_converged();
    assert_eq!((world.cell(), world.state.phase()), (Some(1), Phase::Killed));
    world = world.after(&Move::CrashControl(0)).unwrap().settle();
    assert_eq!((world.cell(), world.state.phase()), (Some(1), Phase::Killed), "nor after a crash");
    world.feed(Event::Want(Desired::Running));
    let world = world.settle();
    world.assert_converged();
    assert_eq!(world.cell(), Some(2));
}

#[test]
fn nothing_is_done_before_the_launcher_told_what_runs() {
    let state = TenantState::new(Desired::Running, 4);
    let (state, effects) = step(&state, Event::Want(Desired::Running), Millis(5));
    assert!(effects.is_empty());
    let (state, effects) = step(&state, Event::Observed { warden: true, cell: Some(4) }, Millis(6));
    assert_eq!(effects, [Effect::Probe { generation: 4 }, Effect::ConfigureWarden]);
    assert_eq!((state.home, state.generation), (Home::Present, 4));
}

#[test]
fn deleted_is_for_ever() {
    let (state, _) = step(&TenantState::new(Desired::Deleted, 0), Event::Want(Desired::Running), Millis(1));
    assert_eq!(state.desired, Desired::Deleted);
    let (state, _) = step(&state, Event::Restart, Millis(1));
    assert_eq!((state.desired, state.restart), (Desired::Deleted, false));
}
