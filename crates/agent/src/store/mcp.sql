-- What each MCP server was when it was configured, and each of its tools as it was accepted.
CREATE TABLE mcp_servers (
    name TEXT PRIMARY KEY,
    identity TEXT NOT NULL
) STRICT;
CREATE TABLE mcp_tools (
    server TEXT NOT NULL,
    name TEXT NOT NULL,
    hash TEXT NOT NULL,
    -- What it said of itself, so that a person sees what changed.
    said TEXT NOT NULL,
    PRIMARY KEY (server, name)
) STRICT;

-- The tools whose schemas a transcript's model has brought in.
CREATE TABLE loaded_tools (
    session TEXT NOT NULL,
    tool TEXT NOT NULL,
    UNIQUE (session, tool)
) STRICT;
