//! What was used, and when.

use super::{Error, Store};
use rusqlite::params;

/// Milliseconds of a quarter of an hour.
const QUARTER: u64 = 900_000;

/// What one session used with one model in a quarter of an hour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// When it began.
    pub at: u64,
    pub session_key: String,
    pub model: String,
    pub requests: u64,
    pub input: u64,
    pub output: u64,
}

impl Store {
    /// Counts one request.
    pub fn count_usage(
        &self,
        at: u64,
        session_key: &str,
        model: &str,
        input: u64,
        output: u64,
    ) -> Result<(), Error> {
        let kept = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let db = self.db();
        let mut count = db.prepare_cached(
            "INSERT INTO usage VALUES (?1, ?2, ?3, 1, ?4, ?5) ON CONFLICT DO UPDATE SET requests = requests + 1,
             input_tokens = input_tokens + ?4, output_tokens = output_tokens + ?5",
        )?;
        count.execute(params![kept(at / QUARTER), session_key, model, kept(input), kept(output)])?;
        Ok(())
    }

    /// All that was used from one time to another, the earliest first.
    pub fn usage(&self, from: u64, to: u64) -> Result<Vec<Used>, Error> {
        let kept = |time: u64| i64::try_from(time / QUARTER).unwrap_or(i64::MAX);
        let db = self.db();
        let mut select = db.prepare_cached(
            "SELECT quarter, session_key, model, requests, input_tokens, output_tokens FROM usage
             WHERE quarter >= ?1 AND quarter < ?2 ORDER BY quarter, session_key, model",
        )?;
        let rows = select.query_map([kept(from), kept(to)], |row| {
            let number = |at: usize| row.get::<_, i64>(at).map(i64::unsigned_abs);
            Ok(Used {
                at: number(0)?.saturating_mul(QUARTER),
                session_key: row.get(1)?,
                model: row.get(2)?,
                requests: number(3)?,
                input: number(4)?,
                output: number(5)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}
