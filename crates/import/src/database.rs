//! Upstream's own database of an agent, `openclaw-agent.sqlite`, read for its conversations.
//!
//! It owns the tables that are read. The threat: a database that somebody made, with views and triggers for tables,
//! values without end and packed texts that grow; the process that reads it can open nothing else.

use crate::{Error, home::Home};
use rusqlite::{Connection, OpenFlags, config::DbConfig, limits::Limit, types::ValueRef};
use std::{io::Read as _, os::fd::AsRawFd as _};

/// The longest value.
const LONGEST: i32 = 8 << 20;
/// So many conversations at most.
const MOST: u32 = 100_000;
/// So many documents of sign-ins at most.
const MOST_SIGN_INS: u32 = 1000;
/// All events of one conversation together, unpacked.
const LARGEST: usize = 64 << 20;

/// An agent's database.
pub(crate) struct Database {
    db: Connection,
    /// What the connection reads, for as long as it does.
    _file: std::fs::File,
}

/// A conversation of it.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    pub(crate) key: String,
    pub(crate) id: String,
    /// Is it the one that the key means now?
    pub(crate) current: bool,
    pub(crate) label: Option<String>,
    pub(crate) created: u64,
    pub(crate) updated: u64,
}

impl Database {
    /// Opens it; none if there is none. It has credentials, so one that cannot be opened is an error. Nothing is written
    /// beside it: what a gateway had not put into it yet would be missing, so such a home is refused.
    pub(crate) fn open(home: &Home, path: &str) -> Result<Option<Self>, Error> {
        if !home.exists(path) {
            return Ok(None);
        }
        let unreadable = |why: String| Error::Credentials(path.to_owned(), why);
        let file = home.file(path).ok_or_else(|| unreadable("it cannot be opened as a file".to_owned()))?;
        for beside in ["-wal", "-journal"] {
            let beside = format!("{path}{beside}");
            let more = home.file(&beside).and_then(|file| file.metadata().ok());
            if more.is_some_and(|metadata| metadata.len() > 0) {
                return Err(Error::InUse(path.to_owned()));
            }
        }
        let db = Self::connect(&file).map_err(|error| unreadable(error.to_string()))?;
        Ok(Some(Self { db, _file: file }))
    }

    fn connect(file: &std::fs::File) -> rusqlite::Result<Connection> {
        let name = format!("file:/proc/self/fd/{}?immutable=1", file.as_raw_fd());
        let flags =
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(name, flags)?;
        db.set_limit(Limit::SQLITE_LIMIT_LENGTH, LONGEST)?;
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        db.pragma_update(None, "cell_size_check", true)?;
        // Nothing goes to a temporary file: there is nowhere to write.
        db.pragma_update(None, "temp_store", "memory")?;
        Ok(db)
    }

    /// Its conversations, by their ids.
    pub(crate) fn windows(&self) -> rusqlite::Result<Vec<Window>> {
        let sql = "SELECT n.session_key, w.session_id, w.session_id = n.current_session_id, coalesce(n.label, n.display_name),
                max(0, coalesce(w.started_at, w.created_at)), max(0, w.updated_at)
            FROM session_windows w JOIN session_nodes n ON n.session_key = w.session_key
            ORDER BY w.session_id LIMIT ?1";
        let mut select = self.db.prepare(sql)?;
        let window = |row: &rusqlite::Row<'_>| {
            Ok(Window {
                key: row.get(0)?,
                id: row.get(1)?,
                current: row.get(2)?,
                label: row.get(3)?,
                created: row.get::<_, i64>(4)?.unsigned_abs(),
                updated: row.get::<_, i64>(5)?.unsigned_abs(),
            })
        };
        select.query_map([MOST], window)?.collect()
    }

    /// The events of one, in order; none in the place of one that cannot be read. An error says why it is not carried.
    pub(crate) fn events(&self, id: &str) -> Result<Vec<Option<Vec<u8>>>, String> {
        let text = |error: rusqlite::Error| error.to_string();
        let sql = "SELECT event_json, event_zstd FROM transcript_events WHERE session_id = ?1 ORDER BY seq";
        let mut select = self.db.prepare_cached(sql).map_err(text)?;
        let mut rows = select.query([id]).map_err(text)?;
        let (mut all, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.next().map_err(text)? {
            let event = match (row.get_ref(0).map_err(text)?, row.get_ref(1).map_err(text)?) {
                (ValueRef::Text(text), _) => Some(text.to_vec()),
                (_, ValueRef::Blob(packed)) => unpack(packed),
                _ => None,
            };
            bytes += event.as_ref().map_or(0, Vec::len);
            if bytes > LARGEST {
                return Err(format!("it is larger than {}", crate::left::size(LARGEST as u64)));
            }
            all.push(event);
        }
        Ok(all)
    }

    /// The documents of credentials in it, all of them or an error; none if this release had no table of them.
    pub(crate) fn credentials(&self) -> Result<Vec<String>, String> {
        let read = || -> rusqlite::Result<Vec<String>> {
            let sql = "SELECT count(*) FROM sqlite_master WHERE name = 'auth_profile_store' COLLATE NOCASE";
            if self.db.query_row(sql, [], |row| row.get::<_, u32>(0))? == 0 {
                return Ok(Vec::new());
            }
            let mut select = self.db.prepare("SELECT store_json FROM auth_profile_store LIMIT ?1")?;
            select.query_map([MOST_SIGN_INS + 1], |row| row.get(0))?.collect()
        };
        let found = read().map_err(|error| error.to_string())?;
        if found.len() > MOST_SIGN_INS as usize {
            return Err(format!("it has more than {MOST_SIGN_INS} documents of sign-ins"));
        }
        Ok(found)
    }
}

/// A text that upstream packed; none if it is none, or too long.
fn unpack(packed: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let most = crate::transcript::LONGEST as u64;
    let decoder = ruzstd::decoding::StreamingDecoder::new(packed).ok()?;
    decoder.take(most + 1).read_to_end(&mut text).ok()?;
    (text.len() as u64 <= most).then_some(text)
}
