//! The machine's world, as small as it can be: launcher, warden, cell, home, the wires between them, and time.
//!
//! The launcher carries out commands in order, and what takes its time (a cell's or a warden's end, a home's
//! removal) ends later. Its answers and events come in order, each once; an answer that comes twice finds
//! nobody who waits for its number, so only events are ever repeated. What is lost is lost with control.

use super::super::{Action, Desired, Effect, Event, Phase, TenantState, Warden, step};
use cofferdam_base::Millis;
use std::{
    collections::VecDeque,
    fmt,
    hash::{Hash, Hasher},
};

/// The step that is tested: the real one, or one that was broken on purpose.
#[derive(Clone, Copy)]
pub(super) struct Machine(pub(super) fn(&TenantState, Event, Millis) -> (TenantState, Vec<Effect>));

// One world has one machine, so it tells no two states of it apart.
impl PartialEq for Machine {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl Eq for Machine {}
impl Hash for Machine {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}
impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("step")
    }
}

/// Something that is ended by a command and takes its time; the command is answered if it is still asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Ending {
    begun: bool,
    asked: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct RealWarden {
    /// The snapshot was sent and has not been answered.
    snapshot: bool,
    configured: bool,
    ending: Ending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct RealCell {
    generation: u64,
    ending: Ending,
}

/// What is really there, and what is on its way between control and launcher.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    machine: Machine,
    pub(super) state: TenantState,
    pub(super) now: Millis,
    /// Is there a home, and is it being removed?
    home: Option<Ending>,
    warden: Option<RealWarden>,
    cell: Option<RealCell>,
    /// The wire from control to the warden ended, and control has not seen it.
    cut: bool,
    probed: Option<u64>,
    pub(super) wake: Option<Millis>,
    forgotten: bool,
    /// Commands not carried out yet, each with the generation for a cell's start.
    pub(super) commands: VecDeque<(Action, u64)>,
    /// What the launcher said and control has not read.
    events: VecDeque<Event>,
    crashes: u8,
    wishes: u8,
    /// The last proof found what escapes.
    barred: bool,
    /// What must never happen, and did.
    pub(super) wrong: Option<&'static str>,
}

/// What may happen next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Move {
    Execute,
    Refuse,
    Read,
    ReadCut,
    Repeat,
    WardenAnswers,
    WardenIsGone,
    CellIsGone,
    HomeIsGone,
    ProbeAnswers,
    ProbeGivesUp,
    Sleep,
    /// The wait is over before everything that is under way has come: once, or nothing need ever come.
    SleepOn,
    Oversleep,
    CrashWarden,
    CutWarden,
    CrashCell,
    /// Control dies; the launcher still reads so many of its commands.
    CrashControl(usize),
    Wish(Desired),
    WishRestart,
    /// A proof found what escapes, or nothing any more.
    Proof(bool),
}

/// What happens by itself.
pub(super) const CALM: [Move; 9] = [
    Move::Execute,
    Move::Read,
    Move::ReadCut,
    Move::WardenAnswers,
    Move::WardenIsGone,
    Move::CellIsGone,
    Move::HomeIsGone,
    Move::ProbeAnswers,
    Move::Sleep,
];

/// What happens to it.
pub(super) const ROUGH: [Move; 18] = [
    Move::SleepOn,
    Move::Refuse,
    Move::Repeat,
    Move::ProbeGivesUp,
    Move::Oversleep,
    Move::CrashWarden,
    Move::CutWarden,
    Move::CrashCell,
    Move::CrashControl(0),
    Move::CrashControl(1),
    Move::CrashControl(2),
    Move::Wish(Desired::Running),
    Move::Wish(Desired::Stopped),
    Move::Wish(Desired::Deleted),
    Move::Wish(Desired::Killed),
    Move::WishRestart,
    Move::Proof(true),
    Move::Proof(false),
];

/// Longer than any wait of the machine, and long enough for a cell to be forgiven.
const LONG: u64 = 60_000;

