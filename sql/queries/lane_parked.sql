-- A step that waits for an operator.
SELECT s.name, s.version, l.direction::text FROM pgsagaz.lane l JOIN pgsagaz.saga s ON s.id = l.saga_id
WHERE l.saga_id = $1 AND l.step = $2 AND l.worker IS NULL AND l.run_at = 'infinity' AND l.waits IS NULL
