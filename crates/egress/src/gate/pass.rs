//! What is open: each connection that was let through, what allowed it, and where it went.

use super::{Gate, State, wanted::Wanted};
use crate::{
    Refusal, Rules, Ruling,
    budget::Spent,
    check::{Check, keeps},
    dial::Reached,
};
use cofferdam_base::{Destination, Host, Millis};
use cofferdam_policy::{Budget, CheckedAddress, Per, Reason};
use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, Weak},
};
use tokio_util::sync::CancellationToken;

/// What let a connection through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Authority {
    /// A rule, and its budget.
    Rule(String, Option<Budget>),
    Grant(u64),
    /// A service of the warden's own, configured by the operator: policy has no say, the guard has.
    Service,
}

/// A connection that was let through.
pub(super) struct Open {
    pub(super) wanted: Wanted,
    pub(super) authority: Authority,
    /// When the grant that allowed it ends.
    pub(super) until: Option<Millis>,
    /// What was dialled, once it was.
    pub(super) address: Option<CheckedAddress>,
    pub(super) withdrawal: Withdrawal,
}

/// The end of a permission, wherever it is waited for.
#[derive(Clone, Debug, Default)]
pub(super) struct Withdrawal {
    token: CancellationToken,
    severed: Arc<Mutex<Vec<Weak<dyn Severed>>>>,
}

/// What is let go of when a permission is withdrawn, whether anybody looks at it just then or not.
pub(crate) trait Severed: Send + Sync + std::fmt::Debug {
    /// Lets go at once, but for what takes locks: whoever withdraws may hold them.
    fn sever(self: Arc<Self>);
}

impl Withdrawal {
    pub(super) fn now(&self) {
        self.token.cancel();
        let severed = std::mem::take(&mut *self.severed.lock().unwrap_or_else(PoisonError::into_inner));
        severed.iter().filter_map(Weak::upgrade).for_each(Severed::sever);
    }
}

impl Open {
    /// Would these rules let it go on?
    pub(super) fn stands(&self, rules: &Rules) -> bool {
        let allowed = match &self.authority {
            Authority::Service => rules.guard.check_host(&self.wanted.destination.host).is_ok(),
            authority => match self.wanted.ruling(rules) {
                Ruling::Allow { .. } => true,
                Ruling::Ask { .. } => matches!(authority, Authority::Grant(_)),
                Ruling::Inspect { .. } | Ruling::Deny(_) => false,
            },
        };
        allowed && self.address.is_none_or(|address| self.check(rules, address.ip()).is_ok())
    }

    fn check(&self, rules: &Rules, address: IpAddr) -> Result<CheckedAddress, Refusal> {
        check(rules, &self.wanted.destination, self.authority == Authority::Service, address)
    }
}

fn check(
    rules: &Rules,
    destination: &Destination,
    service: bool,
    address: IpAddr,
) -> Result<CheckedAddress, Refusal> {
    if service { rules.check_address(address) } else { rules.check(destination, address) }
}

/// What counts against a rule's budget.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    pub(super) by: String,
    pub(super) spent: Arc<Mutex<Spent>>,
}

impl Meter {
    /// May one more begin?
    pub(super) fn begins(&self, wanted: &Wanted, now: Millis) -> bool {
        let url = wanted.request.as_ref().map(|facts| (&facts.destination, facts.target.as_str()));
        self.spent.lock().unwrap_or_else(PoisonError::into_inner).request(url, now)
    }

    pub(super) fn used_up(&self) -> Refusal {
        Refusal::new(Reason::BudgetSpent, self.by.clone())
    }
}