impl World {
    pub(super) fn new(desired: Desired, crashes: u8, wishes: u8) -> Self {
        Self::with(Machine(step), desired, crashes, wishes)
    }

    pub(super) fn with(machine: Machine, desired: Desired, crashes: u8, wishes: u8) -> Self {
        let mut world = Self {
            machine,
            state: TenantState::new(desired, 0),
            now: Millis(1),
            home: None,
            warden: None,
            cell: None,
            cut: false,
            probed: None,
            wake: None,
            forgotten: false,
            commands: VecDeque::new(),
            events: VecDeque::new(),
            crashes,
            wishes,
            barred: false,
            wrong: None,
        };
        world.feed(Event::Observed { warden: false, cell: None });
        world
    }

    pub(super) fn wishes(&self) -> u8 {
        self.wishes
    }

    /// The generation of the cell that runs.
    pub(super) fn cell(&self) -> Option<u64> {
        self.cell.map(|cell| cell.generation)
    }

    /// Messages and ends are quicker than the machine's waits.
    fn something_is_under_way(&self) -> bool {
        let endings = [self.warden.map(|it| it.ending), self.cell.map(|it| it.ending), self.home];
        let ends = endings.into_iter().flatten().any(|ending| ending.begun);
        ends || self.cut || !self.commands.is_empty() || !self.events.is_empty()
    }

    fn forbid(&mut self, is: bool, what: &'static str) {
        if is {
            self.wrong = self.wrong.or(Some(what));
        }
    }

    /// One step of the machine, and its effects.
    pub(super) fn feed(&mut self, event: Event) {
        let (next, effects) = (self.machine.0)(&self.state, event, self.now);
        self.state = next;
        self.wake = None;
        for effect in effects {
            self.obey(effect);
        }
    }

    fn obey(&mut self, effect: Effect) {
        match effect {
            Effect::Launch(action) => {
                let starts = self.state.desired == Desired::Killed && action == Action::StartWarden;
                self.forbid(starts, "a start of what was killed");
                self.forbid(self.commands.iter().any(|(sent, _)| *sent == action), "a command twice");
                self.commands.push_back((action, 0));
            }
            Effect::StartCell { generation } => {
                self.forbid(self.state.desired == Desired::Killed, "a start of what was killed");
                self.forbid(self.barred, "a start of what escapes");
                self.forbid(self.state.warden != Warden::Configured, "a cell before its warden");
                self.commands.push_back((Action::StartCell, generation));
                let starts = self.commands.iter().filter(|(sent, _)| *sent == Action::StartCell).count();
                self.forbid(starts + usize::from(self.cell.is_some()) > 1, "two starts of one tenant");
            }
            Effect::ConfigureWarden => match &mut self.warden {
                Some(warden) => (warden.snapshot, warden.configured) = (true, false),
                None => self.cut = true,
            },
            Effect::Probe { generation } => self.probed = Some(generation),
            Effect::WakeAt(moment) => {
                self.forbid(moment <= self.now, "a wait for what is past");
                self.wake = Some(moment);
            }
            Effect::Forget => {
                let left = self.home.is_some() || self.cell.is_some() || self.warden.is_some();
                self.forbid(left, "forgot what is there");
                self.forgotten = true;
            }
        }
    }

