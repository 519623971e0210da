-- A message of a saga of which nothing is left. Its archive is kept for longer than any message lies here.
SELECT m.saga_id::text, coalesce(m.step, ''), format('message %s to topic %s is of a saga that is not there', m.event_id, m.topic)
FROM (SELECT saga_id, step, event_id, topic, created_at FROM pgsagaz.outbox
      UNION ALL SELECT saga_id, step, event_id, topic, created_at FROM pgsagaz.outbox_direct) m
WHERE m.saga_id IS NOT NULL AND m.created_at <= pgsagaz.now() - $1::interval
  AND NOT EXISTS (SELECT FROM pgsagaz.saga s WHERE s.id = m.saga_id)
  AND NOT EXISTS (SELECT FROM pgsagaz.archive a WHERE a.id = m.saga_id)
