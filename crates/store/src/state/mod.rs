//! The state database: every change durable together with its ledger row, or not at all.
//!
//! It owns the transaction and the order of the two files: the row is on disk before the change is, so that
//! no effect is without its record. It interprets nothing. The threat: half a change, or one without a row.

mod approvals;
mod backup;
mod chain;
mod migrate;
mod models;
#[cfg(test)]
mod models_tests;
mod open;
mod rows;
mod secrets;
mod tenants;
#[cfg(test)]
mod tests;
mod tokens;
mod usage;
mod webhooks;

pub use models::RouteRow;
pub use rows::{ApprovalRow, NewTenantRow, PolicyRow, SecretRow, TenantRow, TokenRow};
pub use usage::{By, OTHERS, UsageRow};
pub use webhooks::{DeliveryRow, MOST_DELIVERIES, WebhookRow};

use crate::{
    Error,
    ledger::{Class, Kind, Ledger, NewRow},
};
use rusqlite::{Connection, TransactionBehavior};

/// The open database.
#[derive(Debug)]
pub struct State {
    connection: Connection,
    files: open::Files,
    /// Why the opening made no backup.
    unkept: Option<Error>,
    /// Is the log flushed with each change?
    flushes: bool,
}

/// Its tables, within a change or for reading.
#[derive(Debug)]
pub struct Tables<'a>(&'a Connection);

impl State {
    /// Its tables, for reading.
    pub fn read(&self) -> Tables<'_> {
        Tables(&self.connection)
    }

    /// Makes a change and appends its row. After an error nothing was changed; if the row was on disk by
    /// then, a row `undone` follows it.
    pub fn change<T>(
        &mut self,
        ledger: &mut Ledger,
        row: &NewRow,
        change: impl FnOnce(&Tables<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let made = self.change_if(ledger, row, |tables| change(tables).map(Some))?;
        // `change_if` gives none only if the closure does, and this one never does.
        made.ok_or(Error::Malformed("change"))
    }

    /// Like [`State::change`]; if `change` gives none, nothing is changed and no row appended.
    pub fn change_if<T>(
        &mut self,
        ledger: &mut Ledger,
        row: &NewRow,
        change: impl FnOnce(&Tables<'_>) -> Result<Option<T>, Error>,
    ) -> Result<Option<T>, Error> {
        self.flush(true)?;
        self.change_as_set(ledger, row, change)
    }

    /// Like [`State::change`], in one flush, which is that of the row. The change is that this approval is over, in this
    /// state; the row tells so, and [`State::settle`] makes again from it what a loss of power takes.
    pub fn end_approval<T>(
        &mut self,
        ledger: &mut Ledger,
        row: &NewRow,
        approval: u64,
        state: &str,
        change: impl FnOnce(&Tables<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.flush(false)?;
        let row = chain::telling(row, approval, state);
        let made = self.change_as_set(ledger, &row, |tables| change(tables).map(Some))?;
        made.ok_or(Error::Malformed("change"))
    }

    /// Says whether the next changes flush the log. Each says so for itself, before it begins.
    fn flush(&mut self, wanted: bool) -> Result<(), Error> {
        if self.flushes != wanted {
            let how = if wanted { "FULL" } else { "NORMAL" };
            self.connection.pragma_update(None, "synchronous", how)?;
            self.flushes = wanted;
        }
        Ok(())
    }

    fn change_as_set<T>(
        &mut self,
        ledger: &mut Ledger,
        row: &NewRow,
        change: impl FnOnce(&Tables<'_>) -> Result<Option<T>, Error>,
    ) -> Result<Option<T>, Error> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let Some(made) = change(&Tables(&transaction))? else {
            return Ok(None);
        };
        debug_assert!(Kind::of(&row.kind).is_none_or(Kind::is_change), "{} is no change", row.kind);
        let seq = ledger.append(row)?;
        chain::set(&transaction, seq)?;
        if let Err(error) = transaction.commit() {
            let body = serde_json::json!({ "row": seq, "kind": row.kind, "why": error.to_string() });
            let NewRow { at, class: _, tenant, kind: _, body: _ } = row;
            let undone = NewRow {
                at: *at,
                class: Class::A,
                tenant: tenant.clone(),
                kind: Kind::Undone.as_str().to_owned(),
                body: body.into(),
            };
            // The change failed already and is reported as such; a ledger that fails too adds nothing.
            let _ = ledger.append(&undone);
            return Err(error.into());
        }
        Ok(Some(made))
    }

    /// Makes a change that has no row.
    pub fn change_quietly<T>(
        &mut self,
        change: impl FnOnce(&Tables<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.flush(true)?;
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let made = change(&Tables(&transaction))?;
        transaction.commit()?;
        Ok(made)
    }
}
