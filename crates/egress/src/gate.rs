//! The gate: every connection of a cell passes here or is refused here.
//!
//! It owns what is in force (rules, grants, limits), what is on hold and what is open. Decisions are made
//! under one lock from parts that are pure; waiting happens outside it. The threats: a decision that stays
//! in force after what made it is gone (each [`Pass`] remembers its authority and is withdrawn with it), and
//! a connection that is not recorded (nothing is allowed whose row cannot be handed on).

mod change;
mod outlet;
mod pass;
mod trip;
mod wanted;

pub use outlet::{Notice, OPAQUE, Outlet, Row};
pub use pass::Pass;
pub(crate) use pass::Severed;

use crate::{
    budget::Spent,
    check::{Check, keeps},
    fold::Folder,
    hold::{Holds, Wake},
    names::{Meaning, Names},
    rate::Questions,
    refusal::{Denied, DeniedRing, Refusal},
    rules::{Rules, Ruling},
};
use cofferdam_base::{
    Clock, Destination, Host, HostName, Millis, SecretName,
    ipc::{
        asked::RequestShown,
        warden::{Grant, GrantSpan, RecordKind},
    },
};
use cofferdam_policy::{Reason, RequestFacts};
use futures_util::future::BoxFuture;
use pass::{Authority, Open, Withdrawal};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::{Notify, oneshot};
use wanted::Wanted;

/// The limits in force.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Relays at one time.
    pub relays: usize,
    /// Connections on hold at one time.
    pub holds: usize,
    /// How long a connection is held.
    pub hold: Duration,
    /// New names a second.
    pub names_per_second: u32,
}

/// The gate of one cell.
pub struct Gate {
    state: Mutex<State>,
    /// Somebody came near the state.
    stirred: Notify,
    outlet: Arc<dyn Outlet>,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.lock();
        f.debug_struct("Gate")
            .field("ready", &state.ready)
            .field("open", &state.open.len())
            .finish_non_exhaustive()
    }
}

struct State {
    ready: bool,
    /// A canary was sent.
    tripped: bool,
    rules: Option<Arc<Rules>>,
    limits: Limits,
    grants: BTreeMap<u64, Grant>,
    /// The start of the cell that is served, once it is known.
    cell: Option<u64>,
    /// During a snapshot: the grants that it named.
    snapshot: Option<BTreeSet<u64>>,
    spending: HashMap<u64, Spending>,
    holds: Holds,
    questions: Questions,
    open: HashMap<u64, Open>,
    next: u64,
    names: Names,
    folder: Folder,
    denied: DeniedRing,
    /// What was sent under each rule that has a budget, by the rule's words.
    spent: HashMap<String, Arc<Mutex<Spent>>>,
}

/// A once-grant that is being spent, for a connection that waits for it.
struct Spending {
    wanted: Wanted,
    answer: oneshot::Sender<Result<Pass, Refusal>>,
}

/// How long what is let through may wait for the ledger.
const STANDSTILL: Duration = Duration::from_secs(2);

/// How people see what is asked, if there is more of it than a connection.
type Shows<'a> = dyn Fn(&Wanted) -> Option<RequestShown> + Send + Sync + 'a;

enum Step {
    Pass(Pass),
    Refuse(Refusal),
    Spend(oneshot::Receiver<Result<Pass, Refusal>>),
    Wait(u64, oneshot::Receiver<Wake>),
}

impl Gate {
    /// A gate that refuses everything until it is configured and ready.
    pub fn new(outlet: Arc<dyn Outlet>, clock: Arc<dyn Clock>) -> Arc<Self> {
        let limits = Limits { relays: 256, holds: 32, hold: Duration::from_secs(30), names_per_second: 20 };
        let state = State {
            ready: false,
            tripped: false,
            rules: None,
            limits,
            grants: BTreeMap::new(),
            cell: None,
            snapshot: None,
            spending: HashMap::new(),
            holds: Holds::default(),
            questions: Questions::default(),
            open: HashMap::new(),
            next: 0,
            names: Names::new(limits.names_per_second),
            folder: Folder::default(),
            denied: DeniedRing::default(),
            spent: HashMap::new(),
        };
        Arc::new(Self { state: Mutex::new(state), stirred: Notify::new(), outlet, clock })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.stirred.notify_one();
        self.quietly()
    }

