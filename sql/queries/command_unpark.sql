-- Under the saga's lock: what has given up is due again, with all its attempts, and all its time; what waits for its next attempt
-- is due at once. An undo that is an operator's own stays: he confirms it. $3: this step alone.
UPDATE pgsagaz.lane SET run_at = pgsagaz.now(), job_id = NULL,
                        attempt = CASE run_at WHEN 'infinity' THEN 0 ELSE attempt END,
                        crashes = CASE run_at WHEN 'infinity' THEN 0 ELSE crashes END,
                        until = CASE WHEN run_at <> 'infinity' THEN until END
WHERE saga_id = $1 AND worker IS NULL AND run_at > pgsagaz.now() AND waits IS NULL AND (direction = 'do' OR step <> ALL ($2))
  AND ($3::text IS NULL OR step = $3)
