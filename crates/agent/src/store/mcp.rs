//! Tools as they were accepted, and those that a conversation brought in.

use super::{Error, Store};
use rusqlite::{OptionalExtension as _, params};
use std::collections::BTreeMap;

/// A tool as it was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    pub hash: String,
    /// What it said of itself.
    pub said: String,
}

impl Store {
    /// The tools of a server as they were accepted; none if it was another one then, or there was none.
    pub fn pins(&self, server: &str, identity: &str) -> Result<Option<BTreeMap<String, Pin>>, Error> {
        let db = self.db();
        let known: Option<String> = db
            .query_row("SELECT identity FROM mcp_servers WHERE name = ?1", [server], |row| row.get(0))
            .optional()?;
        if known.as_deref() != Some(identity) {
            return Ok(None);
        }
        let mut select = db.prepare_cached("SELECT name, hash, said FROM mcp_tools WHERE server = ?1")?;
        let rows = select
            .query_map([server], |row| Ok((row.get(0)?, Pin { hash: row.get(1)?, said: row.get(2)? })))?;
        Ok(Some(rows.collect::<Result<_, _>>()?))
    }

    /// Keeps them in the place of those before.
    pub fn put_pins(&self, server: &str, identity: &str, pins: &BTreeMap<String, Pin>) -> Result<(), Error> {
        let mut db = self.db();
        let change = db.transaction()?;
        change.execute("INSERT OR REPLACE INTO mcp_servers VALUES (?1, ?2)", [server, identity])?;
        change.execute("DELETE FROM mcp_tools WHERE server = ?1", [server])?;
        for (name, Pin { hash, said }) in pins {
            change.execute(
                "INSERT INTO mcp_tools VALUES (?1, ?2, ?3, ?4)",
                params![server, name, hash, said],
            )?;
        }
        Ok(change.commit()?)
    }

    /// The tools that a transcript's model brought in, the first one first.
    pub fn loaded(&self, session: &str) -> Result<Vec<String>, Error> {
        let db = self.db();
        let mut select =
            db.prepare_cached("SELECT tool FROM loaded_tools WHERE session = ?1 ORDER BY rowid")?;
        Ok(select.query_map([session], |row| row.get(0))?.collect::<Result<_, _>>()?)
    }

    /// Brings one in.
    pub fn load(&self, session: &str, tool: &str) -> Result<(), Error> {
        self.db().execute("INSERT OR IGNORE INTO loaded_tools VALUES (?1, ?2)", [session, tool])?;
        Ok(())
    }
}
