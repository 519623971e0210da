-- The next job, as River would hand it out to a test that works jobs one by one.
UPDATE pgsagaz.river_job SET state = 'running', attempt = attempt + 1
WHERE id = (SELECT id FROM pgsagaz.river_job WHERE state = 'available' AND kind LIKE 'pgsagaz/%' ORDER BY id LIMIT 1)
RETURNING id, kind, attempt, (args ->> 'saga_id'), (args ->> 'lane')::bigint, (args ->> 'step')
