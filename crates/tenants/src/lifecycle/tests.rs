#![allow(clippy::unwrap_used)]
//! The machine against a small world: every order of answers, crashes and wishes, exhaustively; then long
//! random walks.

use super::{Action, Cell, Desired, Effect, Event, Home, Phase, TenantState, Warden, step};
use cofferdam_base::Millis;
use proptest::prelude::*;
use std::collections::{HashSet, VecDeque};

/// What is really there, and what is on its way between control and launcher. The launcher carries out
/// commands in order, at once; answers and events come back in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    state: TenantState,
    now: Millis,
    home: bool,
    warden: bool,
    /// The snapshot was sent to the warden that runs and has not been answered.
    snapshot: bool,
    configured: bool,
    cell: Option<u64>,
    probed: Option<u64>,
    wake: Option<Millis>,
    forgotten: bool,
    /// Commands not carried out yet, each with the generation for a cell's start.
    commands: VecDeque<(Action, u64)>,
    /// What the launcher said and control has not read.
    events: VecDeque<Event>,
    crashes: u8,
    wishes: u8,
}

/// What may happen next.
#[derive(Clone, Debug)]
enum Move {
    Execute,
    Refuse,
    Read,
    WardenAnswers,
    ProbeAnswers,
    ProbeGivesUp,
    Sleep,
    CrashWarden,
    LoseWardenWire,
    CrashCell,
    CrashControl,
    Wish(Desired),
    WishRestart,
}

const MOVES: [Move; 15] = [
    Move::Execute,
    Move::Refuse,
    Move::Read,
    Move::WardenAnswers,
    Move::ProbeAnswers,
    Move::ProbeGivesUp,
    Move::Sleep,
    Move::CrashWarden,
    Move::LoseWardenWire,
    Move::CrashCell,
    Move::CrashControl,
    Move::Wish(Desired::Running),
    Move::Wish(Desired::Stopped),
    Move::Wish(Desired::Deleted),
    Move::WishRestart,
];

impl World {
    fn new(desired: Desired, crashes: u8, wishes: u8) -> Self {
        let mut world = Self {
            state: TenantState::new(desired, 0),
            now: Millis(1),
            home: false,
            warden: false,
            snapshot: false,
            configured: false,
            cell: None,
            probed: None,
            wake: None,
            forgotten: false,
            commands: VecDeque::new(),
            events: VecDeque::new(),
            crashes,
            wishes,
        };
        world.feed(Event::Observed { warden: false, cell: None });
        world
    }

    /// One step of the machine; its promises are checked on each effect.
    fn feed(&mut self, event: Event) {
        let (next, effects) = step(&self.state, event, self.now);
        self.state = next;
        self.wake = None;
        for effect in effects {
            match effect {
                Effect::Launch(action) => {
                    assert!(!self.commands.iter().any(|(sent, _)| *sent == action), "{action:?} twice");
                    self.commands.push_back((action, 0));
                }
                Effect::StartCell { generation } => {
                    assert_eq!(self.state.warden, Warden::Configured, "cell before its warden");
                    assert!(!self.commands.iter().any(|(sent, _)| *sent == Action::StartCell), "two starts");
                    assert_eq!(self.cell, None, "a second cell: {self:?}");
                    self.commands.push_back((Action::StartCell, generation));
                }
                Effect::ConfigureWarden => {
                    if self.warden {
                        (self.snapshot, self.configured) = (true, false);
                    } // Else the event that it ended is on its way.
                }
                Effect::Probe { generation } => self.probed = Some(generation),
                Effect::WakeAt(moment) => {
                    assert!(moment > self.now);
                    self.wake = Some(moment);
                }
                Effect::Forget => {
                    assert!(!self.home && self.cell.is_none() && !self.warden, "forgot what is there");
                    self.forgotten = true;
                }
            }
        }
    }

    fn execute(&mut self, action: Action, generation: u64) {
        match action {
            Action::MakeHome => self.home = true,
            Action::RemoveHome => {
                assert_eq!(self.cell, None, "the home of a running cell");
                self.home = false;
            }
            Action::StartWarden => {
                if !self.warden {
                    (self.warden, self.snapshot, self.configured) = (true, false, false);
                }
            }
            Action::StopWarden => (self.warden, self.snapshot, self.configured) = (false, false, false),
            Action::StartCell => {
                assert!(self.cell.is_none(), "two cells");
                assert!(self.home, "a cell without a home");
                if !self.warden {
                    // The launcher refuses: its warden must run.
                    self.events.push_back(Event::Failed(action, "no warden".to_owned()));
                    return;
                }
                self.cell = Some(generation);
            }
            Action::StopCell => {
                if let Some(generation) = self.cell.take() {
                    self.events.push_back(Event::CellEnded { generation, status: "exit 0".to_owned() });
                }
            }
        }
        self.events.push_back(Event::Done(action));
    }

