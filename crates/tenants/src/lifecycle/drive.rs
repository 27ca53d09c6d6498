//! The two halves of a step: facts are taken in, then the next commands follow from the state alone.
//!
//! Each command leaves a mark in the state (`Making`, `Starting`, …), so it is sent once; each answer
//! takes the mark away. Whatever happened in between, the next step follows from what is known, never
//! from what was planned.

use super::{Action, Cell, Desired, Effect, Event, Home, Retry, TenantState, Warden};
use cofferdam_base::Millis;

/// Milliseconds before a cell that failed is started again; doubles with each failure in a row.
const CELL_WAIT: u64 = 500;
/// The same for the warden, shorter because the cell has no egress meanwhile.
const WARDEN_WAIT: u64 = 100;
/// So many failures in a row and starting is given up.
pub(super) const MAX_FAILURES: u32 = 6;
/// A cell that was ready for so long starts counting anew when it fails.
const GOOD_FOR: u64 = 60_000;

impl TenantState {
    /// Takes in what happened, without deciding anything.
    pub(super) fn take(&mut self, event: Event, now: Millis) {
        match event {
            Event::Want(desired) => self.want(desired),
            Event::Restart => {
                self.want(Desired::Running);
                // With no cell there is nothing to stop: asking was enough.
                self.restart = self.desired == Desired::Running && self.cell != Cell::Absent;
            }
            Event::Observed { warden, cell } => self.observe(warden, cell),
            Event::Done(action) => self.done(action),
            Event::Failed(action, why) => self.not_done(action, why, now),
            Event::WardenConfigured => {
                if self.warden == Warden::Configuring {
                    self.warden = Warden::Configured;
                    self.warden_retry.failures = 0;
                }
            }
            Event::WardenRefused(why) => {
                if self.warden == Warden::Configuring {
                    self.trouble = format!("the warden refused its configuration: {why}");
                }
            }
            Event::WardenEnded => {
                // Starting and Stopping have answers of their own still to come.
                if !matches!(self.warden, Warden::Absent | Warden::Starting | Warden::Stopping) {
                    self.warden = Warden::Absent;
                    self.warden_failed("the warden ended".to_owned(), now);
                }
            }
            Event::WardenLost => {
                if matches!(self.warden, Warden::Started | Warden::Configuring | Warden::Configured) {
                    self.warden = Warden::Broken;
                    self.warden_failed("the warden's wire ended".to_owned(), now);
                }
            }
            Event::CellEnded { generation, status } => self.cell_ended(generation, &status, now),
            Event::CellReady { generation } => {
                if generation == self.generation && self.cell == Cell::Probing {
                    self.cell = Cell::Ready { since: now };
                    self.trouble.clear();
                }
            }
            Event::CellNotReady { generation } => {
                if generation == self.generation && self.cell == Cell::Probing && !self.restart {
                    self.cell_failed("the runtime did not answer in time".to_owned(), now);
                    // Not probed any more: whoever takes the restart back has it probed anew.
                    self.cell = Cell::Started;
                    self.restart = true;
                }
            }
            Event::Barred(barred) => self.barred = barred,
            Event::Woken => {}
        }
    }

    /// What follows from the state: each command once and, where all there is to do is to wait, the
    /// moment to wake.
    pub(super) fn drive(&mut self, now: Millis) -> Vec<Effect> {
        let mut effects = Vec::new();
        let mut wake = None;
        if self.observed {
            match self.desired {
                Desired::Running => self.drive_up(now, &mut effects, &mut wake),
                // The cell is the launcher's to hold or to kill.
                Desired::Killed => self.stop_warden(now, &mut effects, &mut wake),
                Desired::Stopped => {
                    self.drive_down(now, &mut effects, &mut wake);
                }
                Desired::Deleted => {
                    if self.drive_down(now, &mut effects, &mut wake) {
                        self.drive_away(now, &mut effects, &mut wake);
                    }
                }
            }
        }
        effects.extend(wake.map(Effect::WakeAt));
        effects
    }

    fn drive_up(&mut self, now: Millis, effects: &mut Vec<Effect>, wake: &mut Option<Millis>) {
        if self.restart {
            self.stop_cell(now, effects, wake);
        } else if self.cell == Cell::Started {
            self.cell = Cell::Probing;
            effects.push(Effect::Probe { generation: self.generation });
        }
        if (self.failed || self.barred) && self.cell == Cell::Absent {
            return;
        }
        if self.home == Home::Unknown && due(self.cell_retry, now, wake) {
            self.home = Home::Making;
            effects.push(Effect::Launch(Action::MakeHome));
        }
        if self.home != Home::Present {
            return;
        }
        match self.warden {
            Warden::Absent if due(self.warden_retry, now, wake) => {
                self.warden = Warden::Starting;
                effects.push(Effect::Launch(Action::StartWarden));
            }
            Warden::Started => {
                self.warden = Warden::Configuring;
                effects.push(Effect::ConfigureWarden);
            }
            Warden::Broken => self.stop_warden(now, effects, wake),
            Warden::Configured if self.cell == Cell::Absent && due(self.cell_retry, now, wake) => {
                self.cell = Cell::Starting;
                self.generation += 1;
                effects.push(Effect::StartCell { generation: self.generation });
            }
            _ => {}
        }
    }

    /// Returns whether neither cell nor warden is left.
    fn drive_down(&mut self, now: Millis, effects: &mut Vec<Effect>, wake: &mut Option<Millis>) -> bool {
        if self.cell != Cell::Absent {
            self.stop_cell(now, effects, wake);
            return false;
        }
        self.stop_warden(now, effects, wake);
        self.warden == Warden::Absent
    }

