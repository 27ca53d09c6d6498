//! The rows of the tables.

use rusqlite::{Connection, Error, Row, params, types::FromSqlError};
use serde_json::Value;

/// A conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// `agent:main:main`, for example.
    pub key: String,
    /// Of its transcript: a reset gives another.
    pub id: String,
    /// In milliseconds, as all times.
    pub created_at: u64,
    pub updated_at: u64,
    /// As a person named it.
    pub label: Option<String>,
    /// The model that it uses, if not the default.
    pub model: Option<String>,
    /// How much its model thinks, if not as it does by itself.
    pub thinking: Option<String>,
    /// When it was put away.
    pub archived_at: Option<u64>,
    pub pinned: bool,
    /// Tokens that it used so far.
    pub input_tokens: u64,
    pub output_tokens: u64,
    /// Tokens of its last request.
    pub context_tokens: u64,
    /// Why its last run failed.
    pub last_error: Option<String>,
}

impl Session {
    /// A new one.
    pub fn new(key: impl Into<String>, id: String, now: u64) -> Self {
        Self {
            key: key.into(),
            id,
            created_at: now,
            updated_at: now,
            label: None,
            model: None,
            thinking: None,
            archived_at: None,
            pinned: false,
            input_tokens: 0,
            output_tokens: 0,
            context_tokens: 0,
            last_error: None,
        }
    }
}

/// Who says a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    User,
    Assistant,
    ToolResult,
    /// The gateway: what was before is a summary from here on.
    System,
}

impl Role {
    /// As clients read it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::ToolResult => "toolResult",
            Self::System => "system",
        }
    }

    fn read(text: &str) -> Option<Self> {
        [Self::User, Self::Assistant, Self::ToolResult, Self::System]
            .into_iter()
            .find(|role| role.as_str() == text)
    }
}

/// A message of a transcript.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The session's id.
    pub session: String,
    /// Its number there, from 1; given when it is appended.
    pub seq: u64,
    pub id: String,
    /// Of which run.
    pub run: Option<String>,
    pub role: Role,
    /// The fields that clients see besides: `content`, and of a tool's result `toolCallId`, `toolName`, `isError`.
    pub body: Value,
    pub at: u64,
}

impl Message {
    /// A message of one text.
    pub fn text(session: &Session, run: Option<&str>, role: Role, text: &str, at: u64) -> Self {
        let body = serde_json::json!({ "content": [{ "type": "text", "text": text }] });
        Self::new(session, run, role, body, at)
    }

    /// A message of any content.
    pub fn new(session: &Session, run: Option<&str>, role: Role, body: Value, at: u64) -> Self {
        let (session, run) = (session.id.clone(), run.map(str::to_owned));
        Self { session, seq: 0, id: crate::ids::uuid(), run, role, body, at }
    }

    /// Is it an answer of a run that calls no tool? Its run ends, or goes on with what a person said.
    pub fn is_last_answer(&self) -> bool {
        let blocks = self.body["content"].as_array().map(Vec::as_slice).unwrap_or_default();
        let calls = blocks.iter().any(|block| block["type"] == "toolCall");
        self.role == Role::Assistant && self.run.is_some() && !calls
    }

    /// Its texts, one after another.
    pub fn said(&self) -> String {
        let blocks = self.body["content"].as_array().map(Vec::as_slice).unwrap_or_default();
        blocks.iter().filter_map(|block| block["text"].as_str()).collect::<Vec<_>>().join("\n")
    }
}

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    Running,
    Done,
    Failed,
    Aborted,
}

impl RunState {
    const ALL: [Self; 4] = [Self::Running, Self::Done, Self::Failed, Self::Aborted];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Aborted => "aborted",
        }
    }
}

/// What one message caused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The client's own key, so that a message that is sent again is not another.
    pub id: String,
    pub session_key: String,
    pub state: RunState,
    pub started_at: u64,
    pub ended_at: Option<u64>,
    /// The answer.
    pub said: Option<String>,
    pub error: Option<String>,
}

pub(super) const SESSION: &str =
    "SELECT key, id, created_at, updated_at, label, model, thinking, archived, pinned,
    input_tokens, output_tokens, context_tokens, last_error FROM sessions";
pub(super) const MESSAGE: &str = "SELECT session, seq, id, run, role, body, at FROM messages";
/// As messages of their sessions, without a number yet.
pub(super) const PENDING: &str = "SELECT s.id, 0, p.id, p.run, 'user', p.body, p.at FROM pending p
    JOIN sessions s ON s.key = p.session_key ORDER BY p.at, p.rowid";
