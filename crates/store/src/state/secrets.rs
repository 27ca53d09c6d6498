//! Envelopes of secrets.
//!
//! It sees envelopes only, never a value or a key. The threat: an old value that lives on; a new version
//! replaces the one before it.

use super::{
    SecretRow, Tables,
    rows::{all, count, number, word},
};
use crate::Error;
use cofferdam_base::{Millis, SecretName, TenantId};
use rusqlite::params;

impl Tables<'_> {
    /// The newest envelope of each secret, by name.
    pub fn secrets(&self, id: &TenantId) -> Result<Vec<SecretRow>, Error> {
        let query = self.0.prepare("SELECT * FROM secrets WHERE tenant = ?1 ORDER BY name")?;
        all(query, [id.as_str()], |row| {
            Ok(SecretRow {
                name: word(row, "name")?,
                version: row.get("version")?,
                purpose: row.get("purpose")?,
                envelope: row.get("envelope")?,
                at: Millis(count(row, "at")?),
            })
        })
    }

    /// Keeps a secret in place of its older version.
    pub fn set_secret(&self, id: &TenantId, secret: &SecretRow) -> Result<(), Error> {
        self.must_exist(id)?;
        let SecretRow { name, version, purpose, envelope, at } = secret;
        self.0.execute(
            "INSERT OR REPLACE INTO secrets (tenant, name, version, purpose, envelope, at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![id.as_str(), name.as_str(), version, purpose, envelope, number(at.0)?],
        )?;
        Ok(())
    }

    /// Removes a secret; false if there is none.
    pub fn remove_secret(&self, id: &TenantId, name: &SecretName) -> Result<bool, Error> {
        let sql = "DELETE FROM secrets WHERE tenant = ?1 AND name = ?2";
        Ok(self.0.execute(sql, [id.as_str(), name.as_str()])? > 0)
    }
}
