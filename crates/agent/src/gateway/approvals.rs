//! What is asked of people who may approve, and their answers.
//!
//! A question is on disk before anybody sees it, and its answer before anybody acts on it. The threats: an answer that counts
//! twice or for another question, one that nobody gave (a question that lapses, or whose gateway was killed, is never a yes),
//! and so many questions that nobody reads them.

use super::{Gateway, lock};
use crate::{ids::uuid, protocol::Fault, store::Error};
use cofferdam_base::Scope;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::watch;

/// Questions that may wait at a time.
const WAITING: usize = 32;
/// Of so many that are over it is remembered what was said.
const ENDED: usize = 64;
/// Ids that begin so are the host's own.
const HOSTS: &str = "plugin:cofferdam-";

/// Of what family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Exec,
    Plugin,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Plugin => "plugin",
        }
    }
}

/// What a person may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Decision {
    AllowOnce,
    AllowAlways,
    Deny,
}

impl Decision {
    pub(crate) const ALL: [Self; 3] = [Self::AllowOnce, Self::AllowAlways, Self::Deny];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AllowOnce => "allow-once",
            Self::AllowAlways => "allow-always",
            Self::Deny => "deny",
        }
    }

    /// As people type it.
    pub(crate) fn typed(word: &str) -> Option<Self> {
        Some(match word.to_ascii_lowercase().as_str() {
            "allow-once" | "allow" | "once" | "allowonce" => Self::AllowOnce,
            "allow-always" | "always" | "allowalways" => Self::AllowAlways,
            "deny" | "reject" | "block" => Self::Deny,
            _ => return None,
        })
    }
}

/// How a question ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// None: nobody said anything.
    pub(crate) decision: Option<Decision>,
    /// `user`, `timeout`, `run-aborted`.
    pub(crate) reason: &'static str,
}

/// One question.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) id: String,
    pub(crate) kind: Kind,
    /// As clients read it.
    pub(crate) request: Value,
    pub(crate) allowed: Vec<Decision>,
    pub(crate) created_at: u64,
    pub(crate) expires_at: u64,
    end: watch::Sender<Option<End>>,
}

impl Question {
    /// As events and lists carry it.
    pub(crate) fn row(&self) -> Value {
        json!({
            "approvalKind": self.kind.name(), "id": self.id, "request": self.request,
            "createdAtMs": self.created_at, "expiresAtMs": self.expires_at,
        })
    }

    /// Waits for its end.
    pub(crate) async fn ended(&self) -> End {
        let mut end = self.end.subscribe();
        let ended = end.wait_for(Option::is_some).await.ok().and_then(|end| *end);
        // Its sender lives in itself.
        ended.unwrap_or(End { decision: None, reason: "timeout" })
    }
}

/// All questions of a gateway.
#[derive(Debug, Default)]
pub(crate) struct Approvals(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    waiting: BTreeMap<String, Arc<Question>>,
    ended: VecDeque<Arc<Question>>,
}

impl Inner {
    fn find(&self, kind: Option<Kind>, id: &str) -> Vec<Arc<Question>> {
        let of = |it: &&Arc<Question>| kind.is_none_or(|kind| it.kind == kind);
        let all = || self.waiting.values().filter(of);
        let exact: Vec<_> = all().filter(|it| it.id == id).cloned().collect();
        if !exact.is_empty() || id.len() < 4 {
            return exact;
        }
        all().filter(|it| it.id.starts_with(id)).cloned().collect()
    }
}

fn unknown() -> Fault {
    Fault::invalid("unknown or expired approval id").with(json!({
        "reason": "APPROVAL_NOT_FOUND",
        "remediation": "Re-request the action; pending approvals are cleared after expiry or restart.",
    }))
}

fn lost(error: Error) -> Fault {
    tracing::error!(%error, "an approval is not kept");
    Fault::unavailable(error.to_string())
}

impl Gateway {
    /// Asks. When this returns, it is on disk and told to whoever may answer.
    pub(crate) fn ask(
        self: &Arc<Self>,
        kind: Kind,
        id: Option<String>,
        request: Value,
        allowed: Vec<Decision>,
        patience: Duration,
    ) -> Result<Arc<Question>, Fault> {
        let id = id.unwrap_or_else(|| match kind {
            Kind::Exec => uuid(),
            Kind::Plugin => format!("plugin:{}", uuid()),
        });
        if id.starts_with(HOSTS) || kind == Kind::Exec && id.starts_with("plugin:") {
            return Err(Fault::invalid("approval ids starting with plugin: are reserved"));
        }
        let created_at = self.now();
        let expires_at = created_at.saturating_add(u64::try_from(patience.as_millis()).unwrap_or(u64::MAX));
        let end = watch::Sender::new(None);
        let question = Arc::new(Question { id, kind, request, allowed, created_at, expires_at, end });
        let Question { id, request, .. } = &*question;
        {
            let mut inner = lock(&self.approvals.0);
            if inner.waiting.len() >= WAITING {
                return Err(Fault::unavailable(format!("{WAITING} approvals wait already")));
            }
            if inner.waiting.contains_key(id) || self.store.over(id).map_err(lost)?.is_some() {
                return Err(Fault::invalid("approval id already pending"));
            }
            let text = request.to_string();
            self.store.put_approval(id, kind.name(), &text, created_at, expires_at).map_err(lost)?;
            inner.waiting.insert(id.clone(), Arc::clone(&question));
        }
        self.tell_approvers(&format!("{}.approval.requested", kind.name()), &question.row());
        let (gateway, asked) = (Arc::clone(self), Arc::clone(&question));
        tokio::spawn(async move {
            if tokio::time::timeout(patience, asked.ended()).await.is_err() {
                gateway.lapse(&asked, "timeout");
            }
        });
        Ok(question)
    }

