//! What surrounds one approval, as small as it can be: a person, control's book and disk, the wire, a warden with
//! its connections, and time.
//!
//! What is right is judged by what persons said and when, which is kept beside the machine, not by its state.

use crate::approval::{Effect, Event, OPEN_MS, Span, State};
use cofferdam_base::{Millis, ipc::warden::GrantSpan};
use std::collections::{BTreeMap, VecDeque};

pub(super) type Step = fn(State, Event, Millis) -> (State, Vec<Effect>);
/// The number of an approval.
type Id = u8;

pub(super) const SHORT: u64 = 60_000;
/// The moment of every state.
const NOW: Millis = Millis(10 * OPEN_MS);

/// Control to warden, of one destination.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Command {
    Policy { allows: bool },
    Grant(Id, GrantSpan),
    Revoke(Id),
    Refuse,
    Spent(Id, bool),
    Ready,
}

/// Warden to control.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Report {
    Ask,
    HoldEnded,
    Spend(Id),
}

/// What a person said about one approval, and until when it could be said.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Truth {
    open_until: Millis,
    yes: Option<GrantSpan>,
    no: bool,
    revoked: bool,
    uses: u8,
}

/// Why bytes flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Open {
    Rule,
    Lasting(Id, Option<Millis>),
    Once(Id),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Warden {
    ready: bool,
    allows: bool,
    grants: BTreeMap<Id, GrantSpan>,
    /// During a snapshot: what it named.
    named: Option<Vec<Id>>,
    spending: Option<Id>,
    held: u8,
    open: Vec<Open>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    now: Millis,
    /// On disk: the policy's rule, the number given last, and the approval that is not over.
    allows: bool,
    last: Id,
    stored: Option<(Id, State)>,
    /// In control's memory.
    live: Option<(Id, State)>,
    linked: bool,
    down: VecDeque<Command>,
    up: VecDeque<Report>,
    warden: Warden,
    truth: BTreeMap<Id, Truth>,
    connections: u8,
    words: u8,
    crashes: u8,
    pub(super) wrong: Option<&'static str>,
}

/// What may happen next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Move {
    Connect,
    Close,
    Down,
    Up,
    Link,
    HoldEnds,
    /// The next moment at which time changes something, or the one before it.
    Time {
        just_before: bool,
    },
    Say(Word),
    RepeatDown,
    RepeatUp,
    CutLink,
    CrashWarden,
    CrashControl,
}

/// What a person does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Approve(Span),
    Deny,
    Revoke,
    DropRule,
    /// Another revision that decides the same.
    MovePolicy,
    EndCell,
}

pub(super) const CALM: [Move; 7] = [
    Move::Close,
    Move::Down,
    Move::Up,
    Move::Link,
    Move::HoldEnds,
    Move::Time { just_before: true },
    Move::Time { just_before: false },
];

pub(super) const ROUGH: [Move; 15] = [
    Move::Connect,
    Move::Say(Word::Approve(Span::Once)),
    Move::Say(Word::Approve(Span::For(SHORT))),
    Move::Say(Word::Approve(Span::Cell(1))),
    Move::Say(Word::Approve(Span::Always)),
    Move::Say(Word::Deny),
    Move::Say(Word::Revoke),
    Move::Say(Word::DropRule),
    Move::Say(Word::MovePolicy),
    Move::Say(Word::EndCell),
    Move::RepeatDown,
    Move::RepeatUp,
    Move::CutLink,
    Move::CrashWarden,
    Move::CrashControl,
];

impl World {
    /// Nothing was asked yet; so many connections, words and mishaps may come.
    pub(super) fn new(connections: u8, words: u8, crashes: u8) -> Self {
        Self {
            now: NOW,
            allows: false,
            last: 0,
            stored: None,
            live: None,
            linked: true,
            down: VecDeque::new(),
            up: VecDeque::new(),
            warden: Warden { ready: true, ..Warden::default() },
            truth: BTreeMap::new(),
            connections,
            words,
            crashes,
            wrong: None,
        }
    }

