//! The life of one approval, as a pure function over every event that can happen to it.
//!
//! ```text
//! Waiting ──approve──▶ Granted ──spend (once)──▶ Used
//!    │ ╲──deny──▶ Denied      ╲──revoke──▶ Revoked
//!    ▼                         ╲──time, or the end of the cell──▶ Expired
//! HoldEnded ──approve──▶ Granted      (for 15 minutes; the same request asked again: Waiting)
//! ```
//!
//! A question and a yes belong to one revision of the policy. When the policy moves on, both are over: `Stale`,
//! but for a yes that is a rule of the policy itself.
//!
//! The caller stores the new state durably before it carries out the effects (law 5, class A). It counts
//! nothing and keeps no list: who may ask at all is [`may_ask`].

use crate::Reason;
use cofferdam_base::{Millis, ipc::warden::GrantSpan};
use serde::{Deserialize, Serialize};

/// How long an unanswered approval stays open, and how long a once-grant waits for its use.
pub const OPEN_MS: u64 = 15 * 60 * 1000;

/// How many approvals of one tenant wait at one time.
pub const MAX_WAITING: usize = 16;

/// Where an approval stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// A connection is held until somebody answers.
    Waiting {
        /// When the last connection asked.
        asked: Millis,
    },
    /// The connection was refused; an answer still counts until this moment.
    HoldEnded {
        /// Not at or after this.
        until: Millis,
    },
    /// Somebody said yes.
    Granted(GrantSpan),
    /// A once-grant was used.
    Used,
    /// Somebody said no.
    Denied,
    /// Nobody answered, or nobody used it, in time.
    Expired,
    /// The yes was taken back.
    Revoked,
    /// The policy that asked is another now: neither the question nor the yes counts.
    Stale,
}

/// An approver's yes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Span {
    /// One connection.
    Once,
    /// Any number for so many milliseconds.
    For(u64),
    /// Any number for the life of this start of the cell.
    Cell(u64),
    /// Until revoked.
    Always,
}

/// What happens to an approval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A connection asks again for the same.
    Asked {
        /// Does the policy in force allow it? Only what was granted for ever depends on that.
        ruled: bool,
    },
    /// The last held connection was refused, or its warden died.
    HoldEnded,
    /// Yes.
    Approve(Span),
    /// No.
    Deny,
    /// The warden is about to use a once-grant.
    Spend,
    /// The yes is taken back.
    Revoke,
    /// The policy has another revision.
    PolicyMoved,
    /// Every start of the cell up to this number is over.
    CellEnded(u64),
    /// Time passed.
    Tick,
}

/// What the caller then does, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Hand the grant to the warden.
    Grant(GrantSpan),
    /// Tell the warden that the approval waits for these connections.
    Wait,
    /// Tell the warden to refuse what is held.
    Refuse(Reason),
    /// Answer the warden's wish to spend.
    Spent {
        /// May the connection go on?
        ok: bool,
    },
    /// Take the grant from the warden.
    Withdraw,
    /// Tell the caller of the event that it came too late or does not fit: nothing was changed.
    Conflict,
    /// This approval is over: a new one is needed.
    AskAnew,
}

impl State {
    /// A new approval.
    pub const fn new(now: Millis) -> Self {
        Self::Waiting { asked: now }
    }

    /// Does it wait for a person?
    pub const fn is_open(&self) -> bool {
        matches!(self, Self::Waiting { .. } | Self::HoldEnded { .. })
    }

    /// Can nothing happen to it any more?
    pub const fn is_over(&self) -> bool {
        matches!(self, Self::Used | Self::Denied | Self::Expired | Self::Revoked | Self::Stale)
    }

    /// When time alone changes it: the moment for the next [`Event::Tick`].
    pub const fn deadline(&self) -> Option<Millis> {
        match self {
            Self::Waiting { asked } => Some(asked.plus(OPEN_MS)),
            Self::HoldEnded { until } => Some(*until),
            Self::Granted(span) => span.end(),
            Self::Used | Self::Denied | Self::Expired | Self::Revoked | Self::Stale => None,
        }
    }
}

/// May a tenant with so many open approvals ask for one more?
pub const fn may_ask(open: usize) -> Result<(), Reason> {
    if open < MAX_WAITING { Ok(()) } else { Err(Reason::TooManyWaiting) }
}

/// One step. Deadlines are honoured whether or not a tick came first.
pub fn step(state: State, event: Event, now: Millis) -> (State, Vec<Effect>) {
    if state.deadline().is_some_and(|deadline| now >= deadline) {
        let mut effects = vec![match state {
            State::Granted(_) => Effect::Withdraw,
            _ => Effect::Refuse(Reason::NoAnswer),
        }];
        effects.extend(over(event));
        return (State::Expired, effects);
    }
    match (state, event) {
        (State::Waiting { .. } | State::HoldEnded { .. }, Event::Asked { .. }) => {
            (State::new(now), vec![Effect::Wait])
        }
        (State::Waiting { .. }, Event::HoldEnded) => (State::HoldEnded { until: now.plus(OPEN_MS) }, vec![]),
        (State::Waiting { .. } | State::HoldEnded { .. }, Event::Approve(span)) => {
            let span = match span {
                Span::Once => GrantSpan::Once { until: now.plus(OPEN_MS) },
                Span::For(milliseconds) => GrantSpan::Until(now.plus(milliseconds)),
                Span::Cell(generation) => GrantSpan::Cell { generation },
                Span::Always => GrantSpan::Always,
            };
            (State::Granted(span), vec![Effect::Grant(span)])
        }
        (State::Waiting { .. } | State::HoldEnded { .. }, Event::Deny) => {
            (State::Denied, vec![Effect::Refuse(Reason::DeniedByPerson)])
        }
        (State::Granted(GrantSpan::Once { .. }), Event::Spend) => {
            (State::Used, vec![Effect::Spent { ok: true }])
        }
        // Granted for ever is a rule of the policy; without the rule it is granted no more.
        (State::Granted(GrantSpan::Always), Event::Asked { ruled: false }) => {
            (State::Revoked, vec![Effect::Withdraw, Effect::AskAnew])
        }
        // The question and the answer crossed on the wire.
        (State::Granted(span), Event::Asked { .. }) => (state, vec![Effect::Grant(span)]),
        (State::Waiting { .. }, Event::PolicyMoved) => (State::Stale, vec![Effect::AskAnew]),
        (State::HoldEnded { .. }, Event::PolicyMoved) => (State::Stale, vec![]),
        (State::Granted(span), Event::PolicyMoved) if span != GrantSpan::Always => {
            (State::Stale, vec![Effect::Withdraw])
        }
        (State::Granted(GrantSpan::Cell { generation }), Event::CellEnded(through))
            if generation <= through =>
        {
            (State::Expired, vec![Effect::Withdraw])
        }
        (State::Granted(_), Event::Revoke) => (State::Revoked, vec![Effect::Withdraw]),
        // A hold may end while, or after, somebody answers: the answer stands.
        (state, event) => (state, over(event).into_iter().collect()),
    }
}

/// What an event gets to hear that cannot have its way.
const fn over(event: Event) -> Option<Effect> {
    match event {
        Event::Asked { .. } => Some(Effect::AskAnew),
        Event::Spend => Some(Effect::Spent { ok: false }),
        Event::Approve(_) | Event::Deny | Event::Revoke => Some(Effect::Conflict),
        Event::HoldEnded | Event::PolicyMoved | Event::CellEnded(_) | Event::Tick => None,
    }
}

#[cfg(test)]
mod tests;
