CREATE TABLE sessions (
    key TEXT PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    label TEXT,
    model TEXT,
    thinking TEXT,
    archived INTEGER NOT NULL,
    pinned INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    context_tokens INTEGER NOT NULL,
    last_error TEXT
) STRICT;

-- Every transcript that a session has had: a reset gives it another.
CREATE TABLE transcripts (
    id TEXT PRIMARY KEY,
    session_key TEXT NOT NULL
) STRICT;

CREATE TABLE messages (
    session TEXT NOT NULL,
    seq INTEGER NOT NULL,
    id TEXT NOT NULL,
    run TEXT,
    role TEXT NOT NULL,
    -- JSON: the message as clients see it, but for its numbers.
    body TEXT NOT NULL,
    -- What of it is searched.
    said TEXT NOT NULL,
    at INTEGER NOT NULL,
    UNIQUE (session, seq)
) STRICT;

CREATE VIRTUAL TABLE words USING fts5(said, content='messages', content_rowid='rowid');
CREATE TRIGGER messages_added AFTER INSERT ON messages BEGIN
    INSERT INTO words(rowid, said) VALUES (new.rowid, new.said);
END;
CREATE TRIGGER messages_removed AFTER DELETE ON messages BEGIN
    INSERT INTO words(words, rowid, said) VALUES ('delete', old.rowid, old.said);
END;

CREATE TABLE runs (
    id TEXT PRIMARY KEY,
    session_key TEXT NOT NULL,
    state TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    ended_at INTEGER,
    said TEXT,
    error TEXT
) STRICT;
CREATE INDEX runs_running ON runs(state) WHERE state = 'running';

-- Messages that were acknowledged and wait for their turn; each goes when it is among its session's messages.
CREATE TABLE pending (
    id TEXT PRIMARY KEY,
    session_key TEXT NOT NULL,
    run TEXT,
    body TEXT NOT NULL,
    at INTEGER NOT NULL
) STRICT;
