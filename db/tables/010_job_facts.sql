-- How often a job was begun and when, that it was called off, and the results of its steps. See worker/table.py.
ALTER TABLE house_job ADD COLUMN begun BIGINT NOT NULL DEFAULT 0;
ALTER TABLE house_job ADD COLUMN began_at DOUBLE PRECISION;
ALTER TABLE house_job ADD COLUMN cancelled_at DOUBLE PRECISION;

CREATE TABLE house_step (
  job_id TEXT NOT NULL,
  name TEXT NOT NULL,
  result TEXT NOT NULL,
  PRIMARY KEY (job_id, name));

-- What a claim looks at: the due rows of a name, those in a lane; and what an operator does. (lane IS NULL) IS TRUE is
-- written so that SQLite does not take house_job_waiting for it, and sort all of its rows.
CREATE INDEX house_job_free ON house_job (name, run_at, id) WHERE done_at IS NULL AND (lane IS NULL) IS TRUE;
CREATE INDEX house_job_laned ON house_job (run_at, id) WHERE done_at IS NULL AND lane IS NOT NULL;
CREATE INDEX house_job_called_off ON house_job (id) WHERE cancelled_at IS NOT NULL AND done_at IS NULL;
CREATE INDEX house_job_failed ON house_job (done_at, id) WHERE (error IS NULL) IS FALSE;
CREATE INDEX house_job_last ON house_job (name, done_at) WHERE done_at IS NOT NULL;
