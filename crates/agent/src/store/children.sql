-- Sub-agents, by their conversations.
CREATE TABLE children (
    key TEXT PRIMARY KEY,
    parent_key TEXT NOT NULL,
    -- The run that asked for it.
    parent_run TEXT NOT NULL,
    run TEXT NOT NULL,
    depth INTEGER NOT NULL,
    task TEXT NOT NULL,
    -- It goes with its result.
    remove INTEGER NOT NULL,
    -- Its parent heard of its end, or is not to hear of it.
    reported INTEGER NOT NULL,
    at INTEGER NOT NULL
) STRICT;
CREATE INDEX children_open ON children(parent_key) WHERE reported = 0;
