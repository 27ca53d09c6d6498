-- Devices that proved themselves and were let in, each with its member.
CREATE TABLE devices (
    id TEXT PRIMARY KEY,
    public_key TEXT NOT NULL,
    user TEXT NOT NULL,
    client_id TEXT NOT NULL,
    client_mode TEXT NOT NULL,
    platform TEXT NOT NULL,
    name TEXT,
    -- What it may at most, separated by spaces.
    scopes TEXT NOT NULL,
    approved_via TEXT NOT NULL,
    approved_at INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,
    -- The digest of its token; none: it has none.
    token BLOB,
    token_at INTEGER
) STRICT;
