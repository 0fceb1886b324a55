-- When the job was put that a step is of, its created_at. NULL: not known, since older code wrote it.
ALTER TABLE house_step ADD COLUMN put_at DOUBLE PRECISION;
