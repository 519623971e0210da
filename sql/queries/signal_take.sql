-- Under the saga's lock: the oldest signal of this name that no step has taken.
UPDATE pgsagaz.signal SET step = $3
WHERE id = (SELECT id FROM pgsagaz.signal WHERE saga_id = $1 AND name = $2 AND step IS NULL ORDER BY id LIMIT 1)
RETURNING payload
