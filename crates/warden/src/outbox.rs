//! What the warden has to say to control, kept until control has it.
//!
//! It owns the numbers of records and of usage: from 1, without gaps, each kept until control has it for good
//! and sent again on a new wire. The threat is loss: while records cannot be handed on, nothing more is
//! allowed, and the denials that go on happening have room of their own, and when that is full too they are
//! counted; a model is asked only once there is room for what it will have used. Nor can a flood of one kind
//! hold the others back: each has its turn.

use cofferdam_base::{
    Clock, Destination, SecretName, TenantId,
    ipc::warden::{Record, RecordKind, Report, Usage},
};
use cofferdam_egress::{Notice, Outlet, Row};
use futures_util::future::BoxFuture;
use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::{Notify, Semaphore};

/// How many records may wait for the ledger before nothing more is allowed.
const ROOM: usize = 1024;
/// How many more denials are kept one by one.
const ROOM_FOR_DENIALS: usize = 256;
/// How many more uses of secrets, by requests that had room themselves.
const ROOM_FOR_USES: usize = 128;
/// How many secrets one record names.
const SECRETS: usize = 8;
/// How many uses of a model may wait to be counted, those under way included, before no model is asked.
const ROOM_FOR_USAGE: usize = 1024;
/// How many other messages may wait for a wire.
const WAITING: usize = 1024;

/// How long a row of what was let through, and what a model used, waits for others, and for how many.
const GATHER: Duration = Duration::from_millis(2);
const COMPANY: usize = 64;
/// So many messages at most go together.
const TOGETHER: usize = 64;

/// How many may wait for room for a row: no more than may find some at one time, as each that wakes is judged anew.
const PATIENT: usize = 64;
/// How long a request waits for room before it is refused.
const STANDSTILL: Duration = Duration::from_secs(2);

/// The queue.
pub(crate) struct Outbox {
    tenant: TenantId,
    boot: u64,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    more: Notify,
    /// There is room again.
    room: Notify,
    /// Places to wait for it.
    patient: Semaphore,
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Outbox").field("kept", &state.kept.len()).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    /// The number of the last record.
    last: u64,
    /// Records that are not in the ledger yet.
    kept: VecDeque<Arc<Record>>,
    /// The number of the last record that was given to this wire.
    sent: u64,
    /// The number of the last one that any wire may have got: nothing is added to it.
    left: u64,
    /// Usage that is not counted yet; its last number, and the last that was given to this wire.
    usage: VecDeque<Usage>,
    last_usage: u64,
    sent_usage: u64,
    /// Requests under way that will have used something, by number; the number of the last.
    promised: BTreeMap<u64, Usage>,
    last_request: u64,
    /// What else waits for this wire, and what of it is on its way.
    waiting: VecDeque<Report>,
    going: VecDeque<Report>,
    /// Whose turn it is.
    turn: Turn,
    /// Denials that found no room.
    uncounted: u32,
    /// Is there a wire?
    wired: bool,
    /// What waits is being gathered: nobody is woken for more that may wait.
    gathering: bool,
    /// A canary was sent: said on every wire.
    tripped: Option<Report>,
}

/// The kinds of messages, each of which has its turn.
#[derive(Clone, Copy, Default)]
enum Turn {
    #[default]
    Others,
    Usage,
    Records,
}

impl Turn {
    /// Whose turn comes next. That a canary was sent, if it is the next of the others, waits for nobody.
    fn after(self, other: Option<&Report>) -> Self {
        match self {
            _ if matches!(other, Some(Report::Tripped { .. })) => Self::Others,
            Self::Others => Self::Usage,
            Self::Usage => Self::Records,
            Self::Records => Self::Others,
        }
    }
}

/// Of numbered rows, the first of which has this number, the one after `sent`.
fn next<T: Clone>(rows: &VecDeque<T>, first: u64, sent: u64) -> Option<T> {
    let at = (sent + 1).saturating_sub(first);
    rows.get(usize::try_from(at).ok()?).cloned()
}

