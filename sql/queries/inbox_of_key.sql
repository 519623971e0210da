-- Consumed messages whose payloads are under a data key.
SELECT m.place, m.consumer_name, m.event_id::text, m.source_topic, m.event_type, m.at, m.payload
FROM (SELECT 'consumer_inbox' AS place, consumer_name, event_id, source_topic, event_type, consumed_at AS at, payload
      FROM pgsagaz.consumer_inbox WHERE payload IS NOT NULL
      UNION ALL SELECT 'inbox_dead', consumer_name, event_id, source_topic, event_type, died_at, payload FROM pgsagaz.inbox_dead) m
WHERE pgsagaz.payload_key(m.payload) = $1::text::uuid
ORDER BY m.at, m.event_id
