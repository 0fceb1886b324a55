-- Answers that outlive their request: how one ended, what it took, and what processes tell each other about it.
ALTER TABLE house_message ADD COLUMN finish TEXT;            -- the model's word for its end: stop, length, ...
ALTER TABLE house_message ADD COLUMN reason TEXT;            -- who stopped it, or in words what went wrong
ALTER TABLE house_message ADD COLUMN tokens_in BIGINT;
ALTER TABLE house_message ADD COLUMN tokens_out BIGINT;
ALTER TABLE house_message ADD COLUMN writer TEXT;            -- the process that writes it, in house_writer
ALTER TABLE house_message ADD COLUMN stop INTEGER;           -- 1: that process is asked to stop it
ALTER TABLE house_message ADD COLUMN followed_at DOUBLE PRECISION;  -- when another process said that it follows
CREATE INDEX house_message_running ON house_message (writer) WHERE state = 'running';
CREATE TABLE house_writer (
    id TEXT PRIMARY KEY,
    alive_at DOUBLE PRECISION NOT NULL  -- the last sign of life, which is that of all its answers
);