    /// The launcher's part; none: the answer comes later.
    fn execute(&mut self, action: Action, generation: u64) {
        let removing = self.home.is_some_and(|home| home.begun);
        let done = match action {
            Action::MakeHome if removing => Err("it is being removed"),
            Action::MakeHome => {
                self.home = Some(Ending::default());
                Ok(())
            }
            Action::RemoveHome => match &mut self.home {
                Some(home) if !home.begun => {
                    *home = Ending { begun: true, asked: true };
                    self.forbid(self.cell.is_some(), "the home of a running cell");
                    return;
                }
                Some(_) => Err("it is being removed"),
                None => Ok(()),
            },
            Action::StartWarden => match &self.warden {
                Some(warden) if warden.ending.begun => Err("it is being stopped"),
                Some(_) => Ok(()),
                None => {
                    (self.warden, self.cut) = (Some(RealWarden::default()), false);
                    Ok(())
                }
            },
            Action::StopWarden => match &mut self.warden {
                Some(warden) => {
                    warden.ending = Ending { begun: true, asked: true };
                    return;
                }
                None => Ok(()),
            },
            Action::StartCell => self.start_cell(generation),
            Action::StopCell => match &mut self.cell {
                Some(cell) => {
                    cell.ending = Ending { begun: true, asked: true };
                    return;
                }
                None => Ok(()),
            },
        };
        self.events.push_back(match done {
            Ok(()) => Event::Done(action),
            Err(why) => Event::Failed(action, why.to_owned()),
        });
    }

