//! Channels: who may write, who would like to, how far each was read, and what is still to be answered.

use super::{Error, Store};
use rusqlite::{OptionalExtension, Row, params};

/// Somebody who would like to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairingRequest {
    pub id: String,
    pub channel: String,
    pub sender: String,
    pub name: String,
    /// Where to tell them.
    pub chat: String,
    /// RFC 3339.
    pub created: String,
    pub seen: String,
    pub expires: String,
}

/// An answer that is still to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub run: String,
    pub channel: String,
    pub chat: String,
}

const REQUEST: &str = "SELECT id, channel, sender, name, chat,
    strftime('%Y-%m-%dT%H:%M:%fZ', at / 1000.0, 'unixepoch'),
    strftime('%Y-%m-%dT%H:%M:%fZ', seen / 1000.0, 'unixepoch'),
    strftime('%Y-%m-%dT%H:%M:%fZ', at / 1000.0 + 3600, 'unixepoch') FROM channel_requests";

fn request(row: &Row<'_>) -> rusqlite::Result<PairingRequest> {
    Ok(PairingRequest {
        id: row.get(0)?,
        channel: row.get(1)?,
        sender: row.get(2)?,
        name: row.get(3)?,
        chat: row.get(4)?,
        created: row.get(5)?,
        seen: row.get(6)?,
        expires: row.get(7)?,
    })
}

fn reply(row: &Row<'_>) -> rusqlite::Result<Reply> {
    Ok(Reply { run: row.get(0)?, channel: row.get(1)?, chat: row.get(2)? })
}

fn millis(at: u64) -> i64 {
    i64::try_from(at).unwrap_or(i64::MAX)
}

impl Store {
    /// Did somebody say that this sender may write?
    pub fn is_paired(&self, channel: &str, sender: &str) -> Result<bool, Error> {
        let db = self.db();
        let sql = "SELECT 1 FROM channel_senders WHERE channel = ?1 AND sender = ?2";
        Ok(db.query_row(sql, [channel, sender], |_| Ok(())).optional()?.is_some())
    }

    /// Is it where a sender writes who may?
    pub fn is_paired_chat(&self, channel: &str, chat: &str) -> Result<bool, Error> {
        let db = self.db();
        let sql = "SELECT 1 FROM channel_senders WHERE channel = ?1 AND chat = ?2";
        Ok(db.query_row(sql, [channel, chat], |_| Ok(())).optional()?.is_some())
    }

    /// Keeps that somebody would like to write: at most `most` of a channel, and none that is older than
    /// `since`. Gives the id, and whether it is new; none: there are too many.
    pub fn wants(
        &self,
        wanted: &PairingRequest,
        now: u64,
        since: u64,
        most: u32,
    ) -> Result<Option<(String, bool)>, Error> {
        let PairingRequest { id, channel, sender, name, chat, .. } = wanted;
        let mut db = self.db();
        let change = db.transaction()?;
        change.execute("DELETE FROM channel_requests WHERE at < ?1", [millis(since)])?;
        let sql = "UPDATE channel_requests SET seen = ?3 WHERE channel = ?1 AND sender = ?2 RETURNING id";
        let known =
            change.query_row(sql, params![channel, sender, millis(now)], |row| row.get(0)).optional()?;
        let count: u32 = change.query_row(
            "SELECT count(*) FROM channel_requests WHERE channel = ?1",
            [channel],
            |row| row.get(0),
        )?;
        let found = match known {
            Some(id) => Some((id, false)),
            None if count >= most => None,
            None => {
                change.execute(
                    "INSERT INTO channel_requests VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)",
                    params![id, channel, sender, name, chat, millis(now)],
                )?;
                Some((id.clone(), true))
            }
        };
        change.commit()?;
        Ok(found)
    }

    /// Those who would like to write, the oldest first.
    pub fn pairing_requests(&self, since: u64) -> Result<Vec<PairingRequest>, Error> {
        let db = self.db();
        let mut select = db.prepare_cached(&format!("{REQUEST} WHERE at >= ?1 ORDER BY at"))?;
        Ok(select.query_map([millis(since)], request)?.collect::<Result<_, _>>()?)
    }

    /// Takes a request away; with `paired` its sender may write from now on. None: there is no such request.
    pub fn decide(&self, id: &str, now: u64, paired: bool) -> Result<Option<PairingRequest>, Error> {
        let mut db = self.db();
        let change = db.transaction()?;
        let found = change.query_row(&format!("{REQUEST} WHERE id = ?1"), [id], request).optional()?;
        if let Some(PairingRequest { channel, sender, name, chat, .. }) = &found {
            change.execute("DELETE FROM channel_requests WHERE id = ?1", [id])?;
            if paired {
                change.execute(
                    "INSERT OR REPLACE INTO channel_senders VALUES (?1, ?2, ?3, ?4, ?5)",
                    params![channel, sender, name, chat, millis(now)],
                )?;
            }
        }
        change.commit()?;
        Ok(found)
    }

