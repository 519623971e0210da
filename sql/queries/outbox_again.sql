-- Messages that were read before, by their ids.
SELECT o.id, o.bucket, o.event_id, o.topic, coalesce(o.key, ''), o.routing_key, o.type, o.payload, o.headers::text, coalesce(o.traceparent, ''),
       coalesce(o.saga_id::text, ''), coalesce(o.step, ''), o.created_at, o.replayed
FROM pgsagaz.outbox o
WHERE o.id = ANY ($1::bigint[])
