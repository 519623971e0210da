-- The oldest sagas that have not ended.
SELECT s.id::text, s.name, s.version, s.state::text, coalesce(s.key, ''), s.tags, s.cause, s.created_at, s.deadline, s.ended_at, s.paused_at,
       coalesce((SELECT l.step || ': ' || coalesce(l.error, '') FROM pgsagaz.lane l
                 WHERE s.state = 'stuck' AND l.saga_id = s.id AND l.run_at = 'infinity' AND l.waits IS NULL ORDER BY l.id LIMIT 1), '')
FROM (SELECT l.saga_id FROM pgsagaz.lane l GROUP BY l.saga_id ORDER BY l.saga_id LIMIT $1) o
CROSS JOIN LATERAL (SELECT * FROM pgsagaz.saga s WHERE s.id = o.saga_id OFFSET 0) s
ORDER BY s.id
