SELECT step, item, coalesce(saga_id::text, ''), name, coalesce((SELECT s.state::text FROM pgsagaz.saga s WHERE s.id = c.saga_id), 'waiting')
FROM pgsagaz.child c WHERE parent_id = $1 ORDER BY step, item LIMIT 1000
