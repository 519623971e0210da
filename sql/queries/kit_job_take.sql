-- The next job, as River would hand it out to a test that works jobs one by one: the oldest, or if $1 is not 0 one
-- of them as that says.
UPDATE pgsagaz.river_job SET state = 'running', attempt = attempt + 1
WHERE id = (SELECT id FROM pgsagaz.river_job WHERE state = 'available' AND kind LIKE 'pgsagaz/%'
            ORDER BY CASE $1::bigint WHEN 0 THEN id ELSE hashint8extended(id, $1) END LIMIT 1)
RETURNING id, kind, attempt, (args ->> 'saga_id'), (args ->> 'lane')::bigint, (args ->> 'step')
