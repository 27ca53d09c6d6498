//! Approvals: what cells asked for and what people said, driven by the pure machine of `policy::approval`.
//!
//! Every answer, use and end is on disk, with its ledger row, before the warden or the person hears of it
//! (law 5, class A; of a use that the disk has ahead, see `kept`, the row comes after it), and so is the first
//! question; that it is asked again, or no longer held, is only
//! remembered, because a cell can do that as often as it likes. One lock orders all events. The threats: a
//! grant used twice, one that a crash turned from asked into given, one that outlives its rule, and an answer to
//! something else than what was shown. A number is one question under one revision of the policy: when that
//! moves, the number is over, and what is still held is asked under a new one. What is live is read from the
//! disk at the start and sent to each warden again.

mod answers;
mod kept;
mod moved;
pub(crate) mod shown;

use crate::{
    Error,
    api::types::{self, ApprovalsQuery, Happening},
    check::{Check, keeps},
    disk::StoredApproval,
    host::Host,
    tenant::Tenant,
    warden::Link,
};
use cofferdam_base::{
    Destination, Digest, TenantId,
    ipc::{
        asked::RequestShown,
        edge::Config,
        warden::{Command, Grant, GrantSpan},
    },
};
use cofferdam_policy::{
    Policy, Reason, Standing, Verdict,
    approval::{self, Effect, Event, Span, State, may_ask},
};
use cofferdam_store::ledger::Kind;
use cofferdam_tenants::lifecycle::Desired;
use serde_json::json;
use shown::{command, conflict, digest, is_same, may_be_always, may_say_yes, missing, shown, stale};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, PoisonError},
    time::Duration,
};
use tokio::sync::{Mutex, MutexGuard, Semaphore, broadcast, mpsc};

/// So many destinations are remembered that were held before their question came.
const UNCLAIMED: usize = 1024;

type Live = BTreeMap<u64, StoredApproval>;

/// All approvals that are not over.
#[derive(Debug)]
pub(crate) struct Book {
    live: Mutex<Live>,
    /// Connections that were held for what is not asked yet: records and questions come in no order.
    held: std::sync::Mutex<HashMap<(TenantId, Destination), u64>>,
    /// What was asked again since people were told last: however often, they are told twice a second.
    recounted: std::sync::Mutex<BTreeSet<u64>>,
    changes: broadcast::Sender<Happening>,
    ahead: kept::Ahead,
    to_edge: mpsc::UnboundedSender<Config>,
    edge_outbox: std::sync::Mutex<Option<mpsc::UnboundedReceiver<Config>>>,
    answering: Arc<Semaphore>,
}

/// Who answers, and with which words.
#[derive(Clone, Debug, Default)]
struct Said {
    by: String,
    /// As whom; none: as nobody who may say yes.
    who: Option<Standing>,
    words: String,
    /// The digest of what they saw.
    saw: Option<Digest>,
    /// The policy with the new rule, if it becomes one.
    policy: Option<String>,
}

impl Said {
    fn by(by: &str, who: Standing, words: String, saw: Option<Digest>) -> Self {
        Self { by: by.to_owned(), who: Some(who), words, saw, policy: None }
    }

    fn operator(words: String, saw: Option<Digest>) -> Self {
        Self::by(OPERATOR, Standing::Operator, words, saw)
    }
}

