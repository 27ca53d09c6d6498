//! What ends approvals from outside: a policy that moves on, and a cell that ends.
//!
//! The threat: a yes that outlives the policy or the cell that it was given for, and a connection that stays held
//! under a number that takes no answer any more.

use super::{
    Live, Said,
    shown::{for_edge, is_of_model, yes_of},
};
use crate::{Error, disk::StoredApproval, host::Host};
use cofferdam_base::{
    TenantId,
    ipc::{
        edge::Config,
        warden::{Command, GrantSpan},
    },
};
use cofferdam_policy::{
    Policy, Reason, Verdict,
    approval::{Effect, Event, State},
};
use tokio::sync::MutexGuard;

impl Host {
    /// A policy came in force. What was granted for ever and is not allowed by it any more is withdrawn, and what
    /// was asked or granted under another revision is over; what is still held is asked anew.
    pub(crate) async fn withdraw(&self, tenant: &TenantId, policy: &Policy) {
        let mut live = self.book.live.lock().await;
        // Where it cannot be read, nothing counts.
        let revision = self.revision(tenant).await.ok();
        let event = |row: &StoredApproval| match row.state {
            State::Granted(GrantSpan::Always) => {
                let allowed = matches!(policy.verdict(&row.destination), Verdict::Allow { .. });
                (!allowed).then_some(Event::Revoke)
            }
            _ => (revision != Some(row.revision)).then_some(Event::PolicyMoved),
        };
        let mine = live.values().filter(|row| row.tenant == *tenant);
        let events: Vec<_> = mine.filter_map(|row| Some((row.id, event(row)?))).collect();
        for (id, event) in events {
            self.moved(&mut live, id, event, Some(policy)).await;
        }
    }

    /// The policy moved on under this approval: if it is still held, and still asked for, it gets a new number.
    pub(super) async fn moved(
        &self,
        live: &mut MutexGuard<'_, Live>,
        id: u64,
        event: Event,
        policy: Option<&Policy>,
    ) {
        let Some(old) = live.get(&id).cloned() else { return };
        let effects = self.logged(live, id, event).await;
        let asks = policy.is_none_or(|it| matches!(it.verdict(&old.destination), Verdict::Ask { .. }));
        if !effects.contains(&Effect::AskAnew) || !(asks || is_of_model(&old.destination)) {
            return;
        }
        let Ok(tenant) = self.tenant(&old.tenant) else { return };
        let Some(link) = tenant.seat.link() else { return };
        let destination = old.destination.clone();
        let asked = self.register(live, &tenant, old.destination, old.why, old.request, old.count).await;
        let command = match asked {
            Ok(Ok(approval)) => Command::Waiting { approval, destination },
            Ok(Err(reason)) => {
                Command::Refuse { approval: None, destination, reason: reason.code().to_owned() }
            }
            Err(error) => {
                tracing::error!(tenant = %tenant.id, %error, "a question could not be asked anew");
                let reason = Reason::LedgerUnavailable.code().to_owned();
                Command::Refuse { approval: None, destination, reason }
            }
        };
        // The warden that does not hear of it is given up, and asks again.
        let _ = link.send(&tenant, &command);
    }

    /// Every start of a cell up to this number is over, and what was granted for its life.
    pub(crate) async fn cell_ended(&self, tenant: &TenantId, through: u64) -> Result<(), Error> {
        let mut live = self.book.live.lock().await;
        let of_it = |row: &&StoredApproval| {
            let State::Granted(GrantSpan::Cell { generation }) = row.state else { return false };
            row.tenant == *tenant && generation <= through
        };
        let ids: Vec<u64> = live.values().filter(of_it).map(|row| row.id).collect();
        for id in ids {
            self.event(&mut live, id, Event::CellEnded(through), &Said::default()).await?;
        }
        Ok(())
    }

    /// What waits, for an edge that knows nothing yet.
    pub(crate) async fn questions(&self) -> Vec<Config> {
        let live = self.book.live.lock().await;
        let mut told = Vec::new();
        for row in live.values().filter(|row| row.state.is_open()) {
            told.push(self.seen_by_edge(row).await);
        }
        told
    }

    /// What the edge is told of a row. Under a policy that cannot be read nobody's yes counts.
    pub(super) async fn seen_by_edge(&self, row: &StoredApproval) -> Config {
        let policy = if row.state.is_open() { self.policy_in_store(&row.tenant).await.ok() } else { None };
        for_edge(row, policy.map(|policy| yes_of(&policy, row)).unwrap_or_default())
    }
}
