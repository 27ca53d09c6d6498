//! What changes what is in force: configurations, grants, answers, and time. What is open is judged again by each.

use super::{Authority, Gate, Limits, Notice, Spending, State, ask};
use crate::{
    Refusal, Rules, Ruling,
    check::{Check, keeps},
    hold::Wake,
};
use cofferdam_base::{
    Destination, Host, Millis,
    ipc::warden::{Grant, GrantSpan},
};
use cofferdam_policy::Reason;
use std::{collections::BTreeSet, sync::Arc};

impl Gate {
    /// Rules that have expired say nothing more, and what they allowed is withdrawn.
    pub(super) fn expire(&self, now: Millis) {
        let state = self.quietly();
        let expired = |rules: &Arc<Rules>| rules.policy.next_expiry().is_some_and(|expiry| now >= expiry);
        let Some(rules) = state.rules.clone().filter(|rules| expired(rules) && keeps(Check::RulesExpire))
        else {
            return;
        };
        let limits = state.limits;
        drop(state);
        self.configure(rules, limits);
    }

    /// Puts rules and limits in force. What they no longer allow is withdrawn, what they now decide goes on.
    pub fn configure(&self, rules: Arc<Rules>, limits: Limits) {
        let now = self.now();
        let expired = keeps(Check::RulesExpire) && rules.policy.next_expiry().is_some_and(|at| now >= at);
        let rules = if expired { Arc::new(rules.at(now)) } else { rules };
        let mut state = self.lock();
        state.limits = limits;
        state.names.set_rate(limits.names_per_second);
        state.open.retain(|_, open| {
            let stays = !keeps(Check::RulesWithdraw) || open.stands(&rules);
            if !stays {
                open.withdrawal.now();
            }
            stays
        });
        for destination in state.holds.destinations() {
            if !matches!(rules.judge(&destination), Ruling::Ask { .. }) {
                state.holds.wake_all(&destination, &Wake::Retry);
            }
        }
        state.rules = Some(rules);
    }

    /// A new wire to control: it will name every grant again. Gives what must be asked again.
    pub fn begin_snapshot(&self) -> Vec<Notice> {
        let mut state = self.lock();
        state.snapshot = Some(BTreeSet::new());
        state.holds.asks().map(ask).collect()
    }

    /// The wire to control is gone: nobody can say that a grant is spent.
    pub fn wire_lost(&self) {
        self.lock().spending.clear();
    }

    /// The snapshot is complete: what it did not name is revoked.
    pub fn ready(&self) {
        let mut state = self.lock();
        state.ready = true;
        let Some(named) = state.snapshot.take() else { return };
        let named = |id: &u64| named.contains(id) || !keeps(Check::Snapshot);
        let gone: Vec<u64> = state.grants.keys().copied().filter(|id| !named(id)).collect();
        for id in gone {
            state.revoke(id);
        }
    }

    /// Puts a grant in force.
    pub fn grant(&self, grant: Grant) {
        let mut state = self.lock();
        if let Some(snapshot) = &mut state.snapshot {
            snapshot.insert(grant.id);
        }
        if state.spending.contains_key(&grant.id) || !state.is_of_this_cell(&grant.span) {
            return;
        }
        let destination = grant.destination.clone();
        let once = matches!(grant.span, GrantSpan::Once { .. });
        let request = grant.request.clone();
        state.grants.insert(grant.id, grant);
        let again = if once {
            state.holds.wake_one(&destination, request.as_ref())
        } else {
            state.holds.wake_all(&destination, &Wake::Retry);
            None
        };
        drop(state);
        if let Some(question) = again {
            self.outlet.tell(ask(question));
        }
    }

    /// Another start of the cell is served from here on: what was granted for the life of one before is gone.
    pub fn begin_cell(&self, generation: u64) {
        let mut state = self.lock();
        state.cell = Some(generation);
        let other = |grant: &&Grant| !state.is_of_this_cell(&grant.span);
        let gone: Vec<u64> = state.grants.values().filter(other).map(|grant| grant.id).collect();
        for id in gone {
            state.revoke(id);
        }
    }

    /// Takes a grant away, and what it opened.
    pub fn revoke(&self, grant: u64) {
        self.lock().revoke(grant);
    }

    /// The answer to [`Notice::Spend`].
    pub fn spent(self: &Arc<Self>, grant: u64, ok: bool) {
        let mut state = self.lock();
        let Some(Spending { wanted, answer }) = state.spending.remove(&grant).filter(|_| ok) else {
            return;
        };
        // Judged again, since the rules may have changed, and opened at once, so that whatever is withdrawn
        // from now on finds it.
        let outcome = match state.rules.clone().map(|rules| wanted.ruling(&rules)) {
            None => Err(Refusal::new(Reason::NotReady, "warden")),
            Some(_) if state.tripped => Err(Refusal::new(Reason::LossBlocked, "canary")),
            Some(Ruling::Deny(refusal)) if keeps(Check::SpentIsJudged) => Err(refusal),
            Some(_) => self.open(&mut state, &wanted, Authority::Grant(grant), None),
        };
        drop(state);
        // Whoever waited may have left; the grant is spent all the same.
        drop(answer.send(outcome));
    }

    /// Refuses what is held for this destination.
    pub fn refuse_held(&self, destination: &Destination, refusal: Refusal) {
        self.lock().holds.wake_all(destination, &Wake::Refuse(refusal));
    }

    /// To be called a few times a second: folded rows are handed on and what expired is withdrawn. False: there is nothing
    /// of either, and none will be before [`Gate::stirred`] returns.
    pub fn tick(&self) -> bool {
        let now = self.clock.now();
        self.expire(now);
        let mut state = self.quietly();
        for row in state.folder.due(now) {
            self.outlet.record(row);
        }
        state.open.retain(|_, open| {
            let over = keeps(Check::OpenExpires) && open.until.is_some_and(|until| now >= until);
            if over {
                open.withdrawal.now();
            }
            !over
        });
        state.grants.retain(|_, grant| grant.span.is_alive(now));
        // The address of an open connection's name stays its.
        let State { open, names, .. } = &mut *state;
        for open in open.values() {
            if let Host::Name(name) = &open.wanted.destination.host
                && keeps(Check::OpenKeepsName)
            {
                names.touch(name, now);
            }
        }
        let ends = state.grants.values().any(|grant| grant.span.end().is_some());
        let rules_end = state.rules.as_ref().is_some_and(|rules| rules.policy.next_expiry().is_some());
        ends || rules_end || !state.open.is_empty() || !state.folder.is_empty()
    }

    /// Waits until somebody has come near the state since the last time.
    pub async fn stirred(&self) {
        self.stirred.notified().await;
    }
}
