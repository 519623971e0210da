-- Gives a message up. It takes over what was counted of its failures. No row: it lies there already.
WITH f AS (
    DELETE FROM pgsagaz.inbox_failure WHERE consumer_name = $1 AND event_id = $2
    RETURNING attempts, first_at)
INSERT INTO pgsagaz.inbox_dead (consumer_name, event_id, message_id, source, attempt, source_topic, key, event_type,
                                payload, headers, traceparent, sent_at, reason, error, attempts, first_at)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, coalesce($9::bytea, ''), $10, $11, $12, $13, $14,
       coalesce((SELECT attempts FROM f), 0), coalesce((SELECT first_at FROM f), pgsagaz.now())
ON CONFLICT (consumer_name, event_id) DO NOTHING
RETURNING id, attempts, first_at, died_at
