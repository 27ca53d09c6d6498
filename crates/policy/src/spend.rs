//! What routes may use: asked before a request, settled after it.
//!
//! Pure: the time is passed in, and what was spent before comes from whoever kept it. A request that may go holds what
//! it could use until it is settled with what it did use, so that many at one time do not each see the same room. The
//! threat: a cell that spends more than the operator meant. What is held is an estimate; where a provider then counts
//! more than that, the limit is passed by the difference, and nothing more is let through until the span is over.

use cofferdam_base::{
    Millis,
    ipc::model::{Alias, Limit, Price, Span, Spent, Tokens, Unit},
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
}

impl Books {
    /// Takes what somebody kept. What is known here of the same span and is more, stays.
    pub fn restore(&mut self, kept: Vec<Spent>) {
        for Spent { route, span, begin, tokens, micros } in kept {
            let (since, amount) = self.spent.entry((route, span)).or_default();
            if *since < begin {
                (*since, *amount) = (begin, Amount { tokens, micros });
            } else if *since == begin {
                *amount = Amount { tokens: amount.tokens.max(tokens), micros: amount.micros.max(micros) };
            }
        }
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
        Answer::Go(Held { route: route.clone(), amount: want })
    }

    /// A request is over and used this much.
    pub fn settle(&mut self, held: Held, used: Amount, now: Millis) {
        let Held { route, amount } = held;
        if let Some(all) = self.held.get_mut(&route) {
            *all = all.minus(amount);
        }
        for span in Span::ALL {
            let begin = span.begin(now);
            let (since, spent) = self.spent.entry((route.clone(), span)).or_default();
            // A clock that went back does not open a span that is over.
            if *since < begin {
                (*since, *spent) = (begin, Amount::default());
            }
            *spent = spent.plus(used);
        }
    }

    /// What was used in the span of now, and is held.
    fn used(&self, route: &Alias, span: Span, now: Millis) -> Amount {
        let held = self.held.get(route).copied().unwrap_or_default();
        match self.spent.get(&(route.clone(), span)) {
            Some((since, spent)) if *since >= span.begin(now) => spent.plus(held),
            _ => held,
        }
    }
}

#[cfg(test)]
mod tests;
