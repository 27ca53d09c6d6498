-- How many messages of an answer were sent already, of one that takes several.
ALTER TABLE channel_replies ADD COLUMN pieces INTEGER NOT NULL DEFAULT 0;
