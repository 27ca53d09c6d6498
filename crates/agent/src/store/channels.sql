-- Who may write to the agent over a channel, because somebody said so.
CREATE TABLE channel_senders (
    channel TEXT NOT NULL,
    sender TEXT NOT NULL,
    name TEXT NOT NULL,
    -- Where they write.
    chat TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (channel, sender)
) STRICT;

-- Who would like to.
CREATE TABLE channel_requests (
    id TEXT PRIMARY KEY,
    channel TEXT NOT NULL,
    sender TEXT NOT NULL,
    name TEXT NOT NULL,
    chat TEXT NOT NULL,
    at INTEGER NOT NULL,
    seen INTEGER NOT NULL,
    UNIQUE (channel, sender)
) STRICT;

-- How far a channel was read.
CREATE TABLE channel_cursors (
    channel TEXT NOT NULL,
    chat TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (channel, chat)
) STRICT;

-- Runs whose answers are still to be sent to where they were asked from.
CREATE TABLE channel_replies (
    run TEXT PRIMARY KEY,
    channel TEXT NOT NULL,
    chat TEXT NOT NULL,
    at INTEGER NOT NULL
) STRICT;
