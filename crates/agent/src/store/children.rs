//! Sub-agents: whose they are, and whether their parents heard of their end.

use super::{Error, Store};
use rusqlite::{OptionalExtension, Row, params};

/// A sub-agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// Of its session.
    pub key: String,
    pub parent_key: String,
    /// The run that asked for it.
    pub parent_run: String,
    /// Its first run.
    pub run: String,
    /// 1: the agent asked for it; 2: such a one did.
    pub depth: u32,
    /// What it is called.
    pub task: String,
    /// It goes with its result.
    pub remove: bool,
    /// Its parent heard of its end, or is not to.
    pub reported: bool,
    pub at: u64,
}

const CHILD: &str =
    "SELECT key, parent_key, parent_run, run, depth, task, remove, reported, at FROM children";

fn child(row: &Row<'_>) -> Result<Child, rusqlite::Error> {
    Ok(Child {
        key: row.get(0)?,
        parent_key: row.get(1)?,
        parent_run: row.get(2)?,
        run: row.get(3)?,
        depth: row.get(4)?,
        task: row.get(5)?,
        remove: row.get(6)?,
        reported: row.get(7)?,
        at: row.get::<_, i64>(8)?.unsigned_abs(),
    })
}

impl Store {
    /// Keeps one, new or changed.
    pub fn put_child(&self, child: &Child) -> Result<(), Error> {
        let at = i64::try_from(child.at).unwrap_or(i64::MAX);
        self.db().execute(
            "INSERT OR REPLACE INTO children VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                child.key,
                child.parent_key,
                child.parent_run,
                child.run,
                child.depth,
                child.task,
                child.remove,
                child.reported,
                at
            ],
        )?;
        Ok(())
    }

    /// One by its session.
    pub fn child(&self, key: &str) -> Result<Option<Child>, Error> {
        let db = self.db();
        let mut select = db.prepare_cached(&format!("{CHILD} WHERE key = ?1"))?;
        Ok(select.query_row([key], child).optional()?)
    }

    /// Those of a session whose end it has not heard of.
    pub fn children(&self, parent_key: &str) -> Result<Vec<Child>, Error> {
        let db = self.db();
        let mut select =
            db.prepare_cached(&format!("{CHILD} WHERE parent_key = ?1 AND reported = 0 ORDER BY rowid"))?;
        Ok(select.query_map([parent_key], child)?.collect::<Result<_, _>>()?)
    }

    /// Those of all sessions.
    pub fn all_children(&self) -> Result<Vec<Child>, Error> {
        let db = self.db();
        let mut select = db.prepare_cached(&format!("{CHILD} WHERE reported = 0 ORDER BY rowid"))?;
        Ok(select.query_map([], child)?.collect::<Result<_, _>>()?)
    }
}