    fn tell_approvers(&self, event: &str, payload: &Value) {
        self.tell(event, payload, |client| client.may(Scope::Approvals));
    }

    /// Is there somebody who could answer?
    pub(crate) fn has_approvers(&self) -> bool {
        self.state().clients.values().any(|client| client.may(Scope::Approvals))
    }

    /// Those that wait, the oldest first.
    pub(crate) fn questions(&self, kind: Kind) -> Vec<Arc<Question>> {
        let inner = lock(&self.approvals.0);
        let mut all: Vec<_> = inner.waiting.values().filter(|it| it.kind == kind).cloned().collect();
        all.sort_by_key(|it| it.created_at);
        all
    }

    /// One that waits, by its id or a beginning of it that no other has.
    pub(crate) fn question(&self, kind: Option<Kind>, id: &str) -> Result<Arc<Question>, Fault> {
        let mut found = lock(&self.approvals.0).find(kind, id);
        match (found.pop(), found.is_empty()) {
            (Some(one), true) => Ok(one),
            (Some(_), false) => Err(Fault::invalid("ambiguous approval id prefix; use the full id")),
            (None, _) => Err(unknown()),
        }
    }

    /// One that waits or is over, by its whole id.
    pub(crate) fn known_question(&self, kind: Kind, id: &str) -> Option<Arc<Question>> {
        let inner = lock(&self.approvals.0);
        let of = |it: &&Arc<Question>| it.kind == kind && it.id == id;
        inner.waiting.get(id).filter(of).or_else(|| inner.ended.iter().find(of)).map(Arc::clone)
    }

    /// Takes the answer of somebody who may approve; what it answered, if that is new.
    pub(crate) fn resolve(
        &self,
        kind: Option<Kind>,
        id: &str,
        decision: Decision,
        by: &str,
    ) -> Result<Option<Arc<Question>>, Fault> {
        let question = match self.question(kind, id) {
            Ok(question) => question,
            Err(fault) => {
                let inner = lock(&self.approvals.0);
                let of = |it: &&Arc<Question>| it.id == id && kind.is_none_or(|kind| it.kind == kind);
                let said =
                    inner.ended.iter().find(of).and_then(|it| *it.end.borrow()).and_then(|end| end.decision);
                return match said {
                    Some(said) if said == decision => Ok(None),
                    Some(_) => Err(Fault::invalid("approval already resolved")
                        .with(json!({ "reason": "APPROVAL_ALREADY_RESOLVED" }))),
                    None => Err(fault),
                };
            }
        };
        if !question.allowed.contains(&decision) {
            let message = format!("{} is unavailable for this approval", decision.name());
            return Err(
                Fault::invalid(message).with(json!({ "reason": "APPROVAL_ALLOW_ALWAYS_UNAVAILABLE" }))
            );
        }
        let end = End { decision: Some(decision), reason: "user" };
        if !self.end_question(&question, end, Some(by)).map_err(lost)? {
            return Err(unknown());
        }
        if question.kind == Kind::Plugin {
            self.mcp.ended(self, &question.id, Some(decision)).map_err(lost)?;
        }
        self.tell_approvers(&format!("{}.approval.resolved", question.kind.name()), &json!({
            "id": question.id, "decision": decision, "resolvedBy": by, "ts": self.now(), "request": question.request,
        }));
        Ok(Some(question))
    }

    /// Ends one that nobody answered.
    pub(crate) fn lapse(&self, question: &Question, reason: &'static str) {
        match self.end_question(question, End { decision: None, reason }, None) {
            Ok(true) => {
                if let Err(error) = self.mcp.ended(self, &question.id, None) {
                    tracing::error!(%error, "what follows from an approval that lapsed");
                }
                let payload = json!({ "id": question.id, "reason": reason });
                self.tell_approvers(&format!("{}.approval.removed", question.kind.name()), &payload);
            }
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "the end of an approval is not kept"),
        }
    }

    /// On disk first; what cannot be kept is no answer. False: it had ended.
    fn end_question(&self, question: &Question, end: End, by: Option<&str>) -> Result<bool, Error> {
        let mut inner = lock(&self.approvals.0);
        let Some(waiting) = inner.waiting.remove(&question.id) else { return Ok(false) };
        let said = end.decision.map(Decision::name);
        let kept = self.store.end_approval(&question.id, said, by, self.now(), end.reason);
        if !matches!(kept, Ok(true)) && end.decision.is_some() {
            inner.waiting.insert(question.id.clone(), waiting);
            return kept;
        }
        waiting.end.send_replace(Some(end));
        if inner.ended.len() >= ENDED {
            inner.ended.pop_front();
        }
        inner.ended.push_back(waiting);
        kept.map(|_| true)
    }
}
