-- Under the saga's lock, and in a statement of its own: a snapshot taken before the lock was granted
-- misses what the last holder committed.
SELECT id, step, direction::text, generation, worker IS NOT NULL, coalesce(token, 0), run_at = 'infinity' AND waits IS NULL, in_doubt, coalesce(waits::text, '')
FROM pgsagaz.lane WHERE saga_id = $1
