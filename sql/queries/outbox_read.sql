-- What is seen now and was not seen in $2: the first page, in the order of ids. Rows of transactions that ran
-- then are looked up one by one; a range from the oldest of them on would read all again for as long as it runs.
SELECT o.id, o.bucket, o.event_id, o.topic, coalesce(o.key, ''), o.routing_key, o.type, o.payload, o.headers::text, coalesce(o.traceparent, ''),
       coalesce(o.saga_id::text, ''), coalesce(o.step, ''), o.created_at, o.replayed
FROM (SELECT * FROM pgsagaz.outbox WHERE txid >= pg_snapshot_xmax($2::text::pg_snapshot)
      UNION ALL
      SELECT * FROM pgsagaz.outbox WHERE txid = ANY (ARRAY(SELECT pg_snapshot_xip($2::text::pg_snapshot)))) o
WHERE o.bucket = ANY ($1::smallint[])
ORDER BY o.id + 0 -- and not by the index on id, which leads past all that was read before
LIMIT $3
