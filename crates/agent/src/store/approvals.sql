-- What was asked of people, and what they said. One that nobody answered before the gateway ended is over.
CREATE TABLE approvals (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    request TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    -- NULL with an end: nobody said anything.
    decision TEXT,
    resolved_by TEXT,
    ended_at INTEGER,
    reason TEXT
) STRICT;
CREATE INDEX approvals_ended ON approvals (ended_at);
-- Which commands may be run, as `exec.approvals.set` wrote it.
CREATE TABLE exec_approvals (one INTEGER PRIMARY KEY CHECK (one = 1), document TEXT NOT NULL) STRICT;
