//! What was acknowledged and waits for its turn.

use super::{Error, Message, Run, Session, Store, rows};
use rusqlite::params;

impl Store {
    /// Begins a run whose message waited, with others that it contains: as [`Store::begin`], all or nothing.
    pub fn begin_waiting(
        &self,
        session: &Session,
        message: &Message,
        run: &Run,
        contained: &[String],
    ) -> Result<u64, Error> {
        let mut db = self.db();
        let change = db.transaction()?;
        rows::put_session(&change, session)?;
        let seq = rows::append(&change, message)?;
        rows::put_run(&change, run)?;
        for id in contained {
            change.execute("DELETE FROM pending WHERE id = ?1", [id])?;
        }
        change.commit()?;
        Ok(seq)
    }

    /// The last messages that wait in a session, the oldest first, and how many there are.
    pub fn waiting(&self, session_key: &str, limit: u32) -> Result<(Vec<Message>, u64), Error> {
        let db = self.db();
        let mut count = db.prepare_cached("SELECT count(*) FROM pending WHERE session_key = ?1")?;
        let total = count.query_row([session_key], |row| row.get::<_, i64>(0))?.unsigned_abs();
        let mut select = db.prepare_cached(
            "SELECT s.id, 0, p.id, p.run, 'user', p.body, p.at FROM pending p
             JOIN sessions s ON s.key = p.session_key WHERE s.key = ?1 ORDER BY p.at DESC, p.rowid DESC LIMIT ?2",
        )?;
        let mut found: Vec<Message> =
            select.query_map(params![session_key, limit], rows::message)?.collect::<Result<_, _>>()?;
        found.reverse();
        Ok((found, total))
    }
}
