-- What was used in each quarter of an hour: every zone's days are made of them.
CREATE TABLE usage (
    quarter INTEGER NOT NULL,
    session_key TEXT NOT NULL,
    model TEXT NOT NULL,
    requests INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    PRIMARY KEY (quarter, session_key, model)
) STRICT, WITHOUT ROWID;