    fn start_cell(&mut self, generation: u64) -> Result<(), &'static str> {
        let Some(warden) = self.warden.filter(|warden| !warden.ending.begun) else {
            return Err("no warden");
        };
        self.forbid(self.home.is_none_or(|home| home.begun), "a cell without a home");
        self.forbid(!warden.configured, "a cell whose warden has no policy");
        if self.cell.is_some() {
            self.forbid(true, "two starts of one tenant");
            return Err("a cell runs already");
        }
        self.cell = Some(RealCell { generation, ending: Ending::default() });
        Ok(())
    }

    fn warden_is_gone(&mut self, ending: Ending) {
        (self.warden, self.cut) = (None, true);
        match ending {
            Ending { begun: false, .. } => self.events.push_back(Event::WardenEnded),
            Ending { asked: true, .. } => self.events.push_back(Event::Done(Action::StopWarden)),
            Ending { .. } => {}
        }
    }

    fn cell_is_gone(&mut self, cell: RealCell, status: &str) {
        self.cell = None;
        let generation = cell.generation;
        self.events.push_back(Event::CellEnded { generation, status: status.to_owned() });
        if cell.ending.asked {
            self.events.push_back(Event::Done(Action::StopCell));
        }
    }

    /// Makes the move if it is possible here.
    pub(super) fn after(&self, choice: &Move) -> Option<Self> {
        let mut next = self.clone();
        match choice {
            Move::Wish(_) | Move::WishRestart | Move::Proof(_) => next.wishes = next.wishes.checked_sub(1)?,
            rough if !CALM.contains(rough) => next.crashes = next.crashes.checked_sub(1)?,
            _ => {}
        }
        next.go(choice)?;
        Some(next)
    }

    fn go(&mut self, choice: &Move) -> Option<()> {
        match choice {
            Move::Execute => {
                let (action, generation) = self.commands.pop_front()?;
                self.execute(action, generation);
            }
            Move::Refuse => {
                let (action, _) = self.commands.pop_front()?;
                self.events.push_back(Event::Failed(action, "disk full".to_owned()));
            }
            Move::Read => {
                let event = self.events.pop_front()?;
                self.feed(event);
            }
            Move::ReadCut => {
                self.cut = !self.cut.then_some(true)?;
                self.feed(Event::WardenLost);
            }
            Move::Repeat => {
                let event = self.events.front()?.clone();
                let said = matches!(event, Event::WardenEnded | Event::CellEnded { .. });
                self.events.push_back(said.then_some(event)?);
            }
            Move::WardenAnswers => {
                let warden = self.warden.as_mut().filter(|warden| warden.snapshot && !warden.ending.begun)?;
                (warden.snapshot, warden.configured) = (false, true);
                self.feed(Event::WardenConfigured);
            }
            Move::WardenIsGone => {
                let ending = self.warden?.ending;
                ending.begun.then(|| self.warden_is_gone(ending))?;
            }
            Move::CellIsGone => {
                let cell = self.cell.filter(|cell| cell.ending.begun)?;
                self.cell_is_gone(cell, "exit 0");
            }
            Move::HomeIsGone => {
                let home = self.home.filter(|home| home.begun)?;
                self.home = None;
                self.events.extend(home.asked.then_some(Event::Done(Action::RemoveHome)));
            }
            Move::ProbeAnswers => {
                let generation = self.probed.take()?;
                if self.cell() == Some(generation) {
                    self.feed(Event::CellReady { generation });
                }
            }
            Move::ProbeGivesUp => {
                let generation = self.probed.take()?;
                self.feed(Event::CellNotReady { generation });
            }
            Move::Sleep if self.something_is_under_way() => return None,
            Move::Sleep | Move::SleepOn => {
                self.now = self.wake.take()?;
                self.feed(Event::Woken);
            }
            Move::Oversleep => self.now = self.now.plus(LONG),
            Move::CrashWarden => {
                let ending = self.warden?.ending;
                self.warden_is_gone(ending);
            }
            Move::CutWarden => {
                self.warden.as_mut()?.snapshot = false;
                self.cut = true;
            }
            Move::CrashCell => {
                let cell = self.cell?;
                self.cell_is_gone(cell, "signal 9");
            }
            Move::CrashControl(heard) => self.crash_control(*heard)?,
            Move::Wish(desired) => self.feed(Event::Want(*desired)),
            Move::WishRestart => self.feed(Event::Restart),
            Move::Proof(barred) => {
                self.barred = (self.barred != *barred).then_some(*barred)?;
                self.feed(Event::Barred(*barred));
            }
        }
        Some(())
    }

    fn crash_control(&mut self, heard: usize) -> Option<()> {
        if self.forgotten || heard > self.commands.len() {
            return None;
        }
        for (action, generation) in self.commands.drain(..heard).collect::<Vec<_>>() {
            self.execute(action, generation);
        }
        self.commands.clear();
        // Answers, events and probes go down with it, and its numbers mean nothing to the next.
        self.events.clear();
        (self.cut, self.probed, self.wake) = (false, None, None);
        if let Some(warden) = &mut self.warden {
            (warden.snapshot, warden.ending.asked) = (false, false);
        }
        if let Some(cell) = &mut self.cell {
            cell.ending.asked = false;
        }
        if let Some(home) = &mut self.home {
            home.asked = false;
        }
        // What the last proof found is kept.
        let fresh = TenantState::new(self.state.desired, self.state.generation);
        self.state = TenantState { barred: self.barred, ..fresh };
        self.feed(Event::Observed { warden: self.warden.is_some(), cell: self.cell() });
        Some(())
    }

    /// Lets everything that is under way end, without further crashes or wishes.
    pub(super) fn settle(mut self) -> Self {
        for _ in 0..200 {
            match CALM.iter().find_map(|choice| self.after(choice)) {
                Some(next) => self = next,
                None => return self,
            }
        }
        panic!("never comes to rest: {self:?}")
    }

    /// Is it as desired, and nothing under way?
    pub(super) fn has_converged(&self) -> bool {
        let quiet = self.commands.is_empty() && self.events.is_empty() && !self.cut;
        let phase = self.state.phase();
        quiet
            && match self.state.desired {
                Desired::Running if self.barred && self.cell.is_none() => phase == Phase::Failed,
                Desired::Running => {
                    let warden = self.warden.is_some_and(|it| it.configured && !it.ending.begun);
                    let cell = self.cell.is_some_and(|it| !it.ending.begun);
                    let home = self.home.is_some_and(|it| !it.begun);
                    let known = self.cell() == Some(self.state.generation);
                    warden && cell && home && known && phase == Phase::Running
                }
                Desired::Killed => self.warden.is_none() && phase == Phase::Killed,
                Desired::Stopped => self.warden.is_none() && self.cell.is_none() && phase == Phase::Stopped,
                Desired::Deleted => {
                    let gone = self.warden.is_none() && self.cell.is_none() && self.home.is_none();
                    gone && self.forgotten && phase == Phase::Deleted
                }
            }
    }

    pub(super) fn assert_converged(&self) {
        assert!(self.wrong.is_none() && self.has_converged(), "{self:?}");
    }
}
