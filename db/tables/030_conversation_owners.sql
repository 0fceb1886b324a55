-- A conversation is its owner's: equal ids of two owners are two; the column id is a key that no client sees.
ALTER TABLE house_conversation ADD COLUMN client_id TEXT;  -- NULL in older rows: id is both
CREATE UNIQUE INDEX house_conversation_owned
  ON house_conversation (channel, COALESCE(channel_id, ''), COALESCE(client_id, id));
CREATE INDEX house_conversation_newest_of
  ON house_conversation (channel, COALESCE(channel_id, ''), created_at, id);