impl State {
    /// The next messages, of each kind in its turn. What was picked before and did not go out is picked again.
    fn pick(&mut self) -> Vec<Report> {
        let (mut turn, mut sent, mut sent_usage, mut going) = (self.turn, self.sent, self.sent_usage, 0);
        let (mut picked, mut without) = (Vec::new(), 0);
        while picked.len() < TOGETHER && without < 3 {
            let report = match turn {
                Turn::Others => {
                    if going == self.going.len() {
                        self.going.extend(self.waiting.pop_front());
                    }
                    let other = self.going.get(going).cloned();
                    going += usize::from(other.is_some());
                    other
                }
                Turn::Usage => {
                    let first = self.usage.front().map_or(0, |first| first.seq);
                    let usage = next(&self.usage, first, sent_usage);
                    sent_usage += u64::from(usage.is_some());
                    usage.map(Report::Usage)
                }
                Turn::Records => {
                    let first = self.kept.front().map_or(0, |first| first.seq);
                    let record = next(&self.kept, first, sent);
                    sent += u64::from(record.is_some());
                    self.left = record.iter().fold(self.left, |left, record| left.max(record.seq));
                    record.map(Report::Record)
                }
            };
            without = if report.is_some() { 0 } else { without + 1 };
            picked.extend(report);
            turn = turn.after(self.going.get(going).or(self.waiting.front()));
        }
        picked
    }

    fn has_room_for_usage(&self) -> bool {
        self.usage.len() + self.promised.len() < ROOM_FOR_USAGE
    }

    fn has_room_for_rows(&self) -> bool {
        self.kept.len() < ROOM
    }

    /// Is there room for the rows and the use of one more request to a model?
    fn has_room(&self) -> bool {
        self.has_room_for_usage() && self.has_room_for_rows()
    }

    /// Keeps what a request used.
    fn used(&mut self, mut usage: Usage) {
        self.last_usage += 1;
        usage.seq = self.last_usage;
        self.usage.push_back(usage);
    }

    /// What a request could use is not said after what it did; false if it is said already.
    fn unsay(&mut self, request: u64) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|it| !matches!(it, Report::Asking(most) if most.request == request));
        self.waiting.len() < before
    }

    /// Adds a secret to the record of the request that bears it; false if that may have left already, or bears many.
    fn add(&mut self, request: u64, name: &SecretName) -> bool {
        if request <= self.left {
            return false;
        }
        let first = self.kept.front().map_or(0, |first| first.seq);
        let at = request.checked_sub(first).and_then(|at| usize::try_from(at).ok());
        let Some(record) = at.and_then(|at| self.kept.get_mut(at)) else { return false };
        if record.secrets.contains(name) {
            return true;
        }
        let room = record.secrets.len() < SECRETS;
        if room {
            Arc::make_mut(record).secrets.push(name.clone());
        }
        room
    }

    /// Is there nothing but rows of what was let through and uses of models, and not too many? Of a use that is not said
    /// control knows the most that it can be.
    fn may_wait(&self) -> bool {
        let unsent = self.kept.iter().rev().take_while(|it| it.seq > self.sent);
        let used = self.usage.iter().rev().take_while(|it| it.seq > self.sent_usage).count();
        let (mut count, mut passed) = (used, true);
        for row in unsent {
            count += 1;
            passed &= matches!(row.what, RecordKind::Allow | RecordKind::Use);
            if !passed || count >= COMPANY {
                break;
            }
        }
        passed && count < COMPANY && self.going.is_empty() && self.waiting.is_empty()
    }

    /// Puts a message at the end. Of one destination no more than one question and one end of it wait.
    fn queue(&mut self, report: Report) -> bool {
        let same = |it: &Report| match (it, &report) {
            (Report::Ask { destination: a, .. }, Report::Ask { destination: b, .. })
            | (Report::HoldEnded { destination: a }, Report::HoldEnded { destination: b }) => a == b,
            _ => false,
        };
        if let Report::Ask { destination, .. } = &report {
            // It is held again, so it has not ended.
            self.waiting.retain(|it| !matches!(it, Report::HoldEnded { destination: a } if a == destination));
        }
        if self.waiting.iter().any(same) {
            return true;
        }
        if self.waiting.len() >= WAITING {
            return false;
        }
        self.waiting.push_back(report);
        true
    }
}

/// Room for what one request to a model will have used.
#[derive(Debug)]
pub(crate) struct UsagePlace {
    outbox: Arc<Outbox>,
    request: u64,
}

impl UsagePlace {
    /// Fills it. The number is given here.
    pub(crate) fn fill(self, usage: Usage) {
        let mut state = self.outbox.lock();
        if state.promised.remove(&self.request).is_some() {
            state.unsay(self.request);
            state.used(Usage { request: self.request, ..usage });
        }
        drop(state);
        self.outbox.more.notify_one();
    }
}

impl Drop for UsagePlace {
    /// The request was never made: if it was said that it would be, it is said that it used nothing.
    fn drop(&mut self) {
        let mut state = self.outbox.lock();
        if let Some(most) = state.promised.remove(&self.request)
            && !state.unsay(self.request)
        {
            let micros = most.micros.map(|_| 0);
            state.used(Usage { prompt_tokens: 0, completion_tokens: 0, estimated: false, micros, ..most });
            drop(state);
            self.outbox.more.notify_one();
        }
    }
}

