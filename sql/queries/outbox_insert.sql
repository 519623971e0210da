INSERT INTO pgsagaz.outbox (event_id, bucket, topic, key, routing_key, type, payload, headers, traceparent, saga_id, step)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