    /// Makes the move if it is possible here.
    fn after(&self, choice: &Move) -> Option<Self> {
        let mut next = self.clone();
        match choice {
            Move::Execute => {
                let (action, generation) = next.commands.pop_front()?;
                next.execute(action, generation);
            }
            Move::Refuse => {
                next.crashes = next.crashes.checked_sub(1)?;
                let (action, _) = next.commands.pop_front()?;
                next.events.push_back(Event::Failed(action, "disk full".to_owned()));
            }
            Move::Read => {
                let event = next.events.pop_front()?;
                next.feed(event);
            }
            Move::WardenAnswers => {
                if !(next.warden && next.snapshot) {
                    return None;
                }
                (next.snapshot, next.configured) = (false, true);
                next.feed(Event::WardenConfigured);
            }
            Move::ProbeAnswers => {
                let generation = next.probed.take()?;
                if next.cell == Some(generation) {
                    next.feed(Event::CellReady { generation });
                }
            }
            Move::ProbeGivesUp => {
                next.crashes = next.crashes.checked_sub(1)?;
                let generation = next.probed.take()?;
                next.feed(Event::CellNotReady { generation });
            }
            Move::Sleep => {
                next.now = next.wake.take()?;
                next.feed(Event::Woken);
            }
            Move::CrashWarden => {
                next.crashes = next.crashes.checked_sub(1)?;
                if !next.warden {
                    return None;
                }
                (next.warden, next.snapshot, next.configured) = (false, false, false);
                next.events.push_back(Event::WardenEnded);
            }
            Move::LoseWardenWire => {
                next.crashes = next.crashes.checked_sub(1)?;
                if !next.warden {
                    return None;
                }
                next.snapshot = false;
                next.feed(Event::WardenLost);
            }
            Move::CrashCell => {
                next.crashes = next.crashes.checked_sub(1)?;
                let generation = next.cell.take()?;
                next.events.push_back(Event::CellEnded { generation, status: "signal 9".to_owned() });
            }
            Move::CrashControl => {
                next.crashes = next.crashes.checked_sub(1)?;
                // What was sent is carried out; its answers, and all else, go down with control.
                while let Some((action, generation)) = next.commands.pop_front() {
                    next.execute(action, generation);
                }
                next.events.clear();
                (next.snapshot, next.probed, next.wake) = (false, None, None);
                if next.forgotten {
                    return None;
                }
                next.state = TenantState::new(next.state.desired, next.state.generation);
                next.feed(Event::Observed { warden: next.warden, cell: next.cell });
            }
            Move::Wish(desired) => {
                next.wishes = next.wishes.checked_sub(1)?;
                next.feed(Event::Want(*desired));
            }
            Move::WishRestart => {
                next.wishes = next.wishes.checked_sub(1)?;
                next.feed(Event::Restart);
            }
        }
        Some(next)
    }

    /// Lets everything that is under way end, without further crashes or wishes.
    fn settle(mut self) -> Self {
        const CALM: [Move; 5] =
            [Move::Execute, Move::Read, Move::WardenAnswers, Move::ProbeAnswers, Move::Sleep];
        for _ in 0..200 {
            match CALM.iter().find_map(|choice| self.after(choice)) {
                Some(next) => self = next,
                None => return self,
            }
        }
        panic!("never comes to rest: {self:?}")
    }

    fn assert_converged(&self) {
        let phase = self.state.phase();
        match self.state.desired {
            Desired::Running => {
                assert!(self.warden && self.configured && self.home && self.cell.is_some(), "{self:?}");
                assert_eq!(phase, Phase::Running, "{self:?}");
                assert_eq!(self.cell, Some(self.state.generation));
            }
            Desired::Stopped => {
                assert!(!self.warden && self.cell.is_none(), "{self:?}");
                assert_eq!(phase, Phase::Stopped);
            }
            Desired::Deleted => {
                assert!(!self.warden && self.cell.is_none() && !self.home && self.forgotten, "{self:?}");
                assert_eq!(phase, Phase::Deleted);
            }
        }
    }
}

#[test]
fn from_every_state_with_a_crash_and_two_wishes_it_converges_to_what_is_desired() {
    let mut seen = HashSet::new();
    let mut todo: Vec<World> = [Desired::Running, Desired::Stopped, Desired::Deleted]
        .map(|desired| World::new(desired, 1, 2))
        .into();
    while let Some(world) = todo.pop() {
        if !seen.insert(world.clone()) {
            continue;
        }
        world.clone().settle().assert_converged();
        todo.extend(MOVES.iter().filter_map(|choice| world.after(choice)));
    }
    assert!(seen.len() > 1_000, "the model was not explored: {} states", seen.len());
}

proptest! {
    #[test]
    fn long_walks_converge_unless_starting_was_given_up(
        choices in prop::collection::vec(0..MOVES.len(), 0..400),
    ) {
        let mut world = World::new(Desired::Running, u8::MAX, u8::MAX);
        for choice in choices {
            // Deletion ends the walk, so it is chosen rarely.
            let choice = if choice == 13 && world.wishes > 200 { 0 } else { choice };
            world = world.after(&MOVES[choice]).unwrap_or(world);
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
    let generation = world.cell;
    let mut crashed = world.after(&Move::CrashWarden).unwrap().after(&Move::Read).unwrap();
    assert_eq!(crashed.state.phase(), Phase::Degraded);
    assert!(crashed.wake.is_some(), "waits before the next warden");
    crashed = crashed.settle();
    assert_eq!((crashed.cell, crashed.state.phase()), (generation, Phase::Running));
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
fn a_restart_is_one_more_generation_and_no_failure() {
    let mut world = running();
    world.feed(Event::Restart);
    assert_eq!(world.state.cell, Cell::Stopping);
    let world = world.settle();
    assert_eq!((world.cell, world.state.cell_retry.failures), (Some(2), 0));
    world.assert_converged();
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
