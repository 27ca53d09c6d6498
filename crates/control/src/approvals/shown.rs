//! Approvals in words: for people, for the ledger, for wardens and for the edge.
//!
//! It owns no decision. What people see is made of the same [`Question`] that an answer is bound to.

use super::Said;
use crate::{
    Error,
    api::types,
    check::{Check, keeps},
    disk::StoredApproval,
};
use cofferdam_base::{
    Destination, Digest, Host, Millis, Role, TenantId,
    ipc::{
        asked::{Question, RequestShown},
        edge::{Config, YesOf},
        model::INFERENCE,
        warden::{Command, Grant, GrantSpan},
    },
};
use cofferdam_policy::{
    Policy, Reason, Standing,
    approval::{Effect, Span, State},
};
use cofferdam_store::ledger::Kind;
use std::collections::BTreeMap;

/// What the warden hears of an effect.
pub(super) fn command(row: &StoredApproval, effect: Effect, words: &str) -> Option<Command> {
    let destination = row.destination.clone();
    match effect {
        Effect::Grant(span) => Some(Command::Grant(grant(row, span))),
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

/// A yes for once is for the request that was shown.
fn grant(row: &StoredApproval, span: GrantSpan) -> Grant {
    let once = matches!(span, GrantSpan::Once { .. });
    let request = row.request.clone().filter(|_| once);
    Grant { id: row.id, destination: row.destination.clone(), span, request }
}

/// The grants of a tenant that a warden has to know. What holds for ever is in the policy itself.
pub(super) fn granted(live: &BTreeMap<u64, StoredApproval>, tenant: &TenantId, now: Millis) -> Vec<Grant> {
    let given = |row: &StoredApproval| match row.state {
        State::Granted(GrantSpan::Always) => None,
        State::Granted(span) if span.is_alive(now) => Some(grant(row, span)),
        _ => None,
    };
    live.values().filter(|row| row.tenant == *tenant).filter_map(given).collect()
}

/// What a new state is in the ledger.
pub(super) fn row_kind(state: State) -> Kind {
    match state {
        State::Waiting { asked: _ } | State::HoldEnded { until: _ } => Kind::ApprovalAsked,
        State::Granted(_) => Kind::ApprovalGranted,
        State::Used => Kind::ApprovalUsed,
        State::Denied => Kind::ApprovalDenied,
        State::Expired => Kind::ApprovalExpired,
        State::Revoked => Kind::ApprovalRevoked,
        State::Stale => Kind::ApprovalStale,
    }
}

/// Is it a yes for one connection or request?
pub(super) const fn is_once(state: State) -> bool {
    matches!(state, State::Granted(GrantSpan::Once { until: _ }))
}

pub(super) fn state_word(state: State) -> &'static str {
    match state {
        State::Waiting { asked: _ } => "waiting",
        State::HoldEnded { until: _ } => "hold_ended",
        State::Granted(_) => "granted",
        State::Used => "used",
        State::Denied => "denied",
        State::Expired => "expired",
        State::Revoked => "revoked",
        State::Stale => "stale",
    }
}

/// What an answer is bound to.
pub(super) fn question(row: &StoredApproval) -> Question {
    Question {
        tenant: row.tenant.clone(),
        approval: row.id,
        destination: row.destination.clone(),
        request: row.request.clone(),
        why: row.why.clone(),
    }
}

/// The digest that comes back with an answer.
pub(super) fn digest(row: &StoredApproval) -> Digest {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &question(row).bytes());
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    Digest::from_bytes(bytes)
}

/// What the edge is told of a row as it is now.
pub(super) fn for_edge(row: &StoredApproval, yes_of: YesOf) -> Config {
    match row.state.deadline() {
        Some(until) if row.state.is_open() => {
            let count = u32::try_from(row.count).unwrap_or(u32::MAX);
            Config::Asked { question: question(row), asked: row.asked, until, count, yes_of }
        }
        _ => Config::AskedNoMore {
            tenant: row.tenant.clone(),
            approval: row.id,
            outcome: state_word(row.state).to_owned(),
            by: row.approver.clone(),
        },
    }
}

