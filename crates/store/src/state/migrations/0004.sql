-- Inference routes by name, one of them the default. What a tenant had was always called so.
CREATE TABLE routes (
  tenant TEXT NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
  alias TEXT NOT NULL,
  route TEXT NOT NULL,
  at INTEGER NOT NULL,
  main INTEGER NOT NULL CHECK (main IN (0, 1)),
  PRIMARY KEY (tenant, alias)
) STRICT;
CREATE UNIQUE INDEX routes_main ON routes (tenant) WHERE main = 1;
INSERT INTO routes SELECT tenant, 'default', json_set(route, '$.route', 'default'), at, 1 FROM models;
DROP TABLE models;

-- What was used, by day; outlives its tenant. Of the sums from before nobody knows the day: 0.
CREATE TABLE used (
  tenant TEXT NOT NULL REFERENCES identities (id),
  day INTEGER NOT NULL CHECK (day >= 0),
  route TEXT NOT NULL,
  model TEXT NOT NULL,
  user TEXT NOT NULL,
  agent TEXT NOT NULL,
  requests INTEGER NOT NULL,
  prompt_tokens INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL,
  micros INTEGER NOT NULL,
  unpriced INTEGER NOT NULL,
  PRIMARY KEY (tenant, day, route, model, user, agent)
) STRICT;
INSERT INTO used SELECT tenant, 0, route, model, '', '', requests, prompt_tokens, completion_tokens, 0, requests
  FROM usage;
DROP TABLE usage;

-- What each route used in the last minute, day and month in which it used anything.
CREATE TABLE spent (
  tenant TEXT NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
  route TEXT NOT NULL,
  span TEXT NOT NULL,
  begin INTEGER NOT NULL,
  tokens INTEGER NOT NULL,
  micros INTEGER NOT NULL,
  PRIMARY KEY (tenant, route, span)
) STRICT;