    /// The state, for who only looks after what is there.
    fn quietly(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is complete before anything can panic, so the state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time now.
    pub fn now(&self) -> Millis {
        self.clock.now()
    }

    /// The rules in force.
    pub fn rules(&self) -> Option<Arc<Rules>> {
        self.lock().rules.clone()
    }

    /// Did control say everything?
    pub fn is_ready(&self) -> bool {
        self.lock().ready
    }

    /// Lets a connection to this destination pass, after holding it for an answer if need be. Every outcome
    /// is recorded. Dropping the future gives the wait up. Where rules judge requests it is refused: see
    /// [`Self::admit_request`].
    pub async fn admit(self: &Arc<Self>, destination: &Destination) -> Result<Pass, Refusal> {
        self.wait(Wanted::connection(destination), &|_| None).await
    }

    /// The same for one request: a yes for once is for it alone, as `shows` has people see it.
    pub async fn admit_request(
        self: &Arc<Self>,
        facts: RequestFacts,
        shows: impl Fn(&RequestFacts) -> RequestShown + Send + Sync,
    ) -> Result<Pass, Refusal> {
        self.wait(Wanted::request(facts), &|wanted| wanted.request.as_deref().map(&shows)).await
    }

    /// Holds a question of the warden's own until a person answers it: no rule does. The destination is what it is
    /// about, and the cell must have no other way to ask for it. A yes for once is for what was `shown`.
    pub async fn ask(
        self: &Arc<Self>,
        about: &Destination,
        why: String,
        shown: RequestShown,
    ) -> Result<Pass, Refusal> {
        self.wait(Wanted::question(about, why), &|_| Some(shown.clone())).await
    }

    async fn wait(self: &Arc<Self>, wanted: Wanted, shows: &Shows<'_>) -> Result<Pass, Refusal> {
        let destination = &wanted.destination;
        let held = self.lock().limits.hold;
        let deadline = tokio::time::Instant::now() + held;
        let standstill = tokio::time::Instant::now() + STANDSTILL;
        let mut first = true;
        loop {
            match self.step(&wanted, shows, first) {
                Step::Pass(pass) => return Ok(pass),
                Step::Refuse(refusal) => {
                    // A disk may stand still for a moment, and who asks then is not refused at once.
                    let full = refusal.reason == Reason::LedgerUnavailable;
                    let room = full.then(|| self.outlet.room()).flatten();
                    if soon(room, standstill).await {
                        // As if it were asked for only now.
                        continue;
                    }
                    return Err(self.refuse(Some(destination), wanted.refused(refusal)));
                }
                Step::Spend(answer) => {
                    if let Ok(outcome) = answer.await {
                        return outcome
                            .map_err(|refusal| self.refuse(Some(destination), wanted.refused(refusal)));
                    }
                    // The grant is gone, or nobody can say that it is spent: ask again.
                }
                Step::Wait(id, answer) => {
                    let _waiting = Waiting { gate: self, destination, id };
                    match tokio::time::timeout_at(deadline, answer).await {
                        Ok(Ok(Wake::Retry)) => {}
                        Ok(Ok(Wake::Refuse(refusal))) => {
                            return Err(self.refuse(Some(destination), wanted.refused(refusal)));
                        }
                        Ok(Err(_)) | Err(_) => {
                            let refusal = wanted.refused(Refusal::new(Reason::NoAnswer, "hold"));
                            return Err(self.refuse(Some(destination), refusal));
                        }
                    }
                }
            }
            first = false;
        }
    }

    fn step(self: &Arc<Self>, wanted: &Wanted, shows: &Shows<'_>, first: bool) -> Step {
        let destination = &wanted.destination;
        let now = self.clock.now();
        self.expire(now);
        let mut state = self.lock();
        let rules = match state.standing() {
            Ok(rules) => rules,
            Err(refusal) => return Step::Refuse(refusal),
        };
        let why = match wanted.ruling(&rules) {
            Ruling::Allow { by, budget } => {
                let opened = self.open(&mut state, wanted, Authority::Rule(by, budget), None);
                return opened.map_or_else(Step::Refuse, Step::Pass);
            }
            Ruling::Inspect { by } => return Step::Refuse(Refusal::new(Reason::NotInspected, by)),
            Ruling::Deny(refusal) => return Step::Refuse(refusal),
            Ruling::Ask { why, by_rule: _ } => why,
        };
        let shown = shows(wanted);
        match state.grant_for(destination, shown.as_ref(), now) {
            // A yes for once is not used up for what could not be recorded.
            Some(Grant { span: GrantSpan::Once { .. }, .. }) if self.outlet.is_full() => {
                return Step::Refuse(Refusal::new(Reason::LedgerUnavailable, "ledger"));
            }
            Some(Grant { id, span: GrantSpan::Once { .. }, .. }) => {
                if keeps(Check::OnceIsOnce) {
                    state.grants.remove(&id);
                }
                let (answer, receiver) = oneshot::channel();
                state.spending.insert(id, Spending { wanted: wanted.clone(), answer });
                drop(state);
                if !self.outlet.tell(Notice::Spend(id)) {
                    self.lock().spending.remove(&id);
                    return Step::Refuse(Refusal::new(Reason::LedgerUnavailable, "ledger"));
                }
                return Step::Spend(receiver);
            }
            Some(Grant { id, span, .. }) => {
                let until = if let GrantSpan::Until(until) = span { Some(until) } else { None };
                let opened = self.open(&mut state, wanted, Authority::Grant(id), until);
                return opened.map_or_else(Step::Refuse, Step::Pass);
            }
            None => {}
        }
        if keeps(Check::Holds) && state.holds.len() >= state.limits.holds {
            return Step::Refuse(Refusal::new(Reason::TooManyHolds, "limits"));
        }
        if keeps(Check::Questions)
            && !state.holds.holds(destination)
            && !state.questions.take(destination, now)
        {
            return Step::Refuse(Refusal::new(Reason::TooManyWaiting, "limits"));
        }
        let (id, receiver, ask) = state.holds.wait(destination, &why, shown.clone());
        drop(state);
        if first {
            self.outlet.record(Row {
                what: RecordKind::Hold,
                destination: Some(destination.clone()),
                by: "policy".into(),
                reason: String::new(),
                request: wanted.summary(),
                seen: wanted.seen(),
                count: 1,
            });
        }
        if ask {
            // If nobody hears it now, it is said again on the next wire: `asks`.
            self.outlet.tell(Notice::Ask { destination: destination.clone(), why, request: shown });
        }
        Step::Wait(id, receiver)
    }

    /// Admits a connection of a service of the warden's own, which the operator configured and whose use its
    /// service records: it counts as a relay, and the guard judges where it leads.
    pub fn admit_service(self: &Arc<Self>, destination: &Destination) -> Result<Pass, Refusal> {
        let standing = self.lock().standing().map(|_| ());
        let opened = standing.map_err(|refusal| self.refuse_service(destination, refusal));
        opened.and_then(|()| self.admit_delivery(destination))
    }

    /// The same for what is not done on behalf of the cell: a canary does not keep it from telling.
    pub fn admit_delivery(self: &Arc<Self>, destination: &Destination) -> Result<Pass, Refusal> {
        let mut state = self.lock();
        let opened = match state.in_force() {
            None => Err(Refusal::new(Reason::NotReady, "warden")),
            Some(rules) => {
                let checked = rules.guard.check_host(&destination.host);
                let wanted = Wanted::connection(destination);
                checked
                    .map_err(|no| Refusal::new(no.code, "guard"))
                    .and_then(|()| self.open(&mut state, &wanted, Authority::Service, None))
            }
        };
        drop(state);
        opened.map_err(|refusal| self.refuse_service(destination, refusal))
    }

    /// Under the lock under which it was judged, so that no rule and no revocation comes between.
    fn open(
        self: &Arc<Self>,
        state: &mut State,
        wanted: &Wanted,
        authority: Authority,
        until: Option<Millis>,
    ) -> Result<Pass, Refusal> {
        if keeps(Check::Relays) && state.open.len() >= state.limits.relays {
            return Err(Refusal::new(Reason::TooManyRelays, "limits"));
        }
        // Before it counts against a budget: it may wait, and be asked for again.
        if keeps(Check::Recorded) && authority != Authority::Service && self.outlet.is_full() {
            return Err(Refusal::new(Reason::LedgerUnavailable, "ledger"));
        }
        let meter = match &authority {
            Authority::Rule(by, Some(budget)) => {
                Some(state.meter(by, *budget, &wanted.destination, self.clock.now())?)
            }
            _ => None,
        };
        if let Some(meter) = meter.as_ref().filter(|meter| !meter.begins(wanted, self.clock.now())) {
            return Err(meter.used_up());
        }
        let by = match &authority {
            Authority::Rule(by, _) => Some(by.clone()),
            Authority::Grant(id) => Some(format!("grant {id}")),
            Authority::Service => None,
        };
        let row = by.map(|by| Row {
            what: RecordKind::Allow,
            destination: Some(wanted.destination.clone()),
            by,
            reason: if wanted.is_opaque() { OPAQUE.to_owned() } else { String::new() },
            request: wanted.summary(),
            seen: wanted.seen(),
            count: 1,
        });
        let recorded = row.map(|row| self.outlet.record(row));
        if keeps(Check::Recorded) && recorded == Some(None) {
            return Err(Refusal::new(Reason::LedgerUnavailable, "ledger"));
        }
        state.next += 1;
        let (id, withdrawal) = (state.next, Withdrawal::default());
        let (destination, service) = (wanted.destination.clone(), authority == Authority::Service);
        let wanted = wanted.clone();
        state
            .open
            .insert(id, Open { wanted, authority, until, address: None, withdrawal: withdrawal.clone() });
        let (gate, row) = (Arc::clone(self), recorded.flatten());
        let pass = Pass { gate, id, destination, service, meter, withdrawal, row };
        Ok(pass)
    }

    /// Could this destination pass now or after an answer? Decides nothing and records nothing.
    pub fn foresee(&self, destination: &Destination) -> Foresight {
        let now = self.clock.now();
        self.expire(now);
        let mut state = self.lock();
        let rules = match state.standing() {
            Ok(rules) => rules,
            Err(refusal) => return Foresight::Refused(refusal),
        };
        match rules.judge(destination) {
            Ruling::Allow { .. } => Foresight::Allowed,
            Ruling::Inspect { .. } => Foresight::Inspected,
            Ruling::Deny(refusal) => Foresight::Refused(refusal),
            Ruling::Ask { .. } if state.grant_for(destination, None, now).is_some() => Foresight::Allowed,
            Ruling::Ask { by_rule, .. } => Foresight::Asked { by_rule },
        }
    }

    /// Records a refusal, keeps it for `/denied` and gives it back.
    pub fn refuse(&self, destination: Option<&Destination>, refusal: Refusal) -> Refusal {
        self.note(destination, destination, refusal)
    }

    /// The same for a service of the warden's own: where that leads is the operator's to know, not the cell's.
    pub fn refuse_service(&self, destination: &Destination, refusal: Refusal) -> Refusal {
        self.note(None, Some(destination), refusal)
    }

    fn note(
        &self,
        shown: Option<&Destination>,
        destination: Option<&Destination>,
        refusal: Refusal,
    ) -> Refusal {
        let now = self.clock.now();
        let mut state = self.lock();
        state.denied.push(now, refusal.denial(shown));
        if let Some(row) = state.folder.add(destination, &refusal, now) {
            // A refusal stays one whether or not it could be recorded.
            self.outlet.record(row);
        }
        refusal
    }

    /// A secret goes out to where it is bound. What cannot be recorded does not.
    pub fn use_secret(&self, pass: &Pass, name: &SecretName) -> Result<(), Refusal> {
        if !self.outlet.record_use(pass.row, &pass.destination, name) && keeps(Check::Recorded) {
            return Err(Refusal::new(Reason::LedgerUnavailable, "ledger"));
        }
        Ok(())
    }

    /// The last refusals, for `/denied`.
    pub fn denied(&self) -> Vec<Denied> {
        self.lock().denied.rows()
    }

    /// Where a captured connection wants to go.
    pub fn meaning(&self, address: IpAddr) -> Result<Host, Refusal> {
        let now = self.clock.now();
        match self.lock().names.meaning(address, now) {
            Meaning::Name(name) => Ok(Host::Name(name)),
            Meaning::Literal(address) => Ok(Host::Address(address)),
            Meaning::NeverHandedOut => Err(Refusal::new(Reason::NeverHandedOut, "dns")),
        }
    }

    /// Takes a name that came otherwise than by a look-up. A new one counts against the rate all the same.
    pub fn named(&self, name: &HostName) -> Result<(), Refusal> {
        let now = self.clock.now();
        match self.lock().names.look_up(name, now) {
            Ok(_) => Ok(()),
            Err(why) => Err(Refusal::new(Reason::TooManyNames, "proxy").said(why.to_string())),
        }
    }

    /// Answers one DNS packet.
    pub fn dns(&self, packet: &[u8]) -> Option<Vec<u8>> {
        let now = self.clock.now();
        let reply = crate::dns::answer(packet, &mut self.lock().names, now);
        if let Some(why) = reply.refused {
            self.refuse(None, Refusal::new(Reason::TooManyNames, "dns").said(why.to_string()));
        }
        reply.packet
    }
}

impl State {
    /// The rules, once control said everything.
    fn in_force(&self) -> Option<Arc<Rules>> {
        self.rules.clone().filter(|_| self.ready || !keeps(Check::Ready))
    }

