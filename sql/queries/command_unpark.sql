-- Under the saga's lock: parked lanes are due again, with all their attempts, and all their time. An undo that is an operator's
-- own stays: he confirms it.
UPDATE pgsagaz.lane SET run_at = pgsagaz.now(), attempt = 0, crashes = 0, job_id = NULL, until = NULL
WHERE saga_id = $1 AND worker IS NULL AND run_at = 'infinity' AND waits IS NULL AND (direction = 'do' OR step <> ALL ($2))
