CREATE TABLE house_job (
  id TEXT PRIMARY KEY,               -- the dedup key: 'telegram:42', 'cron:daily:2026-11-23T08:00:00+00:00'
  name TEXT NOT NULL,
  lane TEXT,
  payload TEXT NOT NULL,
  run_at DOUBLE PRECISION NOT NULL,  -- when it is due; while it is claimed, when the claim lapses
  attempts INTEGER NOT NULL,
  token TEXT,                        -- the claim; fences a late writer
  done_at DOUBLE PRECISION,
  error TEXT,
  created_at DOUBLE PRECISION NOT NULL
);

CREATE INDEX house_job_due ON house_job (run_at) WHERE done_at IS NULL;
CREATE INDEX house_job_done ON house_job (done_at) WHERE done_at IS NOT NULL;
CREATE INDEX house_job_waiting ON house_job (lane, created_at) WHERE done_at IS NULL;
CREATE UNIQUE INDEX house_job_lane ON house_job (lane) WHERE token IS NOT NULL;  -- one runs in a lane
