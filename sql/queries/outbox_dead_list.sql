-- The newest first; $3 is the last of the page before, 0: none.
SELECT d.id, d.event_id, d.topic, coalesce(d.key, ''), d.routing_key, d.type, d.headers, coalesce(d.traceparent, ''), coalesce(d.saga_id::text, ''), coalesce(d.step, ''),
       d.created_at, d.died_at, d.attempts, d.error, d.holds, octet_length(d.payload)
FROM pgsagaz.outbox_dead d
WHERE ($1 = '' OR d.topic = $1) AND ($2 = '' OR d.key = $2) AND ($3::bigint = 0 OR d.id < $3)
ORDER BY d.id DESC LIMIT nullif($4::bigint, 0)