    /// Makes the move if it is possible here.
    pub(super) fn after(&self, step: Step, choice: &Move) -> Option<Self> {
        let mut next = self.clone();
        if !CALM.contains(choice) && !matches!(choice, Move::Connect | Move::Say(_)) {
            next.crashes = next.crashes.checked_sub(1)?;
        }
        next.go(step, choice)?;
        Some(next.canonical())
    }

    /// Nothing waits, nothing is on its way, and the warden has exactly what control granted.
    pub(super) fn is_at_rest(&self) -> bool {
        let Self { live, warden, .. } = self;
        let quiet = self.linked && warden.ready && self.down.is_empty() && self.up.is_empty();
        let idle = warden.held == 0 && warden.spending.is_none() && warden.named.is_none();
        let granted = match live {
            None | Some((_, State::Granted(GrantSpan::Always))) => warden.grants.is_empty(),
            Some((id, State::Granted(span))) => warden.grants == BTreeMap::from([(*id, *span)]),
            Some(_) => false,
        };
        quiet && idle && granted && warden.allows == self.allows
    }

    fn forbid(&mut self, is: bool, what: &'static str) {
        if is {
            self.wrong = self.wrong.or(Some(what));
        }
    }

    // Control.

    fn send(&mut self, command: Command) {
        if self.linked {
            self.down.push_back(command);
        }
    }

    /// One event of the live approval, as control's book handles it: on disk first, unless it still waits.
    fn event(&mut self, step: Step, event: Event) -> Vec<Effect> {
        let Some((id, state)) = self.live else { return vec![] };
        let (next, effects) = step(state, event, self.now);
        let always = next == State::Granted(GrantSpan::Always);
        if next != state && !next.is_open() {
            self.stored = (!next.is_over()).then_some((id, next));
            self.allows |= always;
        }
        self.live = (!next.is_over()).then_some((id, next));
        if always && next != state {
            self.send(Command::Policy { allows: true });
        }
        for effect in &effects {
            match effect {
                Effect::Grant(span) => self.send(Command::Grant(id, *span)),
                Effect::Refuse(_) => self.send(Command::Refuse),
                Effect::Withdraw => self.send(Command::Revoke(id)),
                Effect::Wait | Effect::Spent { .. } | Effect::Conflict | Effect::AskAnew => {}
            }
        }
        effects
    }

    fn asked(&mut self, step: Step) {
        if let Some((id, state)) = self.live {
            let ruled = state != State::Granted(GrantSpan::Always) || self.allows;
            let effects = self.event(step, Event::Asked { ruled });
            if !effects.contains(&Effect::AskAnew) {
                self.reopen(id);
                return;
            }
        }
        self.last += 1;
        let truth =
            Truth { open_until: self.now.plus(OPEN_MS), yes: None, no: false, revoked: false, uses: 0 };
        self.truth.insert(self.last, truth);
        self.live = Some((self.last, State::new(self.now)));
        self.stored = self.live;
    }

    /// A question that was asked again, or that nobody holds any more, may be answered for as long anew.
    fn reopen(&mut self, id: Id) {
        let now = self.now;
        if let Some(truth) = self.truth.get_mut(&id).filter(|it| it.yes.is_none() && now < it.open_until) {
            truth.open_until = now.plus(OPEN_MS);
        }
    }

    fn hold_ended(&mut self, step: Step) {
        if let Some((id, State::Waiting { .. })) = self.live {
            self.reopen(id);
        }
        self.event(step, Event::HoldEnded);
    }

    fn spend(&mut self, step: Step, id: Id) {
        let mine = self.live.is_some_and(|(live, _)| live == id);
        let ok = mine && self.event(step, Event::Spend).contains(&Effect::Spent { ok: true });
        if ok && let Some(truth) = self.truth.get_mut(&id) {
            truth.uses += 1;
            let truth = truth.clone();
            self.judge(&truth);
            self.forbid(truth.uses > 1, "an approval for one connection was used twice");
        }
        self.send(Command::Spent(id, ok));
    }

