//! Which row of the ledger the database has come to, and what a crash left between the two.
//!
//! A row of class A is on disk before its change is: a kill in between leaves a row of something that did not
//! happen, and so does an older database that was put back. The threat: a ledger that is believed there. So
//! the database keeps the number of its last row, and at the start every later one is called undone. One kind of change
//! is made again instead, so that its row alone need be flushed: that an approval is over, which only closes.

use super::{
    State, Tables,
    rows::{count, number, one},
};
use crate::{
    Error,
    ledger::{Class, Kind, Ledger, NewRow, StoredRow},
};
use cofferdam_base::{Millis, TenantId};
use rusqlite::{Connection, params};
use serde_json::json;
use std::collections::BTreeSet;

/// So many rows are read at a time.
const PAGE: usize = 1000;

impl State {
    /// Calls undone what the ledger tells and the database does not have, but for approvals that are over: those it
    /// ends again. To be called before any change; how many rows are called undone.
    pub fn settle(&mut self, ledger: &mut Ledger, now: Millis) -> Result<usize, Error> {
        let later = match mark(&self.read())? {
            Some(seq) => changes(ledger, seq)?,
            // A database of the schema before has rows and no mark; a new one has neither.
            None if self.read().has_identities()? => Vec::new(),
            None => changes(ledger, 0)?,
        };
        let (mut ended, mut undone) = (Vec::new(), Vec::new());
        for row in later {
            match over(&row) {
                Some(end) if self.read().has_approval(&end)? => ended.push(end),
                _ => undone.push(is_undone(row, now)),
            }
        }
        if !undone.is_empty() {
            ledger.append_all(&undone)?;
        }
        let rows = ledger.rows();
        self.change_quietly(|tables| {
            ended.iter().try_for_each(|end| tables.end_approval(end))?;
            set(tables.0, rows)
        })?;
        Ok(undone.len())
    }
}

/// An approval that is over, as its row tells.
struct Ended {
    tenant: TenantId,
    approval: u64,
    state: String,
}

/// The row of a change that is flushed by the row alone.
pub(super) fn telling(row: &NewRow, approval: u64, state: &str) -> NewRow {
    let body = row.body.with("ends", json!({ "approval": approval, "state": state }));
    NewRow { body, ..row.clone() }
}

fn over(row: &StoredRow) -> Option<Ended> {
    let ends = row.body.get("ends")?;
    let state = ends["state"].as_str()?.to_owned();
    Some(Ended { tenant: row.tenant.clone()?, approval: ends["approval"].as_u64()?, state })
}

impl Tables<'_> {
    fn has_approval(&self, end: &Ended) -> Result<bool, Error> {
        let sql = "SELECT EXISTS (SELECT 1 FROM approvals WHERE id = ?1 AND tenant = ?2)";
        Ok(self.0.query_row(sql, params![number(end.approval)?, end.tenant.as_str()], |row| row.get(0))?)
    }

    fn end_approval(&self, end: &Ended) -> Result<(), Error> {
        let sql = "UPDATE approvals SET state = ?3, over = 1 WHERE id = ?1 AND tenant = ?2";
        self.0.execute(sql, params![number(end.approval)?, end.tenant.as_str(), end.state])?;
        Ok(())
    }
}

/// Notes the last row whose change is in the database.
pub(super) fn set(connection: &Connection, seq: u64) -> Result<(), Error> {
    let sql = "INSERT INTO chain (place, seq) VALUES (1, ?1) ON CONFLICT (place) DO UPDATE SET seq = ?1";
    connection.execute(sql, [number(seq)?])?;
    Ok(())
}

fn mark(tables: &Tables<'_>) -> Result<Option<u64>, Error> {
    one(tables.0.prepare("SELECT seq FROM chain")?, [], |row| count(row, "seq"))
}

/// The changes after this row that nothing calls undone.
fn changes(ledger: &Ledger, mut seq: u64) -> Result<Vec<StoredRow>, Error> {
    let (mut changes, mut told) = (Vec::new(), BTreeSet::new());
    loop {
        let page = ledger.after(seq, None, PAGE)?;
        let Some(last) = page.last() else { break };
        seq = last.seq;
        for row in page {
            match Kind::of(&row.kind) {
                Some(Kind::Undone) => told.extend(row.body["row"].as_u64()),
                Some(kind) if kind.is_change() && row.class == Class::A => changes.push(row),
                _ => {}
            }
        }
    }
    changes.retain(|row| !told.contains(&row.seq));
    Ok(changes)
}

fn is_undone(row: StoredRow, now: Millis) -> NewRow {
    NewRow {
        at: now,
        class: Class::A,
        tenant: row.tenant,
        kind: Kind::Undone.as_str().to_owned(),
        body: json!({ "row": row.seq, "kind": row.kind, "why": "the change was not made" }).into(),
    }
}
