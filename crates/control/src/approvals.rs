//! Approvals: what cells asked for and what people said, driven by the pure machine of `policy::approval`.
//!
//! Every answer, use and end is on disk, with its ledger row, before the warden or the person hears of it
//! (law 5, class A), and so is the first question; that it is asked again, or no longer held, is only
//! remembered, because a cell can do that as often as it likes. One lock orders all events. The threats: a
//! grant used twice, one that a crash turned from asked into given, and one that outlives its rule. What is
//! live is read from the disk at the start and sent to each warden again.

use crate::{
    Error,
    api::types::{self, ApprovalsQuery},
    disk::StoredApproval,
    host::Host,
    tenant::Tenant,
    warden::Link,
};
use cofferdam_base::{
    Destination, Millis, TenantId,
    ipc::warden::{Command, Grant, GrantSpan},
};
use cofferdam_policy::{
    Policy, Reason, Verdict,
    approval::{self, Effect, Event, Span, State, may_ask},
};
use cofferdam_store::ledger::Kind;
use cofferdam_tenants::lifecycle::Desired;
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::sync::{Mutex, MutexGuard, broadcast};

type Live = BTreeMap<u64, StoredApproval>;

/// All approvals that are not over.
#[derive(Debug)]
pub(crate) struct Book {
    live: Mutex<Live>,
    changes: broadcast::Sender<types::Approval>,
}

impl Default for Book {
    fn default() -> Self {
        Self { live: Mutex::default(), changes: broadcast::Sender::new(256) }
    }
}

