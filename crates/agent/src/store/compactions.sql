-- Where the older part of a transcript was replaced by a summary: each is a message of the gateway.
CREATE INDEX messages_system ON messages(session, seq) WHERE role = 'system';

-- Transcripts whose agent was reminded to keep what it wants to know, and since which of those.
CREATE TABLE flushes (
    session TEXT PRIMARY KEY,
    seq INTEGER NOT NULL
) STRICT;
