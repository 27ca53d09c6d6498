-- The last row of the ledger whose change is in here: a later one tells of what did not happen.
CREATE TABLE chain (
  place INTEGER PRIMARY KEY CHECK (place = 1),
  seq INTEGER NOT NULL CHECK (seq >= 0)
) STRICT;

-- When an approval was answered, or nobody did in time; none while it waits.
ALTER TABLE approvals ADD COLUMN answered INTEGER;

-- Since when a model route is there.
ALTER TABLE models ADD COLUMN at INTEGER NOT NULL DEFAULT 0;