impl State {
    /// What counts against this rule's budget. A rule that only moved in its document goes on where it was. There are
    /// not endless destinations with a budget of their own: those that count nothing make room, or there is none.
    pub(super) fn meter(
        &mut self,
        by: &str,
        budget: Budget,
        destination: &Destination,
        now: Millis,
    ) -> Result<Meter, Refusal> {
        let words = by.split_once("): ").map_or(by, |(_, words)| words);
        let place = match budget.per {
            Per::Destination if keeps(Check::BudgetPlaces) => destination.to_string(),
            _ => String::new(),
        };
        let key = format!("{words} {budget:?} {place}");
        if !self.spent.contains_key(&key) && self.spent.len() >= METERS {
            self.spent.retain(|_, spent| {
                let used = Arc::strong_count(spent) > 1;
                used || !spent.lock().unwrap_or_else(PoisonError::into_inner).is_idle(now)
            });
            if self.spent.len() >= METERS {
                return Err(Refusal::new(Reason::BudgetSpent, by));
            }
        }
        let spent = self.spent.entry(key).or_insert_with(|| Arc::new(Mutex::new(Spent::new(budget))));
        Ok(Meter { by: by.to_owned(), spent: Arc::clone(spent) })
    }
}

/// So many budgets are counted at one time.
const METERS: usize = 1024;

/// A permission to have one connection, as long as it lives and is not withdrawn.
#[derive(Debug)]
pub struct Pass {
    pub(super) gate: Arc<Gate>,
    pub(super) id: u64,
    pub(super) destination: Destination,
    pub(super) service: bool,
    pub(super) meter: Option<Meter>,
    pub(super) withdrawal: Withdrawal,
    /// The number of the row that tells of it.
    pub(super) row: Option<u64>,
}

impl Pass {
    /// Cancelled once what allowed the connection is gone.
    pub fn withdrawn(&self) -> &CancellationToken {
        &self.withdrawal.token
    }

    /// Has this severed once what allowed the connection is gone, as long as it is there.
    pub(crate) fn severs(&self, what: &Arc<impl Severed + 'static>) {
        let weak: Weak<dyn Severed> = Arc::downgrade(what) as _;
        self.withdrawal.severed.lock().unwrap_or_else(PoisonError::into_inner).push(weak);
        // If that came before, nobody looks there any more.
        if self.withdrawn().is_cancelled() {
            Arc::clone(what).sever();
        }
    }

    /// Counts bytes that are about to be sent; an error if they are too many.
    pub(crate) fn charge(&self, bytes: usize) -> Result<(), Refusal> {
        let Some(meter) = &self.meter else { return Ok(()) };
        let now = self.gate.now();
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let fits = meter.spent.lock().unwrap_or_else(PoisonError::into_inner).send(bytes, now);
        if fits { Ok(()) } else { Err(meter.used_up()) }
    }

    /// The same in the middle of something: where they are too many, that is recorded and the permission gone.
    pub(crate) fn sends(&self, bytes: usize) -> bool {
        let Err(refusal) = self.charge(bytes) else { return true };
        if !self.withdrawn().is_cancelled() {
            self.gate.refuse(Some(&self.destination), refusal);
            self.withdrawal.now();
        }
        false
    }

    /// Where it leads.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// May this address of the destination be dialled under it?
    pub(crate) fn check(&self, rules: &Rules, address: IpAddr) -> Result<CheckedAddress, Refusal> {
        check(rules, &self.destination, self.service, address)
    }

    /// Notes what was dialled, or what an earlier connection that is used again had dialled: from now on the
    /// address is judged with its name. Refused if the rules changed since it was checked.
    pub fn dialled(&self, reached: Reached) -> Result<(), Refusal> {
        let mut state = self.gate.lock();
        let State { rules: Some(rules), open, .. } = &mut *state else {
            return Err(Refusal::new(Reason::NotReady, "warden"));
        };
        let open = open.get_mut(&self.id).ok_or_else(|| Refusal::new(Reason::Revoked, "policy"))?;
        open.address = match reached {
            Reached::At(address) => Some(self.check(rules, address.ip())?),
            Reached::ByProxy => None,
        };
        Ok(())
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let now = self.gate.now();
        let mut state = self.gate.lock();
        if let Some(open) = state.open.remove(&self.id)
            && let Host::Name(name) = &open.wanted.destination.host
        {
            state.names.touch(name, now);
        }
    }
}