    fn drive_away(&mut self, now: Millis, effects: &mut Vec<Effect>, wake: &mut Option<Millis>) {
        match self.home {
            Home::Unknown | Home::Present if due(self.undo_retry, now, wake) => {
                self.home = Home::Removing;
                effects.push(Effect::Launch(Action::RemoveHome));
            }
            Home::Removed => {
                self.home = Home::Forgotten;
                effects.push(Effect::Forget);
            }
            _ => {}
        }
    }

    fn stop_cell(&mut self, now: Millis, effects: &mut Vec<Effect>, wake: &mut Option<Millis>) {
        let runs = matches!(self.cell, Cell::Started | Cell::Probing | Cell::Ready { .. });
        if runs && due(self.undo_retry, now, wake) {
            self.cell = Cell::Stopping;
            effects.push(Effect::Launch(Action::StopCell));
        }
    }

    fn stop_warden(&mut self, now: Millis, effects: &mut Vec<Effect>, wake: &mut Option<Millis>) {
        let runs = !matches!(self.warden, Warden::Absent | Warden::Starting | Warden::Stopping);
        if runs && due(self.undo_retry, now, wake) {
            self.warden = Warden::Stopping;
            effects.push(Effect::Launch(Action::StopWarden));
        }
    }

    fn want(&mut self, desired: Desired) {
        if self.desired == Desired::Deleted {
            return;
        }
        self.restart = self.desired == Desired::Killed
            && desired == Desired::Running
            && !matches!(self.cell, Cell::Absent | Cell::Stopping);
        self.desired = desired;
        self.failed = false;
        self.trouble.clear();
        self.cell_retry = Retry::default();
        self.warden_retry = Retry::default();
        self.undo_retry = Retry::default();
    }

    fn observe(&mut self, warden: bool, cell: Option<u64>) {
        self.observed = true;
        self.home = if cell.is_some() { Home::Present } else { Home::Unknown };
        // A warden that is met again is sent everything again.
        self.warden = if warden { Warden::Started } else { Warden::Absent };
        self.cell = if cell.is_some() { Cell::Started } else { Cell::Absent };
        self.generation = self.generation.max(cell.unwrap_or(0));
    }

    fn done(&mut self, action: Action) {
        match action {
            Action::MakeHome if self.home == Home::Making => self.home = Home::Present,
            Action::RemoveHome if self.home == Home::Removing => self.home = Home::Removed,
            Action::StartWarden if self.warden == Warden::Starting => self.warden = Warden::Started,
            Action::StopWarden if self.warden == Warden::Stopping => self.warden = Warden::Absent,
            Action::StartCell if self.cell == Cell::Starting => self.cell = Cell::Started,
            Action::StopCell if self.cell == Cell::Stopping => {
                self.cell = Cell::Absent;
                self.restart = false;
            }
            // The answer to a command that an event has overtaken.
            _ => {}
        }
    }

    fn not_done(&mut self, action: Action, why: String, now: Millis) {
        match action {
            Action::MakeHome if self.home == Home::Making => {
                self.home = Home::Unknown;
                self.cell_failed(why, now);
            }
            Action::RemoveHome if self.home == Home::Removing => {
                self.home = Home::Unknown;
                self.undo_failed(why, now);
            }
            Action::StartWarden if self.warden == Warden::Starting => {
                self.warden = Warden::Absent;
                self.warden_failed(why, now);
            }
            Action::StopWarden if self.warden == Warden::Stopping => {
                self.warden = Warden::Broken;
                self.undo_failed(why, now);
            }
            Action::StartCell if self.cell == Cell::Starting => {
                self.cell = Cell::Absent;
                self.restart = false;
                self.cell_failed(why, now);
            }
            Action::StopCell if self.cell == Cell::Stopping => {
                self.cell = Cell::Started;
                self.undo_failed(why, now);
            }
            _ => {}
        }
    }

    fn cell_ended(&mut self, generation: u64, status: &str, now: Millis) {
        if generation != self.generation || self.cell == Cell::Absent {
            return;
        }
        if let Cell::Ready { since } = self.cell
            && now.since(since) >= GOOD_FOR
        {
            self.cell_retry = Retry::default();
        }
        let asked = self.cell == Cell::Stopping || self.restart || self.desired != Desired::Running;
        self.cell = Cell::Absent;
        self.restart = false;
        if !asked {
            self.cell_failed(format!("the cell ended by itself: {status}"), now);
        }
    }

    fn cell_failed(&mut self, why: String, now: Millis) {
        self.cell_retry.failed(now, CELL_WAIT);
        self.failed = self.cell_retry.failures >= MAX_FAILURES;
        self.trouble = why;
    }

    fn warden_failed(&mut self, why: String, now: Millis) {
        self.warden_retry.failed(now, WARDEN_WAIT);
        self.trouble = why;
    }

    fn undo_failed(&mut self, why: String, now: Millis) {
        self.undo_retry.failed(now, CELL_WAIT);
        self.trouble = why;
    }
}

/// May it be tried now? If not, wakes no later than when it may.
fn due(retry: Retry, now: Millis, wake: &mut Option<Millis>) -> bool {
    let due = retry.is_due(now);
    if !due {
        *wake = Some(wake.map_or(retry.not_before, |earlier| earlier.min(retry.not_before)));
    }
    due
}
