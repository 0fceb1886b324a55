-- In the order that a claim asks for, so that none of the rows that wait is read but the first (bench/claims.py).
DROP INDEX house_job_due;
CREATE INDEX house_job_due ON house_job (run_at, id) WHERE done_at IS NULL;
DROP INDEX house_job_waiting;
CREATE INDEX house_job_waiting ON house_job (lane, created_at, id) WHERE done_at IS NULL;
