SELECT id, event_id::text, redrive::text, message_id, source, source_topic, key, event_type, payload, headers, traceparent, sent_at
FROM pgsagaz.inbox_dead
WHERE consumer_name = $1 AND redrive IS NOT NULL AND id <> ALL ($2::bigint[])
ORDER BY id LIMIT 100
