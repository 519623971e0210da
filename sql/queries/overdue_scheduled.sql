-- A message that fell due, and that nobody has put into the stream: no relay lives.
SELECT coalesce(m.saga_id::text, ''), coalesce(m.step, ''), format('message %s to topic %s was due at %s', m.event_id, m.topic, date_trunc('second', m.due_at))
FROM pgsagaz.outbox_scheduled m WHERE m.due_at <= pgsagaz.now() - $1::interval
UNION ALL
SELECT coalesce(m.saga_id::text, ''), coalesce(m.step, ''), format('message %s to topic %s was its writer''s own until %s', m.event_id, m.topic, date_trunc('second', m.leased_until))
FROM pgsagaz.outbox_direct m WHERE m.leased_until <= pgsagaz.now() - $1::interval
