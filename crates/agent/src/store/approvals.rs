//! Approvals, and the document that says which commands may be run.

use super::{Error, Store};
use rusqlite::{OptionalExtension, params};

/// So many that are over are kept.
const KEPT: u32 = 256;

/// How an approval ended, for whoever asks later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Over {
    /// `exec` or `plugin`.
    pub kind: String,
    /// None: nobody said anything.
    pub decision: Option<String>,
    pub created_at: u64,
    pub expires_at: u64,
    /// Why it ended.
    pub reason: Option<String>,
}

fn signed(at: u64) -> i64 {
    i64::try_from(at).unwrap_or(i64::MAX)
}

impl Store {
    /// Keeps a question. It is on disk when this returns.
    pub fn put_approval(
        &self,
        id: &str,
        kind: &str,
        request: &str,
        at: u64,
        until: u64,
    ) -> Result<(), Error> {
        let db = self.db();
        db.execute(
            "DELETE FROM approvals WHERE ended_at IS NOT NULL AND id NOT IN
             (SELECT id FROM approvals WHERE ended_at IS NOT NULL ORDER BY ended_at DESC LIMIT ?1)",
            [KEPT],
        )?;
        db.execute(
            "INSERT INTO approvals (id, kind, request, created_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![id, kind, request, signed(at), signed(until)],
        )?;
        Ok(())
    }

    /// Keeps its end; false if it had ended before.
    pub fn end_approval(
        &self,
        id: &str,
        decision: Option<&str>,
        by: Option<&str>,
        at: u64,
        reason: &str,
    ) -> Result<bool, Error> {
        let end = "UPDATE approvals SET decision = ?2, resolved_by = ?3, ended_at = ?4, reason = ?5
                   WHERE id = ?1 AND ended_at IS NULL";
        Ok(self.db().execute(end, params![id, decision, by, signed(at), reason])? > 0)
    }

    /// Ends all that an earlier gateway left open: nobody waits for them any more.
    pub fn end_approvals(&self, at: u64, reason: &str) -> Result<usize, Error> {
        let end = "UPDATE approvals SET ended_at = ?1, reason = ?2 WHERE ended_at IS NULL";
        Ok(self.db().execute(end, params![signed(at), reason])?)
    }

    /// One that is over.
    pub fn over(&self, id: &str) -> Result<Option<Over>, Error> {
        let db = self.db();
        let select = "SELECT kind, decision, created_at, expires_at, reason FROM approvals
                      WHERE id = ?1 AND ended_at IS NOT NULL";
        let row = |row: &rusqlite::Row<'_>| {
            Ok(Over {
                kind: row.get(0)?,
                decision: row.get(1)?,
                created_at: row.get::<_, i64>(2)?.unsigned_abs(),
                expires_at: row.get::<_, i64>(3)?.unsigned_abs(),
                reason: row.get(4)?,
            })
        };
        Ok(db.query_row(select, [id], row).optional()?)
    }

    /// Which commands may be run; none: nobody said.
    pub fn exec_approvals(&self) -> Result<Option<String>, Error> {
        let db = self.db();
        Ok(db.query_row("SELECT document FROM exec_approvals", [], |row| row.get(0)).optional()?)
    }

    /// Says which.
    pub fn put_exec_approvals(&self, document: &str) -> Result<(), Error> {
        self.db().execute("INSERT OR REPLACE INTO exec_approvals VALUES (1, ?1)", [document])?;
        Ok(())
    }
}
