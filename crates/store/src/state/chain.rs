//! Which row of the ledger the database has come to, and what a crash left between the two.
//!
//! A row of class A is on disk before its change is: a kill in between leaves a row of something that did not
//! happen, and so does an older database that was put back. The threat: a ledger that is believed there. So
//! the database keeps the number of its last row, and at the start every later one is called undone.

use super::{
    State, Tables,
    rows::{count, number, one},
};
use crate::{
    Error,
    ledger::{Class, Kind, Ledger, NewRow},
};
use cofferdam_base::Millis;
use rusqlite::Connection;
use std::collections::BTreeSet;

/// So many rows are read at a time.
const PAGE: usize = 1000;

impl State {
    /// Calls undone what the ledger tells and the database does not have. To be called before any change;
    /// how many rows that were.
    pub fn settle(&mut self, ledger: &mut Ledger, now: Millis) -> Result<usize, Error> {
        let found = match mark(&self.read())? {
            Some(seq) => undone(ledger, seq, now)?,
            // A database of the schema before has rows and no mark; a new one has neither.
            None if self.read().has_identities()? => Vec::new(),
            None => undone(ledger, 0, now)?,
        };
        if !found.is_empty() {
            ledger.append_all(&found)?;
        }
        let rows = ledger.rows();
        self.change_quietly(|tables| set(tables.0, rows))?;
        Ok(found.len())
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

/// What is to be written of the changes after this row.
fn undone(ledger: &Ledger, mut seq: u64, now: Millis) -> Result<Vec<NewRow>, Error> {
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
    let new = changes.into_iter().filter(|row| !told.contains(&row.seq)).map(|row| NewRow {
        at: now,
        class: Class::A,
        tenant: row.tenant,
        kind: Kind::Undone.as_str().to_owned(),
        body: serde_json::json!({ "row": row.seq, "kind": row.kind, "why": "the change was not made" }),
    });
    Ok(new.collect())
}
