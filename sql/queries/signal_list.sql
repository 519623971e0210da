SELECT name, coalesce(key, ''), payload, sent_at, coalesce(step, '') FROM pgsagaz.signal WHERE saga_id = $1 ORDER BY id