    /// Is it for no cell's life, or for that of the cell that is served?
    fn is_of_this_cell(&self, span: &GrantSpan) -> bool {
        let GrantSpan::Cell { generation } = span else { return true };
        self.cell == Some(*generation) || !keeps(Check::GrantsCell)
    }

    fn grant_for(
        &mut self,
        destination: &Destination,
        request: Option<&RequestShown>,
        now: Millis,
    ) -> Option<Grant> {
        let asked = |grant: &Grant| {
            grant.request.is_none() || grant.request.as_ref() == request || !keeps(Check::GrantsRequest)
        };
        let fits = |grant: &&Grant| {
            asked(grant)
                && (grant.destination == *destination || !keeps(Check::GrantsPlace))
                && (grant.span.is_alive(now) || !keeps(Check::GrantExpires))
        };
        let lasting = |grant: &&Grant| !matches!(grant.span, GrantSpan::Once { .. });
        self.grants.values().filter(fits).find(lasting).or_else(|| self.grants.values().find(fits)).cloned()
    }

    fn revoke(&mut self, grant: u64) {
        self.grants.remove(&grant);
        self.spending.remove(&grant);
        self.open.retain(|_, open| {
            let stays = open.authority != Authority::Grant(grant) || !keeps(Check::RevocationWithdraws);
            if !stays {
                open.withdrawal.now();
            }
            stays
        });
    }
}

/// Is there something to wait for, and was it in time?
async fn soon(wait: Option<BoxFuture<'_, ()>>, deadline: tokio::time::Instant) -> bool {
    match wait {
        Some(wait) => tokio::time::timeout_at(deadline, wait).await.is_ok(),
        None => false,
    }
}

fn ask((destination, why, request): crate::hold::Question) -> Notice {
    Notice::Ask { destination, why, request }
}

/// What a destination has to expect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Foresight {
    /// It would pass.
    Allowed,
    /// Its requests would be judged one by one.
    Inspected,
    /// It would be held.
    Asked {
        /// Does a rule say so, and not the default?
        by_rule: bool,
    },
    /// It would be refused.
    Refused(Refusal),
}

/// Somebody waits; when it is over, however it is over, the place is free.
struct Waiting<'a> {
    gate: &'a Gate,
    destination: &'a Destination,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let last = self.gate.lock().holds.leave(self.destination, self.id);
        if last {
            self.gate.outlet.tell(Notice::HoldEnded(self.destination.clone()));
        }
    }
}

#[cfg(test)]
mod tests;
