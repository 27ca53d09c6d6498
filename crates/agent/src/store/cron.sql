-- Jobs; `definition` and `state` are JSON, and `due_at` is none of one that waits for nothing.
CREATE TABLE cron_jobs (
    id TEXT PRIMARY KEY,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    definition TEXT NOT NULL,
    state TEXT NOT NULL,
    due_at INTEGER
) STRICT;

-- Their runs. A row is there before its run begins; `entry` is JSON, as clients read it.
CREATE TABLE cron_runs (
    id TEXT PRIMARY KEY,
    job TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    ended_at INTEGER,
    entry TEXT
) STRICT;
CREATE INDEX cron_runs_open ON cron_runs(started_at) WHERE ended_at IS NULL;

-- What a session hears at its next turn.
CREATE TABLE events (
    number INTEGER PRIMARY KEY,
    session_key TEXT NOT NULL,
    text TEXT NOT NULL,
    at INTEGER NOT NULL
) STRICT;

-- When something was done last, by its name.
CREATE TABLE marks (
    name TEXT PRIMARY KEY,
    at INTEGER NOT NULL
) STRICT;
