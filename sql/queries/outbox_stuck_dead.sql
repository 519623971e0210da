-- Gives a message up. With $5 its key goes on waiting for it.
WITH d AS MATERIALIZED (SELECT pgsagaz.durable()), s AS (
    UPDATE pgsagaz.outbox_stuck s SET attempts = $3, error = $4, done = NOT $5, next_at = CASE WHEN $5 THEN 'infinity' ELSE next_at END
    FROM d, pgsagaz.outbox_bucket b JOIN pgsagaz.outbox_cursor c ON c.id = b.cursor_id
    WHERE s.id = $2 AND b.bucket = s.bucket AND c.epoch = $1 RETURNING s.*)
INSERT INTO pgsagaz.outbox_dead (id, slot, txid, bucket, replayed, event_id, topic, key, routing_key, type, payload, headers,
                                 traceparent, saga_id, step, created_at, attempts, error, stuck_at, holds)
SELECT id, slot, txid, bucket, replayed, event_id, topic, key, routing_key, type, payload, headers,
       traceparent, saga_id, step, created_at, attempts, $4, stuck_at, $5 FROM s