impl Default for Book {
    fn default() -> Self {
        let (to_edge, outbox) = mpsc::unbounded_channel();
        Self {
            live: Mutex::default(),
            held: std::sync::Mutex::default(),
            recounted: std::sync::Mutex::default(),
            changes: broadcast::Sender::new(256),
            ahead: kept::Ahead::default(),
            to_edge,
            edge_outbox: std::sync::Mutex::new(Some(outbox)),
            answering: Arc::new(Semaphore::new(answers::AT_A_TIME)),
        }
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
        let outbox = self.book.edge_outbox.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut outbox) = outbox {
            let host = Arc::clone(self);
            tokio::spawn(async move {
                while let Some(message) = outbox.recv().await {
                    host.edge().tell(&message).await;
                }
            });
        }
        let host = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(500)).await;
                host.tick().await;
                host.post_due().await;
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
        rows.retain(|row| !live.contains_key(&row.id));
        rows.extend(live.values().cloned());
        drop(live);
        rows.sort_by_key(|row| row.id);
        let wanted = |row: &&StoredApproval| query.tenant.as_ref().is_none_or(|id| *id == row.tenant);
        Ok(rows.iter().filter(wanted).map(shown).collect())
    }

    /// Everything that happens from now on.
    pub fn watch(&self) -> broadcast::Receiver<Happening> {
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
        request: Option<RequestShown>,
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
        let same = live.values().find(|row| {
            row.tenant == tenant.id && row.destination == destination && is_same(row, request.as_ref())
        });
        if let Some((id, state)) = same.map(|row| (row.id, row.state)) {
            let event = async {
                let ruled = state != State::Granted(GrantSpan::Always)
                    || self.is_ruled(&tenant.id, &destination).await?;
                self.event(&mut live, id, Event::Asked { ruled }, &Said::default()).await
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
        match self.register(&mut live, tenant, destination.clone(), why, request, 0).await {
            Ok(Ok(approval)) => link.send(tenant, &Command::Waiting { approval, destination }),
            Ok(Err(reason)) => refuse(reason.code().to_owned(), destination),
            Err(error) => refuse(unrecorded(&error), destination),
        }
    }

    /// A new question, durable; its number.
    async fn register(
        &self,
        live: &mut MutexGuard<'_, Live>,
        tenant: &Tenant,
        destination: Destination,
        why: String,
        request: Option<RequestShown>,
        count: u64,
    ) -> Result<Result<u64, Reason>, Error> {
        let open = live.values().filter(|row| row.tenant == tenant.id && row.state.is_open()).count();
        if let Err(reason) = may_ask(open) {
            return Ok(Err(reason));
        }
        let asked = self.now();
        let revision = self.revision(&tenant.id).await?;
        let mut new = StoredApproval {
            id: 0,
            tenant: tenant.id.clone(),
            destination: destination.clone(),
            why,
            asked,
            state: State::new(asked),
            answer: String::new(),
            answered: None,
            revision,
            request,
            count: count.saturating_add(self.claim(&tenant.id, &destination)),
            approver: String::new(),
        };
        let body = json!({
            "destination": destination.to_string(), "why": new.why, "revision": revision,
            "request": new.request,
        });
        let (kept, row) = (new.clone(), self.row(Some(&tenant.id), Kind::ApprovalAsked, body));
        new.id = self.db.run(move |disk| disk.add_approval(&kept, &row)).await?;
        let id = new.id;
        self.show_change(&new).await;
        live.insert(id, new);
        Ok(Ok(id))
    }

    /// A warden holds one more connection for this: people see how many asked the same.
    pub(crate) async fn held(&self, tenant: &TenantId, destination: &Destination, count: u32) {
        let mut live = self.book.live.lock().await;
        let waits = |row: &&mut StoredApproval| {
            row.tenant == *tenant && row.destination == *destination && row.state.is_open()
        };
        if let Some(row) = live.values_mut().filter(waits).last() {
            row.count = row.count.saturating_add(count.into());
            self.book.recounted.lock().unwrap_or_else(PoisonError::into_inner).insert(row.id);
            return;
        }
        let mut held = self.book.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.len() >= UNCLAIMED {
            held.clear();
        }
        *held.entry((tenant.clone(), destination.clone())).or_default() += u64::from(count);
    }

    fn claim(&self, tenant: &TenantId, destination: &Destination) -> u64 {
        let mut held = self.book.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.remove(&(tenant.clone(), destination.clone())).unwrap_or_default()
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
        let waits = |row: &&StoredApproval| {
            row.tenant == tenant.id
                && row.destination == destination
                && matches!(row.state, State::Waiting { asked: _ })
        };
        if let Some(id) = live.values().find(waits).map(|row| row.id) {
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

    /// The operator's yes.
    pub async fn approve(&self, id: u64, yes: types::Approve) -> Result<types::Approval, Error> {
        let types::Approve { span, reason, shown } = yes;
        self.yes(id, span, Said::operator(reason, shown)).await
    }

    async fn yes(&self, id: u64, span: types::Span, said: Said) -> Result<types::Approval, Error> {
        check_words(&said.words)?;
        let span = match span {
            types::Span::Once => Span::Once,
            types::Span::ForSeconds(seconds @ 1..=31_536_000) => Span::For(seconds * 1000),
            types::Span::ForSeconds(_) => {
                return Err(Error::Usage("an approval is for 1 to 31536000 seconds".to_owned()));
            }
            types::Span::Cell => {
                let tenant = self
                    .book
                    .live
                    .lock()
                    .await
                    .get(&id)
                    .map(|row| row.tenant.clone())
                    .ok_or_else(|| missing(id))?;
                Span::Cell(self.runs(&tenant)?.generation)
            }
            types::Span::Always => return self.yes_always(id, said).await,
        };
        let mut live = self.book.live.lock().await;
        // Under the lock under which what was granted for a cell is taken back when that ends.
        if let (Span::Cell(generation), Some(row)) = (span, live.get(&id))
            && self.runs(&row.tenant)?.generation != generation
        {
            return Err(stale(row, "the cell was started anew"));
        }
        self.answer(&mut live, id, Event::Approve(span), said).await
    }

    /// Yes, for ever: a rule of the policy, durable in the same step as the answer.
    async fn yes_always(&self, id: u64, said: Said) -> Result<types::Approval, Error> {
        let known = self.book.live.lock().await.get(&id).cloned();
        let Some(known) = known else { return Err(self.over(id).await?) };
        may_be_always(&known)?;
        let tenant = self.tenant(&known.tenant)?;
        let _in_order = tenant.changes.lock().await;
        let kept = tenant.id.clone();
        let old = self.db.run(move |disk| disk.policy(&kept)).await?;
        may_say_yes(&self.compiled(&tenant.id, &old.text)?, &known, Span::Always, &said)?;
        let text = cofferdam_policy::add_rule(&old.text, &known.destination, &format!("approval {id}"))
            .map_err(|error| crate::policies::refused(&tenant.id, &error))?;
        let mut live = self.book.live.lock().await;
        let said = Said { policy: Some(text), ..said };
        self.answer(&mut live, id, Event::Approve(Span::Always), said).await
    }

    /// The operator's no.
    pub async fn deny(&self, id: u64, no: types::DenyRequest) -> Result<types::Approval, Error> {
        let types::DenyRequest { reason, shown } = no;
        self.no(id, Said::operator(reason, shown)).await
    }

    async fn no(&self, id: u64, said: Said) -> Result<types::Approval, Error> {
        check_words(&said.words)?;
        let mut live = self.book.live.lock().await;
        self.answer(&mut live, id, Event::Deny, said).await
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
        self.answer(&mut live, id, Event::Revoke, Said::operator(String::new(), None)).await
    }

    /// Sends a warden every grant that lives, under the lock under which one is taken back: so none is sent
    /// after its end.
    pub(crate) async fn send_grants(&self, tenant: &Tenant, link: &Link) -> Result<(), Error> {
        let live = self.book.live.lock().await;
        for grant in shown::granted(&live, &tenant.id, self.now()) {
            link.send(tenant, &Command::Grant(grant))?;
        }
        Ok(())
    }

    /// What a warden is told again. What holds for ever is in the policy itself.
    pub(crate) async fn live_grants(&self, tenant: &TenantId) -> Vec<Grant> {
        shown::granted(&*self.book.live.lock().await, tenant, self.now())
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
            let said = Said { words, ..Said::default() };
            if let Err(error) = self.event(&mut live, id, event, &said).await {
                tracing::error!(approval = id, %error, "an approval outlives a kill");
                left += 1;
            }
        }
        left
    }

    pub(crate) async fn tick(&self) {
        let now = self.now();
        let mut live = self.book.live.lock().await;
        let recounted =
            std::mem::take(&mut *self.book.recounted.lock().unwrap_or_else(PoisonError::into_inner));
        for row in recounted.iter().filter_map(|id| live.get(id)) {
            self.show_change(row).await;
        }
        let due = |row: &&StoredApproval| row.state.deadline().is_some_and(|deadline| deadline <= now);
        let ids: Vec<u64> = live.values().filter(due).map(|row| row.id).collect();
        for id in ids {
            self.logged(&mut live, id, Event::Tick).await;
        }
    }

    /// Why an approval that is not live takes no answer.
    async fn over(&self, id: u64) -> Result<Error, Error> {
        let all = self.db.run(|disk| disk.approvals(true)).await?;
        let row = all.iter().find(|row| row.id == id);
        Ok(row.map_or_else(|| missing(id), |row| conflict(row, row.state)))
    }

    async fn answer(
        &self,
        live: &mut MutexGuard<'_, Live>,
        id: u64,
        event: Event,
        said: Said,
    ) -> Result<types::Approval, Error> {
        let Some(mut row) = live.get(&id).cloned() else { return Err(self.over(id).await?) };
        if said.saw.is_some_and(|saw| saw != digest(&row)) && keeps(Check::AnswerShown) {
            return Err(stale(&row, "it is not what was shown"));
        }
        // The policy that is kept may be newer than what anybody was told of it.
        let whose = row.tenant.clone();
        let kept = self.db.run(move |disk| disk.policy(&whose)).await?;
        if event != Event::Revoke && kept.revision != row.revision {
            let policy = Policy::parse(&kept.text).ok();
            self.moved(live, id, Event::PolicyMoved, policy.as_ref()).await;
            return Err(conflict(&row, State::Stale));
        }
        if let Event::Approve(span) = event {
            may_say_yes(&self.compiled(&row.tenant, &kept.text)?, &row, span, &said)?;
        }
        let effects = self.event(live, id, event, &said).await?;
        let (state, _) = approval::step(row.state, event, self.now());
        if effects.contains(&Effect::Conflict) {
            return Err(conflict(&row, state));
        }
        if let Some(now) = live.get(&id) {
            return Ok(shown(now));
        }
        (row.state, row.answer, row.approver) = (state, said.words, said.by);
        Ok(shown(&row))
    }

    async fn logged(&self, live: &mut MutexGuard<'_, Live>, id: u64, event: Event) -> Vec<Effect> {
        self.event(live, id, event, &Said::default()).await.unwrap_or_else(|error| {
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
        said: &Said,
    ) -> Result<Vec<Effect>, Error> {
        let Some(mut row) = live.get(&id).cloned() else { return Ok(vec![]) };
        let (state, effects) = approval::step(row.state, event, self.now());
        let mut revision = None;
        if state.is_open() && state != row.state {
            row.state = state;
            live.insert(id, row.clone());
            self.show_change(&row).await;
        } else if state != row.state {
            let before = std::mem::replace(&mut row.state, state);
            if !said.by.is_empty() {
                (row.answer, row.approver) = (said.words.clone(), said.by.clone());
            }
            if row.answered.is_none() {
                row.answered = Some(self.now());
            }
            revision = self.keep(&row, before, said).await?;
            if state.is_over() {
                live.remove(&id);
            } else {
                live.insert(id, row.clone());
            }
            if let Some((_, number)) = &revision {
                let bound = |other: &&mut StoredApproval| {
                    other.tenant == row.tenant && other.revision == row.revision
                };
                live.values_mut().filter(bound).for_each(|other| other.revision = *number);
                row.revision = *number;
            }
            self.show_change(&row).await;
        }
        if let Ok(tenant) = self.tenant(&row.tenant)
            && let Some(link) = tenant.seat.link()
        {
            // The warden that does not hear of it is given up, and the next one gets the snapshot.
            if let Some((text, revision)) = revision {
                let configuration = self.configuration(&tenant, text, revision);
                let _ = link.send(&tenant, &Command::Configure(configuration));
            }
            for command in effects.iter().filter_map(|effect| command(&row, *effect, &said.words)) {
                let _ = link.send(&tenant, &command);
            }
        }
        Ok(effects)
    }

    async fn show_change(&self, row: &StoredApproval) {
        self.tell_edge(self.seen_by_edge(row).await);
        // Nobody watches: nobody to tell.
        let _ = self.book.changes.send(Happening::Approval(Box::new(shown(row))));
    }

    /// Queues a message for the edge: whoever waits for its wire must hold no lock of ours, under which the
    /// edge's snapshot is read.
    fn tell_edge(&self, message: Config) {
        // The task that sends ends only with the process.
        let _ = self.book.to_edge.send(message);
    }

    /// Tells whoever watches that something was tried that nobody should.
    pub(crate) fn alarm(&self, alarm: types::Alarm) {
        tracing::warn!(tenant = ?alarm.tenant, what = alarm.what, subject = alarm.subject, "an alarm");
        let _ = self.book.changes.send(Happening::Alarm(alarm));
    }
}

fn check_words(words: &str) -> Result<(), Error> {
    if words.chars().count() > 500 || words.chars().any(char::is_control) {
        return Err(Error::Usage("a reason is at most 500 characters on one line".to_owned()));
    }
    Ok(())
}

/// Who answers over the control socket.
const OPERATOR: &str = "operator";