impl Outbox {
    pub(crate) fn new(tenant: TenantId, boot: u64, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            tenant,
            boot,
            clock,
            state: Mutex::default(),
            more: Notify::new(),
            room: Notify::new(),
            patient: Semaphore::new(PATIENT),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new wire: hello first; then `asks`, every record that is not in the ledger and all usage that is not
    /// counted, in turns.
    pub(crate) fn attach(&self, asks: Vec<Notice>) {
        let mut state = self.lock();
        state.wired = true;
        state.gathering = false;
        state.sent = state.kept.front().map_or(state.last, |first| first.seq - 1);
        state.sent_usage = state.usage.front().map_or(state.last_usage, |first| first.seq - 1);
        state.turn = Turn::Others;
        let told = std::mem::take(&mut state.going).into_iter().chain(std::mem::take(&mut state.waiting));
        // What was asked or spent on the old wire is void; what ended is still over, unless it is asked again.
        let lasting: Vec<Report> = told.filter(|report| matches!(report, Report::HoldEnded { .. })).collect();
        state.waiting.push_back(Report::Hello { tenant: self.tenant.clone(), boot: self.boot });
        let under_way: Vec<_> = state.promised.values().cloned().map(Report::Asking).collect();
        state.waiting.extend(under_way);
        let tripped = state.tripped.clone();
        for report in tripped.into_iter().chain(lasting).chain(asks.into_iter().map(report)) {
            state.queue(report);
        }
        drop(state);
        self.more.notify_one();
    }

    /// The wire is gone.
    pub(crate) fn detach(&self) {
        self.lock().wired = false;
    }

    /// The next messages for the wire, waiting for one. They are taken out only once they were sent: [`Self::sent`].
    pub(crate) async fn next(&self) -> Vec<Report> {
        loop {
            let reports = self.lock().pick();
            if !reports.is_empty() {
                return reports;
            }
            self.more.notified().await;
            // Whatever caused it goes on first: what is said to control is on no request's way to its server.
            tokio::task::yield_now().await;
            self.gather().await;
        }
    }

    /// Waits for company, if all that waits may: each row that went by itself would wake control in the middle of the very
    /// connection that it tells of.
    async fn gather(&self) {
        let company = async {
            loop {
                {
                    let mut state = self.lock();
                    state.gathering = state.may_wait();
                    if !state.gathering {
                        return;
                    }
                }
                self.more.notified().await;
            }
        };
        // In time or not, what is there goes now.
        let _ = tokio::time::timeout(GATHER, company).await;
        self.lock().gathering = false;
    }

    /// The first messages of [`Self::next`] went out.
    pub(crate) fn sent(&self, reports: &[Report]) {
        let mut state = self.lock();
        for report in reports {
            let turn = match report {
                Report::Record(record) => {
                    state.sent = record.seq;
                    Turn::Records
                }
                Report::Usage(usage) => {
                    state.sent_usage = usage.seq;
                    Turn::Usage
                }
                _ => {
                    state.going.pop_front();
                    Turn::Others
                }
            };
            state.turn = turn.after(state.going.front().or(state.waiting.front()));
        }
    }

    /// Usage up to this number is counted.
    pub(crate) fn counted(&self, through: u64) {
        let mut state = self.lock();
        while state.usage.front().is_some_and(|usage| usage.seq <= through) {
            state.usage.pop_front();
        }
        drop(state);
        self.room.notify_waiters();
    }

    /// Records up to this number are in the ledger.
    pub(crate) fn recorded(&self, through: u64) {
        let mut state = self.lock();
        while state.kept.front().is_some_and(|record| record.seq <= through) {
            state.kept.pop_front();
        }
        if state.uncounted > 0 && state.kept.len() < ROOM {
            let count = std::mem::take(&mut state.uncounted);
            let row = Row {
                what: RecordKind::Deny,
                destination: None,
                by: "warden".into(),
                reason: "ledger_unavailable".into(),
                request: String::new(),
                seen: None,
                count,
            };
            self.push(&mut state, row);
        }
        drop(state);
        self.more.notify_one();
        self.room.notify_waiters();
    }

    /// Anything else for control.
    pub(crate) fn say(&self, report: Report) -> bool {
        let taken = self.lock().queue(report);
        self.more.notify_one();
        taken
    }

    /// Room for what a request to a model will have used, which is no more than `most`; none: it must not be made.
    pub(crate) fn usage_place(self: &Arc<Self>, mut most: Usage) -> Option<UsagePlace> {
        let mut state = self.lock();
        if !state.has_room_for_usage() {
            return None;
        }
        state.last_request += 1;
        let request = state.last_request;
        most.request = request;
        // If there is no wire, it is said on the next.
        if state.wired && !state.queue(Report::Asking(most.clone())) {
            return None;
        }
        state.promised.insert(request, most);
        drop(state);
        self.more.notify_one();
        Some(UsagePlace { outbox: Arc::clone(self), request })
    }

    /// Waits until there is room for a request to a model, but not for ever: control's disk may stand still for a moment,
    /// and who asks then is not refused at once.
    pub(crate) async fn room_soon(&self) {
        // If there is none then, the request is refused where it wants some.
        let _ = tokio::time::timeout(STANDSTILL, self.until(State::has_room)).await;
    }

    async fn until(&self, room: fn(&State) -> bool) {
        loop {
            let freed = self.room.notified();
            tokio::pin!(freed);
            // From here on no room that is made is missed.
            freed.as_mut().enable();
            if room(&self.lock()) {
                return;
            }
            freed.await;
        }
    }

    fn push(&self, state: &mut State, row: Row) {
        let Row { what, destination, by, reason, request, seen, count } = row;
        state.last += 1;
        let (seq, at, secrets) = (state.last, self.clock.now(), Vec::new());
        let record = Record { seq, at, what, destination, by, reason, request, seen, secrets, count };
        state.kept.push_back(Arc::new(record));
    }
}

impl Outbox {
    /// The first canary is told, before all else that waits, and again on every wire.
    fn trip(&self, report: Report) -> bool {
        let mut state = self.lock();
        if state.tripped.is_none() {
            state.tripped = Some(report.clone());
            if state.wired {
                let hello = matches!(state.waiting.front(), Some(Report::Hello { .. }));
                state.waiting.insert(usize::from(hello), report);
                state.turn = Turn::Others;
            }
        }
        drop(state);
        self.more.notify_one();
        true
    }