pub(super) const RUN: &str = "SELECT id, session_key, state, started_at, ended_at, said, error FROM runs";

fn number(row: &Row<'_>, at: usize) -> Result<u64, Error> {
    row.get::<_, i64>(at).map(i64::unsigned_abs)
}

/// SQLite has no larger ones.
pub(super) fn kept(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn bad(at: usize) -> Error {
    Error::FromSqlConversionFailure(at, rusqlite::types::Type::Text, Box::new(FromSqlError::InvalidType))
}

pub(super) fn session(row: &Row<'_>) -> Result<Session, Error> {
    let updated_at = number(row, 3)?;
    Ok(Session {
        key: row.get(0)?,
        id: row.get(1)?,
        created_at: number(row, 2)?,
        updated_at,
        label: row.get(4)?,
        model: row.get(5)?,
        thinking: row.get(6)?,
        // Before times were kept there was a 1.
        archived_at: match number(row, 7)? {
            0 => None,
            1 => Some(updated_at),
            at => Some(at),
        },
        pinned: row.get(8)?,
        input_tokens: number(row, 9)?,
        output_tokens: number(row, 10)?,
        context_tokens: number(row, 11)?,
        last_error: row.get(12)?,
    })
}

pub(super) fn put_session(db: &Connection, session: &Session) -> Result<(), Error> {
    let mut put = db.prepare_cached(
        "INSERT OR REPLACE INTO sessions VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?;
    put.execute(params![
        session.key,
        session.id,
        kept(session.created_at),
        kept(session.updated_at),
        session.label,
        session.model,
        session.thinking,
        kept(session.archived_at.unwrap_or_default()),
        session.pinned,
        kept(session.input_tokens),
        kept(session.output_tokens),
        kept(session.context_tokens),
        session.last_error,
    ])?;
    let mut had = db.prepare_cached("INSERT OR IGNORE INTO transcripts VALUES (?1, ?2)")?;
    had.execute([&session.id, &session.key])?;
    Ok(())
}

pub(super) fn message(row: &Row<'_>) -> Result<Message, Error> {
    let (role, body): (String, String) = (row.get(4)?, row.get(5)?);
    Ok(Message {
        session: row.get(0)?,
        seq: number(row, 1)?,
        id: row.get(2)?,
        run: row.get(3)?,
        role: Role::read(&role).ok_or_else(|| bad(4))?,
        body: serde_json::from_str(&body).map_err(|_| bad(5))?,
        at: number(row, 6)?,
    })
}

pub(super) fn pend(db: &Connection, session_key: &str, message: &Message) -> Result<(), Error> {
    let mut put = db.prepare_cached("INSERT INTO pending VALUES (?1, ?2, ?3, ?4, ?5)")?;
    put.execute(params![message.id, session_key, message.run, message.body.to_string(), kept(message.at)])?;
    Ok(())
}

pub(super) fn append(db: &Connection, message: &Message) -> Result<u64, Error> {
    let mut last = db.prepare_cached("SELECT coalesce(max(seq), 0) FROM messages WHERE session = ?1")?;
    let seq = last.query_row([&message.session], |row| row.get::<_, i64>(0))? + 1;
    let mut put = db.prepare_cached("INSERT INTO messages VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?;
    put.execute(params![
        message.session,
        seq,
        message.id,
        message.run,
        message.role.as_str(),
        message.body.to_string(),
        message.said(),
        kept(message.at),
    ])?;
    db.prepare_cached("DELETE FROM pending WHERE id = ?1")?.execute([&message.id])?;
    Ok(seq.unsigned_abs())
}

pub(super) fn run(row: &Row<'_>) -> Result<Run, Error> {
    let state: String = row.get(2)?;
    Ok(Run {
        id: row.get(0)?,
        session_key: row.get(1)?,
        state: RunState::ALL.into_iter().find(|it| it.as_str() == state).ok_or_else(|| bad(2))?,
        started_at: number(row, 3)?,
        ended_at: row.get::<_, Option<i64>>(4)?.map(i64::unsigned_abs),
        said: row.get(5)?,
        error: row.get(6)?,
    })
}

pub(super) fn put_run(db: &Connection, run: &Run) -> Result<(), Error> {
    let mut put = db.prepare_cached("INSERT OR REPLACE INTO runs VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
    put.execute(params![
        run.id,
        run.session_key,
        run.state.as_str(),
        kept(run.started_at),
        run.ended_at.map(kept),
        run.said,
        run.error,
    ])?;
    Ok(())
}