    /// A person's first word counts, if it comes in time; taking back counts always.
    fn say(&mut self, step: Step, word: Word) -> Option<()> {
        if word == Word::DropRule {
            self.allows = !self.allows.then_some(true)?;
            self.send(Command::Policy { allows: false });
            if self.live.is_some_and(|(_, state)| state == State::Granted(GrantSpan::Always)) {
                self.event(step, Event::Revoke);
            }
            return Some(());
        }
        let (id, _) = self.live?;
        let now = self.now;
        let truth = self.truth.get_mut(&id)?;
        if word == Word::MovePolicy {
            // The old number takes no answer, and its yes is no more, unless it is the policy's own.
            if truth.yes != Some(GrantSpan::Always) {
                truth.open_until = now;
                truth.revoked |= truth.yes.is_some();
            }
            if self.event(step, Event::PolicyMoved).contains(&Effect::AskAnew) {
                self.asked(step);
            }
            return Some(());
        }
        if word == Word::EndCell {
            truth.revoked |= matches!(truth.yes, Some(GrantSpan::Cell { .. }));
            self.event(step, Event::CellEnded(1));
            return Some(());
        }
        let first = truth.yes.is_none() && !truth.no && now < truth.open_until;
        let event = match word {
            Word::Approve(span) => {
                let said = match span {
                    Span::Once => GrantSpan::Once { until: now.plus(OPEN_MS) },
                    Span::For(milliseconds) => GrantSpan::Until(now.plus(milliseconds)),
                    Span::Cell(generation) => GrantSpan::Cell { generation },
                    Span::Always => GrantSpan::Always,
                };
                truth.yes = truth.yes.or(first.then_some(said));
                Event::Approve(span)
            }
            Word::Deny => {
                truth.no |= first;
                Event::Deny
            }
            // What has become a rule is taken back by the policy.
            Word::Revoke if truth.yes == Some(GrantSpan::Always) => return None,
            Word::Revoke => {
                truth.revoked |= truth.yes.is_some();
                Event::Revoke
            }
            Word::DropRule | Word::MovePolicy | Word::EndCell => return None,
        };
        self.event(step, event);
        Some(())
    }

    fn crash_control(&mut self) {
        // Memory goes, disk stays. A rule that is gone takes its approval with it.
        self.live = self.stored;
        if self.live.is_some_and(|(_, state)| state == State::Granted(GrantSpan::Always)) && !self.allows {
            (self.live, self.stored) = (None, None);
        }
        self.cut();
    }

    // The wire.

    fn cut(&mut self) {
        self.linked = false;
        self.down.clear();
        self.up.clear();
        // Nobody can say that a grant is spent: its connection asks again.
        if self.warden.spending.take().is_some() {
            self.warden.held += 1;
        }
    }

    fn link(&mut self) {
        self.linked = true;
        self.warden.named = Some(Vec::new());
        if self.warden.held > 0 {
            self.up.push_back(Report::Ask);
        }
        self.send(Command::Policy { allows: self.allows });
        if let Some((id, State::Granted(span))) = self.live
            && span != GrantSpan::Always
            && span.is_alive(self.now)
        {
            self.send(Command::Grant(id, span));
        }
        self.send(Command::Ready);
    }

    // The warden.

    /// One connection: it passes, is spent for, or is held.
    fn admit(&mut self) {
        let now = self.now;
        self.warden.grants.retain(|_, span| span.is_alive(now));
        if self.warden.allows {
            return self.open(Open::Rule);
        }
        match self.warden.grants.first_key_value().map(|(id, span)| (*id, *span)) {
            Some((id, GrantSpan::Once { .. })) if self.linked && self.warden.spending.is_none() => {
                self.warden.grants.remove(&id);
                self.warden.spending = Some(id);
                self.up.push_back(Report::Spend(id));
            }
            Some((id, span @ (GrantSpan::Until(_) | GrantSpan::Cell { .. } | GrantSpan::Always))) => {
                self.open(Open::Lasting(id, span.end()));
            }
            _ => {
                self.warden.held += 1;
                if self.warden.held == 1 && self.linked {
                    self.up.push_back(Report::Ask);
                }
            }
        }
    }

    fn open(&mut self, open: Open) {
        self.warden.open.push(open);
        self.warden.open.sort_by_key(|open| format!("{open:?}"));
    }