pub(crate) fn shown(row: &StoredApproval) -> types::Approval {
    let span = match row.state {
        State::Granted(GrantSpan::Once { until: _ }) | State::Used => Some("once"),
        State::Granted(GrantSpan::Until(_)) => Some("until"),
        State::Granted(GrantSpan::Cell { generation: _ }) => Some("cell"),
        State::Granted(GrantSpan::Always) => Some("always"),
        _ => None,
    };
    types::Approval {
        id: row.id,
        tenant: row.tenant.clone(),
        destination: row.destination.clone(),
        request: row.request.clone(),
        count: row.count.max(1),
        why: row.why.clone(),
        revision: row.revision,
        state: state_word(row.state).to_owned(),
        asked: row.asked,
        until: row.state.deadline().filter(|until| *until < Millis(u64::MAX)),
        span: span.map(str::to_owned),
        answer: row.answer.clone(),
        approver: row.approver.clone(),
        shown: digest(row),
    }
}

/// Is it about a model's soft limit, of which the policy says nothing?
pub(super) fn is_of_model(destination: &Destination) -> bool {
    let Host::Name(name) = &destination.host else { return false };
    name.as_str().strip_suffix(INFERENCE).is_some_and(|rest| rest.ends_with('.'))
}

/// A rule answers for ever, but not for a model's soft limit: that is about each request past it.
pub(super) fn may_be_always(row: &StoredApproval) -> Result<(), Error> {
    if !is_of_model(&row.destination) || !keeps(Check::AnswerForEver) {
        return Ok(());
    }
    Err(Error::Refused {
        code: "not_for_ever",
        message: "a model's soft limit is passed once or for a time, and by no rule".to_owned(),
        mend: format!("raise it: cofferdam model set {} with another --ask-past", row.tenant),
    })
}

/// Whose yes a policy wants.
fn needed(policy: &Policy, row: &StoredApproval, span: Span) -> Standing {
    let request = row.request.as_ref().filter(|_| span == Span::Once);
    policy.approver(&row.destination, request.and_then(as_asked))
}

/// Whose yes counts under this policy, of those who are connected.
pub(super) fn yes_of(policy: &Policy, row: &StoredApproval) -> YesOf {
    let role = |span| match needed(policy, row, span) {
        Standing::Approver => Some(Role::Approver),
        Standing::Admin => Some(Role::Admin),
        Standing::Operator => None,
    };
    YesOf { once: role(Span::Once), always: role(Span::Always).filter(|_| may_be_always(row).is_ok()) }
}

/// May whoever answers say yes under this policy? A yes for more than once is one to all that is asked there.
pub(super) fn may_say_yes(
    policy: &Policy,
    row: &StoredApproval,
    span: Span,
    said: &Said,
) -> Result<(), Error> {
    let needed = needed(policy, row, span);
    if said.who >= Some(needed) || !keeps(Check::AnswerApprover) {
        return Ok(());
    }
    let mend = match needed {
        Standing::Operator => format!("cofferdam approvals approve {}", row.id),
        needed => format!("cofferdam token issue {} --subject WHO --role {needed}", row.tenant),
    };
    let message = format!("the policy leaves a yes to this to the {needed}; nothing was granted");
    Err(Error::Refused { code: "may_not_approve", message, mend })
}

/// Method and target as they were asked; none where what is shown is not all of it, or is spelled in another way.
fn as_asked(shown: &RequestShown) -> Option<(&str, &str)> {
    let (_, rest) =
        shown.url.split_once("://").filter(|_| shown.whole.is_none() && !shown.url.contains('\\'))?;
    Some((&shown.method, &rest[rest.find('/')?..]))
}

pub(super) fn missing(id: u64) -> Error {
    Error::NotFound { what: "approval", name: id.to_string() }
}

/// An answer that does not count.
pub(super) fn conflict(row: &StoredApproval, state: State) -> Error {
    if state == State::Stale {
        return stale(row, "the policy that asked has another revision now");
    }
    Error::Conflict {
        code: "approval_over",
        message: format!(
            "approval {} is {}: the answer came too late or does not fit",
            row.id,
            state_word(state)
        ),
        mend: "cofferdam approvals list".to_owned(),
    }
}

/// An answer to something that is not any more what it was given for.
pub(super) fn stale(row: &StoredApproval, why: &str) -> Error {
    Error::Conflict {
        code: "approval_stale",
        message: format!(
            "approval {} is stale: {why}. Nothing was granted or denied; what is still wanted is asked under \
             a new number",
            row.id
        ),
        mend: format!("cofferdam approvals list --tenant {}", row.tenant),
    }
}

/// Does this approval cover what is asked at its destination? While it waits, and where it was granted for more
/// than one request, whatever is asked there; else its own request.
pub(super) fn is_same(row: &StoredApproval, request: Option<&RequestShown>) -> bool {
    match row.state {
        State::HoldEnded { .. } | State::Granted(GrantSpan::Once { .. }) => row.request.as_ref() == request,
        _ => true,
    }
}
