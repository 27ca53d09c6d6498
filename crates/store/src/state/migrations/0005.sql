-- What the last proof of the tenant's cell found, as JSON; null before the first.
ALTER TABLE tenants ADD COLUMN proof TEXT NOT NULL DEFAULT 'null';
