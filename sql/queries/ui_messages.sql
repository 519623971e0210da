-- Messages of a saga's steps that have not gone out: stuck ones and dead letters. What is published leaves no row.
SELECT s.id, s.event_id::text, s.topic, coalesce(s.key, ''), coalesce(s.step, ''), 'stuck', coalesce(s.error, ''), s.created_at
FROM pgsagaz.outbox_stuck s WHERE s.saga_id = $1 AND NOT s.done AND NOT EXISTS (SELECT FROM pgsagaz.outbox_dead d WHERE d.id = s.id)
UNION ALL
SELECT d.id, d.event_id::text, d.topic, coalesce(d.key, ''), coalesce(d.step, ''), 'dead', d.error, d.created_at
FROM pgsagaz.outbox_dead d WHERE d.saga_id = $1
ORDER BY 1 LIMIT 100