    /// Those who wait try again.
    fn retry(&mut self) {
        for _ in 0..std::mem::take(&mut self.warden.held) {
            self.admit();
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Policy { allows } => {
                self.warden.allows = allows;
                self.warden.open.retain(|open| allows || *open != Open::Rule);
                if allows {
                    self.retry();
                }
            }
            Command::Grant(id, span) => {
                if let Some(named) = &mut self.warden.named {
                    named.push(id);
                }
                if self.warden.spending != Some(id) && span != GrantSpan::Always {
                    self.warden.grants.insert(id, span);
                    self.retry();
                }
            }
            Command::Revoke(id) => self.revoke(id),
            Command::Refuse => self.warden.held = 0,
            Command::Spent(id, ok) => {
                if self.warden.spending == Some(id) {
                    self.warden.spending = None;
                    if ok { self.open(Open::Once(id)) } else { self.admit() }
                }
            }
            Command::Ready => {
                self.warden.ready = true;
                // Only a snapshot takes away what it does not name.
                let Some(named) = self.warden.named.take() else { return };
                let gone: Vec<Id> =
                    self.warden.grants.keys().copied().filter(|id| !named.contains(id)).collect();
                for id in gone {
                    self.revoke(id);
                }
            }
        }
    }

    fn revoke(&mut self, id: Id) {
        self.warden.grants.remove(&id);
        if self.warden.spending == Some(id) {
            self.warden.spending = None;
            self.admit();
        }
        self.warden.open.retain(|open| !matches!(open, Open::Lasting(by, _) | Open::Once(by) if *by == id));
    }

    // Time.

    /// The next moment at which time changes something.
    fn next_moment(&self) -> Option<Millis> {
        let live = self.live.and_then(|(_, state)| state.deadline());
        let grants = self.warden.grants.values().filter_map(GrantSpan::end);
        let open = self.warden.open.iter().filter_map(|open| match open {
            Open::Lasting(_, until) => *until,
            Open::Rule | Open::Once(_) => None,
        });
        live.into_iter().chain(grants).chain(open).filter(|moment| *moment > self.now).min()
    }

    fn is_due(&self) -> bool {
        self.live.and_then(|(_, state)| state.deadline()).is_some_and(|deadline| deadline <= self.now)
    }

    fn pass_time(&mut self, step: Step, just_before: bool) -> Option<()> {
        if self.is_due() && !just_before {
            self.event(step, Event::Tick);
            return Some(());
        }
        let moment = self.next_moment()?;
        let moment = if just_before { Millis(moment.0 - 1) } else { moment };
        (moment > self.now).then(|| self.now = moment)?;
        // Both look at the clock a few times a second.
        let now = self.now;
        self.warden.grants.retain(|_, span| span.is_alive(now));
        self.warden.open.retain(|open| !matches!(open, Open::Lasting(_, Some(until)) if now >= *until));
        if self.is_due() {
            self.event(step, Event::Tick);
        }
        Some(())
    }

    /// The same world at the one moment at which all worlds are compared: only what is still to come counts,
    /// and what nothing refers to any more is forgotten.
    fn canonical(mut self) -> Self {
        let now = self.now;
        let shift = |moment: Millis| Millis(moment.0.max(now.0) - now.0 + NOW.0);
        let span = |span: GrantSpan| match span {
            GrantSpan::Once { until } => GrantSpan::Once { until: shift(until) },
            GrantSpan::Until(until) => GrantSpan::Until(shift(until)),
            lasting @ (GrantSpan::Cell { .. } | GrantSpan::Always) => lasting,
        };
        let state = |(id, state): (Id, State)| {
            let state = match state {
                State::Waiting { asked } => {
                    State::Waiting { asked: Millis(shift(asked.plus(OPEN_MS)).0 - OPEN_MS) }
                }
                State::HoldEnded { until } => State::HoldEnded { until: shift(until) },
                State::Granted(granted) => State::Granted(span(granted)),
                over => over,
            };
            (id, state)
        };
        (self.live, self.stored) = (self.live.map(state), self.stored.map(state));
        for command in &mut self.down {
            if let Command::Grant(_, granted) = command {
                *granted = span(*granted);
            }
        }
        self.warden.grants.values_mut().for_each(|granted| *granted = span(*granted));
        for open in &mut self.warden.open {
            if let Open::Lasting(_, until) = open {
                *until = until.map(shift);
            }
        }
        let named = self.names();
        self.truth.retain(|id, _| named.contains(id));
        for truth in self.truth.values_mut() {
            (truth.open_until, truth.yes) = (shift(truth.open_until), truth.yes.map(span));
        }
        self.now = NOW;
        self
    }

