-- The first statement of the batch sees to it that the commit is on disk before the message leaves.
WITH d AS (SELECT pgsagaz.durable())
INSERT INTO pgsagaz.outbox (event_id, bucket, topic, key, routing_key, type, payload, headers, traceparent, saga_id, step)
SELECT $1, $2, $3, $4, $5, $6, coalesce($7::bytea, ''), $8, $9, $10, $11 FROM d
