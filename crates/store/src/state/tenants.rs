//! Tenants, their identities and their policies.
//!
//! It owns the rule that an id and a slot are given once. The threat: a new tenant that inherits files, uids
//! or tokens of an old one.

use super::{
    NewTenantRow, PolicyRow, Tables, TenantRow,
    rows::{all, count, json, number, one, text, word},
};
use crate::Error;
use cofferdam_base::{Millis, Slot, TenantId, ipc::launcher::Limits};
use rusqlite::{Row, params};

impl Tables<'_> {
    /// All tenants, by id.
    pub fn tenants(&self) -> Result<Vec<TenantRow>, Error> {
        all(self.0.prepare("SELECT * FROM tenants ORDER BY id")?, [], tenant)
    }

    /// Was there ever a tenant?
    pub(super) fn has_identities(&self) -> Result<bool, Error> {
        Ok(self.0.query_row("SELECT EXISTS (SELECT 1 FROM identities)", [], |row| row.get(0))?)
    }

    /// Makes a tenant with its first policy, in a slot that none ever had.
    pub fn create_tenant(&self, new: &NewTenantRow) -> Result<Slot, Error> {
        let NewTenantRow { id, runtime, limits, desired, created, data_key, policy } = new;
        let known = "SELECT EXISTS (SELECT 1 FROM identities WHERE id = ?1)";
        if self.0.query_row(known, [id.as_str()], |row| row.get(0))? {
            return Err(Error::Conflict(format!("the id {id} is, or was, in use and is never used again")));
        }
        let last: Option<u16> = self.0.query_row("SELECT max(slot) FROM identities", [], |row| row.get(0))?;
        let slot = last.map_or(Some(Slot::FIRST.number()), |last| last.checked_add(1));
        let slot = slot.and_then(|slot| Slot::try_from(slot).ok()).ok_or(Error::Full { what: "slot" })?;
        self.0.execute(
            "INSERT INTO identities (slot, id) VALUES (?1, ?2)",
            params![slot.number(), id.as_str()],
        )?;
        self.0.execute(
            "INSERT INTO tenants (id, slot, runtime, limits, desired, created, data_key)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                id.as_str(),
                slot.number(),
                text(runtime)?,
                text(limits)?,
                desired,
                number(created.0)?,
                data_key
            ],
        )?;
        self.add_policy(id, policy, "default", *created)?;
        Ok(slot)
    }

    /// Notes what is wanted; none if `last`, after which nothing else can be, is wanted already.
    pub fn set_desired(&self, id: &TenantId, desired: &str, last: &str) -> Result<Option<()>, Error> {
        let sql = "UPDATE tenants SET desired = ?2 WHERE id = ?1 AND (desired <> ?3 OR ?2 = ?3)";
        if self.0.execute(sql, params![id.as_str(), desired, last])? == 1 {
            return Ok(Some(()));
        }
        self.must_exist(id)?;
        Ok(None)
    }

    /// Notes other limits.
    pub fn set_limits(&self, id: &TenantId, limits: &Limits) -> Result<(), Error> {
        let sql = "UPDATE tenants SET limits = ?2 WHERE id = ?1";
        touched(self.0.execute(sql, params![id.as_str(), text(limits)?])?, id)
    }

    /// Notes what its last proof found, as text.
    pub fn set_proof(&self, id: &TenantId, proof: &str) -> Result<(), Error> {
        let sql = "UPDATE tenants SET proof = ?2 WHERE id = ?1";
        touched(self.0.execute(sql, params![id.as_str(), proof])?, id)
    }

    /// Notes the number of a start, which only grows.
    pub fn set_generation(&self, id: &TenantId, generation: u64) -> Result<(), Error> {
        let sql = "UPDATE tenants SET generation = max(generation, ?2) WHERE id = ?1";
        touched(self.0.execute(sql, params![id.as_str(), number(generation)?])?, id)
    }

    /// Strikes a tenant with all that is its own; its id and slot stay taken.
    pub fn forget_tenant(&self, id: &TenantId) -> Result<(), Error> {
        // Tokens go before the members that they name.
        self.0.execute("DELETE FROM tokens WHERE tenant = ?1", [id.as_str()])?;
        touched(self.0.execute("DELETE FROM tenants WHERE id = ?1", [id.as_str()])?, id)
    }

    /// The wrapped data key, as text.
    pub fn data_key(&self, id: &TenantId) -> Result<String, Error> {
        let query = self.0.prepare("SELECT data_key FROM tenants WHERE id = ?1")?;
        one(query, [id.as_str()], |row| Ok(row.get(0)?))?.ok_or_else(|| no_tenant(id))
    }

    /// The newest policy.
    pub fn policy(&self, id: &TenantId) -> Result<PolicyRow, Error> {
        let sql = "SELECT * FROM policies WHERE tenant = ?1 ORDER BY revision DESC LIMIT 1";
        one(self.0.prepare(sql)?, [id.as_str()], policy)?.ok_or_else(|| no_tenant(id))
    }

    /// At most so many revisions below this number, the newest first.
    pub fn policies(&self, id: &TenantId, below: u64, most: u32) -> Result<Vec<PolicyRow>, Error> {
        let below = i64::try_from(below).unwrap_or(i64::MAX);
        let sql =
            "SELECT * FROM policies WHERE tenant = ?1 AND revision < ?2 ORDER BY revision DESC LIMIT ?3";
        all(self.0.prepare(sql)?, params![id.as_str(), below, most], policy)
    }

    /// Adds a policy; its revision.
    pub fn add_policy(&self, id: &TenantId, document: &str, author: &str, at: Millis) -> Result<u64, Error> {
        self.must_exist(id)?;
        let sql = "INSERT INTO policies (tenant, revision, at, author, document)
             SELECT ?1, coalesce(max(revision), 0) + 1, ?2, ?3, ?4 FROM policies WHERE tenant = ?1
             RETURNING revision";
        let values = params![id.as_str(), number(at.0)?, author, document];
        one(self.0.prepare(sql)?, values, |row| count(row, "revision"))?.ok_or_else(|| no_tenant(id))
    }

    /// Refuses what is about a tenant that is not there.
    pub(super) fn must_exist(&self, id: &TenantId) -> Result<(), Error> {
        if self.exists(id)? { Ok(()) } else { Err(no_tenant(id)) }
    }

    pub(super) fn exists(&self, id: &TenantId) -> Result<bool, Error> {
        let mut there = self.0.prepare_cached("SELECT EXISTS (SELECT 1 FROM tenants WHERE id = ?1)")?;
        Ok(there.query_row([id.as_str()], |row| row.get(0))?)
    }
}

fn touched(rows: usize, id: &TenantId) -> Result<(), Error> {
    if rows == 1 { Ok(()) } else { Err(no_tenant(id)) }
}

fn no_tenant(id: &TenantId) -> Error {
    Error::NotFound { what: "tenant", name: id.to_string() }
}

fn tenant(row: &Row<'_>) -> Result<TenantRow, Error> {
    Ok(TenantRow {
        id: word(row, "id")?,
        slot: Slot::try_from(row.get::<_, u16>("slot")?).map_err(|_| Error::Malformed("slot"))?,
        runtime: json(row, "runtime")?,
        limits: json(row, "limits")?,
        desired: row.get("desired")?,
        generation: count(row, "generation")?,
        created: Millis(count(row, "created")?),
        proof: row.get("proof")?,
    })
}

fn policy(row: &Row<'_>) -> Result<PolicyRow, Error> {
    Ok(PolicyRow {
        revision: count(row, "revision")?,
        at: Millis(count(row, "at")?),
        author: row.get("author")?,
        document: row.get("document")?,
    })
}
