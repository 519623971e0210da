SELECT d.id, d.event_id, d.topic, coalesce(d.key, ''), d.routing_key, d.type, d.headers, coalesce(d.traceparent, ''), coalesce(d.saga_id::text, ''), coalesce(d.step, ''),
       d.created_at, d.died_at, d.attempts, d.error, d.holds, octet_length(d.payload), d.payload
FROM pgsagaz.outbox_dead d WHERE d.id = $1
