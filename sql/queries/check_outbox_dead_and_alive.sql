-- A message that was given up and is still tried, or that its key waits for and nobody holds.
SELECT coalesce(d.saga_id::text, ''), coalesce(d.step, ''), format('message %s of the outbox is a dead letter, holds its key: %s, waits: %s', d.id, d.holds, s.id IS NOT NULL)
FROM pgsagaz.outbox_dead d LEFT JOIN pgsagaz.outbox_stuck s ON s.id = d.id AND NOT s.done
WHERE d.holds <> (s.id IS NOT NULL)
