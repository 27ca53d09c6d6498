//! What of a transcript a model still sees: everything from the first message that its last compaction kept.
//!
//! A compaction is one message of the transcript, so it is there whole or not at all, and nothing is removed for it.

use super::{Error, Message, Session, Store, rows};
use rusqlite::{OptionalExtension, params};

impl Store {
    /// The last compaction of a transcript.
    pub fn compaction(&self, session: &str) -> Result<Option<Message>, Error> {
        let db = self.db();
        let sql =
            format!("{} WHERE session = ?1 AND role = 'system' ORDER BY seq DESC LIMIT 1", rows::MESSAGE);
        Ok(db.prepare_cached(&sql)?.query_row([session], rows::message).optional()?)
    }

    /// How often a transcript was compacted.
    pub fn compactions(&self, session: &str) -> Result<u64, Error> {
        let db = self.db();
        let mut count =
            db.prepare_cached("SELECT count(*) FROM messages WHERE session = ?1 AND role = 'system'")?;
        Ok(count.query_row([session], |row| row.get::<_, i64>(0))?.unsigned_abs())
    }

    /// The messages of a transcript from this number on, the oldest first; the newest of them, at most `limit`.
    pub fn since(&self, session: &str, seq: u64, limit: u32) -> Result<Vec<Message>, Error> {
        let db = self.db();
        let sql = format!(
            "{} WHERE session = ?1 AND seq >= ?2 AND role <> 'system' ORDER BY seq DESC LIMIT ?3",
            rows::MESSAGE
        );
        let from = i64::try_from(seq).unwrap_or(i64::MAX);
        let mut found: Vec<Message> = db
            .prepare_cached(&sql)?
            .query_map(params![session, from, limit], rows::message)?
            .collect::<Result<_, _>>()?;
        found.reverse();
        Ok(found)
    }

    /// Keeps a compaction, and its session as it is by then.
    pub fn compact(&self, session: &Session, compaction: &Message) -> Result<u64, Error> {
        let mut db = self.db();
        let change = db.transaction()?;
        rows::put_session(&change, session)?;
        let seq = rows::append(&change, compaction)?;
        change.commit()?;
        Ok(seq)
    }

    /// Since which compaction was the agent reminded? None: never.
    pub fn flushed(&self, session: &str) -> Result<Option<u64>, Error> {
        let db = self.db();
        let mut select = db.prepare_cached("SELECT seq FROM flushes WHERE session = ?1")?;
        Ok(select.query_row([session], |row| row.get::<_, i64>(0)).optional()?.map(i64::unsigned_abs))
    }

    /// The agent was reminded, since this compaction.
    pub fn put_flushed(&self, session: &str, seq: u64) -> Result<(), Error> {
        let seq = i64::try_from(seq).unwrap_or(i64::MAX);
        self.db().execute("INSERT OR REPLACE INTO flushes VALUES (?1, ?2)", params![session, seq])?;
        Ok(())
    }
}
