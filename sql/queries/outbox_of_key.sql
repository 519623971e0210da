-- Messages whose payloads are under a data key.
SELECT m.place, m.event_id, m.topic, coalesce(m.key, ''), m.type, coalesce(m.saga_id::text, ''), m.created_at, m.payload
FROM (SELECT 'outbox' AS place, event_id, topic, key, type, saga_id, created_at, payload FROM pgsagaz.outbox
      UNION ALL SELECT 'outbox_direct', event_id, topic, key, type, saga_id, created_at, payload FROM pgsagaz.outbox_direct
      UNION ALL SELECT 'outbox_stuck', event_id, topic, key, type, saga_id, created_at, payload FROM pgsagaz.outbox_stuck WHERE NOT done
      UNION ALL SELECT 'outbox_scheduled', event_id, topic, key, type, saga_id, due_at, payload FROM pgsagaz.outbox_scheduled
      UNION ALL SELECT 'outbox_dead', event_id, topic, key, type, saga_id, created_at, payload FROM pgsagaz.outbox_dead
      UNION ALL SELECT 'outbox_archive', event_id, topic, key, type, saga_id, created_at, payload FROM pgsagaz.outbox_archive) m
WHERE pgsagaz.payload_key(m.payload) = $1::text::uuid
ORDER BY m.created_at, m.event_id
