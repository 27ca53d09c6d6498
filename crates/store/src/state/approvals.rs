//! Approvals, from the question to the end of the grant.
//!
//! It does not know what a state means. The threat: a number that is used again and with it an old grant.

use super::{
    ApprovalRow, Tables,
    rows::{all, count, json, number, text, word},
};
use crate::Error;
use cofferdam_base::{Millis, TenantId};
use rusqlite::{Row, params};

impl Tables<'_> {
    /// Approvals by number; without `over` only those that are not over.
    pub fn approvals(&self, over: bool) -> Result<Vec<ApprovalRow>, Error> {
        all(self.0.prepare("SELECT * FROM approvals WHERE ?1 OR over = 0 ORDER BY id")?, [over], approval)
    }

    /// Keeps a new approval; its number.
    pub fn add_approval(&self, new: &ApprovalRow) -> Result<u64, Error> {
        let ApprovalRow {
            id: _,
            tenant,
            destination,
            why,
            asked,
            state,
            over,
            answer,
            answered: _,
            revision,
            request,
            count,
            approver,
        } = new;
        self.must_exist(tenant)?;
        self.0.execute(
            "INSERT INTO approvals
               (tenant, destination, why, asked, state, over, answer, revision, request, count, approver)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            params![
                tenant.as_str(),
                text(destination)?,
                why,
                number(asked.0)?,
                state,
                over,
                answer,
                number(*revision)?,
                request,
                number(*count)?,
                approver
            ],
        )?;
        u64::try_from(self.0.last_insert_rowid()).map_err(|_| Error::Malformed("approval's number"))
    }

    /// Keeps where an approval stands; what was asked stays as it was.
    pub fn set_approval(&self, changed: &ApprovalRow) -> Result<(), Error> {
        let ApprovalRow {
            id,
            tenant,
            destination: _,
            why: _,
            asked: _,
            state,
            over,
            answer,
            answered,
            revision: _,
            request: _,
            count,
            approver,
        } = changed;
        let answered = answered.map(|at| number(at.0)).transpose()?;
        let rows = self.0.execute(
            "UPDATE approvals SET state = ?3, over = ?4, answer = ?5, answered = ?6, count = ?7, approver = ?8
             WHERE id = ?1 AND tenant = ?2",
            params![
                number(*id)?,
                tenant.as_str(),
                state,
                over,
                answer,
                answered,
                number(*count)?,
                approver
            ],
        )?;
        let missing = || Error::NotFound { what: "approval", name: id.to_string() };
        if rows == 1 { Ok(()) } else { Err(missing()) }
    }

    /// What of a tenant is not over and was asked under one revision counts under another, which says of it the
    /// same.
    pub fn rebind_approvals(&self, tenant: &TenantId, from: u64, to: u64) -> Result<(), Error> {
        self.0.execute(
            "UPDATE approvals SET revision = ?3 WHERE tenant = ?1 AND over = 0 AND revision = ?2",
            params![tenant.as_str(), number(from)?, number(to)?],
        )?;
        Ok(())
    }
}

fn approval(row: &Row<'_>) -> Result<ApprovalRow, Error> {
    let answered: Option<i64> = row.get("answered")?;
    let answered = answered.map(u64::try_from).transpose().map_err(|_| Error::Malformed("answered"))?;
    Ok(ApprovalRow {
        id: count(row, "id")?,
        tenant: word(row, "tenant")?,
        destination: json(row, "destination")?,
        why: row.get("why")?,
        asked: Millis(count(row, "asked")?),
        state: row.get("state")?,
        over: row.get("over")?,
        answer: row.get("answer")?,
        answered: answered.map(Millis),
        revision: count(row, "revision")?,
        request: row.get("request")?,
        count: count(row, "count")?,
        approver: row.get("approver")?,
    })
}
