-- The policy's revision that asked, the request that did first, how often the same was asked, and who answered.
ALTER TABLE approvals ADD COLUMN revision INTEGER NOT NULL DEFAULT 0;
ALTER TABLE approvals ADD COLUMN request TEXT NOT NULL DEFAULT 'null';
ALTER TABLE approvals ADD COLUMN count INTEGER NOT NULL DEFAULT 1;
ALTER TABLE approvals ADD COLUMN approver TEXT NOT NULL DEFAULT '';

-- Where a tenant's questions are posted, and what is still to be posted: durable together with what it tells.
CREATE TABLE webhooks (
  tenant TEXT PRIMARY KEY REFERENCES tenants (id) ON DELETE CASCADE,
  url TEXT NOT NULL,
  secret TEXT NOT NULL,
  error TEXT NOT NULL DEFAULT ''
) STRICT;

CREATE TABLE deliveries (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  tenant TEXT NOT NULL REFERENCES webhooks (tenant) ON DELETE CASCADE,
  body TEXT NOT NULL,
  due INTEGER NOT NULL,
  tries INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX deliveries_due ON deliveries (due);
