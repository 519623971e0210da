-- Takes messages out of the stream. The first of $2 has met its first failure; the others wait behind it.
WITH fence AS MATERIALIZED (SELECT id FROM pgsagaz.outbox_cursor WHERE epoch = $1 FOR SHARE), d AS MATERIALIZED (SELECT pgsagaz.durable())
INSERT INTO pgsagaz.outbox_stuck (id, slot, txid, bucket, replayed, event_id, topic, key, routing_key, type, payload, headers,
                                  traceparent, saga_id, step, created_at)
SELECT o.id, o.slot, o.txid, o.bucket, o.replayed, o.event_id, o.topic, o.key, o.routing_key, o.type, o.payload, o.headers,
       o.traceparent, o.saga_id, o.step, o.created_at
FROM d, pgsagaz.outbox o JOIN pgsagaz.outbox_bucket b ON b.bucket = o.bucket JOIN fence ON fence.id = b.cursor_id
WHERE o.id = ANY ($2::bigint[])
