-- Images that a person or a tool showed, by their conversation. Messages name them.
CREATE TABLE images (
    id TEXT PRIMARY KEY,
    session_key TEXT NOT NULL,
    mime TEXT NOT NULL,
    bytes BLOB NOT NULL
) STRICT;
CREATE INDEX images_session ON images(session_key);
