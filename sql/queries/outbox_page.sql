-- A further page of what was seen in $3 and not in $2, by the index on id.
SELECT o.id, o.bucket, o.event_id, o.topic, coalesce(o.key, ''), o.routing_key, o.type, o.payload, o.headers::text, coalesce(o.traceparent, ''),
       coalesce(o.saga_id::text, ''), coalesce(o.step, ''), o.created_at, o.replayed
FROM pgsagaz.outbox o
WHERE o.id > $4 AND o.bucket = ANY ($1::smallint[])
  AND NOT pg_visible_in_snapshot(o.txid, $2::text::pg_snapshot) AND pg_visible_in_snapshot(o.txid, $3::text::pg_snapshot)
ORDER BY o.id
LIMIT $5
