-- Ids and slots that were ever given away: no row is ever removed.
CREATE TABLE identities (
  slot INTEGER PRIMARY KEY CHECK (slot BETWEEN 2 AND 65533),
  id TEXT NOT NULL UNIQUE
) STRICT;
CREATE TRIGGER identities_stay BEFORE DELETE ON identities
BEGIN SELECT RAISE(ABORT, 'an identity is never given back'); END;

CREATE TABLE tenants (
  id TEXT PRIMARY KEY REFERENCES identities (id),
  slot INTEGER NOT NULL UNIQUE REFERENCES identities (slot),
  runtime TEXT NOT NULL,
  limits TEXT NOT NULL,
  desired TEXT NOT NULL,
  generation INTEGER NOT NULL DEFAULT 0 CHECK (generation >= 0),
  created INTEGER NOT NULL,
  data_key TEXT NOT NULL
) STRICT;

CREATE TABLE policies (
  tenant TEXT NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
  revision INTEGER NOT NULL CHECK (revision > 0),
  at INTEGER NOT NULL,
  author TEXT NOT NULL,
  document TEXT NOT NULL,
  PRIMARY KEY (tenant, revision)
) STRICT;
CREATE TRIGGER policies_stay BEFORE UPDATE ON policies
BEGIN SELECT RAISE(ABORT, 'a policy revision is never changed'); END;

CREATE TABLE secrets (
  tenant TEXT NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
  name TEXT NOT NULL,
  version INTEGER NOT NULL,
  purpose TEXT NOT NULL,
  envelope TEXT NOT NULL,
  at INTEGER NOT NULL,
  PRIMARY KEY (tenant, name)
) STRICT;

CREATE TABLE models (
  tenant TEXT PRIMARY KEY REFERENCES tenants (id) ON DELETE CASCADE,
  route TEXT NOT NULL
) STRICT;

-- Numbers of subjects: no row is removed while its tenant is there, and the id of a tenant never comes again.
CREATE TABLE members (
  tenant TEXT NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
  number INTEGER NOT NULL CHECK (number BETWEEN 1 AND 65535),
  subject TEXT NOT NULL,
  PRIMARY KEY (tenant, number),
  UNIQUE (tenant, subject)
) STRICT;

CREATE TABLE tokens (
  place INTEGER PRIMARY KEY AUTOINCREMENT,
  jti TEXT NOT NULL UNIQUE,
  tenant TEXT NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
  subject TEXT NOT NULL,
  role TEXT NOT NULL,
  issued INTEGER NOT NULL,
  expires INTEGER NOT NULL,
  revoked INTEGER,
  FOREIGN KEY (tenant, subject) REFERENCES members (tenant, subject)
) STRICT;
CREATE INDEX tokens_by_tenant ON tokens (tenant, subject);

-- The number of an approval is also that of its grant, and is never used again.
CREATE TABLE approvals (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  tenant TEXT NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
  destination TEXT NOT NULL,
  why TEXT NOT NULL,
  asked INTEGER NOT NULL,
  state TEXT NOT NULL,
  over INTEGER NOT NULL CHECK (over IN (0, 1)),
  answer TEXT NOT NULL
) STRICT;
CREATE INDEX approvals_by_tenant ON approvals (tenant);
CREATE INDEX approvals_open ON approvals (id) WHERE over = 0;

-- Outlives its tenant.
CREATE TABLE usage (
  tenant TEXT NOT NULL REFERENCES identities (id),
  route TEXT NOT NULL,
  model TEXT NOT NULL,
  requests INTEGER NOT NULL,
  prompt_tokens INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL,
  PRIMARY KEY (tenant, route, model)
) STRICT;
