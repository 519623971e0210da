-- Under the saga's lock: its lanes get new jobs, as those that came meanwhile found it paused.
WITH s AS (UPDATE pgsagaz.saga SET paused_at = NULL WHERE id = $1)
UPDATE pgsagaz.lane SET job_id = NULL WHERE saga_id = $1 AND worker IS NULL AND job_id IS NOT NULL