    /// Keeps a row, if no more than so many are kept; its number.
    fn take(&self, row: Row, room: usize) -> Option<u64> {
        let mut state = self.lock();
        let deny = row.what == RecordKind::Deny;
        if state.kept.len() >= room {
            if deny {
                state.uncounted = state.uncounted.saturating_add(row.count);
            }
            return None;
        }
        self.push(&mut state, row);
        let number = state.last;
        let alone = !state.gathering || !state.may_wait();
        drop(state);
        if alone {
            self.more.notify_one();
        }
        Some(number)
    }
}

impl Outlet for Outbox {
    fn record(&self, row: Row) -> Option<u64> {
        let more = if row.what == RecordKind::Deny { ROOM_FOR_DENIALS } else { 0 };
        self.take(row, ROOM + more)
    }

    fn record_use(&self, request: Option<u64>, destination: &Destination, name: &SecretName) -> bool {
        if request.is_some_and(|request| self.lock().add(request, name)) {
            return true;
        }
        let row = Row {
            what: RecordKind::Use,
            destination: Some(destination.clone()),
            by: format!("secret {name}"),
            reason: String::new(),
            request: request.map(|row| format!("of record {row}")).unwrap_or_default(),
            seen: None,
            count: 1,
        };
        self.take(row, ROOM + ROOM_FOR_USES).is_some()
    }

    fn is_full(&self) -> bool {
        !self.lock().has_room_for_rows()
    }

    fn room(&self) -> Option<BoxFuture<'_, ()>> {
        if !self.is_full() {
            return None;
        }
        let place = self.patient.try_acquire().ok()?;
        Some(Box::pin(async move {
            self.until(State::has_room_for_rows).await;
            drop(place);
        }))
    }

    fn tell(&self, notice: Notice) -> bool {
        if let Notice::Tripped { canary, destination } = notice {
            return self.trip(Report::Tripped { canary, destination });
        }
        let keep = matches!(notice, Notice::HoldEnded(_));
        (self.lock().wired || keep) && self.say(report(notice))
    }
}

fn report(notice: Notice) -> Report {
    match notice {
        Notice::Ask { destination, why, request } => Report::Ask { destination, why, request },
        Notice::HoldEnded(destination) => Report::HoldEnded { destination },
        Notice::Spend(grant) => Report::Spend { grant },
        Notice::Tripped { canary, destination } => Report::Tripped { canary, destination },
    }
}

#[cfg(test)]
mod tests;
