-- What is known of the messages that a saga's steps wrote: until they are published, and for as long as they are archived
-- then. Without their payloads.
SELECT at, event_id::text, topic, coalesce(key, ''), type, coalesce(step, ''), became
FROM (SELECT created_at AS at, event_id, topic, key, type, step, 'written' AS became FROM pgsagaz.outbox WHERE saga_id = $1
      UNION ALL
      SELECT due_at, event_id, topic, key, type, step, 'scheduled' FROM pgsagaz.outbox_scheduled WHERE saga_id = $1
      UNION ALL
      SELECT died_at, event_id, topic, key, type, step, 'given up' FROM pgsagaz.outbox_dead WHERE saga_id = $1
      UNION ALL
      SELECT created_at, event_id, topic, key, type, step, 'written' FROM pgsagaz.outbox_archive WHERE saga_id = $1) m
GROUP BY at, event_id, topic, key, type, step, became
ORDER BY at, event_id
