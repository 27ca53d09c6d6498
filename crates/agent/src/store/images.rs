//! Images of conversations: each is kept once, and all together are bounded.

use super::{Error, Store};
use crate::images::Image;
use rusqlite::{OptionalExtension, params};

/// All of them, in bytes. The oldest go first.
const ALL: i64 = 64 * 1024 * 1024;

impl Store {
    /// Keeps an image of a conversation, and gives its name there. The same one again has the name that it had.
    pub(crate) fn put_image(&self, session_key: &str, image: &Image) -> Result<String, Error> {
        let mut db = self.db();
        let change = db.transaction()?;
        let known =
            "SELECT id FROM images WHERE session_key = ?1 AND length(bytes) = length(?2) AND bytes = ?2";
        let known =
            change.query_row(known, params![session_key, image.bytes], |row| row.get(0)).optional()?;
        let id: String = if let Some(known) = known {
            known
        } else {
            let id = crate::ids::uuid();
            let row = params![id, session_key, image.mime, image.bytes];
            change.execute("INSERT INTO images VALUES (?1, ?2, ?3, ?4)", row)?;
            change.execute(
                "DELETE FROM images WHERE rowid IN (SELECT rowid FROM
                 (SELECT rowid, sum(length(bytes)) OVER (ORDER BY rowid DESC) AS size FROM images) WHERE size > ?1)",
                [ALL],
            )?;
            id
        };
        change.commit()?;
        Ok(id)
    }

    /// An image of a conversation: its type and its bytes. None: it is not kept any more.
    pub(crate) fn image(&self, session_key: &str, id: &str) -> Result<Option<(String, Vec<u8>)>, Error> {
        let db = self.db();
        let mut select =
            db.prepare_cached("SELECT mime, bytes FROM images WHERE session_key = ?1 AND id = ?2")?;
        Ok(select.query_row([session_key, id], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
    }
}
