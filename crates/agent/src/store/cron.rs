//! Jobs, their runs, and what sessions wait to hear.

use super::{
    Error, Message, Session, Store,
    rows::{self, kept},
};
use crate::cron::{Job, State};
use rusqlite::{Connection, OptionalExtension, Row, params, types::FromSqlError};
use serde_json::Value;

/// Runs that are remembered.
const REMEMBERED: u32 = 500;

/// A run of a job, from the moment at which it was claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CronRun {
    pub(crate) id: String,
    pub(crate) job: String,
    pub(crate) started_at: u64,
}

/// What the end of a run changes, all of it or nothing.
#[derive(Debug, Default)]
pub(crate) struct CronEnd<'a> {
    /// The job, as it is now.
    pub(crate) job: Option<&'a Job>,
    /// It is forgotten.
    pub(crate) forget: bool,
    /// What a session is told.
    pub(crate) said: Option<(&'a Session, &'a Message)>,
    /// What a session hears at its next turn.
    pub(crate) event: Option<(&'a str, &'a str)>,
}

const JOB: &str = "SELECT id, created_at, updated_at, revision, definition, state FROM cron_jobs";

fn number(row: &Row<'_>, at: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(at).map(i64::unsigned_abs)
}

fn read<T: serde::de::DeserializeOwned>(row: &Row<'_>, at: usize) -> rusqlite::Result<T> {
    let text: String = row.get(at)?;
    serde_json::from_str(&text).map_err(|_| {
        let why = Box::new(FromSqlError::InvalidType);
        rusqlite::Error::FromSqlConversionFailure(at, rusqlite::types::Type::Text, why)
    })
}

fn job(row: &Row<'_>) -> rusqlite::Result<Job> {
    Ok(Job {
        id: row.get(0)?,
        created_at: number(row, 1)?,
        updated_at: number(row, 2)?,
        revision: number(row, 3)?,
        definition: read(row, 4)?,
        state: read(row, 5)?,
    })
}

fn run(row: &Row<'_>) -> rusqlite::Result<CronRun> {
    Ok(CronRun { id: row.get(0)?, job: row.get(1)?, started_at: number(row, 2)? })
}