impl Host {
    /// Reads what is live and starts the clock.
    pub async fn open_book(self: &Arc<Self>) -> Result<(), Error> {
        let stored = self.db.run(|disk| disk.approvals(false)).await?;
        let tenants: BTreeSet<TenantId> = stored.iter().map(|row| row.tenant.clone()).collect();
        *self.book.live.lock().await = stored.into_iter().map(|row| (row.id, row)).collect();
        // A policy may have become durable without what it takes back.
        for tenant in tenants {
            let kept = tenant.clone();
            let policy = self.db.run(move |disk| disk.policy(&kept)).await?;
            if let Ok(policy) = Policy::parse(&policy.text) {
                self.withdraw(&tenant, &policy).await;
            }
        }
        let host = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(500)).await;
                host.tick().await;
            }
        });
        Ok(())
    }

    /// Lists approvals.
    pub async fn approvals(&self, query: &ApprovalsQuery) -> Result<Vec<types::Approval>, Error> {
        if let Some(id) = &query.tenant {
            self.tenant(id)?;
        }
        let all = query.all;
        let mut rows = self.db.run(move |disk| disk.approvals(all)).await?;
        let live = self.book.live.lock().await;
        for row in &mut rows {
            if let Some(now) = live.get(&row.id) {
                row.clone_from(now);
            }
        }
        drop(live);
        let wanted = |row: &&StoredApproval| query.tenant.as_ref().is_none_or(|id| *id == row.tenant);
        Ok(rows.iter().filter(wanted).map(shown).collect())
    }

    /// Every change from now on.
    pub fn watch_approvals(&self) -> broadcast::Receiver<types::Approval> {
        self.book.changes.subscribe()
    }

    /// How many somebody could answer.
    pub(crate) async fn waiting(&self) -> u32 {
        let live = self.book.live.lock().await;
        u32::try_from(live.values().filter(|row| row.state.is_open()).count()).unwrap_or(u32::MAX)
    }

    /// A warden asks.
    pub(crate) async fn asked(
        &self,
        tenant: &Arc<Tenant>,
        link: &Link,
        destination: Destination,
        why: String,
    ) -> Result<(), Error> {
        let mut live = self.book.live.lock().await;
        // What the disk does not take is refused, and the wire stays: the warden has more to say.
        let refuse = |reason: String, destination| {
            link.send(tenant, &Command::Refuse { approval: None, destination, reason })
        };
        let unrecorded = |error: &Error| {
            tracing::error!(tenant = %tenant.id, %error, "a question could not be recorded, and was refused");
            Reason::LedgerUnavailable.code().to_owned()
        };
        let same = live.values().find(|row| row.tenant == tenant.id && row.destination == destination);
        if let Some((id, state)) = same.map(|row| (row.id, row.state)) {
            let event = async {
                let ruled = state != State::Granted(GrantSpan::Always)
                    || self.is_ruled(&tenant.id, &destination).await?;
                self.event(&mut live, id, Event::Asked { ruled }, String::new(), None).await
            };
            match event.await {
                Ok(effects) if effects.contains(&Effect::AskAnew) => {}
                Ok(_) => return Ok(()),
                Err(error) => return refuse(unrecorded(&error), destination),
            }
        }
        // Said before its warden was killed.
        if tenant.view().desired == Desired::Killed {
            return refuse(Reason::NoRule.code().to_owned(), destination);
        }
        let open = live.values().filter(|row| row.tenant == tenant.id && row.state.is_open()).count();
        if let Err(reason) = may_ask(open) {
            return refuse(reason.code().to_owned(), destination);
        }
        let asked = self.now();
        let mut new = StoredApproval {
            id: 0,
            tenant: tenant.id.clone(),
            destination: destination.clone(),
            why,
            asked,
            state: State::new(asked),
            answer: String::new(),
            answered: None,
        };
        let body = json!({ "destination": destination.to_string(), "why": new.why });
        let (kept, row) = (new.clone(), self.row(Some(&tenant.id), Kind::ApprovalAsked, body));
        new.id = match self.db.run(move |disk| disk.add_approval(&kept, &row)).await {
            Ok(id) => id,
            Err(error) => return refuse(unrecorded(&error), destination),
        };
        let approval = new.id;
        self.show_change(&new);
        live.insert(approval, new);
        link.send(tenant, &Command::Waiting { approval, destination })
    }

    /// Does the policy that is kept still allow this? What an answer made a rule may be one no longer.
    async fn is_ruled(&self, tenant: &TenantId, destination: &Destination) -> Result<bool, Error> {
        let kept = tenant.clone();
        let policy = self.db.run(move |disk| disk.policy(&kept)).await?;
        let policy = Policy::parse(&policy.text).map_err(|e| crate::policies::refused(tenant, &e))?;
        Ok(matches!(policy.verdict(destination), Verdict::Allow { .. }))
    }

    /// A warden refused the last connection that it held for this.
    pub(crate) async fn hold_ended(&self, tenant: &Tenant, destination: Destination) {
        let mut live = self.book.live.lock().await;
        let same = live.values().find(|row| row.tenant == tenant.id && row.destination == destination);
        if let Some(id) = same.map(|row| row.id) {
            self.logged(&mut live, id, Event::HoldEnded).await;
        }
    }

    /// A warden is gone, and all that it held with it.
    pub(crate) async fn holds_ended(&self, tenant: &TenantId) {
        let mut live = self.book.live.lock().await;
        let waits =
            |row: &&StoredApproval| row.tenant == *tenant && matches!(row.state, State::Waiting { asked: _ });
        let ids: Vec<u64> = live.values().filter(waits).map(|row| row.id).collect();
        for id in ids {
            self.logged(&mut live, id, Event::HoldEnded).await;
        }
    }

    /// May this once-grant be used now? True at most once, and only once that is durable.
    pub(crate) async fn spend(&self, tenant: &Tenant, grant: u64) -> bool {
        let mut live = self.book.live.lock().await;
        if live.get(&grant).is_none_or(|row| row.tenant != tenant.id) {
            return false;
        }
        self.logged(&mut live, grant, Event::Spend).await.contains(&Effect::Spent { ok: true })
    }

    /// Yes.
    pub async fn approve(&self, id: u64, span: types::Span) -> Result<types::Approval, Error> {
        let span = match span {
            types::Span::Once => Span::Once,
            types::Span::ForSeconds(seconds @ 1..=31_536_000) => Span::For(seconds * 1000),
            types::Span::ForSeconds(_) => {
                return Err(Error::Usage("an approval is for 1 to 31536000 seconds".to_owned()));
            }
            types::Span::Always => return self.approve_always(id).await,
        };
        let mut live = self.book.live.lock().await;
        self.answer(&mut live, id, Event::Approve(span), String::new(), None).await
    }

    /// Yes, for ever: a rule of the policy, durable in the same step as the answer.
    async fn approve_always(&self, id: u64) -> Result<types::Approval, Error> {
        let known = self.book.live.lock().await.get(&id).cloned().ok_or_else(|| missing(id))?;
        let tenant = self.tenant(&known.tenant)?;
        let _in_order = tenant.changes.lock().await;
        let kept = tenant.id.clone();
        let old = self.db.run(move |disk| disk.policy(&kept)).await?;
        let text = cofferdam_policy::add_rule(&old.text, &known.destination, &format!("approval {id}"))
            .map_err(|error| crate::policies::refused(&tenant.id, &error))?;
        let mut live = self.book.live.lock().await;
        self.answer(&mut live, id, Event::Approve(Span::Always), String::new(), Some(text)).await
    }

    /// No.
    pub async fn deny(&self, id: u64, reason: String) -> Result<types::Approval, Error> {
        if reason.chars().count() > 500 || reason.chars().any(char::is_control) {
            return Err(Error::Usage("a reason is at most 500 characters on one line".to_owned()));
        }
        let mut live = self.book.live.lock().await;
        self.answer(&mut live, id, Event::Deny, reason, None).await
    }

    /// Takes a yes back.
    pub async fn revoke(&self, id: u64) -> Result<types::Approval, Error> {
        let mut live = self.book.live.lock().await;
        if let Some(row) = live.get(&id)
            && row.state == State::Granted(GrantSpan::Always)
        {
            return Err(Error::Conflict {
                code: "a_rule",
                message: format!("approval {id} has become a rule of the policy of {}", row.tenant),
                mend: format!("cofferdam policy set {}", row.tenant),
            });
        }
        self.answer(&mut live, id, Event::Revoke, String::new(), None).await
    }

    /// Sends a warden every grant that lives, under the lock under which one is taken back: so none is sent
    /// after its end.
    pub(crate) async fn send_grants(&self, tenant: &Tenant, link: &Link) -> Result<(), Error> {
        let live = self.book.live.lock().await;
        for grant in granted(&live, &tenant.id, self.now()) {
            link.send(tenant, &Command::Grant(grant))?;
        }
        Ok(())
    }

    /// What a warden is told again. What holds for ever is in the policy itself.
    pub(crate) async fn live_grants(&self, tenant: &TenantId) -> Vec<Grant> {
        granted(&*self.book.live.lock().await, tenant, self.now())
    }

    /// What is granted now, in whatever way.
    pub(crate) async fn granted(&self, tenant: &TenantId) -> Vec<StoredApproval> {
        let (now, live) = (self.now(), self.book.live.lock().await);
        let granted = |row: &&StoredApproval| {
            row.tenant == *tenant
                && matches!(row.state, State::Granted(_))
                && row.state.deadline().is_none_or(|deadline| deadline > now)
        };
        live.values().filter(granted).cloned().collect()
    }

    /// A policy came in force: what was granted for ever and is not allowed by it any more is withdrawn.
    pub(crate) async fn withdraw(&self, tenant: &TenantId, policy: &Policy) {
        let mut live = self.book.live.lock().await;
        let over = |row: &&StoredApproval| {
            row.tenant == *tenant
                && row.state == State::Granted(GrantSpan::Always)
                && !matches!(policy.verdict(&row.destination), Verdict::Allow { .. })
        };
        let ids: Vec<u64> = live.values().filter(over).map(|row| row.id).collect();
        for id in ids {
            self.logged(&mut live, id, Event::Revoke).await;
        }
    }

    /// The approvals of a tenant that is no more.
    pub(crate) async fn forget_approvals(&self, tenant: &TenantId) {
        self.book.live.lock().await.retain(|_, row| row.tenant != *tenant);
    }

    /// A tenant is killed: what waits is denied and what was granted is taken back, but for what has become a rule
    /// of its policy. How many could not be.
    pub(crate) async fn end_approvals(&self, tenant: &TenantId) -> usize {
        let mut live = self.book.live.lock().await;
        let mut left = 0;
        let of = |row: &&StoredApproval| {
            row.tenant == *tenant && row.state != State::Granted(GrantSpan::Always) && !row.state.is_over()
        };
        for (id, state) in live.values().filter(of).map(|row| (row.id, row.state)).collect::<Vec<_>>() {
            let (event, words) = match state {
                State::Granted(_) => (Event::Revoke, String::new()),
                _ => (Event::Deny, "the tenant was killed".to_owned()),
            };
            if let Err(error) = self.event(&mut live, id, event, words, None).await {
                tracing::error!(approval = id, %error, "an approval outlives a kill");
                left += 1;
            }
        }
        left
    }

    pub(crate) async fn tick(&self) {
        let now = self.now();
        let mut live = self.book.live.lock().await;
        let due = |row: &&StoredApproval| row.state.deadline().is_some_and(|deadline| deadline <= now);
        let ids: Vec<u64> = live.values().filter(due).map(|row| row.id).collect();
        for id in ids {
            self.logged(&mut live, id, Event::Tick).await;
        }
    }

    async fn answer(
        &self,
        live: &mut MutexGuard<'_, Live>,
        id: u64,
        event: Event,
        words: String,
        policy: Option<String>,
    ) -> Result<types::Approval, Error> {
        let before = live.get(&id).cloned();
        let Some(mut row) = before else {
            let over = self.db.run(|disk| disk.approvals(true)).await?;
            let over = over.iter().find(|row| row.id == id).map(shown).ok_or_else(|| missing(id))?;
            return Err(conflict(id, &over.state));
        };
        let effects = self.event(live, id, event, words.clone(), policy).await?;
        let (state, _) = approval::step(row.state, event, self.now());
        if effects.contains(&Effect::Conflict) {
            return Err(conflict(id, state_word(state)));
        }
        if let Some(now) = live.get(&id) {
            return Ok(shown(now));
        }
        (row.state, row.answer) = (state, words);
        Ok(shown(&row))
    }

    async fn logged(&self, live: &mut MutexGuard<'_, Live>, id: u64, event: Event) -> Vec<Effect> {
        self.event(live, id, event, String::new(), None).await.unwrap_or_else(|error| {
            tracing::error!(approval = id, %error, "an approval could not be moved on");
            Vec::new()
        })
    }

    /// One event: the new state on disk, unless it still waits, then its effects at the warden. The effects, for who caused it.
    async fn event(
        &self,
        live: &mut MutexGuard<'_, Live>,
        id: u64,
        event: Event,
        words: String,
        policy: Option<String>,
    ) -> Result<Vec<Effect>, Error> {
        let Some(mut row) = live.get(&id).cloned() else { return Ok(vec![]) };
        let (state, effects) = approval::step(row.state, event, self.now());
        let mut revision = None;
        if state.is_open() && state != row.state {
            row.state = state;
            self.show_change(&row);
            live.insert(id, row.clone());
        } else if state != row.state {
            (row.state, row.answer) = (state, words.clone());
            if row.answered.is_none() {
                row.answered = Some(self.now());
            }
            let body = json!({
                "approval": id, "destination": row.destination.to_string(), "state": state, "words": words,
            });
            let ledger = self.row(Some(&row.tenant), row_kind(state), body);
            let granted = matches!(state, State::Granted(GrantSpan::Always));
            let (kept, text) = (row.clone(), policy.clone().filter(|_| granted));
            let number = self.db.run(move |disk| disk.set_approval(&kept, text.as_deref(), &ledger)).await?;
            revision = policy.filter(|_| granted).map(|text| (text, number));
            self.show_change(&row);
            if state.is_over() {
                live.remove(&id);
            } else {
                live.insert(id, row.clone());
            }
        }
        if let Ok(tenant) = self.tenant(&row.tenant)
            && let Some(link) = tenant.seat.link()
        {
            // The warden that does not hear of it is given up, and the next one gets the snapshot.
            if let Some((text, revision)) = revision {
                let configuration = self.configuration(&tenant, text, revision);
                let _ = link.send(&tenant, &Command::Configure(configuration));
            }
            for command in effects.iter().filter_map(|effect| command(&row, *effect, &words)) {
                let _ = link.send(&tenant, &command);
            }
        }
        Ok(effects)
    }

    fn show_change(&self, row: &StoredApproval) {
        // Nobody watches: nobody to tell.
        let _ = self.book.changes.send(shown(row));
    }
}