    /// Every approval that something refers to.
    fn names(&self) -> Vec<Id> {
        let ours = [self.live, self.stored].into_iter().flatten().map(|(id, _)| id);
        let down = self.down.iter().filter_map(|command| match command {
            Command::Grant(id, _) | Command::Revoke(id) | Command::Spent(id, _) => Some(*id),
            Command::Policy { .. } | Command::Refuse | Command::Ready => None,
        });
        let up = self.up.iter().filter_map(|it| if let Report::Spend(id) = it { Some(*id) } else { None });
        let open = self.warden.open.iter().filter_map(|open| match open {
            Open::Lasting(id, _) | Open::Once(id) => Some(*id),
            Open::Rule => None,
        });
        let kept = self.warden.grants.keys().copied().chain(self.warden.spending);
        ours.chain(down).chain(up).chain(open).chain(kept).collect()
    }

    // What is right.

    /// Did a person say yes to this, and not take it back, and is it in time?
    fn judge(&mut self, truth: &Truth) {
        self.forbid(truth.no, "a denied approval lets a byte through");
        self.forbid(truth.yes.is_none(), "an unanswered approval lets a byte through");
        self.forbid(truth.revoked, "a revoked approval lets a byte through");
        let over = truth.yes.is_some_and(|span| !span.is_alive(self.now));
        self.forbid(over, "an expired approval lets a byte through");
    }

    /// Every byte that flows here, flows by somebody's leave.
    fn look(&mut self) {
        // What was taken back may be on its way, or wait for the next wire.
        let on_its_way = |id: Id, down: &VecDeque<Command>| down.contains(&Command::Revoke(id));
        let snapshot = !self.linked || self.warden.named.is_some();
        for open in self.warden.open.clone() {
            match open {
                Open::Rule => {
                    let on_its_way = self.down.contains(&Command::Policy { allows: false });
                    self.forbid(
                        !self.allows && !on_its_way && !snapshot,
                        "a dropped rule lets a byte through",
                    );
                }
                Open::Once(id) => {
                    let truth = self.truth[&id].clone();
                    self.forbid(truth.no || truth.uses != 1, "bytes that nobody's once allows");
                }
                Open::Lasting(id, _) => {
                    let mut truth = self.truth[&id].clone();
                    truth.revoked &= !snapshot && !on_its_way(id, &self.down);
                    self.judge(&truth);
                }
            }
        }
    }

    fn go(&mut self, step: Step, choice: &Move) -> Option<()> {
        match choice {
            Move::Connect => {
                self.connections = self.connections.checked_sub(1)?;
                self.warden.ready.then(|| self.admit())?;
            }
            Move::Close => drop(self.warden.open.pop()?),
            Move::Down => {
                let command = self.down.pop_front()?;
                self.obey(command);
            }
            Move::Up => match self.up.pop_front()? {
                Report::Ask => self.asked(step),
                Report::HoldEnded => self.hold_ended(step),
                Report::Spend(id) => self.spend(step, id),
            },
            Move::Link => (!self.linked).then(|| self.link())?,
            Move::HoldEnds => {
                (self.warden.held > 0).then(|| self.warden.held = 0)?;
                if self.linked {
                    self.up.push_back(Report::HoldEnded);
                }
            }
            Move::Time { just_before } => self.pass_time(step, *just_before)?,
            Move::Say(word) => {
                self.words = self.words.checked_sub(1)?;
                self.say(step, *word)?;
            }
            Move::RepeatDown => {
                let command = self.down.front()?.clone();
                self.down.push_front(command);
            }
            Move::RepeatUp => {
                let report = self.up.front()?.clone();
                self.up.push_front(report);
            }
            Move::CutLink => {
                self.linked.then(|| self.cut())?;
                self.hold_ended(step);
            }
            Move::CrashWarden => {
                self.cut();
                self.warden = Warden::default();
                self.hold_ended(step);
            }
            Move::CrashControl => self.crash_control(),
        }
        self.look();
        Some(())
    }
}
