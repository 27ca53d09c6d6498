//! What cells ask for, as the edge shows it to those who may answer, and their answers on the way to control.
//!
//! It owns the ids under which clients see questions: random, made for one connection, good for the token that
//! it was opened with. None of it enters a cell. The threats: a cell that guesses an id and changes what is
//! shown under it, a client that answers for another, and an answer to something that moved meanwhile: each id
//! keeps the digest of what was shown under it, and control compares.

use crate::check::{Check, keeps};
use cofferdam_base::{
    Digest, Millis, TenantId,
    ipc::{
        asked::Question,
        edge::{Answer, Decision, Refused, YesOf},
    },
};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, oneshot},
    time,
};

/// How every id of ours begins. No frame of a cell that holds this reaches a client, and no request of a client
/// that holds it reaches a cell.
pub(crate) const PREFIX: &str = "plugin:cofferdam-";

/// How long control may take for an answer; a rule waits for a warden that takes another policy.
const PATIENCE: Duration = Duration::from_secs(40);
/// So many ids are remembered; the oldest go first.
const CARDS: usize = 16_384;
/// Of so many questions that are over it is remembered what became of them.
const ENDED: usize = 64;

/// A question that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// What is shown.
    pub question: Question,
    /// The digest of its bytes.
    pub digest: Digest,
    /// Since when.
    pub since: Millis,
    /// When it ends by itself.
    pub until: Millis,
    /// How many connections asked the same.
    pub count: u32,
    /// Whose yes counts.
    pub yes_of: YesOf,
}

impl Asked {
    pub(crate) fn new(question: Question, since: Millis, until: Millis, count: u32, yes_of: YesOf) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &question.bytes());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Self { question, digest: Digest::from_bytes(bytes), since, until, count, yes_of }
    }
}

/// What became of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    approval: u64,
    /// The word that lists show.
    pub outcome: String,
    /// Who answered; empty if nobody did.
    pub by: String,
}

/// The questions of all tenants.
#[derive(Clone, Debug, Default)]
pub(crate) struct Questions {
    waiting: HashMap<TenantId, BTreeMap<u64, Arc<Asked>>>,
    ended: HashMap<TenantId, VecDeque<Ended>>,
}

impl Questions {
    pub(crate) fn asked(&mut self, asked: Asked) {
        let (tenant, approval) = (asked.question.tenant.clone(), asked.question.approval);
        self.waiting.entry(tenant).or_default().insert(approval, Arc::new(asked));
    }

    pub(crate) fn over(&mut self, tenant: &TenantId, approval: u64, outcome: String, by: String) {
        if self.waiting.get_mut(tenant).and_then(|waiting| waiting.remove(&approval)).is_none() {
            return;
        }
        let ended = self.ended.entry(tenant.clone()).or_default();
        if ended.len() >= ENDED {
            ended.pop_front();
        }
        ended.push_back(Ended { approval, outcome, by });
    }

    pub(crate) fn forget(&mut self, tenant: &TenantId) {
        self.waiting.remove(tenant);
        self.ended.remove(tenant);
    }

    /// Those of a tenant, oldest first.
    pub(crate) fn of(&self, tenant: &TenantId) -> Vec<Arc<Asked>> {
        self.waiting.get(tenant).map(|waiting| waiting.values().cloned().collect()).unwrap_or_default()
    }

    pub(crate) fn ended(&self, tenant: &TenantId, approval: u64) -> Option<Ended> {
        self.ended.get(tenant)?.iter().find(|ended| ended.approval == approval).cloned()
    }
}

/// What an id stands for.
#[derive(Clone, Debug)]
pub(crate) struct Card {
    jti: String,
    pub(crate) asked: Arc<Asked>,
}

/// All ids that clients were given.
#[derive(Debug, Default)]
pub(crate) struct Cards(Mutex<Deck>);

#[derive(Debug, Default)]
struct Deck {
    cards: HashMap<String, Card>,
    order: VecDeque<String>,
}

impl Cards {
    /// A new id for this question, for whoever holds this token; none if there is no randomness.
    pub(crate) fn deal(&self, jti: &str, asked: &Arc<Asked>) -> Option<String> {
        let mut bytes = [0; 16];
        aws_lc_rs::rand::fill(&mut bytes).ok()?;
        let id = format!("{PREFIX}{:032x}", u128::from_be_bytes(bytes));
        let mut deck = self.lock();
        while deck.order.len() >= CARDS {
            if let Some(old) = deck.order.pop_front() {
                deck.cards.remove(&old);
            }
        }
        deck.order.push_back(id.clone());
        deck.cards.insert(id.clone(), Card { jti: jti.to_owned(), asked: Arc::clone(asked) });
        Some(id)
    }

    /// What stands under an id that this token's holder was shown.
    pub(crate) fn find(&self, jti: &str, id: &str) -> Option<Card> {
        self.lock().cards.get(id).filter(|card| card.jti == jti || !keeps(Check::CardsToken)).cloned()
    }

    /// A question is over, or another now: its ids stand for nothing.
    pub(crate) fn end(&self, tenant: &TenantId, approval: u64) {
        let mut deck = self.lock();
        let of_it =
            |card: &Card| card.asked.question.tenant == *tenant && card.asked.question.approval == approval;
        deck.cards.retain(|_, card| !of_it(card));
        let Deck { cards, order } = &mut *deck;
        order.retain(|id| cards.contains_key(id));
    }

    // Each change is complete before anything can panic.
    fn lock(&self) -> MutexGuard<'_, Deck> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers on their way to control.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    last: AtomicU64,
    inner: Mutex<Pending>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    queue: VecDeque<Answer>,
    waiting: HashMap<u64, oneshot::Sender<Option<Refused>>>,
}

impl Answers {
    /// Brings an answer to control and waits for what becomes of it.
    pub(crate) async fn bring(&self, token: &str, asked: &Asked, decision: Decision) -> Result<(), Refused> {
        let op = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let Question { tenant, approval, .. } = asked.question.clone();
        let answer = Answer { op, token: token.to_owned(), tenant, approval, shown: asked.digest, decision };
        let (sender, told) = oneshot::channel();
        {
            let mut inner = self.lock();
            inner.queue.push_back(answer);
            inner.waiting.insert(op, sender);
        }
        self.more.notify_one();
        let told = time::timeout(PATIENCE, told).await;
        self.lock().forget(op);
        match told {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(refused))) => Err(refused),
            Ok(Err(_)) | Err(_) => Err(Refused {
                code: "no_control".into(),
                message: "nobody takes answers now, and it is not known whether this one counts: \
                          cofferdam approvals list --all"
                    .into(),
            }),
        }
    }

    /// The next answer to be sent.
    pub(crate) async fn next(&self) -> Answer {
        loop {
            let more = self.more.notified();
            if let Some(answer) = self.lock().queue.pop_front() {
                return answer;
            }
            more.await;
        }
    }

    /// What became of one.
    pub(crate) fn told(&self, op: u64, refused: Option<Refused>) {
        if let Some(waiting) = self.lock().waiting.remove(&op) {
            // Whoever waited may have left.
            let _ = waiting.send(refused);
        }
    }

    /// The wire is gone: what was on it may have been heard, and nobody will say.
    pub(crate) fn lost(&self) {
        let mut inner = self.lock();
        inner.queue.clear();
        inner.waiting.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    fn forget(&mut self, op: u64) {
        self.waiting.remove(&op);
        self.queue.retain(|answer| answer.op != op);
    }
}