/// What the warden hears of an effect.
fn command(row: &StoredApproval, effect: Effect, words: &str) -> Option<Command> {
    let destination = row.destination.clone();
    match effect {
        Effect::Grant(span) => Some(Command::Grant(Grant { id: row.id, destination, span })),
        Effect::Wait => Some(Command::Waiting { approval: row.id, destination }),
        Effect::Refuse(reason) => {
            let reason = match reason {
                Reason::DeniedByPerson if !words.is_empty() => words.to_owned(),
                reason => reason.code().to_owned(),
            };
            Some(Command::Refuse { approval: Some(row.id), destination, reason })
        }
        Effect::Withdraw => Some(Command::Revoke { grant: row.id }),
        Effect::Spent { .. } | Effect::Conflict | Effect::AskAnew => None,
    }
}

/// The grants of a tenant that a warden has to know.
fn granted(live: &Live, tenant: &TenantId, now: Millis) -> Vec<Grant> {
    let grant = |row: &StoredApproval| match row.state {
        State::Granted(span @ (GrantSpan::Once { until } | GrantSpan::Until(until))) if until > now => {
            Some(Grant { id: row.id, destination: row.destination.clone(), span })
        }
        _ => None,
    };
    live.values().filter(|row| row.tenant == *tenant).filter_map(grant).collect()
}

