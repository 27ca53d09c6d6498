//! Schemas: numbered files, each with its checksum in the database. Before a new one there is a backup.
//!
//! It owns the table `schema`. The threat: a database of another program's making, or a migration that
//! fails half-way; all of them are one transaction, and a whole copy of what was there lies beside it.

use super::{backup, open::Files};
use crate::Error;
use cofferdam_base::{Digest, Millis};
use rusqlite::{Connection, TransactionBehavior, params};

/// Every schema, from 1.
pub(super) const ALL: &[&str] = &[
    include_str!("migrations/0001.sql"),
    include_str!("migrations/0002.sql"),
    include_str!("migrations/0003.sql"),
    include_str!("migrations/0004.sql"),
    include_str!("migrations/0005.sql"),
];

/// Brings the database to the newest of these schemas; whether it was one of ours already.
pub(super) fn run(
    connection: &mut Connection,
    files: &Files,
    all: &[&str],
    now: Millis,
) -> Result<bool, Error> {
    let has = applied(connection)?;
    let found = u32::try_from(has.len()).unwrap_or(u32::MAX);
    let known = u32::try_from(all.len()).unwrap_or(u32::MAX);
    if found > known {
        return Err(Error::NewerSchema { path: files.database.clone(), found, known });
    }
    if has.iter().zip(all).any(|(sum, sql)| *sum != checksum(sql)) {
        return Err(files.corrupt("its schema is not the one that this program wrote"));
    }
    if found == 0 && count(connection, "SELECT count(*) FROM sqlite_schema")? > 0 {
        return Err(files.corrupt("its tables are not those of this program"));
    }
    if found == known {
        return Ok(true);
    }
    if found > 0 {
        backup::make(connection, files, has.len(), now)?;
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(
        "CREATE TABLE IF NOT EXISTS schema (
           version INTEGER PRIMARY KEY, checksum TEXT NOT NULL, at INTEGER NOT NULL
         ) STRICT;",
    )?;
    for (sql, version) in all.iter().zip(1_u32..).skip(has.len()) {
        transaction.execute_batch(sql)?;
        let at = super::rows::number(now.0)?;
        transaction.execute("INSERT INTO schema VALUES (?1, ?2, ?3)", params![version, checksum(sql), at])?;
    }
    transaction.commit()?;
    Ok(found > 0)
}

/// The checksums of the schemas that the database went through, none if it is empty.
pub(super) fn applied(connection: &Connection) -> Result<Vec<String>, Error> {
    let there = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'schema'";
    if count(connection, there)? == 0 {
        return Ok(Vec::new());
    }
    let mut query = connection.prepare("SELECT checksum FROM schema ORDER BY version")?;
    let sums = query.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(sums)
}

fn count(connection: &Connection, sql: &str) -> Result<i64, Error> {
    Ok(connection.query_row(sql, [], |row| row.get(0))?)
}

fn checksum(sql: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, sql.as_bytes());
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    Digest::from_bytes(bytes).to_string()
}
