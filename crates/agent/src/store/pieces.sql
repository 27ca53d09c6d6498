-- How many messages of an answer were sent already, of one that takes several, and a digest of how it was cut.
ALTER TABLE channel_replies ADD COLUMN pieces INTEGER NOT NULL DEFAULT 0;
ALTER TABLE channel_replies ADD COLUMN cut BLOB NOT NULL DEFAULT x'';