fn put_job(db: &Connection, job: &Job) -> rusqlite::Result<()> {
    let mut put =
        db.prepare_cached("INSERT OR REPLACE INTO cron_jobs VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
    put.execute(params![
        job.id,
        kept(job.created_at),
        kept(job.updated_at),
        kept(job.revision),
        serde_json::json!(job.definition).to_string(),
        serde_json::json!(job.state).to_string(),
        job.state.next_run_at_ms.map(kept),
    ])?;
    Ok(())
}

impl Store {
    /// All jobs, the next one first.
    pub(crate) fn jobs(&self) -> Result<Vec<Job>, Error> {
        let db = self.db();
        let mut select = db.prepare_cached(&format!("{JOB} ORDER BY due_at IS NULL, due_at, rowid"))?;
        Ok(select.query_map([], job)?.collect::<Result<_, _>>()?)
    }

    pub(crate) fn job(&self, id: &str) -> Result<Option<Job>, Error> {
        let db = self.db();
        let mut select = db.prepare_cached(&format!("{JOB} WHERE id = ?1"))?;
        Ok(select.query_row([id], job).optional()?)
    }

    pub(crate) fn put_job(&self, job: &Job) -> Result<(), Error> {
        Ok(put_job(&self.db(), job)?)
    }

    /// False: there was none.
    pub(crate) fn remove_job(&self, id: &str) -> Result<bool, Error> {
        Ok(self.db().execute("DELETE FROM cron_jobs WHERE id = ?1", [id])? > 0)
    }

    /// Jobs that are due by then, those that wait longest first.
    pub(crate) fn due(&self, by: u64) -> Result<Vec<Job>, Error> {
        let db = self.db();
        let mut select = db.prepare_cached(&format!("{JOB} WHERE due_at <= ?1 ORDER BY due_at, rowid"))?;
        Ok(select.query_map([kept(by)], job)?.collect::<Result<_, _>>()?)
    }

    /// When the next job is due, after then.
    pub(crate) fn next_due(&self, after: u64) -> Result<Option<u64>, Error> {
        let db = self.db();
        let mut select = db.prepare_cached("SELECT min(due_at) FROM cron_jobs WHERE due_at > ?1")?;
        let least: Option<i64> = select.query_row([kept(after)], |row| row.get(0))?;
        Ok(least.map(i64::unsigned_abs))
    }

    /// Claims a run: the job as it is from now on, and the run. It is on disk when this returns. False: it was claimed
    /// before, and does not run again.
    pub(crate) fn claim(&self, job: &Job, run: &CronRun) -> Result<bool, Error> {
        let mut db = self.db();
        let change = db.transaction()?;
        let new = change.execute(
            "INSERT OR IGNORE INTO cron_runs VALUES (?1, ?2, ?3, NULL, NULL)",
            params![run.id, run.job, kept(run.started_at)],
        )? > 0;
        let running_at_ms = new.then_some(run.started_at);
        put_job(&change, &Job { state: State { running_at_ms, ..job.state.clone() }, ..job.clone() })?;
        change.commit()?;
        Ok(new)
    }

    /// Runs that have not ended.
    pub(crate) fn open_runs(&self) -> Result<Vec<CronRun>, Error> {
        let db = self.db();
        let mut select = db.prepare_cached(
            "SELECT id, job, started_at FROM cron_runs WHERE ended_at IS NULL ORDER BY started_at, rowid",
        )?;
        Ok(select.query_map([], run)?.collect::<Result<_, _>>()?)
    }

    /// How many runs were claimed since then, and when the first of these was.
    pub(crate) fn runs_since(&self, since: u64) -> Result<(u64, Option<u64>), Error> {
        let db = self.db();
        let mut select =
            db.prepare_cached("SELECT count(*), min(started_at) FROM cron_runs WHERE started_at > ?1")?;
        Ok(select.query_row([kept(since)], |row| {
            Ok((number(row, 0)?, row.get::<_, Option<i64>>(1)?.map(i64::unsigned_abs)))
        })?)
    }

    /// Ends a run, with all that its end changes.
    pub(crate) fn end_cron(
        &self,
        run: &CronRun,
        at: u64,
        entry: &Value,
        end: &CronEnd<'_>,
    ) -> Result<(), Error> {
        let mut db = self.db();
        let change = db.transaction()?;
        change.execute(
            "INSERT OR REPLACE INTO cron_runs VALUES (?1, ?2, ?3, ?4, ?5)",
            params![run.id, run.job, kept(run.started_at), kept(at), entry.to_string()],
        )?;
        if let Some(job) = end.job {
            put_job(&change, job)?;
        }
        if end.forget {
            change.execute("DELETE FROM cron_jobs WHERE id = ?1", [&run.job])?;
        }
        if let Some((session, message)) = end.said {
            rows::put_session(&change, session)?;
            rows::append(&change, message)?;
        }
        if let Some((key, text)) = end.event {
            change.execute(
                "INSERT INTO events (session_key, text, at) VALUES (?1, ?2, ?3)",
                params![key, text, kept(at)],
            )?;
        }
        change.execute(
            "DELETE FROM cron_runs WHERE ended_at IS NOT NULL AND id NOT IN
             (SELECT id FROM cron_runs ORDER BY started_at DESC, rowid DESC LIMIT ?1)",
            [REMEMBERED],
        )?;
        Ok(change.commit()?)
    }

    /// How runs ended, the newest first.
    pub(crate) fn cron_entries(&self) -> Result<Vec<Value>, Error> {
        let db = self.db();
        let mut select = db.prepare_cached(
            "SELECT entry FROM cron_runs WHERE entry IS NOT NULL ORDER BY ended_at DESC, rowid DESC",
        )?;
        Ok(select.query_map([], |row| read(row, 0))?.collect::<Result<_, _>>()?)
    }

    /// Keeps what a session is to hear at its next turn; false: it has so many to hear already.
    pub(crate) fn put_event(&self, key: &str, text: &str, at: u64, most: u32) -> Result<bool, Error> {
        let new = self.db().execute(
            "INSERT INTO events (session_key, text, at) SELECT ?1, ?2, ?3
             WHERE (SELECT count(*) FROM events WHERE session_key = ?1) < ?4",
            params![key, text, kept(at), most],
        )?;
        Ok(new > 0)
    }

    /// What a session is to hear, the oldest first.
    pub(crate) fn events(&self, key: &str) -> Result<Vec<(u64, String)>, Error> {
        let db = self.db();
        let mut select =
            db.prepare_cached("SELECT at, text FROM events WHERE session_key = ?1 ORDER BY number")?;
        Ok(select.query_map([key], |row| Ok((number(row, 0)?, row.get(1)?)))?.collect::<Result<_, _>>()?)
    }

    /// Puts what a session heard among its messages, in place of its events.
    pub(crate) fn heard(&self, key: &str, message: &Message) -> Result<u64, Error> {
        let mut db = self.db();
        let change = db.transaction()?;
        change.execute("DELETE FROM events WHERE session_key = ?1", [key])?;
        let seq = rows::append(&change, message)?;
        change.commit()?;
        Ok(seq)
    }

    /// When something was done last.
    pub(crate) fn mark(&self, name: &str) -> Result<Option<u64>, Error> {
        let db = self.db();
        let mut select = db.prepare_cached("SELECT at FROM marks WHERE name = ?1")?;
        Ok(select.query_row([name], |row| number(row, 0)).optional()?)
    }

    /// It is done now.
    pub(crate) fn set_mark(&self, name: &str, at: u64) -> Result<(), Error> {
        self.db().execute("INSERT OR REPLACE INTO marks VALUES (?1, ?2)", params![name, kept(at)])?;
        Ok(())
    }

    /// Takes the messages of a run out of its session.
    pub(crate) fn forget_run(&self, run: &str) -> Result<(), Error> {
        self.db().execute("DELETE FROM messages WHERE run = ?1", [run])?;
        Ok(())
    }
}
