//! What was used, day by day.

use super::{Error, Store};

impl Store {
    /// A time as it is written: RFC 3339, in UTC.
    pub fn written(&self, at: u64) -> Result<String, Error> {
        let db = self.db();
        let mut select = db.prepare_cached("SELECT strftime('%Y-%m-%dT%H:%M:%SZ', ?1, 'unixepoch')")?;
        Ok(select.query_row([i64::try_from(at / 1000).unwrap_or(i64::MAX)], |row| row.get(0))?)
    }
}
