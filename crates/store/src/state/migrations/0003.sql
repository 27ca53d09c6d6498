-- The policy's revision that asked, the request that did first, how often the same was asked, and who answered.
ALTER TABLE approvals ADD COLUMN revision INTEGER NOT NULL DEFAULT 0;
ALTER TABLE approvals ADD COLUMN request TEXT NOT NULL DEFAULT 'null';
ALTER TABLE approvals ADD COLUMN count INTEGER NOT NULL DEFAULT 1;
ALTER TABLE approvals ADD COLUMN approver TEXT NOT NULL DEFAULT '';
