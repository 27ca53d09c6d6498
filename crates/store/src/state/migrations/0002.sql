-- The last row of the ledger whose change is in here: a later one tells of what did not happen.
CREATE TABLE chain (
  place INTEGER PRIMARY KEY CHECK (place = 1),
  seq INTEGER NOT NULL CHECK (seq >= 0)
) STRICT;
