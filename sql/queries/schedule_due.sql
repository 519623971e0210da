-- One that is due. SKIP LOCKED: somebody else is at it.
SELECT name, cron, zone, saga, input, coalesce(slot_field, ''), tags, coalesce(timeout, '0'), catch_up, most, grace, next_at, pgsagaz.now()
FROM pgsagaz.schedule
WHERE paused_at IS NULL AND greatest(next_at, retry_at) <= pgsagaz.now()
ORDER BY next_at LIMIT 1 FOR UPDATE SKIP LOCKED
