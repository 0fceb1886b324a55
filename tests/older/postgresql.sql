-- What pg_dump says of a database that the code of 26 November 2026 filled (its first three migrations).
CREATE TABLE conversation (
    id text NOT NULL,
    channel text NOT NULL,
    channel_id text,
    model text NOT NULL,
    created_at double precision NOT NULL
);
CREATE TABLE job (
    id text NOT NULL,
    name text NOT NULL,
    lane text,
    payload text NOT NULL,
    run_at double precision NOT NULL,
    attempts integer NOT NULL,
    token text,
    done_at double precision,
    error text,
    created_at double precision NOT NULL
);
CREATE TABLE message (
    conversation_id text NOT NULL,
    seq bigint NOT NULL,
    role text NOT NULL,
    content text NOT NULL,
    state text NOT NULL,
    message_id text,
    turn text NOT NULL,
    created_at double precision NOT NULL,
    touched_at double precision NOT NULL
);
CREATE TABLE migration (
    version bigint NOT NULL
);
INSERT INTO conversation VALUES ('mine', 'web', '7', 'smart', 1772350204);
INSERT INTO conversation VALUES ('greeting', 'web', NULL, 'smart', 1772350200);
INSERT INTO job VALUES ('cron:daily:2026-03-01T09:00:00+00:00', 'daily', 'job:daily', 'null', 1772355600, 0, NULL, NULL, NULL, 1772350206);
INSERT INTO job VALUES ('dead-letter', 'bad', 'user:7', '{"n": 2}', 1772350266, 1, NULL, 1772350206, 'ValueError at fill.py:17', 1772350206);
INSERT INTO job VALUES ('was-done', 'ok', NULL, 'null', 1772350266, 1, NULL, 1772350206, NULL, 1772350206);
INSERT INTO job VALUES ('waits-1', 'ok', 'user:8', '{"n": 1}', 1772350207, 0, NULL, NULL, NULL, 1772350207);
INSERT INTO job VALUES ('waits-2', 'ok', 'user:8', '{"n": 2}', 1772350208, 0, NULL, NULL, NULL, 1772350208);
INSERT INTO job VALUES ('later', 'ok', NULL, 'null', 1772436609, 0, NULL, NULL, NULL, 1772350209);
INSERT INTO message VALUES ('greeting', 1, 'user', 'Hi', 'done', 'm-Hi', '58e02971413448efa66ceb944351e0bd', 1772350200, 1772350200);
INSERT INTO message VALUES ('greeting', 2, 'assistant', 'Hello; it''s me
-- yes', 'done', NULL, '58e02971413448efa66ceb944351e0bd', 1772350200, 1772350201);
INSERT INTO message VALUES ('greeting', 3, 'user', 'Grüße 👋🏽', 'done', 'm-Grüße 👋🏽', '9876e8bae9da4fd8849965c0675f5f9a', 1772350202, 1772350202);
INSERT INTO message VALUES ('greeting', 4, 'assistant', '', 'error', NULL, '9876e8bae9da4fd8849965c0675f5f9a', 1772350202, 1772350203);
INSERT INTO message VALUES ('mine', 1, 'user', 'one', 'done', 'm-one', 'c93e1018eb35411d87d2b8cf543a6bea', 1772350204, 1772350204);
INSERT INTO message VALUES ('mine', 2, 'assistant', 'half', 'left', NULL, 'c93e1018eb35411d87d2b8cf543a6bea', 1772350204, 1772350205);
INSERT INTO message VALUES ('greeting', 5, 'user', 'and now?', 'done', NULL, '42a90ce5844549ffa6ce53ea743b0930', 1772350206, 1772350206);
INSERT INTO message VALUES ('greeting', 6, 'assistant', '', 'running', NULL, '42a90ce5844549ffa6ce53ea743b0930', 1772350206, 1772350206);
INSERT INTO migration VALUES (1);
INSERT INTO migration VALUES (2);
INSERT INTO migration VALUES (3);
ALTER TABLE conversation
    ADD CONSTRAINT conversation_pkey PRIMARY KEY (id);
ALTER TABLE job
    ADD CONSTRAINT job_pkey PRIMARY KEY (id);
ALTER TABLE message
    ADD CONSTRAINT message_pkey PRIMARY KEY (conversation_id, seq);
ALTER TABLE migration
    ADD CONSTRAINT migration_pkey PRIMARY KEY (version);
CREATE INDEX conversation_newest ON conversation USING btree (channel, created_at, id);
CREATE INDEX job_done ON job USING btree (done_at) WHERE (done_at IS NOT NULL);
CREATE INDEX job_due ON job USING btree (run_at, id) WHERE (done_at IS NULL);
CREATE UNIQUE INDEX job_lane ON job USING btree (lane) WHERE (token IS NOT NULL);
CREATE INDEX job_waiting ON job USING btree (lane, created_at, id) WHERE (done_at IS NULL);
CREATE UNIQUE INDEX message_once ON message USING btree (conversation_id, message_id);
CREATE INDEX message_turn ON message USING btree (turn);
