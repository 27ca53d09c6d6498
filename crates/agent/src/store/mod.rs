//! Sessions and their messages, in SQLite below the cell's home.
//!
//! It owns what must outlive a kill: whatever was acknowledged is on disk before. Calls are short and block the one
//! thread that the gateway has; a tenant has its own gateway, so nobody waits but its own agents.

mod approvals;
mod channels;
mod children;
mod compactions;
mod cron;
mod devices;
mod images;
mod mcp;
mod past;
mod pending;
mod rows;
#[cfg(test)]
mod tests;
mod usage;

pub use approvals::Over;
pub use channels::{PairingRequest, Reply};
pub use children::Child;
pub(crate) use cron::{CronEnd, CronRun};
pub use devices::Device;
pub use mcp::Pin;
pub use rows::{Message, Role, Run, RunState, Session};
pub use usage::Used;

use rusqlite::{Connection, OptionalExtension, params};
use std::{
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// What went wrong with the state.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// SQLite says no.
    #[error("the gateway's state: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// It was written by a newer program.
    #[error(
        "the gateway's state is of version {found}, and this program knows up to {known}: take a newer one"
    )]
    Newer {
        /// Its version.
        found: usize,
        /// Ours.
        known: usize,
    },
}

/// Each is run once, in order; `user_version` says how many were.
const MIGRATIONS: [&str; 12] = [
    include_str!("0001.sql"),
    include_str!("channels.sql"),
    include_str!("mcp.sql"),
    include_str!("cron.sql"),
    include_str!("devices.sql"),
    include_str!("usage.sql"),
    include_str!("approvals.sql"),
    include_str!("compactions.sql"),
    include_str!("images.sql"),
    include_str!("children.sql"),
    include_str!("chats.sql"),
    include_str!("pieces.sql"),
];

/// The state of one gateway.
#[derive(Debug)]
pub struct Store(Mutex<Connection>);

