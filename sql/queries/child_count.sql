-- How the children of a step stand, and the first that was compensated.
SELECT count(*), count(*) FILTER (WHERE state IS NULL), count(*) FILTER (WHERE state = 'running'),
       count(*) FILTER (WHERE state = 'compensated'),
       coalesce((SELECT 'child ' || f.item || ' (' || f.saga_id || ') was compensated: ' || coalesce(s.cause ->> 'error', s.cause ->> 'reason', s.cause ->> 'kind', '')
                 FROM pgsagaz.child f JOIN pgsagaz.saga s ON s.id = f.saga_id
                 WHERE f.parent_id = $1 AND f.step = $2 AND f.state = 'compensated' ORDER BY f.item LIMIT 1), '')
FROM pgsagaz.child WHERE parent_id = $1 AND step = $2
