-- The oldest first, after $5. $7: without payloads and headers, which then are not even fetched from where large values lie.
SELECT id, consumer_name, event_id::text, message_id, source, attempt, source_topic, key, event_type,
       CASE WHEN NOT $7::boolean THEN payload END, CASE WHEN $7 THEN '{}' ELSE headers END, traceparent,
       sent_at, reason, error, attempts, first_at, died_at, redrives, redrive IS NOT NULL, octet_length(payload)
FROM pgsagaz.inbox_dead
WHERE ($1 = '' OR consumer_name = $1) AND ($2 = '' OR event_type = $2) AND ($3 = '' OR reason = $3)
  AND ($4::bigint[] IS NULL OR id = ANY ($4)) AND id > $5
ORDER BY id LIMIT nullif($6::integer, 0)
