CREATE TABLE house_conversation (
  id TEXT PRIMARY KEY,
  channel TEXT NOT NULL,
  channel_id TEXT,
  model TEXT NOT NULL,
  created_at DOUBLE PRECISION NOT NULL
);

CREATE INDEX house_conversation_newest ON house_conversation (channel, created_at, id);

CREATE TABLE house_message (
  conversation_id TEXT NOT NULL,
  seq BIGINT NOT NULL,               -- 1, 2, 3 ... a question is followed by its answer
  role TEXT NOT NULL,
  content TEXT NOT NULL,
  state TEXT NOT NULL,               -- done, left, error, stopped; running while it is written
  message_id TEXT,                   -- the client's own, which makes a repeat harmless
  turn TEXT NOT NULL,                -- who writes the answer; fences a late writer
  created_at DOUBLE PRECISION NOT NULL,
  touched_at DOUBLE PRECISION NOT NULL,
  PRIMARY KEY (conversation_id, seq)
);

CREATE UNIQUE INDEX house_message_once ON house_message (conversation_id, message_id);
CREATE INDEX house_message_turn ON house_message (turn);
