-- What sqlite3's .dump says of a database that the code of 26 November 2026 filled (its first three migrations).
BEGIN TRANSACTION;
CREATE TABLE conversation (
             id TEXT PRIMARY KEY,
             channel TEXT NOT NULL,
             channel_id TEXT,
             model TEXT NOT NULL,
             created_at DOUBLE PRECISION NOT NULL);
INSERT INTO "conversation" VALUES('greeting','web',NULL,'smart',1772350200.0);
INSERT INTO "conversation" VALUES('mine','web','7','smart',1772350204.0);
CREATE TABLE job (
             id TEXT PRIMARY KEY,               -- the dedup key: 'telegram:42', 'cron:daily:2026-11-23T08:00:00+00:00'
             name TEXT NOT NULL,
             lane TEXT,
             payload TEXT NOT NULL,
             run_at DOUBLE PRECISION NOT NULL,  -- when it is due; while it is claimed, when the claim lapses
             attempts INTEGER NOT NULL,
             token TEXT,                        -- the claim; fences a late writer
             done_at DOUBLE PRECISION,
             error TEXT,
             created_at DOUBLE PRECISION NOT NULL);
INSERT INTO "job" VALUES('cron:daily:2026-03-01T09:00:00+00:00','daily','job:daily','null',1772355600.0,0,NULL,NULL,NULL,1772350206.0);
INSERT INTO "job" VALUES('was-done','ok',NULL,'null',1772350266.0,1,NULL,1772350206.0,NULL,1772350206.0);
INSERT INTO "job" VALUES('dead-letter','bad','user:7','{"n": 2}',1772350266.0,1,NULL,1772350206.0,'ValueError at fill.py:17',1772350206.0);
INSERT INTO "job" VALUES('waits-1','ok','user:8','{"n": 1}',1772350207.0,0,NULL,NULL,NULL,1772350207.0);
INSERT INTO "job" VALUES('waits-2','ok','user:8','{"n": 2}',1772350208.0,0,NULL,NULL,NULL,1772350208.0);
INSERT INTO "job" VALUES('later','ok',NULL,'null',1772436609.0,0,NULL,NULL,NULL,1772350209.0);
CREATE TABLE message (
             conversation_id TEXT NOT NULL,
             seq BIGINT NOT NULL,               -- 1, 2, 3 ... a question is followed by its answer
             role TEXT NOT NULL,
             content TEXT NOT NULL,
             state TEXT NOT NULL,               -- done, left, error, stopped; running while it is written
             message_id TEXT,                   -- the client's own, which makes a repeat harmless
             turn TEXT NOT NULL,                -- who writes the answer; fences a late writer
             created_at DOUBLE PRECISION NOT NULL,
             touched_at DOUBLE PRECISION NOT NULL,
             PRIMARY KEY (conversation_id, seq));
INSERT INTO "message" VALUES('greeting',1,'user','Hi','done','m-Hi','488d28a480684a62abf340b0371086cb',1772350200.0,1772350200.0);
INSERT INTO "message" VALUES('greeting',2,'assistant','Hello; it''s me
-- yes','done',NULL,'488d28a480684a62abf340b0371086cb',1772350200.0,1772350201.0);
INSERT INTO "message" VALUES('greeting',3,'user','Grüße 👋🏽','done','m-Grüße 👋🏽','83c67a913c434779baaab48ec31ed978',1772350202.0,1772350202.0);
INSERT INTO "message" VALUES('greeting',4,'assistant','','error',NULL,'83c67a913c434779baaab48ec31ed978',1772350202.0,1772350203.0);
INSERT INTO "message" VALUES('mine',1,'user','one','done','m-one','dbb56c06be034994985e32c174a3a38c',1772350204.0,1772350204.0);
INSERT INTO "message" VALUES('mine',2,'assistant','half','left',NULL,'dbb56c06be034994985e32c174a3a38c',1772350204.0,1772350205.0);
INSERT INTO "message" VALUES('greeting',5,'user','and now?','done',NULL,'cd98a5bb2bfc4798b412fc620329513d',1772350206.0,1772350206.0);
INSERT INTO "message" VALUES('greeting',6,'assistant','','running',NULL,'cd98a5bb2bfc4798b412fc620329513d',1772350206.0,1772350206.0);
CREATE TABLE migration (version BIGINT PRIMARY KEY);
INSERT INTO "migration" VALUES(1);
INSERT INTO "migration" VALUES(2);
INSERT INTO "migration" VALUES(3);
CREATE INDEX conversation_newest ON conversation (channel, created_at, id);
CREATE UNIQUE INDEX message_once ON message (conversation_id, message_id);
CREATE INDEX message_turn ON message (turn);
CREATE INDEX job_done ON job (done_at) WHERE done_at IS NOT NULL;
CREATE UNIQUE INDEX job_lane ON job (lane) WHERE token IS NOT NULL;
CREATE INDEX job_due ON job (run_at, id) WHERE done_at IS NULL;
CREATE INDEX job_waiting ON job (lane, created_at, id) WHERE done_at IS NULL;
COMMIT;
