//! What turns of their own leave behind: transcripts with which nobody goes on.

use super::{Error, Store, rows::kept};
use rusqlite::params;

impl Store {
    /// Forgets the past transcripts of a session that begins anew each time, of which no message is from `before` or later.
    pub(crate) fn forget_past(&self, key: &str, before: u64) -> Result<(), Error> {
        let past = "SELECT id FROM transcripts WHERE session_key = ?1
            AND id NOT IN (SELECT id FROM sessions WHERE key = ?1)
            AND NOT EXISTS (SELECT 1 FROM messages WHERE session = transcripts.id AND at >= ?2)";
        let mut db = self.db();
        let change = db.transaction()?;
        for (table, id) in [
            ("messages", "session"),
            ("loaded_tools", "session"),
            ("flushes", "session"),
            ("transcripts", "id"),
        ] {
            let sql = format!("DELETE FROM {table} WHERE {id} IN ({past})");
            change.prepare_cached(&sql)?.execute(params![key, kept(before)])?;
        }
        Ok(change.commit()?)
    }

    /// The keys of sessions that nobody uses any more: of jobs that are gone, not written to since `job`, and of hooks that
    /// had one each, not since `hook`. What somebody pinned, archived or renamed is none of them, nor a conversation of theirs
    /// that is only called like one.
    pub(crate) fn left_behind(&self, job: u64, hook: u64) -> Result<Vec<String>, Error> {
        let db = self.db();
        let mut select = db.prepare_cached(
            "SELECT key FROM sessions WHERE NOT pinned AND archived = 0 AND (
                 updated_at < ?1 AND label GLOB 'Cron: *' AND key GLOB 'agent:main:cron:*'
                 AND substr(key, length('agent:main:cron:') + 1) NOT IN (SELECT id FROM cron_jobs)
                 OR updated_at < ?2 AND label GLOB 'Hook: *'
                 AND key GLOB 'agent:main:hook:????????-????-????-????-????????????')",
        )?;
        Ok(select.query_map([kept(job), kept(hook)], |row| row.get(0))?.collect::<Result<_, _>>()?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::store::{Message, Role, Session, Store};

    #[test]
    fn only_what_nobody_goes_on_with_is_forgotten_and_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("agent.db")).unwrap();
        let put = |key: &str, id: &str, at: u64, label: Option<&str>| {
            let session = Session { label: label.map(str::to_owned), ..Session::new(key, id.to_owned(), at) };
            store.put_session(&session).unwrap();
            store.append(&Message::text(&session, None, Role::User, "a word", at)).unwrap();
            store.load(id, "tool").unwrap();
            session
        };
        // One key has had three transcripts, another one of its own.
        for (id, at) in [("first", 1), ("second", 5), ("third", 6)] {
            put("agent:main:cron:look", id, at, Some("Cron: look"));
        }
        put("agent:main:main", "main", 1, None);
        store.forget_past("agent:main:cron:look", 5).unwrap();
        let left = ["first", "second", "third", "main"].map(|id| store.count(id).unwrap());
        assert_eq!(left, [0, 1, 1, 1]);
        assert_eq!((store.loaded("first").unwrap().len(), store.loaded("second").unwrap().len()), (0, 1));
        // The one in force stays, however old it is.
        store.forget_past("agent:main:cron:look", 100).unwrap();
        assert_eq!(["second", "third"].map(|id| store.count(id).unwrap()), [0, 1]);
        assert_eq!(store.search("word", 10).unwrap().len(), 2, "the third and the main one");

        let hook = "agent:main:hook:0f8fad5b-d9cb-469f-a165-70867728950e";
        put(hook, "h1", 7, Some("Hook: mail"));
        put("agent:main:hook:mail", "h2", 7, Some("Hook: mail"));
        put("agent:main:hook:0f8fad5b-d9cb-469f-a165-70867728950f", "h3", 7, Some("my own"));
        put("agent:main:cron:notes", "c4", 1, None);
        let pinned = put("agent:main:cron:kept", "c2", 7, Some("Cron: kept"));
        store.put_session(&Session { pinned: true, ..pinned }).unwrap();
        let archived = put("agent:main:cron:old", "c3", 7, Some("Cron: old"));
        store.put_session(&Session { archived_at: Some(8), ..archived }).unwrap();
        let behind = |job, hook| store.left_behind(job, hook).unwrap();
        assert_eq!(behind(8, 8), ["agent:main:cron:look", hook]);
        assert_eq!(behind(6, 7), [""; 0]);
    }
}