    /// How far a conversation of a channel was read.
    pub fn cursor(&self, channel: &str, chat: &str) -> Result<Option<String>, Error> {
        let db = self.db();
        let sql = "SELECT value FROM channel_cursors WHERE channel = ?1 AND chat = ?2";
        Ok(db.query_row(sql, [channel, chat], |row| row.get(0)).optional()?)
    }

    /// It was read so far.
    pub fn set_cursor(&self, channel: &str, chat: &str, value: &str) -> Result<(), Error> {
        let sql = "INSERT OR REPLACE INTO channel_cursors VALUES (?1, ?2, ?3)";
        self.db().execute(sql, [channel, chat, value])?;
        Ok(())
    }

    /// The answer of this run is to be sent there. One that is known stays as it is.
    pub fn owe(&self, reply: &Reply, now: u64) -> Result<(), Error> {
        let Reply { run, channel, chat } = reply;
        let sql = "INSERT OR IGNORE INTO channel_replies (run, channel, chat, at) VALUES (?1, ?2, ?3, ?4)";
        self.db().execute(sql, params![run, channel, chat, millis(now)])?;
        Ok(())
    }

    /// Where the answer of this run is to be sent.
    pub fn owed_by(&self, run: &str) -> Result<Option<Reply>, Error> {
        let db = self.db();
        let sql = "SELECT run, channel, chat FROM channel_replies WHERE run = ?1";
        Ok(db.query_row(sql, [run], reply).optional()?)
    }

    /// What a job or a heartbeat owes since before this is not sent any more.
    pub fn forget_owed(&self, channel: &str, before: u64) -> Result<(), Error> {
        let sql = "DELETE FROM channel_replies WHERE channel = ?1 AND at < ?2
            AND (run LIKE 'cron:%' OR run LIKE 'manual:%' OR run LIKE 'heartbeat:%')";
        self.db().execute(sql, params![channel, millis(before)])?;
        Ok(())
    }

    /// One of ours wrote from there.
    pub fn wrote_from(&self, channel: &str, chat: &str, sender: &str, group: bool) -> Result<(), Error> {
        if self.chat(channel, chat)? == Some((sender.to_owned(), group)) {
            return Ok(());
        }
        let sql = "INSERT OR REPLACE INTO channel_chats VALUES (?1, ?2, ?3, ?4)";
        self.db().execute(sql, params![channel, chat, sender, group])?;
        Ok(())
    }

    /// Who of ours wrote from there last, and whether it is a group.
    pub fn chat(&self, channel: &str, chat: &str) -> Result<Option<(String, bool)>, Error> {
        let db = self.db();
        let sql = "SELECT sender, is_group FROM channel_chats WHERE channel = ?1 AND chat = ?2";
        let row = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
        Ok(db.query_row(sql, [channel, chat], row).optional()?)
    }

    /// What is owed over a channel, the oldest first.
    pub fn owed(&self, channel: &str) -> Result<Vec<Reply>, Error> {
        let db = self.db();
        let mut select = db.prepare_cached(
            "SELECT run, channel, chat FROM channel_replies WHERE channel = ?1 ORDER BY at",
        )?;
        Ok(select.query_map([channel], reply)?.collect::<Result<_, _>>()?)
    }

    /// How many pieces of what a run owes were sent, if it was cut as this digest says.
    pub fn pieces_sent(&self, run: &str, cut: &[u8]) -> Result<u32, Error> {
        let db = self.db();
        let sql = "SELECT pieces FROM channel_replies WHERE run = ?1 AND cut = ?2";
        Ok(db.query_row(sql, params![run, cut], |row| row.get(0)).optional()?.unwrap_or(0))
    }

    /// So many were.
    pub fn set_pieces_sent(&self, run: &str, cut: &[u8], count: u32) -> Result<(), Error> {
        let sql = "UPDATE channel_replies SET pieces = ?3, cut = ?2 WHERE run = ?1";
        self.db().execute(sql, params![run, cut, count])?;
        Ok(())
    }

    /// It was sent, or never will be.
    pub fn paid(&self, run: &str) -> Result<(), Error> {
        self.db().execute("DELETE FROM channel_replies WHERE run = ?1", [run])?;
        Ok(())
    }
}