impl Store {
    /// Opens it, and makes it if it is not there. A newer one than this program knows is refused.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut db = Connection::open(path)?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "FULL")?;
        db.pragma_update(None, "foreign_keys", true)?;
        // Small: a gateway is one of a thousand.
        db.pragma_update(None, "cache_size", -256)?;
        let done: u32 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let done = done as usize;
        if done > MIGRATIONS.len() {
            return Err(Error::Newer { found: done, known: MIGRATIONS.len() });
        }
        for (number, migration) in MIGRATIONS.iter().enumerate().skip(done) {
            let change = db.transaction()?;
            change.execute_batch(migration)?;
            change.pragma_update(None, "user_version", i64::try_from(number + 1).unwrap_or(i64::MAX))?;
            change.commit()?;
        }
        Ok(Self(Mutex::new(db)))
    }

    fn db(&self) -> MutexGuard<'_, Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session by its key.
    pub fn session(&self, key: &str) -> Result<Option<Session>, Error> {
        let db = self.db();
        let mut select = db.prepare_cached(&format!("{} WHERE key = ?1", rows::SESSION))?;
        Ok(select.query_row([key], rows::session).optional()?)
    }

    /// All sessions, the newest first.
    pub fn sessions(&self) -> Result<Vec<Session>, Error> {
        self.recent(u32::MAX)
    }

    /// The newest sessions, so many at most.
    pub fn recent(&self, most: u32) -> Result<Vec<Session>, Error> {
        let db = self.db();
        let sql = format!("{} ORDER BY updated_at DESC, key LIMIT ?1", rows::SESSION);
        let mut select = db.prepare_cached(&sql)?;
        Ok(select.query_map([most], rows::session)?.collect::<Result<_, _>>()?)
    }

    /// How many sessions there are.
    pub fn session_count(&self) -> Result<u64, Error> {
        let db = self.db();
        let mut select = db.prepare_cached("SELECT count(*) FROM sessions")?;
        Ok(select.query_row([], |row| row.get::<_, i64>(0).map(i64::unsigned_abs))?)
    }

    /// Keeps what a session used. It is on disk with the next change that is.
    pub fn used(&self, session: &Session) -> Result<(), Error> {
        unflushed(&mut self.db(), |db| Ok(rows::put_session(db, session)?))
    }

    /// Keeps a session, new or changed.
    pub fn put_session(&self, session: &Session) -> Result<(), Error> {
        Ok(rows::put_session(&self.db(), session)?)
    }

    /// Removes a session with its messages and runs; false if there was none.
    pub fn remove_session(&self, key: &str) -> Result<bool, Error> {
        let mut db = self.db();
        let change = db.transaction()?;
        let id: Option<String> =
            change.query_row("SELECT id FROM sessions WHERE key = ?1", [key], |row| row.get(0)).optional()?;
        if id.is_some() {
            let all = "SELECT id FROM transcripts WHERE session_key = ?1";
            change.execute(&format!("DELETE FROM messages WHERE session IN ({all})"), [key])?;
            change.execute(&format!("DELETE FROM loaded_tools WHERE session IN ({all})"), [key])?;
            change.execute(&format!("DELETE FROM flushes WHERE session IN ({all})"), [key])?;
            change.execute("DELETE FROM transcripts WHERE session_key = ?1", [key])?;
            change.execute("DELETE FROM children WHERE key = ?1 OR parent_key = ?1", [key])?;
            change.execute("DELETE FROM images WHERE session_key = ?1", [key])?;
            change.execute("DELETE FROM runs WHERE session_key = ?1", [key])?;
            change.execute("DELETE FROM pending WHERE session_key = ?1", [key])?;
            change.execute("DELETE FROM events WHERE session_key = ?1", [key])?;
            change.execute("DELETE FROM sessions WHERE key = ?1", [key])?;
        }
        change.commit()?;
        Ok(id.is_some())
    }

    /// Begins a run: its session as it is now, the message that causes it and its state, all or nothing. It is on disk
    /// when this returns.
    pub fn begin(&self, session: &Session, message: &Message, run: &Run) -> Result<u64, Error> {
        let mut db = self.db();
        let change = db.transaction()?;
        rows::put_session(&change, session)?;
        let seq = rows::append(&change, message)?;
        rows::put_run(&change, run)?;
        change.commit()?;
        Ok(seq)
    }

    /// Keeps a message that waits for its turn, its run and its session. It is on disk when this returns.
    pub fn pend(&self, session: &Session, message: &Message, run: &Run) -> Result<(), Error> {
        let mut db = self.db();
        let change = db.transaction()?;
        rows::put_session(&change, session)?;
        rows::pend(&change, &session.key, message)?;
        rows::put_run(&change, run)?;
        Ok(change.commit()?)
    }

    /// Forgets a message that waited and is not wanted any more.
    pub fn forget(&self, message: &str) -> Result<(), Error> {
        self.db().execute("DELETE FROM pending WHERE id = ?1", [message])?;
        Ok(())
    }

    /// Appends a message to its session, and gives its number there. The last answer of a run is on disk with the run's
    /// end, anything else when this returns.
    pub fn append(&self, message: &Message) -> Result<u64, Error> {
        let append = |db: &mut Connection| {
            let change = db.transaction()?;
            let seq = rows::append(&change, message)?;
            change.commit()?;
            Ok(seq)
        };
        let mut db = self.db();
        if message.is_last_answer() { unflushed(&mut db, append) } else { append(&mut db) }
    }

    /// Appends messages in this order, all or none.
    pub fn append_all(&self, messages: &[Message]) -> Result<(), Error> {
        let mut db = self.db();
        let change = db.transaction()?;
        for message in messages {
            rows::append(&change, message)?;
        }
        Ok(change.commit()?)
    }

    /// Ends a run, with its session's new counts.
    pub fn end(&self, session: &Session, run: &Run) -> Result<(), Error> {
        let mut db = self.db();
        let change = db.transaction()?;
        rows::put_session(&change, session)?;
        rows::put_run(&change, run)?;
        Ok(change.commit()?)
    }

    /// A run by its id.
    pub fn run(&self, id: &str) -> Result<Option<Run>, Error> {
        let db = self.db();
        let mut select = db.prepare_cached(&format!("{} WHERE id = ?1", rows::RUN))?;
        Ok(select.query_row([id], rows::run).optional()?)
    }

    /// Ends every run that still runs: whoever ran it is gone. What waited for its turn is put where it belongs, so that
    /// it is seen. Gives the runs.
    pub fn interrupt(&self, at: u64) -> Result<Vec<Run>, Error> {
        let mut db = self.db();
        let change = db.transaction()?;
        let mut cut: Vec<Run> = {
            let mut select = change.prepare(&format!("{} WHERE state = 'running'", rows::RUN))?;
            select.query_map([], rows::run)?.collect::<Result<_, _>>()?
        };
        for run in &mut cut {
            run.state = RunState::Failed;
            run.ended_at = Some(at);
            run.error = Some("the gateway ended before the run did".to_owned());
            rows::put_run(&change, run)?;
        }
        let waited: Vec<Message> = {
            let mut select = change.prepare(rows::PENDING)?;
            select.query_map([], rows::message)?.collect::<Result<_, _>>()?
        };
        for message in &waited {
            rows::append(&change, message)?;
        }
        change.commit()?;
        Ok(cut)
    }

    /// The last messages of a session, the oldest first: at most `limit`, before the last `skip`.
    pub fn messages(&self, session: &str, limit: u32, skip: u32) -> Result<Vec<Message>, Error> {
        let db = self.db();
        let mut select = db.prepare_cached(&format!(
            "{} WHERE session = ?1 ORDER BY seq DESC LIMIT ?2 OFFSET ?3",
            rows::MESSAGE
        ))?;
        let mut found: Vec<Message> =
            select.query_map(params![session, limit, skip], rows::message)?.collect::<Result<_, _>>()?;
        found.reverse();
        Ok(found)
    }

    /// The last message of a role in a session.
    pub fn last_said(&self, session: &str, role: Role) -> Result<Option<Message>, Error> {
        let db = self.db();
        let sql = format!("{} WHERE session = ?1 AND role = ?2 ORDER BY seq DESC LIMIT 1", rows::MESSAGE);
        let mut select = db.prepare_cached(&sql)?;
        Ok(select.query_row([session, role.as_str()], rows::message).optional()?)
    }

    /// How many messages a session has.
    pub fn count(&self, session: &str) -> Result<u64, Error> {
        let db = self.db();
        let mut select = db.prepare_cached("SELECT count(*) FROM messages WHERE session = ?1")?;
        Ok(select.query_row([session], |row| row.get::<_, i64>(0).map(i64::unsigned_abs))?)
    }

    /// Messages with these words, the best first: session, number there and the text around them.
    pub fn search(&self, words: &str, limit: u32) -> Result<Vec<(String, u64, String)>, Error> {
        // Each word is a text of its own: what the query language means by its signs does not matter.
        let query: Vec<String> =
            words.split_whitespace().map(|word| format!("\"{}\"", word.replace('"', "\"\""))).collect();
        if query.is_empty() {
            return Ok(Vec::new());
        }
        let db = self.db();
        let mut select = db.prepare_cached(
            "SELECT m.session, m.seq, snippet(words, 0, '', '', '…', 24) FROM words
             JOIN messages m ON m.rowid = words.rowid
             WHERE words MATCH ?1 ORDER BY rank LIMIT ?2",
        )?;
        let row =
            |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs(), row.get(2)?));
        Ok(select.query_map(params![query.join(" "), limit], row)?.collect::<Result<_, _>>()?)
    }
}

/// A change that the next one that is flushed flushes. A kill does not lose it; a loss of power may, and nobody was told
/// that it is kept.
fn unflushed<T>(
    db: &mut Connection,
    change: impl FnOnce(&mut Connection) -> Result<T, Error>,
) -> Result<T, Error> {
    db.pragma_update(None, "synchronous", "NORMAL")?;
    let changed = change(db);
    db.pragma_update(None, "synchronous", "FULL")?;
    changed
}