/// What a new state is in the ledger.
fn row_kind(state: State) -> Kind {
    match state {
        State::Waiting { asked: _ } | State::HoldEnded { until: _ } => Kind::ApprovalAsked,
        State::Granted(_) => Kind::ApprovalGranted,
        State::Used => Kind::ApprovalUsed,
        State::Denied => Kind::ApprovalDenied,
        State::Expired => Kind::ApprovalExpired,
        State::Revoked => Kind::ApprovalRevoked,
    }
}

fn state_word(state: State) -> &'static str {
    match state {
        State::Waiting { asked: _ } => "waiting",
        State::HoldEnded { until: _ } => "hold_ended",
        State::Granted(_) => "granted",
        State::Used => "used",
        State::Denied => "denied",
        State::Expired => "expired",
        State::Revoked => "revoked",
    }
}

fn shown(row: &StoredApproval) -> types::Approval {
    let span = match row.state {
        State::Granted(GrantSpan::Once { until: _ }) | State::Used => Some("once"),
        State::Granted(GrantSpan::Until(_)) => Some("until"),
        State::Granted(GrantSpan::Always) => Some("always"),
        _ => None,
    };
    types::Approval {
        id: row.id,
        tenant: row.tenant.clone(),
        destination: row.destination.clone(),
        why: row.why.clone(),
        state: state_word(row.state).to_owned(),
        asked: row.asked,
        until: row.state.deadline().filter(|until| *until < Millis(u64::MAX)),
        span: span.map(str::to_owned),
        answer: row.answer.clone(),
    }
}

fn missing(id: u64) -> Error {
    Error::NotFound { what: "approval", name: id.to_string() }
}

fn conflict(id: u64, state: &str) -> Error {
    Error::Conflict {
        code: "approval_over",
        message: format!("approval {id} is {state}: the answer came too late or does not fit"),
        mend: "cofferdam approvals list".to_owned(),
    }
}
