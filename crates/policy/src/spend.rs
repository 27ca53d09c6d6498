//! What routes may use, each and all together: asked before a request, settled after it.
//!
//! Pure: the time is passed in, and what was spent before comes from whoever kept it. A request that may go holds what
//! it could use until it is settled with what it did use, so that many at one time do not each see the same room. The
//! threat: a cell that spends more than the operator meant. What is held is an estimate; where a provider then counts
//! more than that, the limit is passed by the difference, and nothing more is let through until the span is over.

use cofferdam_base::{
    Millis,
    ipc::model::{Alias, Limit, Price, Span, Spent, SpentByAll, Tokens, Unit},
};
use std::collections::HashMap;

/// Tokens and money.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Tokens.
    pub tokens: u64,
    /// Millionths of a US dollar.
    pub micros: u64,
}

impl Amount {
    /// These tokens at this price.
    pub fn new(tokens: Tokens, price: Option<Price>) -> Self {
        Self { tokens: tokens.total(), micros: price.map_or(0, |price| price.of(tokens)) }
    }

    const fn plus(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.saturating_add(other.tokens),
            micros: self.micros.saturating_add(other.micros),
        }
    }

    const fn minus(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.saturating_sub(other.tokens),
            micros: self.micros.saturating_sub(other.micros),
        }
    }

    const fn of(self, unit: Unit) -> u64 {
        match unit {
            Unit::Tokens => self.tokens,
            Unit::Usd => self.micros,
        }
    }
}

/// May a request go?
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// Yes, and this much is held for it until [`Books::settle`].
    Go(Held),
    /// A person must say so first: this limit would be passed.
    Ask(Limit),
    /// No, before this moment.
    Stop(Limit, Millis),
    /// No: money is limited, and nobody knows what the model costs.
    Unpriced(Limit),
}

/// What is held for a request. To be settled once, so there is no copy of it.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Held {
    route: Alias,
    amount: Amount,
}

/// What a tenant's routes used.
#[derive(Debug, Default)]
pub struct Books {
    spent: HashMap<(Alias, Span), (Millis, Amount)>,
    held: HashMap<Alias, Amount>,
    /// The same of all routes together.
    spent_by_all: HashMap<Span, (Millis, Amount)>,
    held_by_all: Amount,
}

impl Books {
    /// Takes what somebody kept. What is known here of the same span and is more, stays.
    pub fn restore(&mut self, kept: Vec<Spent>, by_all: Vec<SpentByAll>) {
        for Spent { route, span, begin, tokens, micros } in kept {
            more(self.spent.entry((route, span)).or_default(), begin, Amount { tokens, micros });
        }
        for SpentByAll { span, begin, tokens, micros } in by_all {
            more(self.spent_by_all.entry(span).or_default(), begin, Amount { tokens, micros });
        }
    }

    /// Would a request that could use this much pass what all routes together may use? None: no. Nothing is held for it:
    /// ask for its route next.
    pub fn stops(&self, budget: &[Limit], want: Tokens, price: Option<Price>, now: Millis) -> Option<Answer> {
        let money = budget.iter().find(|limit| limit.unit == Unit::Usd);
        if let (None, Some(limit)) = (price, money) {
            return Some(Answer::Unpriced(*limit));
        }
        let want = Amount::new(want, price);
        let passed = |limit: &&Limit| {
            let used = in_span(self.spent_by_all.get(&limit.span), limit.span, now).plus(self.held_by_all);
            used.plus(want).of(limit.unit) > limit.most
        };
        let limit = budget.iter().filter(passed).max_by_key(|limit| limit.span)?;
        Some(Answer::Stop(*limit, limit.span.end(now)))
    }

    /// May a request go that could use this much? `approved`: a person let it pass the soft limits.
    pub fn ask(
        &mut self,
        route: &Alias,
        limits: &[Limit],
        want: Tokens,
        price: Option<Price>,
        approved: bool,
        now: Millis,
    ) -> Answer {
        let want = Amount::new(want, price);
        let passed =
            |limit: &&Limit| self.used(route, limit.span, now).plus(want).of(limit.unit) > limit.most;
        let money = limits.iter().find(|limit| limit.unit == Unit::Usd);
        if let (None, Some(limit)) = (price, money) {
            return Answer::Unpriced(*limit);
        }
        // Of several that are passed, the one that holds longest is told.
        let hard = limits.iter().filter(|limit| !limit.soft).filter(passed).max_by_key(|limit| limit.span);
        if let Some(limit) = hard {
            return Answer::Stop(*limit, limit.span.end(now));
        }
        let soft = limits.iter().filter(|limit| limit.soft).filter(passed).max_by_key(|limit| limit.span);
        if let (Some(limit), false) = (soft, approved) {
            return Answer::Ask(*limit);
        }
        let held = self.held.entry(route.clone()).or_default();
        *held = held.plus(want);
        self.held_by_all = self.held_by_all.plus(want);
        Answer::Go(Held { route: route.clone(), amount: want })
    }

    /// A request is over and used this much.
    pub fn settle(&mut self, held: Held, used: Amount, now: Millis) {
        let Held { route, amount } = held;
        if let Some(all) = self.held.get_mut(&route) {
            *all = all.minus(amount);
        }
        self.held_by_all = self.held_by_all.minus(amount);
        for span in Span::ALL {
            add(self.spent.entry((route.clone(), span)).or_default(), span.begin(now), used);
            add(self.spent_by_all.entry(span).or_default(), span.begin(now), used);
        }
    }

    /// What was used in the span of now, and is held.
    fn used(&self, route: &Alias, span: Span, now: Millis) -> Amount {
        let held = self.held.get(route).copied().unwrap_or_default();
        in_span(self.spent.get(&(route.clone(), span)), span, now).plus(held)
    }
}

/// What was used since when, the more of two.
fn more((since, amount): &mut (Millis, Amount), begin: Millis, kept: Amount) {
    if *since < begin {
        (*since, *amount) = (begin, kept);
    } else if *since == begin {
        *amount = Amount { tokens: amount.tokens.max(kept.tokens), micros: amount.micros.max(kept.micros) };
    }
}

/// This much more in the span that began then. A clock that went back does not open a span that is over.
fn add((since, spent): &mut (Millis, Amount), begin: Millis, used: Amount) {
    if *since < begin {
        (*since, *spent) = (begin, Amount::default());
    }
    *spent = spent.plus(used);
}

/// What was used in the span of now.
fn in_span(known: Option<&(Millis, Amount)>, span: Span, now: Millis) -> Amount {
    known.filter(|(since, _)| *since >= span.begin(now)).map_or_else(Amount::default, |(_, spent)| *spent)
}

#[cfg(test)]
mod tests;
